//! Full budgets, full disks, pinned segments.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::fs::{Fault, FaultKind, FaultyFileSystem, SimFileSystem};
use aap_buffer::{
    Buffer, BufferConfig, EncodedBatch, Entry, Error, FileSystem, FrameKind, FrameSchema, WhenFull,
};
use aap_runtime::SystemClock;
use aap_types::{ByteCount, Sequence, SourceKind, SourcePosition, StreamKey};
use arrow_schema::{DataType, Field, Schema};

const PAYLOAD: usize = 1000;

fn entry() -> Entry {
    let schema = FrameSchema::of(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)])));
    let batch = EncodedBatch {
        schema,
        payload: vec![7; PAYLOAD].into(),
        rows: 10,
        ts_min_us: 1,
        ts_max_us: 2,
        raw_bytes: 5000,
    };
    Entry::Own { stream: "logs".parse().unwrap(), batch, positions: vec![] }
}

fn config() -> BufferConfig {
    let mut config = BufferConfig::new("/store", "node-1".parse().unwrap());
    config.segment_bytes = ByteCount::kib(16);
    config.budget = ByteCount::kib(64);
    config.retain = ByteCount(0);
    config
}

fn open(sim: &SimFileSystem, config: BufferConfig) -> Buffer {
    let fs: Arc<dyn FileSystem> = Arc::new(sim.clone());
    Buffer::open(fs, Arc::new(SystemClock::default()), config).unwrap().buffer
}

fn key(buffer: &Buffer) -> StreamKey {
    let identity = buffer.identity();
    StreamKey { node: identity.node, epoch: identity.epoch, stream: "logs".parse().unwrap() }
}

