//! From entries to the bytes of one group.
//!
//! *Planning* checks every call, gives sequences and digests, and depends on no segment. *Encoding* puts the plan into
//! the bytes of a given segment; when that segment fails, the same plan is encoded for the next one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use aap_types::{BatchId, Digest, Sequence, SourcePosition, StreamKey};
use bytes::Bytes;

use crate::format::{
    GROUP_HEADER, GroupHeader, Kind, RECORD_HEADER, RecordHeader, Seed, TRAILER, Trailer, aligned,
};
use crate::frame::skip_payload;
use crate::index::{CursorKey, Index, RESERVED};
use crate::{Entry, Error, FrameSchema};

/// A frame, skip or hole with everything but its place.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) header: RecordHeader,
    pub(crate) last: Sequence,
    pub(crate) positions: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) schema: Option<Arc<FrameSchema>>,
    /// A batch of this node, whose digest is still to be made.
    pub(crate) unsealed: Option<BatchId>,
    /// Where it came to stand.
    pub(crate) offset: u64,
}

/// What one group will hold.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) records: Vec<Planned>,
    /// Channels that get their number with this group.
    pub(crate) new_channels: Vec<StreamKey>,
    /// Positions outside of frames.
    pub(crate) positions: Vec<SourcePosition>,
    pub(crate) cursors: BTreeMap<CursorKey, Sequence>,
    /// Per call: its ids, or why it was refused.
    pub(crate) answers: Vec<Result<Vec<BatchId>, Error>>,
}

impl Plan {
    /// Plans the calls in order. A call that is refused leaves no trace.
    pub(crate) fn of(index: &Index, calls: &[impl AsRef<[Entry]>], now_us: i64) -> Self {
        let mut plan = Self::default();
        let mut tails: HashMap<u32, Sequence> = HashMap::new();
        let mut numbers: HashMap<StreamKey, u32> = HashMap::new();
        for call in calls {
            let mut part = CallPlan::over(index, &plan, &tails, &numbers);
            let outcome = call.as_ref().iter().try_for_each(|entry| part.add(entry, now_us));
            let CallPlan { records, new_channels, own_tails, own_numbers, ids, .. } = part;
            plan.answers.push(outcome.map(|()| {
                tails.extend(own_tails);
                numbers.extend(own_numbers);
                plan.records.extend(records);
                plan.new_channels.extend(new_channels);
                ids
            }));
        }
        plan
    }

    /// Makes the digests of this node's batches: apart from planning, because it takes longer than a lock may be held.
    pub(crate) fn seal(&mut self) {
        for record in &mut self.records {
            if let Some(id) = record.unsealed.take() {
                record.header.digest = Digest::of(&id, &record.positions, &record.payload);
            }
        }
    }

    /// Nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.cursors.is_empty() && self.positions.is_empty()
    }

    /// An upper bound of the group's bytes, declarations included.
    pub(crate) fn bytes_max(&self) -> u64 {
        let mut schemas = HashSet::new();
        let mut bytes = GROUP_HEADER + TRAILER;
        for record in &self.records {
            bytes += record.header.total_bytes() + RECORD_HEADER + 256;
            if let Some(schema) = &record.schema
                && schemas.insert(schema.fingerprint())
            {
                bytes += RECORD_HEADER + aligned(schema.ipc().len());
            }
        }
        bytes += self.new_channels.len() * (RECORD_HEADER + 256);
        bytes += self.cursors.keys().map(|(consumer, _)| consumer.len() + 24).sum::<usize>() + RECORD_HEADER;
        bytes +=
            self.positions.iter().map(|p| p.key.len() + p.detail.len() + 16).sum::<usize>() + RECORD_HEADER;
        bytes as u64
    }
}

struct CallPlan<'a> {
    index: &'a Index,
    plan: &'a Plan,
    tails: &'a HashMap<u32, Sequence>,
    numbers: &'a HashMap<StreamKey, u32>,
    records: Vec<Planned>,
    new_channels: Vec<StreamKey>,
    own_tails: HashMap<u32, Sequence>,
    own_numbers: HashMap<StreamKey, u32>,
    ids: Vec<BatchId>,
}

impl<'a> CallPlan<'a> {
    fn over(
        index: &'a Index,
        plan: &'a Plan,
        tails: &'a HashMap<u32, Sequence>,
        numbers: &'a HashMap<StreamKey, u32>,
    ) -> Self {
        Self {
            index,
            plan,
            tails,
            numbers,
            records: vec![],
            new_channels: vec![],
            own_tails: HashMap::new(),
            own_numbers: HashMap::new(),
            ids: vec![],
        }
    }

    fn number(&mut self, key: &StreamKey) -> u32 {
        let known = self
            .index
            .by_key
            .get(key)
            .or_else(|| self.numbers.get(key))
            .or_else(|| self.own_numbers.get(key));
        if let Some(number) = known {
            return *number;
        }
        let number = self.index.channels.len() + self.plan.new_channels.len() + self.new_channels.len();
        let number = u32::try_from(number).expect("four billion streams do not fit in memory");
        self.own_numbers.insert(key.clone(), number);
        self.new_channels.push(key.clone());
        number
    }

