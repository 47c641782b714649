//! A store on a simulated disk beside the model of what it must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use aap_runtime::ManualClock;
use aap_types::{BatchId, ByteCount, Digest, Epoch, Sequence, SourceKind, SourcePosition, StreamKey};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;

use crate::fs::{CrashPlan, FileSystem, SimFileSystem};
use crate::log::{Log, NotNow};
use crate::recovery::RecoveryReport;
use crate::{BufferConfig, EncodedBatch, Entry, Error, Frame, FrameKind, FrameSchema, read, recovery};

/// What one batch must be when it is read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) last: Sequence,
    /// `None` for a skip.
    pub(crate) payload: Option<Bytes>,
}

type Group = Vec<(StreamKey, Sequence, Expected)>;

/// A store and its model.
pub(crate) struct World {
    pub(crate) sim: SimFileSystem,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) config: BufferConfig,
    pub(crate) log: Option<Log>,
    /// What was acknowledged.
    pub(crate) acked: BTreeMap<StreamKey, BTreeMap<Sequence, Expected>>,
    /// Groups that failed since the last success: at most one of them may turn up whole.
    doubtful: Vec<Group>,
    /// What the landing cursor may be after a crash, and must be at least.
    pub(crate) cursors: BTreeMap<StreamKey, (Sequence, Sequence)>,
    pub(crate) random: u64,
    /// Size of the next payloads, if not random.
    pub(crate) payload_bytes: Option<usize>,
    /// Names that own batches go to.
    pub(crate) streams: Vec<&'static str>,
    serial: u64,
    schemas: Vec<Arc<FrameSchema>>,
}

pub(crate) const LANDING: &str = "uplink";

pub(crate) fn test_config() -> BufferConfig {
    let mut config = BufferConfig::new("/store", "node-1".parse().unwrap());
    config.segment_bytes = ByteCount::kib(8);
    config.budget = ByteCount::kib(96);
    config.retain = ByteCount::kib(24);
    config
}

