//! What is known in memory: channels, cursors, positions, segments. Only durable things stand here; the writer puts
//! them in after the sync, everybody else reads them under one short lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use aap_types::{Digest, Epoch, NodeId, Sequence, SourcePosition, StreamKey};
use camino::Utf8PathBuf;

use crate::FrameSchema;
use crate::format::{ChannelState, Counters, Footer, Hole, Kind, RecordHeader, Seed, Span, State};
use crate::frame::parse_skip;
use crate::identity::Identity;
use crate::places::Places;
use crate::positions::{Positions, ReadAt};

/// Digests kept in memory and in checkpoints per channel, for repeats whose frames are gone.
const DIGESTS_KEPT: usize = 8;
/// Schemas kept in memory; those beyond are read from their segment again.
const SCHEMAS_KEPT: usize = 4096;
/// Distinct problems shown; repetitions count only once.
const PROBLEMS_KEPT: usize = 32;
/// Bounds the list of holes of one channel; beyond it the oldest two become one.
const HOLES_KEPT: usize = 1024;

/// Stands in the place of the digest of a skip.
const NO_DIGEST: Digest = Digest([0; 32]);
/// The epoch of a channel number that is kept for a stream whose name was lost.
pub(crate) const RESERVED: Epoch = Epoch(0);

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) key: StreamKey,
    pub(crate) tail: Sequence,
    pub(crate) digests: VecDeque<Digest>,
    pub(crate) counters: Counters,
    pub(crate) holes: Vec<Hole>,
}

impl Channel {
    pub(crate) fn new(key: StreamKey) -> Self {
        Self {
            key,
            tail: Sequence::ZERO,
            digests: VecDeque::new(),
            counters: Counters::default(),
            holes: Vec::new(),
        }
    }

    /// Keeps a number whose declaration was lost: its frames are nobody's, and nobody else gets it. In a checkpoint it
    /// is told by its epoch, which no store and no node mints.
    pub(crate) fn reserved(number: u32, node: &NodeId) -> Self {
        let stream = format!("lost-{number}").parse().expect("a valid name");
        Self::new(StreamKey { node: node.clone(), epoch: RESERVED, stream })
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.key.epoch == RESERVED
    }

    /// The digest of a sequence, if it is one of the last.
    pub(crate) fn recent_digest(&self, sequence: Sequence) -> Option<Digest> {
        let back = self.tail.0.checked_sub(sequence.0)?;
        let index = (self.digests.len() as u64).checked_sub(back + 1)?;
        self.digests.get(usize::try_from(index).ok()?).copied().filter(|digest| *digest != NO_DIGEST)
    }

    fn push_digest(&mut self, digest: Digest) {
        if self.digests.len() == DIGESTS_KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back(digest);
    }

    pub(crate) fn hole_at(&self, sequence: Sequence) -> Option<&Hole> {
        self.holes.iter().find(|hole| (hole.from..=hole.to).contains(&sequence))
    }

    pub(crate) fn add_hole(&mut self, hole: Hole) {
        self.counters.dropped_rows += hole.rows;
        self.counters.dropped_batches += hole.to.0 - hole.from.0 + 1;
        // Not merged with its neighbour: a skip that was sent once must have the same digest when it is sent again.
        self.holes.push(hole);
        if self.holes.len() > HOLES_KEPT {
            let oldest = self.holes.remove(0);
            self.holes[0].from = oldest.from;
            self.holes[0].rows += oldest.rows;
        }
    }
}

/// One segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: Utf8PathBuf,
    pub(crate) seed: Seed,
    /// Readers hold a clone; with more than one the file stays.
    pub(crate) pin: Arc<()>,
    /// Length of the file.
    pub(crate) file_bytes: u64,
    /// End of durable data, spans and schemas.
    pub(crate) index: Footer,
    pub(crate) sealed: bool,
    /// Where its frames stand, if that is remembered.
    pub(crate) places: Option<Places>,
    /// When it was read last, in reads.
    pub(crate) read_at: u64,
}

impl Segment {
    pub(crate) fn new(path: Utf8PathBuf, seed: Seed, file_bytes: u64) -> Self {
        Self {
            path,
            seed,
            pin: Arc::new(()),
            file_bytes,
            index: Footer::default(),
            sealed: false,
            places: Some(Places::default()),
            read_at: 0,
        }
    }

    pub(crate) fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }

    /// Books a frame record of `bytes` at `offset` for its channel.
    pub(crate) fn note_frame(&mut self, header: &RecordHeader, last: Sequence, offset: u64) {
        if let Some(places) = &mut self.places {
            places.note(header, offset);
        }
        let index = &mut self.index;
        let span = index.spans.entry(header.channel).or_insert(Span {
            first: header.sequence,
            last,
            first_offset: offset,
            rows: 0,
            batches: 0,
            bytes: 0,
            raw_bytes: 0,
        });
        span.last = span.last.max(last);
        span.rows += u64::from(header.rows);
        span.batches += last.0.saturating_sub(header.sequence.0) + 1;
        span.bytes += header.total_bytes() as u64;
        span.raw_bytes += header.raw_bytes;
        if header.rows > 0 {
            let empty = index.ts_min_us == 0 && index.ts_max_us == 0;
            index.ts_min_us = if empty { header.ts_min_us } else { index.ts_min_us.min(header.ts_min_us) };
            index.ts_max_us = if empty { header.ts_max_us } else { index.ts_max_us.max(header.ts_max_us) };
        }
    }
}

