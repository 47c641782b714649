//! What a caller of the buffer relies on, on real files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::scan::Scanner;
use aap_buffer::{
    Buffer, BufferConfig, EncodedBatch, Encoder, Entry, Error, FrameKind, FrameSchema, RealFileSystem,
    decode, scrub_for_ever,
};
use aap_runtime::{Shutdown, SystemClock};
use aap_types::{ByteCount, Epoch, Sequence, SourceKind, SourcePosition, StreamKey};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use camino::Utf8PathBuf;

fn batch(first: i64, rows: i64) -> EncodedBatch {
    let ts = TimestampMicrosecondArray::from_iter_values(first..first + rows).with_timezone("UTC");
    let numbers = Int64Array::from_iter_values(first..first + rows);
    let text = StringArray::from_iter_values((0..rows).map(|i| format!("line {}", first + i)));
    let batch = RecordBatch::try_from_iter([
        ("ts", Arc::new(ts) as ArrayRef),
        ("n", Arc::new(numbers)),
        ("body", Arc::new(text)),
    ])
    .unwrap();
    let schema = FrameSchema::of(batch.schema());
    Encoder::new().encode(&batch, &schema, 100).unwrap()
}

fn own(stream: &str, first: i64, rows: i64) -> Entry {
    let position = SourcePosition {
        kind: SourceKind::File,
        key: "f".into(),
        offset: (first + rows) as u64,
        detail: String::new(),
    };
    Entry::Own { stream: stream.parse().unwrap(), batch: batch(first, rows), positions: vec![position] }
}

struct Store {
    directory: tempfile::TempDir,
    config: BufferConfig,
}

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("a/store")).unwrap();
        let mut config = BufferConfig::new(path, "node-1".parse().unwrap());
        config.segment_bytes = ByteCount::kib(64);
        config.budget = ByteCount::mib(4);
        Self { directory, config }
    }
    fn open(&self) -> Buffer {
        let opened =
            Buffer::open(Arc::new(RealFileSystem), Arc::new(SystemClock::default()), self.config.clone())
                .unwrap();
        assert_eq!(opened.recovery.problems, Vec::<String>::new());
        opened.buffer
    }
}

#[tokio::test]
async fn what_was_appended_is_read_again_after_reopening() {
    let store = Store::new();
    let buffer = store.open();
    let key = StreamKey {
        node: "node-1".parse().unwrap(),
        epoch: buffer.identity().epoch,
        stream: "logs".parse().unwrap(),
    };
    let mut digests = Vec::new();
    for i in 0..200 {
        let ids = buffer.append(vec![own("logs", i * 10, 10), own("other", i, 1)]).await.unwrap();
        assert_eq!(ids[0].sequence, Sequence(i as u64 + 1));
        assert_eq!(ids[0].key, key);
        digests.push(buffer.tail(&key).unwrap().digest);
    }
    buffer.advance("uplink", &key, Sequence(50));
    let identity = buffer.identity();
    for round in 0..3 {
        let buffer = if round == 0 { buffer.clone() } else { store.open() };
        assert_eq!(buffer.identity().epoch, identity.epoch);
        assert_eq!(buffer.cursor("uplink", &key), Sequence(50));
        assert_eq!(buffer.position(SourceKind::File, "f").unwrap().offset, 200);
        assert_eq!(buffer.tail(&key).unwrap().sequence, Sequence(200));
        let mut after = Sequence::ZERO;
        let mut rows = Vec::new();
        loop {
            let frames = buffer.read(&key, after, 10_000).unwrap();
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                assert_eq!(frame.id.sequence, after.next());
                assert_eq!(frame.kind, FrameKind::Data);
                assert_eq!(frame.digest, digests[after.0 as usize]);
                assert_eq!(buffer.digest_of(&frame.id), Some(frame.digest));
                after = frame.id.sequence;
                let decoded = decode(&frame.schema, &frame.payload, Some(&[1])).unwrap();
                let numbers = decoded.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
                rows.extend(numbers.values().iter().copied());
            }
        }
        assert_eq!(rows, (0..2000).collect::<Vec<_>>());
        let snapshot = buffer.snapshot(Some(&["logs".parse().unwrap()]));
        assert!(snapshot.segments.len() > 2);
        let mut scanned = 0;
        for segment in &snapshot.segments {
            let mut scanner = Scanner::open(segment).unwrap();
            while let Some(frame) = scanner.next() {
                let frame = frame.unwrap();
                let schema = scanner.schema(frame.schema).unwrap();
                let rows = decode(&schema, &scanner.payload(&frame).unwrap(), None).unwrap();
                assert_eq!(rows.num_rows() as u32, frame.rows);
                scanned += usize::from(frame.id.key == key) * rows.num_rows();
            }
            assert_eq!(scanner.damaged_bytes(), 0);
        }
        assert_eq!(scanned, 2000);
        let stats = buffer.stats();
        assert_eq!(stats.streams[&key.stream].rows, 2000);
        assert_eq!(stats.streams[&key.stream].waiting_batches, 150);
        assert_eq!(stats.problems, Vec::<String>::new());
        buffer.close();
        assert!(matches!(buffer.append(vec![own("logs", 0, 1)]).await, Err(Error::Closed)));
    }
    drop(store.directory);
}

