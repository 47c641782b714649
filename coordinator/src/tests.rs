//! The session as an agent sees it, over a carrier in memory, with a real ledger on a real disk.

#![expect(clippy::disallowed_methods, reason = "tests own the tasks they spawn")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, Encoder, FrameKind, FrameSchema, RealFileSystem};
use aap_lake::{CONSUMER, Lake, LakeConfig, LakeDependencies};
use aap_proto::v1::{self, AgentMessage, agent_message as up, coordinator_message as down};
use aap_runtime::{Clock, Shutdown, SystemClock};
use aap_store::{MetadataStore, SqliteStore};
use aap_transport::testing::{Cut, faulty, pair};
use aap_transport::{AgentSession, Carrier, Peer, SessionHandler};
use aap_types::{BatchId, Digest, Epoch, Sequence, SourceKind, SourcePosition, StreamKey};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use bytes::Bytes;
use camino::Utf8PathBuf;
use tokio::time::timeout;

use crate::freshness::wait_for_ingest;
use crate::landing::{Landed, Landing};
use crate::nodes::Nodes;
use crate::reach::Reach;
use crate::session::Sessions;

const DEADLINE: Duration = Duration::from_secs(20);
const EPOCH: u64 = 77;

/// A coordinator without network and queries.
struct Rig {
    home: Utf8PathBuf,
    _directory: tempfile::TempDir,
    sessions: Arc<Sessions>,
    lake: Lake,
}

impl Rig {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        let (sessions, lake) = open(&home).await;
        Self { home, _directory: directory, sessions, lake }
    }

    async fn restart(&mut self) {
        self.sessions.shutdown.request();
        let buffer = self.sessions.landing.buffer().clone();
        tokio::task::spawn_blocking(move || buffer.close()).await.unwrap();
        (self.sessions, self.lake) = open(&self.home).await;
    }

    /// Opens a session that breaks at `cut`.
    fn dial(&self, cut: Cut) -> AgentSession {
        let (agent, tx, rx) = pair();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let peer = Peer { node: "n1".parse().unwrap(), generation: 0, carrier: Carrier::Memory, address };
        tokio::spawn(self.sessions.clone().session(peer, tx, rx));
        faulty(agent, cut)
    }

    /// The ledger of a stream: first sequence of each frame, whether it is a skip, and the digest.
    fn ledger(&self, stream: &str) -> Vec<(u64, bool, Digest)> {
        let buffer = self.sessions.landing.buffer();
        let frames = buffer.read(&key(stream), Sequence::ZERO, 1 << 30).unwrap();
        let seen =
            frames.iter().map(|f| (f.id.sequence.0, matches!(f.kind, FrameKind::Skip { .. }), f.digest));
        seen.collect()
    }
}

async fn open(home: &Utf8PathBuf) -> (Arc<Sessions>, Lake) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let config = BufferConfig {
        landing_consumer: CONSUMER.to_owned(),
        ..BufferConfig::new(home.join("landing"), "aap-coordinator".parse().unwrap())
    };
    let time = clock.clone();
    let opened = tokio::task::spawn_blocking(move || Buffer::open(Arc::new(RealFileSystem), time, config));
    let buffer = opened.await.unwrap().unwrap().buffer;
    let store: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(&home.join("meta.db")).unwrap());
    let dependencies = LakeDependencies {
        buffer: buffer.clone(),
        store: store.clone(),
        clock: clock.clone(),
        root: home.join("lake"),
        objects: None,
        lead: None,
    };
    let lake = Lake::open(dependencies, LakeConfig::default()).await.unwrap();
    let landing = Landing::new(buffer, Landed::new(lake.waiting().clone()), clock.clone());
    let nodes = Nodes::new(store.nodes().unwrap());
    let (credit_bytes, shutdown) = (1 << 20, Shutdown::default());
    let (room_bytes, identities) = (u64::MAX, None);
    (
        Arc::new(Sessions { landing, nodes, store, identities, clock, credit_bytes, room_bytes, shutdown }),
        lake,
    )
}

fn key(stream: &str) -> StreamKey {
    StreamKey { node: "n1".parse().unwrap(), epoch: Epoch(EPOCH), stream: stream.parse().unwrap() }
}

fn hello() -> v1::Hello {
    v1::Hello {
        protocol_version: 1,
        node: "n1".into(),
        agent_version: "test".into(),
        store_id: vec![1; 16].into(),
        generation: 1,
        epoch: EPOCH,
        ..Default::default()
    }
}

