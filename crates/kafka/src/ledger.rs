//! The ledger: a compacted topic with one record for each (node, epoch, stream) of each sink.
//!
//! ```text
//!  key    uid "/" node "/" epoch "/" stream      uid "/" "@owner"
//!  value  "v1 " through                          "v1 " mark of whoever took over last
//! ```
//!
//! All of it lies in partition 0: the last record of a key counts, and only within a partition there is a last one. A record
//! without a value is a deletion, which an operator may write to make a stream begin anew.

use std::time::Duration;

use aap_sinks::{Failure, Positions};
use aap_types::{ExitCode, Problem, Sequence, StreamKey};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::failure;
use crate::settings::TRANSACTION_TIMEOUT_MS;
use crate::watch::Watch;
use crate::worker::Deadline;

/// The only partition that is used.
pub(crate) const PARTITION: i32 = 0;
/// How long reading may take: what another sink left open is ended by the cluster after the transaction's timeout, which it
/// looks for every 10 s.
const READ_TIMEOUT: Duration = Duration::from_millis(TRANSACTION_TIMEOUT_MS as u64 + 15_000);
/// How long a look for the next record waits.
const POLL: Duration = Duration::from_millis(100);
/// The form of values.
const VERSION: &str = "v1";
/// What stands in the place of a stream in the key of the mark. No node has such a name.
const OWNER: &str = "@owner";

/// A record's meaning for one sink.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// Of another sink.
    Foreign,
    /// Whoever took over.
    Mark(String),
    /// A stream's position; `None`: forgotten.
    Position(StreamKey, Option<Sequence>),
}

/// The key of a stream's record.
pub(crate) fn key(uid: &str, stream: &StreamKey) -> String {
    format!("{uid}/{}/{}/{}", stream.node, stream.epoch, stream.stream)
}

/// The value of a stream's record.
pub(crate) fn value(through: Sequence) -> String {
    format!("{VERSION} {through}")
}

/// Key and value of a mark.
pub(crate) fn mark(uid: &str, mark: &str) -> (String, String) {
    (format!("{uid}/{OWNER}"), format!("{VERSION} {mark}"))
}

fn parse(uid: &str, key: &[u8], value: Option<&[u8]>) -> Result<Entry, String> {
    let Some(rest) = key.strip_prefix(uid.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")) else {
        return Ok(Entry::Foreign);
    };
    let rest = std::str::from_utf8(rest).map_err(|_| "a key that is no text".to_owned())?;
    let value = match value {
        None => None,
        Some(value) => Some(versioned(value)?),
    };
    if rest == OWNER {
        return Ok(Entry::Mark(value.unwrap_or_default().to_owned()));
    }
    let stream = stream_key(rest).ok_or_else(|| format!("the key `{}`", rest.escape_debug()))?;
    let through = match value {
        None => None,
        Some(text) => {
            Some(Sequence(text.parse().map_err(|_| format!("the value `{}`", text.escape_debug()))?))
        }
    };
    Ok(Entry::Position(stream, through))
}

fn versioned(value: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(value).map_err(|_| "a value that is no text".to_owned())?;
    match text.split_once(' ') {
        Some((VERSION, rest)) => Ok(rest),
        _ => Err(format!("the value `{}`", text.escape_debug())),
    }
}

fn stream_key(text: &str) -> Option<StreamKey> {
    let mut parts = text.splitn(3, '/');
    let node = parts.next()?.parse().ok()?;
    let epoch = aap_types::Epoch(parts.next()?.parse().ok()?);
    let stream = parts.next()?.parse().ok()?;
    Some(StreamKey { node, epoch, stream })
}