/// Appends until the buffer blocks. Returns how many were taken, and the append that waits.
async fn fill(buffer: &Buffer) -> (u64, tokio::task::JoinHandle<Result<Vec<aap_types::BatchId>, Error>>) {
    let mut taken = 0;
    loop {
        let waiting = buffer.clone();
        #[expect(clippy::disallowed_methods, reason = "the test owns and awaits it")]
        let mut append = tokio::spawn(async move { waiting.append(vec![entry()]).await });
        let blocked = async {
            while !buffer.stats().blocked {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            outcome = &mut append => {
                outcome.unwrap().unwrap();
                taken += 1;
            }
            () = blocked => return (taken, append),
        }
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .unwrap_or_else(|_| panic!("{what} takes too long"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_makes_the_source_wait_until_data_is_delivered() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, config());
    let key = key(&buffer);
    let (taken, waiting) = within("filling", fill(&buffer)).await;
    assert!(taken > 30, "{taken}");
    assert!(matches!(buffer.try_append(vec![entry()]), Err(Error::Full)));
    assert!(sim.used() <= (64 + 16 + 1) << 10, "the budget holds: {}", sim.used());
    buffer.advance("other", &key, Sequence(taken));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!waiting.is_finished(), "another consumer makes no room");
    buffer.advance("uplink", &key, Sequence(taken));
    let ids = within("the waiting append", waiting).await.unwrap().unwrap();
    assert_eq!(ids[0].sequence, Sequence(taken + 1));
    assert!(!buffer.stats().blocked);
    for _ in 0..200 {
        let ids = within("appending", buffer.append(vec![entry()])).await.unwrap();
        buffer.advance("uplink", &key, ids[0].sequence);
    }
    let stats = buffer.stats();
    assert_eq!(stats.streams[&key.stream].rows, (taken + 201) * 10);
    assert_eq!((stats.waiting_batches, stats.streams[&key.stream].dropped_rows), (0, 0));
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_oldest_counts_what_it_drops_and_leaves_skips() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, BufferConfig { when_full: WhenFull::DropOldest, ..config() });
    let key = key(&buffer);
    for _ in 0..300 {
        within("appending", buffer.append(vec![entry()])).await.unwrap();
    }
    let check = |buffer: &Buffer| {
        let (mut rows, mut skipped, mut after) = (0, 0, Sequence::ZERO);
        loop {
            let frames = buffer.read(&key, after, 5000).unwrap();
            let Some(last) = frames.last() else { break };
            let reached = last.last_sequence();
            for frame in &frames {
                assert_eq!(frame.id.sequence, after.next());
                after = frame.last_sequence();
                match &frame.kind {
                    FrameKind::Data => rows += u64::from(frame.rows),
                    FrameKind::Skip { rows, reason, .. } => {
                        assert!(reason.contains("dropped"), "{reason}");
                        skipped += rows;
                    }
                }
            }
            assert_eq!(after, reached);
        }
        assert_eq!((after, rows + skipped), (Sequence(300), 3000));
        let stats = buffer.stats();
        assert_eq!(stats.streams[&key.stream].dropped_rows, skipped);
        assert!(skipped > 1000);
    };
    check(&buffer);
    // What was dropped is told with its rows and its reason, not filled in by whoever has not got it.
    assert_eq!(buffer.heads(), vec![(key.clone(), Sequence(1))]);
    buffer.close();
    let again = open(&sim, config());
    assert_eq!(again.stats().problems, Vec::<String>::new());
    check(&again);
    again.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_for_room_is_refused_at_once_also_by_the_append_that_finds_none() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, config());
    let key = key(&buffer);
    let mut taken = 0;
    let refusal = loop {
        match buffer.try_append(vec![entry()]) {
            Ok(ticket) => match within("an answer", ticket.durable()).await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            },
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, Error::Full), "{refusal:?}");
    assert!(taken > 30, "{taken}");
    // Nobody waits, so nothing is blocked: as soon as there is room, the next is taken.
    buffer.advance("uplink", &key, Sequence(taken));
    let ids = within("the next", buffer.append(vec![entry()])).await.unwrap();
    assert_eq!(ids[0].sequence, Sequence(taken + 1), "what was refused was not stored");
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_blocks_and_the_buffer_goes_on_by_itself() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, config());
    let key = key(&buffer);
    within("appending", buffer.append(vec![entry()])).await.unwrap();
    sim.set_capacity(Some(sim.used() + 1000));
    let (taken, waiting) = within("filling", fill(&buffer)).await;
    assert!(matches!(buffer.try_append(vec![entry()]), Err(Error::Full)));
    assert!(buffer.stats().problems.iter().any(|text| text.contains("space")));
    assert_eq!(
        buffer.read(&key, Sequence::ZERO, 1 << 20).unwrap().len() as u64,
        taken + 1,
        "reading goes on"
    );
    sim.set_capacity(None);
    within("the waiting append", waiting).await.unwrap().unwrap();
    assert!(!buffer.stats().blocked);
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_its_segments() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, BufferConfig { budget: ByteCount::mib(1), ..config() });
    let key = key(&buffer);
    for _ in 0..60 {
        within("appending", buffer.append(vec![entry()])).await.unwrap();
    }
    let snapshot = buffer.snapshot(None);
    assert!(snapshot.segments.len() > 3);
    assert!(buffer.snapshot(Some(&["absent".parse().unwrap()])).segments.is_empty());
    buffer.advance("uplink", &key, Sequence(60));
    for _ in 0..60 {
        let ids = within("appending", buffer.append(vec![entry()])).await.unwrap();
        buffer.advance("uplink", &key, ids[0].sequence);
    }
    let there = |sim: &SimFileSystem| {
        let image = sim.image();
        snapshot.segments.iter().filter(|segment| image.contains_key(&segment.path)).count()
    };
    assert_eq!(there(&sim), snapshot.segments.len());
    let frames: usize = snapshot
        .segments
        .iter()
        .map(|segment| {
            aap_buffer::scan::Scanner::open_in(&sim, segment).unwrap().filter(|f| f.is_ok()).count()
        })
        .sum();
    assert_eq!(frames, 60, "only what was durable when it was taken");
    let segments = snapshot.segments.clone();
    drop(snapshot);
    for _ in 0..40 {
        let ids = within("appending", buffer.append(vec![entry()])).await.unwrap();
        buffer.advance("uplink", &key, ids[0].sequence);
    }
    assert!(
        segments.iter().any(|segment| !sim.image().contains_key(&segment.path)),
        "reclaimed after the snapshot"
    );
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_over_the_limit_is_refused_and_a_large_one_gets_its_own_segment() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, BufferConfig { budget: ByteCount::mib(8), ..config() });
    let with = |bytes: usize| {
        let Entry::Own { stream, mut batch, positions } = entry() else { panic!("own") };
        batch.payload = vec![1; bytes].into();
        vec![Entry::Own { stream, batch, positions }]
    };
    let refused = buffer.append(with(60 << 20)).await;
    assert!(matches!(refused, Err(Error::Oversize { .. })), "{refused:?}");
    within("a large append", buffer.append(with(2 << 20))).await.unwrap();
    within("a small append", buffer.append(with(10))).await.unwrap();
    let frames = buffer.read(&key(&buffer), Sequence::ZERO, 1 << 30).unwrap();
    assert_eq!(frames.iter().map(|f| f.payload.len()).collect::<Vec<_>>(), [2 << 20, 10]);
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_and_adopted_positions_survive() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, config());
    let first = buffer.append(vec![entry()]).await.unwrap();
    let epoch = buffer.new_epoch("forked").await.unwrap();
    assert!(epoch > first[0].key.epoch);
    let second = buffer.append(vec![entry()]).await.unwrap();
    assert_eq!((second[0].key.epoch, second[0].sequence), (epoch, Sequence(1)));
    let position =
        |offset| SourcePosition { kind: SourceKind::Ingest, key: "x".into(), offset, detail: "{}".into() };
    buffer.adopt_positions(vec![position(5)]).await.unwrap();
    buffer.adopt_positions(vec![position(3)]).await.unwrap();
    buffer.close();
    let again = open(&sim, config());
    assert_eq!(again.identity().epoch, epoch);
    assert_eq!(again.position(SourceKind::Ingest, "x"), Some(position(5)));
    assert_eq!(again.tails().len(), 2);
    again.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_that_move_all_the_time_become_durable_all_the_same() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, BufferConfig { budget: ByteCount::mib(8), ..config() });
    let key = key(&buffer);
    for _ in 0..300 {
        within("appending", buffer.append(vec![entry()])).await.unwrap();
    }
    for sequence in 1..=250 {
        buffer.advance("uplink", &key, Sequence(sequence));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sim.kill();
    let again = open(&sim, config());
    assert!(again.cursor("uplink", &key) > Sequence(20), "{}", again.cursor("uplink", &key));
    again.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_appends_at_once_than_the_budget_holds_are_taken_one_after_the_other() {
    let sim = SimFileSystem::new();
    let buffer = open(&sim, config());
    let key = key(&buffer);
    let mut appends = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let buffer = buffer.clone();
        appends.spawn(async move { buffer.append(vec![entry()]).await.unwrap() });
    }
    while !appends.is_empty() {
        let next = tokio::time::timeout(Duration::from_millis(20), appends.join_next()).await;
        if let Ok(Some(outcome)) = next {
            outcome.unwrap();
        }
        let tail = buffer.tail(&key).map_or(Sequence::ZERO, |tail| tail.sequence);
        buffer.advance("uplink", &key, tail);
    }
    assert_eq!(buffer.tail(&key).unwrap().sequence, Sequence(300));
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_while_appends_wait_ends_the_waiting() {
    let sim = SimFileSystem::new();
    let faulty = FaultyFileSystem::over(Arc::new(sim.clone()));
    let clock = Arc::new(SystemClock::default());
    let buffer = Buffer::open(Arc::new(faulty.clone()), clock, config()).unwrap().buffer;
    let key = key(&buffer);
    let (taken, waiting) = within("filling", fill(&buffer)).await;
    faulty.set(Some(Fault { at: 1, times: u64::MAX, kind: FaultKind::Io, only_syncs: false }));
    buffer.advance("uplink", &key, Sequence(taken));
    let failed = tokio::time::timeout(Duration::from_secs(5), waiting).await;
    faulty.set(None);
    if let Ok(outcome) = failed {
        assert!(matches!(outcome.unwrap(), Err(Error::Io { .. })));
    }
    let again = async {
        loop {
            match buffer.try_append(vec![entry()]) {
                Err(Error::Full) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other.unwrap().durable().await,
            }
        }
    };
    within("an append after the failure", again).await.unwrap();
    buffer.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_oldest_drops_on_a_full_disk_too() {
    let sim = SimFileSystem::new();
    let settings = BufferConfig { when_full: WhenFull::DropOldest, budget: ByteCount::mib(8), ..config() };
    let buffer = open(&sim, settings);
    let key = key(&buffer);
    for _ in 0..60 {
        within("appending", buffer.append(vec![entry()])).await.unwrap();
    }
    sim.set_capacity(Some(sim.used()));
    for _ in 0..200 {
        within("appending on a full disk", buffer.append(vec![entry()])).await.unwrap();
    }
    assert!(buffer.stats().streams[&key.stream].dropped_rows > 100);
    buffer.close();
}