fn ends(stream: &str, sequence: u64) -> Vec<v1::StreamTail> {
    vec![v1::StreamTail { epoch: EPOCH, stream: stream.into(), sequence, ..Default::default() }]
}

/// Batch `sequence` of a stream: two rows that tell which it is, and a position.
fn batch(stream: &str, sequence: u64, salt: i64) -> (v1::Schema, v1::Batch) {
    let number = i64::try_from(sequence).unwrap();
    let ts: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![number, number + 1]).with_timezone("UTC"));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![number, salt]));
    let rows = RecordBatch::try_from_iter([("ts", ts), ("n", n)]).unwrap();
    let schema = FrameSchema::of(rows.schema());
    let encoded = Encoder::new().encode(&rows, &schema, 100).unwrap();
    let position = SourcePosition {
        kind: SourceKind::File,
        key: stream.into(),
        offset: sequence,
        detail: String::new(),
    };
    let positions = Bytes::from(SourcePosition::encode_all(&[position]));
    let id = BatchId { key: key(stream), sequence: Sequence(sequence) };
    let batch = v1::Batch {
        epoch: EPOCH,
        stream: stream.into(),
        sequence,
        digest: Digest::of(&id, &positions, &encoded.payload).0.to_vec().into(),
        schema_fingerprint: schema.fingerprint(),
        rows: 2,
        ts_min_us: number,
        ts_max_us: number + 1,
        sealed_us: 1,
        raw_bytes: 100,
        positions,
        payload: encoded.payload,
    };
    (v1::Schema { fingerprint: schema.fingerprint(), ipc: schema.ipc().clone() }, batch)
}

fn digest_of(stream: &str, sequence: u64) -> Digest {
    Digest(batch(stream, sequence, 0).1.digest.as_ref().try_into().unwrap())
}

/// The agent's side of a session, past its hello.
struct Agent {
    session: AgentSession,
    welcome: v1::Welcome,
}

impl Agent {
    /// `None` if the session broke first.
    async fn greet(session: AgentSession, hello: v1::Hello) -> Option<Self> {
        let mut agent = Self { session, welcome: v1::Welcome::default() };
        agent.send(up::Kind::Hello(hello)).await?;
        match agent.next().await? {
            down::Kind::Welcome(welcome) => agent.welcome = welcome,
            other => panic!("not a welcome: {other:?}"),
        }
        Some(agent)
    }

    async fn send(&self, kind: up::Kind) -> Option<()> {
        self.session.tx.send(AgentMessage { kind: Some(kind) }).await.ok()
    }

    async fn send_batch(&self, (schema, batch): (v1::Schema, v1::Batch)) -> Option<()> {
        self.session.tx.send_batch(&schema, batch).await.ok()
    }

    async fn next(&mut self) -> Option<down::Kind> {
        let received = timeout(DEADLINE, self.session.rx.recv()).await.expect("an answer in time");
        received.ok().flatten().and_then(|message| message.kind)
    }

    /// Reads until `stream` is acknowledged up to `sequence`. `None` if the session broke first.
    async fn acknowledged(&mut self, stream: &str, sequence: u64) -> Option<()> {
        loop {
            if let down::Kind::Ack(ack) = self.next().await?
                && ack.through.iter().any(|tail| tail.stream == stream && tail.sequence >= sequence)
            {
                return Some(());
            }
        }
    }

    async fn refused(&mut self) -> v1::Refusal {
        loop {
            match self.next().await.expect("a refusal") {
                down::Kind::Refusal(refusal) => return refusal,
                down::Kind::Ack(_) | down::Kind::Credit(_) => {}
                other => panic!("not a refusal: {other:?}"),
            }
        }
    }
}