#[tokio::test]
async fn landed_batches_keep_their_identity_and_their_order() {
    let store = Store::new();
    let buffer = store.open();
    let key = StreamKey { node: "far".parse().unwrap(), epoch: Epoch(7), stream: "logs".parse().unwrap() };
    let landed = |sequence: u64| {
        let id = aap_types::BatchId { key: key.clone(), sequence: Sequence(sequence) };
        let batch = batch(sequence as i64, 3);
        let positions = bytes::Bytes::from(SourcePosition::encode_all(&[SourcePosition {
            kind: SourceKind::Ingest,
            key: "x".into(),
            offset: sequence,
            detail: String::new(),
        }]));
        let digest = aap_types::Digest::of(&id, &positions, &batch.payload);
        Entry::Landed { id, digest, positions, sealed_us: 5, batch }
    };
    buffer.append(vec![landed(1), landed(2)]).await.unwrap();
    let refused = buffer.append(vec![own("mine", 0, 1), landed(4)]).await;
    assert!(matches!(refused, Err(Error::OutOfOrder { expected: Sequence(3), .. })), "{refused:?}");
    assert_eq!(buffer.tails(), vec![(key.clone(), Sequence(2))], "a refused append leaves nothing behind");
    let skip = |from: u64, to: u64| Entry::Skip {
        key: key.clone(),
        from: Sequence(from),
        to: Sequence(to),
        rows: 9,
        reason: "because".into(),
    };
    buffer.append(vec![skip(3, 5), landed(6)]).await.unwrap();
    assert_eq!(buffer.positions_of(&key.node)[0].offset, 6);
    assert_eq!(buffer.position(SourceKind::Ingest, "x"), None);
    for _ in 0..2 {
        let frames = buffer.read(&key, Sequence(1), 1 << 20).unwrap();
        assert_eq!(
            frames.iter().map(|f| (f.id.sequence.0, f.last_sequence().0)).collect::<Vec<_>>(),
            [(2, 2), (3, 5), (6, 6)]
        );
        assert_eq!(frames[1].kind, FrameKind::Skip { to: Sequence(5), rows: 9, reason: "because".into() });
        buffer.close();
        let again = store.open();
        assert_eq!(again.tail(&key).unwrap().sequence, Sequence(6));
        again.close();
    }
}

#[test]
fn a_second_owner_and_a_foreign_node_are_refused() {
    let store = Store::new();
    let buffer = store.open();
    let open = |config: BufferConfig| {
        Buffer::open(Arc::new(RealFileSystem), Arc::new(SystemClock::default()), config).map(|_| ())
    };
    assert!(matches!(open(store.config.clone()), Err(Error::Locked { .. })));
    buffer.close();
    let mut foreign = store.config.clone();
    foreign.node = "node-2".parse().unwrap();
    assert!(matches!(open(foreign), Err(Error::ForeignNode { .. })));
    let path = store.config.directory.join("STORE");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .replace("\"format\":1", "\"format\":99");
    std::fs::write(&path, format!("{text}\ncrc32c {:08x}\n", crc32c::crc32c(text.as_bytes()))).unwrap();
    assert!(matches!(open(store.config.clone()), Err(Error::NewerFormat { found: 99, .. })));
}

#[tokio::test]
async fn a_byte_that_rots_in_a_running_store_becomes_a_problem_of_it() {
    use std::os::unix::fs::FileExt;
    let store = Store::new();
    let buffer = store.open();
    for i in 0..200 {
        buffer.append(vec![own("logs", i * 100, 100)]).await.unwrap();
    }
    let shutdown = Shutdown::default();
    let scrubber = scrub_for_ever(buffer.clone(), Duration::from_millis(1), shutdown.clone());
    let rotten = async {
        let segment = buffer.snapshot(None).segments.into_iter().nth(1).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&segment.path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, segment.durable_end / 2).unwrap();
        assert_eq!(buffer.stats().problems, Vec::<String>::new());
        file.write_all_at(&[byte[0] ^ 16], segment.durable_end / 2).unwrap();
        while buffer.stats().problems.is_empty() {
            tokio::task::yield_now().await;
        }
        shutdown.request();
        buffer.stats().problems
    };
    let both = async { tokio::join!(scrubber, rotten) };
    let (_, problems) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(problems[0].contains("damaged bytes"), "{problems:?}");
    buffer.close();
}
