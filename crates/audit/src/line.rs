//! The form of a line; it is drawn in `lib.rs`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Statement};
use crate::key::{SIGNATURE_BYTES, SigningKey};
use crate::{Actor, Entry, Object, Outcome, OwnAction, Record, hex};

/// Longest line, in bytes. A record within its limits has some 41 texts of 256 bytes, each byte six at most where it is escaped:
/// 63 KiB. What is longer is none of ours, and is never held in memory whole.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// No sequence is larger: beyond it readers of JSON round, and a forged one must not make ours overflow.
pub(crate) const SEQ_MAX: u64 = 1 << 53;

const HASH_DIGITS: usize = 64;
const HASH_KEY: &[u8] = b",\"hash\":\"";
const SIGNATURE_KEY: &[u8] = b",\"signature\":\"";
const END: &[u8] = b"}";

/// BLAKE3 of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hash([u8; 32]);

impl Hash {
    /// What the first line of all has in the place of the line before.
    pub(crate) const NONE: Self = Self([0; 32]);

    pub(crate) fn parse(digits: &[u8]) -> Option<Self> {
        hex::decode(digits).map(Self)
    }

    fn of(body: &[u8]) -> Self {
        Self(*blake3::hash(body).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// Where a chain stands: its last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) hash: Hash,
}

impl Link {
    /// Before the first line.
    pub(crate) const NONE: Self = Self { seq: 0, hash: Hash::NONE };
}

/// Everything that the hash covers, in the order of the line.
#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    group: u64,
    time: i64,
    request: &'a Option<String>,
    actor: &'a Actor,
    from: &'a Option<String>,
    action: &'a str,
    permission: &'a Option<String>,
    object: &'a Option<Object>,
    outcome: Outcome,
    problem: &'a Option<String>,
    details: &'a BTreeMap<String, String>,
    prev: String,
}

/// The same as it is read; what later versions add is passed over.
#[derive(Deserialize)]
struct Fields {
    seq: u64,
    group: u64,
    time: i64,
    request: Option<String>,
    actor: Actor,
    from: Option<String>,
    action: String,
    permission: Option<String>,
    object: Option<Object>,
    outcome: Outcome,
    problem: Option<String>,
    details: BTreeMap<String, String>,
    prev: String,
}

/// When, and with what, a line is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// First line of its group.
    pub(crate) group: u64,
    /// Microseconds since 1970.
    pub(crate) time: i64,
}

/// Appends the line of `record`, which follows `before`; returns where the chain stands then.
pub(crate) fn write(
    bytes: &mut Vec<u8>,
    before: Link,
    place: Place,
    record: &Record,
) -> serde_json::Result<Link> {
    let link = write_body(bytes, before, place, record)?;
    bytes.extend_from_slice(b"}\n");
    Ok(link)
}

/// Appends the line of a checkpoint of the log `log`, which follows `before`.
pub(crate) fn write_checkpoint(
    bytes: &mut Vec<u8>,
    before: Link,
    place: Place,
    log: &str,
    key: &SigningKey,
) -> serde_json::Result<Checkpoint> {
    let record = OwnAction::Checkpoint.record().with("log", log);
    let link = write_body(bytes, before, place, &record)?;
    let checkpoint = Statement::Checkpoint.sign(key, log, link.seq, link.hash, place.time);
    bytes.extend_from_slice(SIGNATURE_KEY);
    bytes.extend_from_slice(hex::encode(&checkpoint.signature).as_bytes());
    bytes.extend_from_slice(b"\"}\n");
    Ok(checkpoint)
}

fn write_body(bytes: &mut Vec<u8>, before: Link, place: Place, record: &Record) -> serde_json::Result<Link> {
    let start = bytes.len();
    let seq = before.seq + 1;
    let body = Body {
        seq,
        group: place.group,
        time: place.time,
        request: &record.request,
        actor: &record.actor,
        from: &record.from,
        action: &record.action,
        permission: &record.permission,
        object: &record.object,
        outcome: record.outcome,
        problem: &record.problem,
        details: &record.details,
        prev: before.hash.to_string(),
    };
    serde_json::to_writer(&mut *bytes, &body)?;
    // Without the brace: the hash, and perhaps a signature, come before it.
    bytes.pop();
    let hash = Hash::of(&bytes[start..]);
    bytes.extend_from_slice(HASH_KEY);
    bytes.extend_from_slice(hash.to_string().as_bytes());
    bytes.push(b'"');
    debug_assert!(bytes.len() - start <= LINE_BYTES_MAX, "texts are bounded");
    Ok(Link { seq, hash })
}

/// A line that is whole in itself: it has the form of a line, and the hash that it names.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) entry: Entry,
    pub(crate) group: u64,
    pub(crate) prev: Hash,
    pub(crate) hash: Hash,
    /// Only checkpoints have one.
    pub(crate) signature: Option<[u8; SIGNATURE_BYTES]>,
}

impl Line {
    /// Reads a line, without its end. `None` if it is not what was written.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, hash, signature) = split(bytes).filter(|_| bytes.len() <= LINE_BYTES_MAX)?;
        if hash != Hash::of(body) {
            return None;
        }
        let fields: Fields = serde_json::from_slice(bytes).ok()?;
        let record = Record {
            request: fields.request,
            actor: fields.actor,
            from: fields.from,
            action: fields.action,
            permission: fields.permission,
            object: fields.object,
            outcome: fields.outcome,
            problem: fields.problem,
            details: fields.details,
        };
        if fields.seq == 0 || fields.seq > SEQ_MAX {
            return None;
        }
        // A checkpoint without its signature proves nothing, and nothing else is signed.
        if OwnAction::Checkpoint.is(&record) != signature.is_some() {
            return None;
        }
        let text = String::from_utf8(bytes.to_vec()).ok()?;
        let entry = Entry { seq: fields.seq, time: fields.time, record, text };
        Some(Self { entry, group: fields.group, prev: Hash::parse(fields.prev.as_bytes())?, hash, signature })
    }

    pub(crate) fn seq(&self) -> u64 {
        self.entry.seq
    }

    pub(crate) fn link(&self) -> Link {
        Link { seq: self.entry.seq, hash: self.hash }
    }

    /// Whether it comes next behind `link`.
    pub(crate) fn follows(&self, link: Link) -> bool {
        link.seq.checked_add(1) == Some(self.entry.seq) && self.prev == link.hash
    }
}

type Parts<'a> = (&'a [u8], Hash, Option<[u8; SIGNATURE_BYTES]>);

/// Body, hash and signature, by their places from the end.
fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let rest = bytes.strip_suffix(END)?;
    if let Some((body, hash)) = split_last(rest, HASH_KEY, HASH_DIGITS) {
        return Some((body, Hash::parse(hash)?, None));
    }
    let (rest, signature) = split_last(rest, SIGNATURE_KEY, 2 * SIGNATURE_BYTES)?;
    let (body, hash) = split_last(rest, HASH_KEY, HASH_DIGITS)?;
    Some((body, Hash::parse(hash)?, Some(hex::decode(signature)?)))
}

/// What stands before the last key, and its value of so many digits.
fn split_last<'a>(bytes: &'a [u8], key: &[u8], digits: usize) -> Option<(&'a [u8], &'a [u8])> {
    let bytes = bytes.strip_suffix(b"\"")?;
    let (rest, value) = bytes.split_at_checked(bytes.len().checked_sub(digits)?)?;
    Some((rest.strip_suffix(key)?, value))
}