/// Reads from the beginning until the mark, which was committed before: what lies before it is everything.
pub(crate) fn read(
    consumer: &BaseConsumer<Watch>,
    watch: &Watch,
    topic: &str,
    uid: &str,
    mark: &str,
) -> Result<Positions, Failure> {
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, PARTITION, Offset::Beginning)
        .and_then(|()| consumer.assign(&assignment))
        .map_err(|error| failure::of("read the ledger", &error, watch))?;
    let deadline = Deadline::after(READ_TIMEOUT);
    let mut positions = Positions::new();
    while !deadline.passed() {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(record)) => {
                let entry = parse(uid, record.key().unwrap_or_default(), record.payload())
                    .map_err(|found| not_understood(topic, record.offset(), &found))?;
                match entry {
                    Entry::Mark(found) if found == mark => return Ok(positions),
                    Entry::Mark(_) | Entry::Foreign => {}
                    Entry::Position(stream, Some(through)) => {
                        positions.insert(stream, through);
                    }
                    Entry::Position(stream, None) => {
                        positions.remove(&stream);
                    }
                }
            }
            Some(Err(error)) => match failure::code(&error) {
                // Each read needs it, and it does not come by waiting.
                Some(Code::TopicAuthorizationFailed) => {
                    return Err(failure::of("read the ledger", &error, watch));
                }
                _ => tracing::debug!(%error, "kafka ledger not read yet"),
            },
        }
        if let Some(reason) = watch.denied() {
            return Err(failure::denied("read the ledger", reason));
        }
    }
    Err(deadline.late("give the ledger", watch.last()))
}

fn not_understood(topic: &str, offset: i64, found: &str) -> Failure {
    failure::refused(
        Problem::new(
            "sink.ledger",
            ExitCode::Failed,
            format!("the ledger of this sink in Kafka, topic `{topic}`, has a record that this build does not know"),
        )
        .cause(format!("{found} at offset {offset}"))
        .hint("run the version that wrote it, or a later one; nothing is written until then"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0123456789abcdef0123456789abcdef";

    fn stream() -> StreamKey {
        StreamKey {
            node: "edge-1".parse().unwrap(),
            epoch: aap_types::Epoch(7_000_000_000_000_000_001),
            stream: "web.access_log".parse().unwrap(),
        }
    }

    fn check(key: &str, value: Option<&str>, expected: Result<Entry, &str>) {
        let found = parse(UID, key.as_bytes(), value.map(str::as_bytes));
        assert_eq!(found, expected.map_err(str::to_owned), "{key} = {value:?}");
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let key = key(UID, &stream());
        assert_eq!(key, format!("{UID}/edge-1/7000000000000000001/web.access_log"));
        for through in [0, 1, u64::MAX] {
            let value = value(Sequence(through));
            check(&key, Some(&value), Ok(Entry::Position(stream(), Some(Sequence(through)))));
        }
        let (key, value) = mark(UID, "a-b-1");
        check(&key, Some(&value), Ok(Entry::Mark("a-b-1".to_owned())));
    }

    #[test]
    fn a_tombstone_forgets_and_other_sinks_are_passed_over() {
        check(&key(UID, &stream()), None, Ok(Entry::Position(stream(), None)));
        check(&mark(UID, "x").0, None, Ok(Entry::Mark(String::new())));
        check("fedcba9876543210fedcba9876543210/whatever", Some("v9 ?"), Ok(Entry::Foreign));
        check(&format!("{UID}0/edge-1/1/a"), Some("v1 1"), Ok(Entry::Foreign));
        check("", None, Ok(Entry::Foreign));
    }

    #[test]
    fn what_is_not_known_is_never_guessed() {
        let key = key(UID, &stream());
        check(&key, Some("v2 1"), Err("the value `v2 1`"));
        check(&key, Some("1"), Err("the value `1`"));
        check(&key, Some("v1 -1"), Err("the value `-1`"));
        check(&key, Some("v1 18446744073709551616"), Err("the value `18446744073709551616`"));
        check(&format!("{UID}/edge-1/x/a"), Some("v1 1"), Err("the key `edge-1/x/a`"));
        check(&format!("{UID}/edge-1/1"), Some("v1 1"), Err("the key `edge-1/1`"));
        assert!(parse(UID, format!("{UID}/").as_bytes(), Some(&[0xff])).is_err());
    }
}