fn hello_of_run(count: u64) -> v1::Hello {
    let tails = [ends("logs", count), ends("events", count)].concat();
    v1::Hello { tails, ..hello() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_lost_in_turn_leaves_every_batch_in_the_ledger_once() {
    const COUNT: u64 = 3;
    let mut broken = 0;
    for lost in 0..16 {
        for cut in [
            Cut { after_from_coordinator: Some(lost), ..Cut::default() },
            Cut { after_from_agent: Some(lost), ..Cut::default() },
        ] {
            let rig = Rig::new().await;
            broken += u32::from(run_with_tails(rig.dial(cut), COUNT).await.is_none());
            run_with_tails(rig.dial(Cut::default()), COUNT).await.expect("an unbroken session ends well");
            for stream in ["logs", "events"] {
                let expected: Vec<_> = (1..=COUNT).map(|n| (n, false, digest_of(stream, n))).collect();
                assert_eq!(rig.ledger(stream), expected, "{cut:?}");
            }
        }
    }
    assert!(broken > 10, "only {broken} sessions broke: the test tries nothing");
}

/// Sends batches 1 to `count` of two streams, from where the ledger stands, one acknowledgement at a time.
async fn run_with_tails(session: AgentSession, count: u64) -> Option<()> {
    let mut agent = Agent::greet(session, hello_of_run(count)).await?;
    let landed: HashMap<String, u64> =
        agent.welcome.landed.iter().map(|tail| (tail.stream.clone(), tail.sequence)).collect();
    for sequence in 1..=count {
        for stream in ["logs", "events"] {
            if landed.get(stream).copied().unwrap_or(0) < sequence {
                agent.send_batch(batch(stream, sequence, 0)).await?;
                agent.acknowledged(stream, sequence).await?;
            }
        }
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sent_again_is_acknowledged_and_another_of_its_identity_is_a_fork() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    for sequence in [1, 2, 1, 2] {
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
        agent.acknowledged("logs", sequence).await.unwrap();
    }
    agent.send_batch(batch("logs", 2, 99)).await.unwrap();
    // It would be the next of the ledger, but it follows another history.
    agent.send_batch(batch("logs", 3, 99)).await.unwrap();
    let refusal = agent.refused().await;
    assert_eq!((refusal.code.as_str(), refusal.stream.as_str(), refusal.sequence), ("FORKED", "logs", 2));
    // Other streams go on.
    agent.send_batch(batch("events", 1, 0)).await.unwrap();
    agent.acknowledged("events", 1).await.unwrap();
    assert_eq!(rig.ledger("logs").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_named_once_and_the_stream_goes_on_from_there() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    for sequence in [1, 3, 4] {
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
    }
    let refusal = agent.refused().await;
    assert_eq!((refusal.code.as_str(), refusal.sequence), ("GAP", 2));
    for sequence in [2, 3, 4] {
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
    }
    agent.acknowledged("logs", 4).await.unwrap();
    assert_eq!(rig.ledger("logs").iter().map(|(n, ..)| *n).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_a_dead_letter_and_does_not_stop_its_stream() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    let (schema, good) = batch("logs", 1, 0);
    let payload = Bytes::from_static(b"garbage");
    let id = BatchId { key: key("logs"), sequence: Sequence(1) };
    let digest = Digest::of(&id, &good.positions, &payload).0.to_vec().into();
    let poison = v1::Batch { payload, digest, ..good };
    agent.send_batch((schema, poison)).await.unwrap();
    agent.send_batch(batch("logs", 2, 0)).await.unwrap();
    agent.acknowledged("logs", 2).await.unwrap();
    let kinds: Vec<_> = rig.ledger("logs").iter().map(|(n, skip, _)| (*n, *skip)).collect();
    assert_eq!(kinds, [(1, true), (2, false)]);
    let tails = rig.sessions.landing.buffer().tails();
    assert!(tails.iter().any(|(key, _)| key.stream.as_str() == "logs.dead"), "{tails:?}");
    rig.lake.load_all().await.expect("poison never reaches the lake");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_batch_never_lands_as_data() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    let (schema, good) = batch("logs", 1, 0);
    let digest = vec![0; 32].into();
    agent.send_batch((schema, v1::Batch { digest, ..good })).await.unwrap();
    agent.acknowledged("logs", 1).await.unwrap();
    assert!(rig.ledger("logs")[0].1, "a skip takes its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skip_of_the_agent_takes_the_place_of_batches() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    agent.send_batch(batch("logs", 1, 0)).await.unwrap();
    let skip =
        v1::Skip { epoch: EPOCH, stream: "logs".into(), from: 1, to: 3, rows: 7, reason: "full".into() };
    agent.send(up::Kind::Skip(skip)).await.unwrap();
    agent.send_batch(batch("logs", 4, 0)).await.unwrap();
    agent.acknowledged("logs", 4).await.unwrap();
    let kinds: Vec<_> = rig.ledger("logs").iter().map(|(n, skip, _)| (*n, *skip)).collect();
    assert_eq!(kinds, [(1, false), (2, true), (4, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_continues_where_its_ledger_stands() {
    let mut rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(3)).await.unwrap();
    for sequence in 1..=3 {
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
    }
    agent.acknowledged("logs", 3).await.unwrap();
    rig.lake.load_all().await.unwrap();
    drop(agent);
    rig.restart().await;
    let agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(3)).await.unwrap();
    let digest = batch("logs", 3, 0).1.digest;
    let landed = v1::StreamTail { digest, ..ends("logs", 3).remove(0) };
    assert_eq!(agent.welcome.landed, [landed], "with a digest to compare");
    assert!(!agent.welcome.new_epoch, "{}", agent.welcome.new_epoch_reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_store_gets_a_new_epoch_and_where_its_sources_stood() {
    let rig = Rig::new().await;
    let first = v1::Hello { generation: 5, ..hello_of_run(2) };
    let mut agent = Agent::greet(rig.dial(Cut::default()), first).await.unwrap();
    assert!(!agent.welcome.new_epoch && agent.welcome.positions.is_empty());
    for sequence in 1..=2 {
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
    }
    agent.acknowledged("logs", 2).await.unwrap();

    let position = v1::Position { kind: 1, key: "logs".into(), offset: 2, detail: String::new() };
    let cloned = v1::Hello { generation: 4, ..hello_of_run(2) };
    let behind = v1::Hello { generation: 6, tails: ends("logs", 1), ..hello() };
    for rolled_back in [cloned, behind] {
        let agent = Agent::greet(rig.dial(Cut::default()), rolled_back).await.unwrap();
        assert!(agent.welcome.new_epoch && !agent.welcome.new_epoch_reason.is_empty());
        assert_eq!(agent.welcome.positions, std::slice::from_ref(&position));
    }
    let lost = v1::Hello { store_id: vec![2; 16].into(), epoch: EPOCH + 1, ..hello() };
    let agent = Agent::greet(rig.dial(Cut::default()), lost).await.unwrap();
    assert!(!agent.welcome.new_epoch, "a new store has an epoch of its own");
    assert_eq!(agent.welcome.positions, [position]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_of_a_node_ends_the_older_one() {
    let rig = Rig::new().await;
    let mut older = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    let mut newer = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    assert!(older.next().await.is_none());
    newer.send_batch(batch("logs", 1, 0)).await.unwrap();
    newer.acknowledged("logs", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_lost_does_not_hold_its_nodes_up() {
    let rig = Rig::new().await;
    // The node had batches 1 to 4 acknowledged by a coordinator that lost its disk since.
    let hello = v1::Hello { heads: ends("logs", 5), ..hello_of_run(9) };
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello).await.unwrap();
    assert_eq!(agent.welcome.landed, []);
    let reason = aap_buffer::RECLAIMED.to_owned();
    let lost = v1::Skip { epoch: EPOCH, stream: "logs".into(), from: 1, to: 4, rows: 0, reason };
    agent.send(up::Kind::Skip(lost)).await.unwrap();
    agent.send_batch(batch("logs", 5, 0)).await.unwrap();
    agent.acknowledged("logs", 5).await.unwrap();
    let complaint = rig.sessions.nodes.all().into_values().next().unwrap().complaint;
    assert!(complaint.is_some(), "what was lost is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_another_name_is_refused() {
    let rig = Rig::new().await;
    let (session, wrong) = (rig.dial(Cut::default()), v1::Hello { node: "n2".into(), ..hello() });
    session.tx.send(AgentMessage { kind: Some(up::Kind::Hello(wrong)) }).await.unwrap();
    let mut agent = Agent { session, welcome: v1::Welcome::default() };
    assert_eq!(agent.refused().await.code, "NODE");
    assert!(agent.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_ingest_ends_when_what_the_node_had_has_landed() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    let (nodes, landing) = (rig.sessions.nodes.clone(), rig.sessions.landing.clone());
    let reach = Reach::alone(nodes);
    let waiting = tokio::spawn(async move { wait_for_ingest(&reach, &landing).await });
    let barrier = loop {
        if let down::Kind::Barrier(barrier) = agent.next().await.unwrap() {
            break barrier;
        }
    };
    let reply = v1::BarrierReply { id: barrier.id, tails: ends("logs", 1) };
    agent.send(up::Kind::BarrierReply(reply)).await.unwrap();
    assert!(!waiting.is_finished());
    agent.send_batch(batch("logs", 1, 0)).await.unwrap();
    let coverage = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!((coverage.answered, coverage.late), (vec!["n1".to_owned()], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_hears_what_was_deleted_of_its_own_at_once_or_with_its_next_welcome() {
    let mut rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello()).await.unwrap();
    assert_eq!(agent.welcome.deleted, []);
    for sequence in 1..=3 {
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
    }
    agent.acknowledged("logs", 3).await.unwrap();
    let stream = "logs".parse().unwrap();
    rig.lake.delete(&stream).await.unwrap();
    let telling = crate::deletions::tell(&rig.sessions.nodes, &rig.sessions.store, &stream);
    let hearing = async {
        let mut heard = None;
        loop {
            match agent.next().await.unwrap() {
                down::Kind::Deleted(deleted) => heard = Some(deleted.through),
                down::Kind::Barrier(barrier) => {
                    let reply = v1::BarrierReply { id: barrier.id, tails: ends("logs", 3) };
                    agent.send(up::Kind::BarrierReply(reply)).await.unwrap();
                    return heard.expect("the question comes after the deletion");
                }
                _ => {}
            }
        }
    };
    let ((), heard) = timeout(DEADLINE, async { tokio::join!(telling, hearing) }).await.unwrap();
    assert_eq!(heard, ends("logs", 3));
    // What lands later is not covered; and it is said again for ever, also after a restart.
    agent.send_batch(batch("logs", 4, 0)).await.unwrap();
    agent.acknowledged("logs", 4).await.unwrap();
    drop(agent);
    rig.restart().await;
    let again = v1::Hello { tails: ends("logs", 4), ..hello() };
    let agent = Agent::greet(rig.dial(Cut::default()), again).await.unwrap();
    assert_eq!(agent.welcome.deleted, ends("logs", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_comes_back_with_what_has_landed() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    assert_eq!(agent.welcome.credit_bytes, 1 << 20);
    let one = batch("logs", 1, 0);
    let bytes = one.1.payload.len() as u64;
    agent.send_batch(one).await.unwrap();
    loop {
        if let down::Kind::Credit(credit) = agent.next().await.unwrap() {
            assert_eq!(credit.bytes, bytes);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_yet_is_kept_whole_and_holds_up_no_acknowledgement() {
    let rig = Rig::new().await;
    let mut agent = Agent::greet(rig.dial(Cut::default()), hello_of_run(9)).await.unwrap();
    let session = loop {
        if let Some(session) = rig.sessions.nodes.session(&"n1".parse().unwrap()) {
            break session;
        }
        tokio::task::yield_now().await;
    };
    let mut parts = session.query("q", "select 1", v1::QueryLimits::default()).await.unwrap();
    let down::Kind::RunQuery(asked) = agent.next().await.unwrap() else { panic!("not a query") };
    let part = |number: u32| {
        let kind = v1::query_output::Kind::ArrowIpc(Bytes::from(number.to_le_bytes().to_vec()));
        up::Kind::QueryOutput(v1::QueryOutput { id: "q".into(), kind: Some(kind) })
    };
    let (mut sent, mut read, mut taken) = (0, 0, 0);
    let mut may_leave = asked.window;
    for sequence in 1..=5 {
        while may_leave > 0 {
            agent.send(part(sent)).await.unwrap();
            (sent, may_leave) = (sent + 1, may_leave - 1);
        }
        // Nobody has read the last window, and the batch behind it lands all the same.
        agent.send_batch(batch("logs", sequence, 0)).await.unwrap();
        agent.acknowledged("logs", sequence).await.unwrap();
        while read < sent {
            let Some(v1::query_output::Kind::ArrowIpc(bytes)) = parts.recv().await else {
                panic!("part {read} is missing")
            };
            assert_eq!(bytes.as_ref(), read.to_le_bytes());
            read += 1;
            session.query_taken("q", &mut taken).await;
        }
        while may_leave < asked.window {
            match agent.next().await.unwrap() {
                down::Kind::QueryCredit(credit) => may_leave += credit.messages,
                down::Kind::Credit(_) => {}
                other => panic!("not a credit: {other:?}"),
            }
        }
    }
    assert_eq!(sent, 5 * asked.window);
}