impl World {
    pub(crate) const STREAMS: [&'static str; 3] = ["a", "b", "c"];

    pub(crate) fn new(seed: u64) -> Self {
        let sim = SimFileSystem::new();
        Self::over(sim.clone(), Arc::new(sim), seed)
    }

    pub(crate) fn over(sim: SimFileSystem, fs: Arc<dyn FileSystem>, seed: u64) -> Self {
        let schema = |name: &str| {
            FrameSchema::of(Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, true)])))
        };
        Self {
            sim,
            fs,
            clock: Arc::new(ManualClock::at(1_700_000_000_000)),
            config: test_config(),
            log: None,
            acked: BTreeMap::new(),
            doubtful: vec![],
            cursors: BTreeMap::new(),
            random: seed,
            payload_bytes: None,
            streams: Self::STREAMS.to_vec(),
            serial: 0,
            schemas: vec![schema("one"), schema("two")],
        }
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let mut state = self.random;
        let value = crate::fs::next_random(&mut state);
        self.random = state;
        value % limit
    }

    pub(crate) fn open(&mut self) -> Result<RecoveryReport, Error> {
        assert!(self.log.is_none(), "closed before it is opened again");
        let (log, report) = recovery::open(self.fs.clone(), self.clock.clone(), self.config.clone())?;
        self.log = Some(log);
        Ok(report)
    }

    pub(crate) fn log(&mut self) -> &mut Log {
        self.log.as_mut().expect("the store is open")
    }

    fn batch(&mut self) -> EncodedBatch {
        self.serial += 1;
        let length = if self.chance(20) { 3000 } else { self.below(400) } as usize;
        let length = self.payload_bytes.unwrap_or(length);
        let mut payload = self.serial.to_le_bytes().to_vec();
        let filler = self.below(256) as u8;
        payload.resize(8 + length, filler);
        EncodedBatch {
            schema: self.schemas[(self.serial % 2) as usize].clone(),
            payload: payload.into(),
            rows: 1 + (self.serial % 7) as u32,
            ts_min_us: self.serial as i64,
            ts_max_us: self.serial as i64,
            raw_bytes: 10,
        }
    }

    pub(crate) fn own_key(&mut self, stream: &str) -> StreamKey {
        let identity = self.log().shared.index().identity.clone();
        StreamKey { node: identity.node, epoch: identity.epoch, stream: stream.parse().unwrap() }
    }

    pub(crate) fn landed_key() -> StreamKey {
        StreamKey { node: "far".parse().unwrap(), epoch: Epoch(9), stream: "a".parse().unwrap() }
    }

    pub(crate) fn tail(&mut self, key: &StreamKey) -> Sequence {
        self.log().shared.index().channel(key).map_or(Sequence::ZERO, |(_, channel)| channel.tail)
    }

    /// One append of a few entries, with what it must give.
    fn call(&mut self, tails: &mut BTreeMap<StreamKey, Sequence>) -> (Vec<Entry>, Group) {
        let (mut entries, mut group) = (vec![], vec![]);
        for _ in 0..1 + self.below(3) {
            let choice = self.below(self.streams.len() as u64) as usize;
            let stream = self.streams[choice];
            let key = if self.chance(3) { Self::landed_key() } else { self.own_key(stream) };
            let tail = match tails.get(&key) {
                Some(tail) => *tail,
                None => self.tail(&key),
            };
            let from = tail.next();
            let last = if self.chance(12) {
                let to = Sequence(from.0 + self.below(3));
                entries.push(Entry::Skip { key: key.clone(), from, to, rows: 1, reason: "test".into() });
                group.push((key.clone(), from, Expected { last: to, payload: None }));
                to
            } else {
                let batch = self.batch();
                group.push((
                    key.clone(),
                    from,
                    Expected { last: from, payload: Some(batch.payload.clone()) },
                ));
                entries.push(self.entry(&key, from, batch));
                from
            };
            tails.insert(key, last);
        }
        (entries, group)
    }

    /// One append of one batch of this node, outside of the model.
    pub(crate) fn one_call(&mut self) -> Vec<Entry> {
        let batch = self.batch();
        vec![Entry::Own { stream: "large".parse().unwrap(), batch, positions: vec![] }]
    }

    fn entry(&mut self, key: &StreamKey, sequence: Sequence, batch: EncodedBatch) -> Entry {
        let position = SourcePosition {
            kind: SourceKind::File,
            key: key.stream.to_string(),
            offset: sequence.0,
            detail: String::new(),
        };
        if key.node.as_str() == "node-1" {
            return Entry::Own { stream: key.stream.clone(), batch, positions: vec![position] };
        }
        let id = BatchId { key: key.clone(), sequence };
        let positions = Bytes::from(SourcePosition::encode_all(&[position]));
        let digest = Digest::of(&id, &positions, &batch.payload);
        Entry::Landed { id, digest, positions, sealed_us: 1, batch }
    }

    /// Commits one group of a few calls. `false` if it was refused or failed.
    pub(crate) fn append(&mut self) -> bool {
        let mut tails = BTreeMap::new();
        let (mut calls, mut group) = (vec![], vec![]);
        for _ in 0..1 + self.below(3) {
            let (entries, expected) = self.call(&mut tails);
            calls.push(entries);
            group.extend(expected);
        }
        let moving = self.memory_cursors();
        match self.log().commit(&calls) {
            Ok(answers) => {
                let ids: Vec<BatchId> =
                    answers.into_iter().flat_map(|answer| answer.expect("accepted")).collect();
                let given = ids.iter().map(|id| (&id.key, id.sequence));
                assert!(given.eq(group.iter().map(|(key, from, _)| (key, *from))), "ids as predicted");
                self.acknowledge(group);
                self.cursors_are_durable(&moving);
                true
            }
            Err(NotNow::NoRoom(_)) => {
                self.doubtful.push(group);
                false
            }
            Err(NotNow::Failed(_)) => {
                self.doubtful.push(group);
                false
            }
        }
    }

    fn acknowledge(&mut self, group: Group) {
        for (key, from, expected) in group {
            self.acked.entry(key).or_default().insert(from, expected);
        }
        self.doubtful.clear();
    }

    pub(crate) fn keys(&mut self) -> Vec<StreamKey> {
        self.acked.keys().cloned().collect()
    }

    fn memory_cursors(&mut self) -> BTreeMap<StreamKey, Sequence> {
        self.cursors.iter().map(|(key, (_, most))| (key.clone(), *most)).collect()
    }

    fn cursors_are_durable(&mut self, cursors: &BTreeMap<StreamKey, Sequence>) {
        for (key, through) in cursors {
            self.cursors.insert(key.clone(), (*through, *through));
        }
    }

    pub(crate) fn advance(&mut self, key: &StreamKey, through: Sequence) {
        self.log().shared.index().advance(LANDING, key, through);
        let cursor = self.cursors.entry(key.clone()).or_default();
        cursor.1 = cursor.1.max(through);
    }

    pub(crate) fn advance_everything(&mut self) {
        for key in self.keys() {
            let tail = self.tail(&key);
            self.advance(&key, tail);
        }
    }

    pub(crate) fn flush(&mut self) -> bool {
        let moving = self.memory_cursors();
        let done = self.log().flush_cursors().is_ok();
        if done {
            self.cursors_are_durable(&moving);
            self.log().reclaim(0);
        }
        done
    }

    pub(crate) fn close(&mut self) {
        let moving = self.memory_cursors();
        if let Some(mut log) = self.log.take()
            && log.close().is_ok()
        {
            self.cursors_are_durable(&moving);
        }
    }

    /// Power off, power on, recovery (which may itself be cut), check.
    pub(crate) fn crash(&mut self, plan: CrashPlan) -> RecoveryReport {
        self.log = None;
        self.sim.crash(plan);
        let report = self.open().expect("a store always opens");
        self.check_recovered();
        report
    }

    /// Compares all that can be read with all that was acknowledged. Returns frames beyond it.
    pub(crate) fn check(&mut self) -> BTreeMap<StreamKey, Vec<Frame>> {
        let mut beyond = BTreeMap::new();
        let mut keys = self.keys();
        keys.extend(self.log().shared.index().channels.iter().map(|channel| channel.key.clone()));
        keys.sort();
        keys.dedup();
        for key in keys {
            let extra = self.check_key(&key);
            if !extra.is_empty() {
                beyond.insert(key, extra);
            }
        }
        beyond
    }

    pub(crate) fn read_all(&mut self, key: &StreamKey) -> Vec<Frame> {
        let portion = 1 + self.below(2000) as usize;
        self.read_in_portions(key, portion)
    }

    pub(crate) fn read_in_portions(&mut self, key: &StreamKey, portion: usize) -> Vec<Frame> {
        let shared = self.log().shared.clone();
        let (mut after, mut all) = (Sequence::ZERO, vec![]);
        loop {
            let frames = read::read(&shared, key, after, portion).expect("reading works");
            if frames.is_empty() {
                return all;
            }
            for frame in frames {
                assert_eq!(frame.id.sequence, after.next(), "no gap in {key}");
                assert_eq!(
                    frame.digest,
                    Digest::of(&frame.id, &frame.positions, &frame.payload),
                    "digest of {}",
                    frame.id
                );
                after = frame.last_sequence();
                all.push(frame);
            }
        }
    }

    fn check_key(&mut self, key: &StreamKey) -> Vec<Frame> {
        let expected = self.acked.get(key).cloned().unwrap_or_default();
        let delivered = self.cursors.get(key).map_or(Sequence::ZERO, |(_, most)| *most);
        let frames = self.read_all(key);
        let acked_tail = expected.values().map(|e| e.last).max().unwrap_or_default();
        let mut covered = Sequence::ZERO;
        let mut beyond = Vec::new();
        for frame in frames {
            if frame.id.sequence > acked_tail {
                beyond.push(frame);
                continue;
            }
            covered = frame.last_sequence();
            match (&frame.kind, expected.get(&frame.id.sequence)) {
                (FrameKind::Data, Some(Expected { payload: Some(payload), .. })) => {
                    assert_eq!(&frame.payload, payload, "payload of {}", frame.id);
                }
                (FrameKind::Skip { reason, .. }, Some(Expected { payload: None, last }))
                    if reason == "test" =>
                {
                    assert_eq!(frame.last_sequence(), *last);
                }
                (FrameKind::Skip { to, reason, .. }, _) => {
                    assert!(
                        *to <= delivered,
                        "{} to {to} is gone ({reason}); delivered is {delivered}",
                        frame.id
                    );
                }
                (kind, expected) => panic!("{}: found {kind:?}, expected {expected:?}", frame.id),
            }
        }
        assert!(covered >= acked_tail, "{key} ends at {covered}, acknowledged was {acked_tail}");
        beyond
    }

    /// After a crash: everything acknowledged is there; of what was not, one group whole or nothing.
    pub(crate) fn check_recovered(&mut self) {
        let beyond = self.check();
        if !beyond.is_empty() {
            let found: Vec<(StreamKey, Sequence, Sequence)> = beyond
                .iter()
                .flat_map(|(key, frames)| {
                    frames.iter().map(|f| (key.clone(), f.id.sequence, f.last_sequence()))
                })
                .collect();
            let whole = self.doubtful.iter().find(|group| {
                let mut given: Vec<_> =
                    group.iter().map(|(key, from, e)| (key.clone(), *from, e.last)).collect();
                given.sort();
                given == found
            });
            let group = whole.unwrap_or_else(|| panic!("{found:?} is no whole group")).clone();
            self.acknowledge(group);
            assert!(self.check().is_empty());
        }
        self.doubtful.clear();
        self.check_cursors_and_positions();
    }

    fn check_cursors_and_positions(&mut self) {
        let shared = self.log().shared.clone();
        let index = shared.index();
        for (key, (least, most)) in &mut self.cursors {
            let number = index.by_key[key];
            let cursor = index.cursors.get(&(LANDING.to_owned(), number)).copied().unwrap_or_default();
            assert!((*least..=*most).contains(&cursor), "cursor of {key} is {cursor}, not {least}..={most}");
            (*least, *most) = (cursor, cursor);
        }
        for (key, frames) in &self.acked {
            let is_latest = !self
                .acked
                .keys()
                .any(|k| k.stream == key.stream && k.node == key.node && k.epoch > key.epoch);
            let last = frames.iter().rev().find(|(_, e)| e.payload.is_some()).map(|(sequence, _)| *sequence);
            if let (Some(last), true) = (last, is_latest) {
                let found =
                    index.positions.get(&(key.node.clone(), SourceKind::File, key.stream.to_string()));
                assert_eq!(found.map(|(_, p)| p.offset), Some(last.0), "position of {key}");
            }
        }
    }

    /// With all faults gone, the store takes data again.
    pub(crate) fn must_go_on(&mut self) {
        self.sim.set_capacity(None);
        self.sim.fail_syncs(0);
        self.advance_everything();
        assert!(self.flush(), "cursors become durable");
        assert!(self.append(), "the store takes data again");
        assert!(self.check().is_empty());
    }
}