    fn tail(&self, number: u32) -> Sequence {
        let planned = self.own_tails.get(&number).or_else(|| self.tails.get(&number)).copied();
        planned.or_else(|| self.index.channels.get(number as usize).map(|c| c.tail)).unwrap_or_default()
    }

    fn add(&mut self, entry: &Entry, now_us: i64) -> Result<(), Error> {
        match entry {
            Entry::Own { stream, batch, positions } => {
                let identity = &self.index.identity;
                let key =
                    StreamKey { node: identity.node.clone(), epoch: identity.epoch, stream: stream.clone() };
                let number = self.number(&key);
                let id = BatchId { key, sequence: self.tail(number).next() };
                let positions = Bytes::from(SourcePosition::encode_all(positions));
                self.data(number, id, None, positions, now_us, batch);
            }
            Entry::Landed { id, digest, positions, sealed_us, batch } => {
                if id.key.epoch == RESERVED {
                    return Err(Error::Invalid(format!("`{id}` has an epoch that nobody mints")));
                }
                let number = self.number(&id.key);
                let expected = self.tail(number).next();
                if id.sequence != expected {
                    return Err(Error::OutOfOrder { key: id.key.to_string(), expected });
                }
                self.data(number, id.clone(), Some(*digest), positions.clone(), *sealed_us, batch);
            }
            Entry::Skip { key, from, to, rows, reason } => {
                self.skip(key, (*from, *to), *rows, reason, now_us)?
            }
        }
        Ok(())
    }

    fn data(
        &mut self,
        number: u32,
        id: BatchId,
        digest: Option<Digest>,
        positions: Bytes,
        sealed_us: i64,
        batch: &crate::EncodedBatch,
    ) {
        let header = RecordHeader {
            positions_bytes: positions.len() as u32,
            payload_bytes: batch.payload.len() as u32,
            channel: number,
            epoch: id.key.epoch,
            sequence: id.sequence,
            ts_min_us: batch.ts_min_us,
            ts_max_us: batch.ts_max_us,
            sealed_us,
            raw_bytes: batch.raw_bytes,
            schema: batch.schema.fingerprint(),
            rows: batch.rows,
            digest: digest.unwrap_or(Digest([0; 32])),
            ..RecordHeader::of(Kind::Data)
        };
        self.own_tails.insert(number, id.sequence);
        self.records.push(Planned {
            header,
            last: id.sequence,
            positions,
            payload: batch.payload.clone(),
            schema: Some(batch.schema.clone()),
            unsealed: digest.is_none().then(|| id.clone()),
            offset: 0,
        });
        self.ids.push(id);
    }

    fn skip(
        &mut self,
        key: &StreamKey,
        (from, to): (Sequence, Sequence),
        rows: u64,
        reason: &str,
        now_us: i64,
    ) -> Result<(), Error> {
        let number = self.number(key);
        let tail = self.tail(number);
        let is_next = from == tail.next() && from <= to;
        let is_hole = from > Sequence::ZERO && from <= to && to <= tail;
        if !is_next && !is_hole {
            return Err(Error::OutOfOrder { key: key.to_string(), expected: tail.next() });
        }
        let payload = skip_payload(to, rows, reason);
        let id = BatchId { key: key.clone(), sequence: from };
        let header = RecordHeader {
            payload_bytes: payload.len() as u32,
            channel: number,
            epoch: key.epoch,
            sequence: from,
            sealed_us: now_us,
            digest: Digest::of(&id, &[], &payload),
            ..RecordHeader::of(if is_next { Kind::Skip } else { Kind::Hole })
        };
        if is_next {
            self.own_tails.insert(number, to);
        }
        self.records.push(Planned {
            header,
            last: to,
            positions: Bytes::new(),
            payload,
            schema: None,
            unsealed: None,
            offset: 0,
        });
        self.ids.push(id);
        Ok(())
    }
}

/// What a segment has declared so far.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) channels: HashSet<u32>,
    pub(crate) schemas: HashSet<u64>,
}

/// Puts records into a reused buffer: the one copy of a payload on its way to disk.
#[derive(Debug)]
pub(crate) struct GroupWriter<'a> {
    seed: Seed,
    /// Where the group will stand.
    offset: u64,
    bytes: &'a mut Vec<u8>,
    records: u32,
}

impl<'a> GroupWriter<'a> {
    pub(crate) fn new(seed: Seed, offset: u64, bytes: &'a mut Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(GROUP_HEADER, 0);
        Self { seed, offset, bytes, records: 0 }
    }