pub(crate) type CursorKey = (String, u32);

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) identity: Identity,
    pub(crate) channels: Vec<Channel>,
    pub(crate) by_key: HashMap<StreamKey, u32>,
    pub(crate) cursors: BTreeMap<CursorKey, Sequence>,
    /// What would be left of them after a crash; reclaim goes by these.
    pub(crate) durable_cursors: BTreeMap<CursorKey, Sequence>,
    pub(crate) moved_cursors: BTreeSet<CursorKey>,
    pub(crate) positions: Positions,
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// Counts reads of segments.
    pub(crate) reads: u64,
    pub(crate) schemas: HashMap<u64, Arc<FrameSchema>>,
    pub(crate) problems: Vec<String>,
    /// Why appends wait, if they do.
    pub(crate) blocked: Option<String>,
    pub(crate) closed: bool,
}

impl Index {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            channels: Vec::new(),
            by_key: HashMap::new(),
            cursors: BTreeMap::new(),
            durable_cursors: BTreeMap::new(),
            moved_cursors: BTreeSet::new(),
            positions: Positions::default(),
            segments: BTreeMap::new(),
            reads: 0,
            schemas: HashMap::new(),
            problems: Vec::new(),
            blocked: None,
            closed: false,
        }
    }

    pub(crate) fn channel(&self, key: &StreamKey) -> Option<(u32, &Channel)> {
        let number = *self.by_key.get(key)?;
        self.channels.get(number as usize).map(|channel| (number, channel))
    }

    /// Gives `key` the number `number`, which must be the next free one, its own, or one that is kept for it.
    pub(crate) fn add_channel(&mut self, number: u32, key: StreamKey) {
        let fresh = Channel::new(key.clone());
        let next = self.channels.len();
        match self.channels.get_mut(number as usize) {
            Some(channel) if channel.is_reserved() => *channel = fresh,
            None if number as usize == next => self.channels.push(fresh),
            _ => return,
        }
        self.by_key.insert(key, number);
    }

    /// The channels that have a name.
    pub(crate) fn named_channels(&self) -> impl Iterator<Item = (u32, &Channel)> {
        let numbered = self.channels.iter().enumerate().map(|(number, channel)| (number as u32, channel));
        numbered.filter(|(_, channel)| !channel.is_reserved())
    }

    /// The channel of a number, if it has a name.
    pub(crate) fn named_channel(&self, number: u32) -> Option<&Channel> {
        self.channels.get(number as usize).filter(|channel| !channel.is_reserved())
    }

    /// Whether a frame belongs to the channel that its number names.
    pub(crate) fn is_of_its_channel(&self, header: &RecordHeader) -> bool {
        !matches!(header.kind, Kind::Data | Kind::Skip | Kind::Hole)
            || self.named_channel(header.channel).is_some_and(|channel| channel.key.epoch == header.epoch)
    }

    pub(crate) fn add_problem(&mut self, text: String) {
        if !self.problems.contains(&text) && self.problems.len() < PROBLEMS_KEPT {
            tracing::warn!(problem = %text, "buffer degraded");
            self.problems.push(text);
        }
    }

    pub(crate) fn keep_schema(&mut self, schema: Arc<FrameSchema>) {
        if self.schemas.len() >= SCHEMAS_KEPT {
            self.schemas.clear();
        }
        self.schemas.insert(schema.fingerprint(), schema);
    }

    /// Takes the positions that came with a batch of `node`.
    fn apply_positions(&mut self, node: &NodeId, at_us: i64, read_at: ReadAt, encoded: &[u8]) {
        let Some(positions) = SourcePosition::decode_all(encoded) else {
            self.add_problem(format!("unreadable source positions from node `{node}`"));
            return;
        };
        for position in positions {
            if *node == self.identity.node {
                self.positions.set_own(node, at_us, read_at, position);
            } else {
                self.positions.set_landed(node, at_us, read_at, position);
            }
        }
    }

    /// Takes positions of this node that came without a batch.
    pub(crate) fn set_own_positions(&mut self, at_us: i64, positions: Vec<SourcePosition>) {
        let read_at = ReadAt { epoch: self.identity.epoch, sealed_us: at_us };
        for position in positions {
            self.positions.set_own(&self.identity.node, at_us, read_at, position);
        }
    }

    /// The same, as they stand on disk.
    pub(crate) fn apply_own_positions(&mut self, at_us: i64, encoded: &[u8]) {
        match SourcePosition::decode_all(encoded) {
            Some(positions) => self.set_own_positions(at_us, positions),
            None => self.add_problem("unreadable source positions".to_owned()),
        }
    }

    /// Applies a durable frame, skip or hole to its channel.
    pub(crate) fn apply_frame(
        &mut self,
        header: &RecordHeader,
        positions: &[u8],
        payload: &[u8],
        at_us: i64,
    ) {
        let Some(channel) = self.channels.get_mut(header.channel as usize) else { return };
        let skip = || parse_skip(payload).unwrap_or((header.sequence, 0, String::new()));
        if header.kind == Kind::Hole {
            let (to, rows, reason) = skip();
            channel.add_hole(Hole { from: header.sequence, to, rows, reason });
            return;
        }
        if header.sequence <= channel.tail {
            return;
        }
        let expected = channel.tail.next();
        if header.sequence > expected {
            let to = Sequence(header.sequence.0 - 1);
            channel.add_hole(Hole { from: expected, to, rows: 0, reason: DAMAGED.into() });
            channel.digests.clear();
        }
        if header.kind == Kind::Skip {
            let (to, rows, _) = skip();
            channel.counters.dropped_rows += rows;
            channel.counters.dropped_batches += to.0.saturating_sub(header.sequence.0) + 1;
            channel.tail = to.max(header.sequence);
            channel.digests.clear();
            // A skip may stand for a batch that the other side still has: nothing to compare.
            channel.push_digest(NO_DIGEST);
        } else {
            channel.tail = header.sequence;
            channel.push_digest(header.digest);
            channel.counters.rows += u64::from(header.rows);
            channel.counters.batches += 1;
            channel.counters.bytes += header.total_bytes() as u64;
            channel.counters.raw_bytes += header.raw_bytes;
        }
        let node = channel.key.node.clone();
        if !positions.is_empty() {
            let read_at = ReadAt { epoch: header.epoch, sealed_us: header.sealed_us };
            self.apply_positions(&node, at_us, read_at, positions);
        }
    }

    /// Moves a cursor in memory. Whether it moved.
    pub(crate) fn advance(&mut self, consumer: &str, key: &StreamKey, through: Sequence) -> bool {
        let Some((number, channel)) = self.channel(key) else { return false };
        let through = through.min(channel.tail);
        if consumer.is_empty() || consumer.len() > usize::from(u8::MAX) {
            return false;
        }
        let key = (consumer.to_owned(), number);
        if self.cursors.get(&key).is_some_and(|known| *known >= through) || through == Sequence::ZERO {
            return false;
        }
        self.cursors.insert(key.clone(), through);
        self.moved_cursors.insert(key);
        true
    }

    pub(crate) fn apply_cursors(&mut self, moves: impl IntoIterator<Item = (CursorKey, Sequence)>) {
        for (key, sequence) in moves {
            let cursor = self.cursors.entry(key.clone()).or_default();
            *cursor = (*cursor).max(sequence);
            let durable = self.durable_cursors.entry(key).or_default();
            *durable = (*durable).max(sequence);
        }
    }

    /// The checkpoint that a new segment begins with.
    pub(crate) fn state(&self, next_group: u64) -> State {
        let channels = self.channels.iter().map(|channel| ChannelState {
            key: channel.key.clone(),
            tail: channel.tail,
            digests: channel.digests.iter().copied().collect(),
            counters: channel.counters,
            holes: channel.holes.clone(),
        });
        State {
            node: self.identity.node.clone(),
            epoch: self.identity.epoch,
            generation: self.identity.generation,
            next_group,
            channels: channels.collect(),
            cursors: self.cursors.clone(),
            positions: self.positions.state(),
            segment_ends: self.segments.iter().map(|(id, segment)| (*id, segment.index.end)).collect(),
        }
    }

    /// Starts from a checkpoint.
    pub(crate) fn load(&mut self, state: State) {
        for channel in state.channels {
            let number = self.channels.len() as u32;
            if channel.key.epoch != RESERVED {
                self.by_key.insert(channel.key.clone(), number);
            }
            self.channels.push(Channel {
                key: channel.key,
                tail: channel.tail,
                digests: channel.digests.into(),
                counters: channel.counters,
                holes: channel.holes,
            });
        }
        self.durable_cursors.clone_from(&state.cursors);
        self.cursors = state.cursors;
        for p in state.positions {
            self.positions.set_own(&p.node, p.updated_us, p.read_at, p.position);
        }
    }

    /// Whether everything in a segment was delivered, as far as is durable.
    pub(crate) fn is_delivered(&self, segment: &Segment, landing: &str) -> bool {
        let mut named =
            segment.index.spans.iter().filter(|(number, _)| self.named_channel(**number).is_some());
        named.all(|(channel, span)| {
            self.durable_cursors.get(&(landing.to_owned(), *channel)).is_some_and(|c| *c >= span.last)
        })
    }

    /// Bytes of files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.file_bytes).sum()
    }
}

/// The reason in a skip for what cannot be read.
pub const DAMAGED: &str = "damaged on disk";
/// The reason in a skip for what was delivered, and then reclaimed.
pub const RECLAIMED: &str = "no longer stored";
/// The reason in a skip for what `drop-oldest` took.
pub(crate) const DROPPED: &str = "dropped: buffer full";
