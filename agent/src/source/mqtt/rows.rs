//! Rows of messages: a row a message, or what is in it as JSON or lines, with the topic beside.

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::Retry;
use aap_decode::Context;
use aap_runtime::Shutdown;
use aap_types::StreamName;
use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{BooleanArray, Int16Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use super::wire::Publish;
use crate::config::{FormatSpec, MqttSpec, PayloadSpec};
use crate::counters::DropReason;
use crate::formats::Recipe;
use crate::ingress::{IngressError, Packer, Parcel, Sealer};
use crate::source::{SourceDeps, SourceError};

/// Between attempts to store.
const RETRY: Duration = Duration::from_millis(500);

/// One subscription, and what makes rows of its messages.
struct Topic {
    filter: String,
    stream: StreamName,
    /// `None`: a message is a row.
    packer: Option<Packer>,
    is_json: bool,
}

/// All subscriptions of a source.
pub(super) struct Rows {
    topics: Option<Vec<Topic>>,
    streams: Vec<(String, StreamName)>,
    sealer: Sealer,
}

impl Rows {
    pub(super) fn new(name: &str, spec: &MqttSpec) -> Result<Self, SourceError> {
        let streams = spec.topics.iter().map(|topic| (topic.filter.clone(), topic.stream.clone())).collect();
        let topics = Some(topics(name, spec)?);
        Ok(Self { topics, streams, sealer: Sealer::default() })
    }

    /// The stream of a message's topic.
    pub(super) fn stream(&self, topic: &str) -> &StreamName {
        let of_it = self.streams.iter().find(|(filter, _)| matches(filter, topic));
        &of_it.unwrap_or(&self.streams[0]).1
    }

    /// Makes messages durable, again and again until they are; false if the source was asked to stop before. What can never be
    /// stored is counted and passed over, or the broker would send it for ever.
    pub(super) async fn store(
        &mut self,
        messages: Vec<Publish>,
        (name, spec): (&str, &MqttSpec),
        deps: &SourceDeps,
        shutdown: &Shutdown,
    ) -> bool {
        let messages: Vec<Publish> = messages.into_iter().filter(|message| !message.is_too_large).collect();
        if messages.is_empty() {
            return true;
        }
        let sealer = std::mem::take(&mut self.sealer);
        // Gone only where packing panicked.
        let Some(topics) = self.topics.take().or_else(|| topics(name, spec).ok()) else { return false };
        let observed_us = deps.ingress.clock.unix_us();
        let permit = deps.decoding.clone().acquire_owned().await;
        let packing = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            pack(topics, sealer, &messages, observed_us)
        });
        let Ok(Packed { topics, sealer, parcel, failure }) = packing.await else { return false };
        (self.topics, self.sealer) = (Some(topics), sealer);
        if let Some((stream, rows, error)) = failure {
            drop_rows(deps, &stream, rows, &error.to_string());
        }
        let mut failed = false;
        while !parcel.is_empty() {
            let stored = tokio::select! {
                stored = deps.ingress.append(parcel.clone()) => stored,
                () = waited_out(shutdown) => return false,
            };
            match stored {
                Ok(_) => break,
                Err(IngressError::Append(error)) if error.retry() == Retry::No => {
                    for tally in &parcel.tallies {
                        drop_rows(deps, &tally.stream, tally.rows + tally.bad, &error.to_string());
                    }
                    break;
                }
                Err(error) => {
                    failed = true;
                    deps.board.source_problem(name, "store", Some(format!("messages wait: {error}")));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if failed {
            deps.board.source_problem(name, "store", None);
        }
        true
    }
}

fn topics(name: &str, spec: &MqttSpec) -> Result<Vec<Topic>, SourceError> {
    let mut topics = Vec::with_capacity(spec.topics.len());
    for topic in &spec.topics {
        let format = match topic.format {
            PayloadSpec::Raw => None,
            PayloadSpec::Json => Some(FormatSpec::Json),
            PayloadSpec::Lines => Some(FormatSpec::Text),
        };
        let packer = match format {
            None => None,
            Some(format) => {
                let (decoder, _) = Recipe::new(format, None, None, false)
                    .build(b"")
                    .map_err(|error| SourceError::Config(error.to_string()))?;
                Some(Packer::new(topic.stream.clone(), name.to_owned(), decoder))
            }
        };
        let is_json = topic.format == PayloadSpec::Json;
        topics.push(Topic { filter: topic.filter.clone(), stream: topic.stream.clone(), packer, is_json });
    }
    Ok(topics)
}

/// How long an append still has when the agent stops: usually it is only the disk that it waits for.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The end of that time.
async fn waited_out(shutdown: &Shutdown) {
    shutdown.requested().await;
    tokio::time::sleep(STOP_GRACE).await;
}

fn drop_rows(deps: &SourceDeps, stream: &StreamName, rows: u64, why: &str) {
    tracing::warn!(%stream, rows, why, "messages cannot be stored; they are counted");
    deps.ingress.counters.count(stream, |count| {
        count.rows_read += rows;
        *count.rows_dropped.entry(DropReason::NotStored).or_default() += rows;
    });
}

struct Packed {
    topics: Vec<Topic>,
    sealer: Sealer,
    parcel: Parcel,
    /// What could not be sealed.
    failure: Option<(StreamName, u64, IngressError)>,
}

/// Seals messages: those of one subscription together, and where rows are made of what is in them, those of one topic.
fn pack(mut topics: Vec<Topic>, mut sealer: Sealer, messages: &[Publish], observed_us: i64) -> Packed {
    let (mut parcel, mut failure) = (Parcel::default(), None);
    let of = |message: &Publish, topics: &[Topic]| {
        topics.iter().position(|topic| matches(&topic.filter, &message.topic)).unwrap_or(0)
    };
    let mut groups: Vec<(usize, Vec<&Publish>)> = Vec::new();
    for message in messages {
        let topic = of(message, &topics);
        let is_raw = topics[topic].packer.is_none();
        let same = |group: &&mut (usize, Vec<&Publish>)| {
            group.0 == topic && (is_raw || group.1.first().is_some_and(|first| first.topic == message.topic))
        };
        match groups.iter_mut().find(same) {
            Some((_, group)) => group.push(message),
            None => groups.push((topic, vec![message])),
        }
    }
    for (topic, group) in groups {
        let topic = &mut topics[topic];
        let sealed = match &mut topic.packer {
            None => seal_raw(&topic.stream, &mut sealer, &group, observed_us),
            Some(packer) => seal_decoded(packer, topic.is_json, &group, observed_us),
        };
        match sealed {
            Ok(more) => parcel.join(more),
            Err(error) => failure = Some((topic.stream.clone(), group.len() as u64, error)),
        }
    }
    Packed { topics, sealer, parcel, failure }
}

fn seal_raw(
    stream: &StreamName,
    sealer: &mut Sealer,
    group: &[&Publish],
    observed_us: i64,
) -> Result<Parcel, IngressError> {
    let (mut body, mut bytes) = (StringBuilder::new(), BinaryBuilder::new());
    for message in group {
        match std::str::from_utf8(&message.payload) {
            Ok(text) => {
                body.append_value(text);
                bytes.append_null();
            }
            Err(_) => {
                body.append_null();
                bytes.append_value(&message.payload);
            }
        }
    }
    let nullable = |name: &str, kind: DataType| Field::new(name, kind, true);
    let schema = Schema::new(vec![
        nullable("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        nullable("topic", DataType::Utf8),
        nullable("body", DataType::Utf8),
        nullable("bytes", DataType::Binary),
        nullable("qos", DataType::Int16),
        nullable("retained", DataType::Boolean),
    ]);
    let times = TimestampMicrosecondArray::from(vec![observed_us; group.len()]).with_timezone("UTC");
    let batch = RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(times),
            Arc::new(StringArray::from_iter_values(group.iter().map(|message| message.topic.as_str()))),
            Arc::new(body.finish()),
            Arc::new(bytes.finish()),
            Arc::new(Int16Array::from_iter_values(group.iter().map(|message| i16::from(message.qos)))),
            Arc::new(BooleanArray::from_iter(group.iter().map(|message| Some(message.is_retained)))),
        ],
    );
    let batch =
        batch.map_err(|error| IngressError::Decode { stream: stream.clone(), source: error.into() })?;
    let raw_bytes = group.iter().map(|message| message.payload.len() as u64).sum();
    let mut parcel = Parcel::default();
    parcel.add(stream, sealer, &batch, raw_bytes)?;
    Ok(parcel)
}

fn seal_decoded(
    packer: &mut Packer,
    is_json: bool,
    group: &[&Publish],
    observed_us: i64,
) -> Result<Parcel, IngressError> {
    let mut lines = Vec::new();
    for message in group {
        let from = lines.len();
        lines.extend_from_slice(&message.payload);
        if is_json {
            // Line ends stand between the words of JSON, never in them.
            let space = |byte: &mut u8| *byte = b' ';
            lines[from..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(space);
        }
        if lines.last() != Some(&b'\n') {
            lines.push(b'\n');
        }
    }
    let resource = serde_json::json!({ "mqtt.topic": group[0].topic }).to_string();
    let context = Context { observed_us, resource: Some(&resource), path: None };
    match packer.pack(&lines, &context, vec![]) {
        Ok(packed) => Ok(packed.parcel),
        Err(error) => packer.refuse(&lines, observed_us, &error.to_string()),
    }
}

/// Whether a filter stands for a topic.
fn matches(filter: &str, topic: &str) -> bool {
    // A shared subscription is one of the filter behind its group.
    let filter = match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((_, filter)) => filter,
        None => filter,
    };
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn a_filter_stands_for_topics_as_the_protocol_says() {
        for (filter, topic, is_match) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$share/g/a/#", "a/b", true),
            ("+", "", true),
        ] {
            assert_eq!(matches(filter, topic), is_match, "{filter} {topic}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_become_rows_as_their_subscription_says() {
        let rig = Rig::new();
        let spec: MqttSpec = serde_json::from_value(serde_json::json!({
            "type": "mqtt", "server": "mqtt://localhost", "topics": [
                { "filter": "json/+", "stream": "j", "format": "json" },
                { "filter": "lines", "stream": "l", "format": "lines" },
                { "filter": "#", "stream": "raw" },
            ],
        }))
        .unwrap();
        let mut rows = Rows::new("m", &spec).unwrap();
        let message = |topic: &str, payload: &'static [u8]| Publish {
            topic: topic.into(),
            qos: 1,
            is_retained: false,
            id: 1,
            payload: Bytes::from_static(payload),
            is_too_large: false,
        };
        let messages = vec![
            message("json/a", b"{\n \"x\": 1\n}"),
            message("json/b", b"{\"x\":2}"),
            message("json/a", b"nonsense"),
            message("lines", b"one\ntwo"),
            message("else/1", b"text"),
            message("else/2", b"\xff\x00"),
        ];
        assert!(rows.store(messages, ("m", &spec), &rig.deps, &Shutdown::default()).await);
        assert_eq!(rig.texts("j", "x"), ["1", "2"]);
        assert_eq!(rig.texts("j", "resource"), [r#"{"mqtt.topic":"json/a"}"#, r#"{"mqtt.topic":"json/b"}"#]);
        assert_eq!(rig.texts("j.dead", "text"), ["nonsense"]);
        assert_eq!(rig.texts("l", "body"), ["one", "two"]);
        assert_eq!(rig.texts("raw", "topic"), ["else/1", "else/2"]);
        assert_eq!(rig.texts("raw", "body"), ["text", ""]);
        assert_eq!(rig.texts("raw", "bytes"), ["", "ff00"]);
    }
}