    /// Returns where the record stands.
    pub(crate) fn push(&mut self, mut header: RecordHeader, positions: &[u8], payload: &[u8]) -> u64 {
        let start = self.bytes.len();
        let offset = self.offset + start as u64;
        header.positions_bytes = positions.len() as u32;
        header.payload_bytes = payload.len() as u32;
        self.bytes.resize(start + RECORD_HEADER, 0);
        for part in [positions, payload] {
            self.bytes.extend_from_slice(part);
            self.bytes.resize(aligned(self.bytes.len()), 0);
        }
        header.body_crc = self.seed.checksum(offset, &self.bytes[start + RECORD_HEADER..]);
        header.encode(self.seed, offset, &mut self.bytes[start..]);
        self.records += 1;
        offset
    }

    pub(crate) fn finish(self, number: u64, synced_below: u64, committed_us: i64) {
        let length = (self.bytes.len() + TRAILER) as u32;
        let header = GroupHeader {
            offset: self.offset,
            number,
            synced_below,
            length,
            records: self.records,
            committed_us,
        };
        header.encode(self.seed, self.bytes);
        let group_crc = self.seed.checksum(self.offset, self.bytes);
        let at = self.offset + self.bytes.len() as u64;
        Trailer { number, length, group_crc }.encode(self.seed, at, self.bytes);
    }
}

/// Encodes a plan for a segment. Returns what it declares and where schemas came to stand.
pub(crate) fn encode(
    plan: &mut Plan,
    index: &Index,
    declared: &Declared,
    group: &mut GroupWriter<'_>,
) -> (Declared, Vec<(u64, u64)>) {
    let mut news = Declared::default();
    let mut schemas_at = Vec::new();
    let known = index.channels.len();
    for record in &mut plan.records {
        let number = record.header.channel;
        if !declared.channels.contains(&number) && news.channels.insert(number) {
            let key = match index.channels.get(number as usize) {
                Some(channel) => &channel.key,
                None => &plan.new_channels[number as usize - known],
            };
            group.push(channel_header(number, key), &[], &channel_body(key));
            if number as usize >= known {
                // No checkpoint knows it yet: without this record its frames would be nobody's. So it stands twice.
                group.push(channel_header(number, key), &[], &channel_body(key));
            }
        }
        if let Some(schema) = &record.schema {
            let fingerprint = schema.fingerprint();
            if !declared.schemas.contains(&fingerprint) && news.schemas.insert(fingerprint) {
                let header = RecordHeader { schema: fingerprint, ..RecordHeader::of(Kind::Schema) };
                schemas_at.push((fingerprint, group.push(header, &[], schema.ipc())));
            }
        }
        record.offset = group.push(record.header, &record.positions, &record.payload);
    }
    if !plan.positions.is_empty() {
        group.push(RecordHeader::of(Kind::Positions), &[], &SourcePosition::encode_all(&plan.positions));
    }
    if !plan.cursors.is_empty() {
        group.push(RecordHeader::of(Kind::Cursors), &[], &cursors_body(&plan.cursors));
    }
    (news, schemas_at)
}

fn channel_header(number: u32, key: &StreamKey) -> RecordHeader {
    RecordHeader { channel: number, epoch: key.epoch, ..RecordHeader::of(Kind::Channel) }
}

fn channel_body(key: &StreamKey) -> Vec<u8> {
    let (node, stream) = (key.node.as_str().as_bytes(), key.stream.as_str().as_bytes());
    let mut body = vec![node.len() as u8];
    body.extend_from_slice(node);
    body.extend_from_slice(stream);
    body
}

/// The key behind a channel record.
pub(crate) fn parse_channel(header: &RecordHeader, body: &[u8]) -> Option<StreamKey> {
    let (length, rest) = body.split_first()?;
    let (node, stream) = rest.split_at_checked(usize::from(*length))?;
    Some(StreamKey {
        node: std::str::from_utf8(node).ok()?.parse().ok()?,
        epoch: header.epoch,
        stream: std::str::from_utf8(stream).ok()?.parse().ok()?,
    })
}

fn cursors_body(cursors: &BTreeMap<CursorKey, Sequence>) -> Vec<u8> {
    let mut body = Vec::new();
    for ((consumer, channel), sequence) in cursors {
        body.push(consumer.len() as u8);
        body.extend_from_slice(consumer.as_bytes());
        body.extend_from_slice(&channel.to_le_bytes());
        body.extend_from_slice(&sequence.0.to_le_bytes());
    }
    body
}

/// The moves in a cursors record; what follows something unreadable is left out.
pub(crate) fn parse_cursors(body: &[u8]) -> Vec<(CursorKey, Sequence)> {
    let mut fields = crate::format::Fields(body);
    let mut next = || {
        let length = fields.u8()?.into();
        let consumer = std::str::from_utf8(fields.bytes(length)?).ok()?.to_owned();
        Some(((consumer, fields.u32()?), Sequence(fields.u64()?)))
    };
    std::iter::from_fn(&mut next).collect()
}
