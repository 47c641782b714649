//! A sink at work against a server in memory that refuses what the test wants it to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, Encoder, Entry, FrameSchema, RealFileSystem};
use aap_lake::{CONSUMER, Lake, LakeConfig, LakeDependencies};
use aap_runtime::documents::documents;
use aap_runtime::{Clock, Resolving, Secret, SecretPlace, SecretSource, Shutdown, SystemClock};
use aap_sinks::{BadRow, Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Range, Sink};
use aap_store::{MemoryStore, ResourceStore, SinkState};
use aap_types::{BatchId, Digest, Epoch, ExitCode, Problem, Sequence, StreamKey};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use camino::Utf8PathBuf;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::board::Board;
use super::groups::Groups;
use super::runner::{Control, Runner};
use super::spec::SinkSpec;

/// How the server refuses a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It names the rows.
    Rows,
    /// It does not say which.
    Group,
}

/// What the server has: values by row id, how often each, and its ledger.
#[derive(Debug)]
struct Server {
    refuses: Option<(i64, Refusal)>,
    rows: BTreeMap<(u64, u64), (i64, u64)>,
    ledger: Positions,
    /// The next commit succeeds, and its answer is lost.
    loses_answer: bool,
    /// The next groups do not arrive, and the sink remembers that they were on their way.
    loses_groups: usize,
    intent: Vec<Range>,
    /// What it was asked to write, one after another.
    asked: Vec<Vec<Range>>,
}

#[derive(Debug, Clone)]
struct InMemory(Arc<Mutex<Server>>);

impl InMemory {
    fn commit(&self, group: &Group) -> Result<(), Failure> {
        let mut server = self.0.lock().unwrap();
        server.asked.push(group.ranges());
        if server.loses_groups > 0 {
            server.loses_groups -= 1;
            server.intent = group.ranges();
            let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, "the group was lost");
            return Err(Failure::new(FailureKind::Retry, problem));
        }
        server.intent.clear();
        let mut bad = vec![];
        for (number, slice) in group.slices.iter().enumerate() {
            let stands = server.ledger.get(&slice.key).copied().unwrap_or_default();
            if stands != slice.after {
                return Err(Failure::moved(format!("`{}` stands at {stands}", slice.key)));
            }
            let values = slice.rows.column_by_name("n").unwrap().as_primitive::<Int64Type>();
            let is_bad = |row: &usize| server.refuses.is_some_and(|(value, _)| values.value(*row) == value);
            bad.extend((0..slice.rows.num_rows()).filter(is_bad).map(|row| BadRow {
                slice: number,
                row,
                reason: "no such value here".to_owned(),
            }));
        }
        match (bad.is_empty(), server.refuses) {
            (false, Some((_, Refusal::Rows))) => return Err(Failure::rows(bad)),
            (false, _) => {
                let problem = Problem::new("sink.bad_rows", ExitCode::Failed, "refused").cause("something");
                return Err(Failure::new(FailureKind::Group, problem));
            }
            (true, _) => {}
        }
        for slice in &group.slices {
            let column = |name: &str| slice.rows.column_by_name(name).unwrap().clone();
            let (values, seqs, rows) = (column("n"), column("_seq"), column("_row"));
            for row in 0..slice.rows.num_rows() {
                let id = (
                    seqs.as_primitive::<UInt64Type>().value(row),
                    rows.as_primitive::<UInt64Type>().value(row),
                );
                let value = values.as_primitive::<Int64Type>().value(row);
                server.rows.entry(id).or_insert((value, 0)).1 += 1;
            }
            server.ledger.insert(slice.key.clone(), slice.through);
        }
        if std::mem::take(&mut server.loses_answer) {
            let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, "the answer was lost");
            return Err(Failure::new(FailureKind::Retry, problem));
        }
        Ok(())
    }
}

impl Sink for InMemory {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: 40, bytes: 1 << 20, linger: Duration::ZERO }
    }
    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        let ledger = self.0.lock().unwrap().ledger.clone();
        Box::pin(async { Ok(ledger) })
    }
    fn intended(&self) -> Vec<Range> {
        self.0.lock().unwrap().intent.clone()
    }
    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        let committed = self.commit(group);
        Box::pin(async { committed })
    }
    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(async { Ok(vec![]) })
    }
}

/// Whoever keeps the sink's secret, who is away while there is a problem.
#[derive(Debug, Default, Clone)]
struct Keeper(Arc<Mutex<Option<Problem>>>);

impl SecretSource for Keeper {
    fn resolve<'a>(&'a self, _: &'a SecretPlace) -> Resolving<'a> {
        let problem = self.0.lock().unwrap().clone();
        Box::pin(async { problem.map_or_else(|| Ok(Secret::from("value".to_owned())), Err) })
    }
}

/// Rows of a batch.
const ROWS: i64 = 5;
/// The sink's uid.
const UID: &str = "u1";

struct Rig {
    _folder: tempfile::TempDir,
    buffer: Buffer,
    store: Arc<dyn ResourceStore>,
    server: InMemory,
    board: Arc<Board>,
    control: watch::Sender<Control>,
    stop: Shutdown,
}

fn key() -> StreamKey {
    StreamKey { node: "n1".parse().unwrap(), epoch: Epoch(7), stream: "events".parse().unwrap() }
}

impl Rig {
    /// A sink that runs, with values 0, 1, 2, … landed in `batches` batches.
    async fn new(batches: u64, refuses: Option<(i64, Refusal)>) -> Self {
        Self::with(batches, refuses, Keeper::default()).await
    }

    async fn with(batches: u64, refuses: Option<(i64, Refusal)>, keeper: Keeper) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let config = BufferConfig {
            landing_consumer: CONSUMER.to_owned(),
            ..BufferConfig::new(home.join("landing"), "coordinator".parse().unwrap())
        };
        let time = clock.clone();
        let opened =
            tokio::task::spawn_blocking(move || Buffer::open(Arc::new(RealFileSystem), time, config));
        let buffer = opened.await.unwrap().unwrap().buffer;
        let store = Arc::new(MemoryStore::default());
        let dependencies = LakeDependencies {
            buffer: buffer.clone(),
            store: store.clone(),
            clock: clock.clone(),
            root: home.join("lake"),
            objects: None,
            lead: None,
        };
        let lake = Lake::open(dependencies, LakeConfig::default()).await.unwrap();
        land(&buffer, batches).await;
        let text = "apiVersion: aap/v1\nkind: Sink\nmetadata: { name: s }\nspec:\n  streams: ['*']\n  \
                    postgres: { url: 'postgres://a@127.0.0.1/a', table: t }\n";
        let spec = SinkSpec::read(&documents("s.yaml".into(), text)[0]).unwrap();
        let groups = Groups::new(lake, buffer.clone(), &spec, &SinkState::default()).unwrap();
        let server = InMemory(Arc::new(Mutex::new(Server {
            refuses,
            rows: BTreeMap::new(),
            ledger: Positions::new(),
            loses_answer: false,
            loses_groups: 0,
            intent: vec![],
            asked: vec![],
        })));
        let (control, controlled) = watch::channel(Control { paused: false, pokes: 0 });
        let stop = Shutdown::default();
        let board = Arc::new(Board::new(
            "memory",
            String::new(),
            Guarantee::ExactlyOnce,
            Positions::new(),
            clock.clone(),
        ));
        let runner = Runner {
            name: "s".to_owned(),
            uid: UID.to_owned(),
            sink: Box::new(server.clone()),
            secrets: (vec!["vault:kv/a#b".parse().unwrap()], Arc::new(keeper)),
            groups: Arc::new(groups),
            store: store.clone(),
            clock,
            board: board.clone(),
            control: controlled,
            stop: stop.clone(),
        };
        #[expect(clippy::disallowed_methods, reason = "the rig stops it")]
        tokio::spawn(runner.run());
        Self { _folder: folder, buffer, store, server, board, control, stop }
    }

    /// Waits until the server's ledger stands at `through`.
    async fn written(&self, through: u64) {
        let stands = || self.server.0.lock().unwrap().ledger.get(&key()).copied() == Some(Sequence(through));
        self.until("everything is written", stands).await;
    }

    async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within 10 s: {what}");
    }

    fn letters(&self) -> Vec<i64> {
        let letters = self.store.dead_letters(UID, usize::MAX).unwrap();
        letters
            .iter()
            .map(|letter| {
                let row = super::dead_letters::row(letter).unwrap();
                row.column_by_name("n").unwrap().as_primitive::<Int64Type>().value(0)
            })
            .collect()
    }

    /// Every value of `batches` batches but `without` stands in the server once.
    fn check(&self, batches: u64, without: &[i64]) {
        let server = self.server.0.lock().unwrap();
        let twice: Vec<_> = server.rows.iter().filter(|(_, (_, times))| *times != 1).collect();
        assert!(twice.is_empty(), "not once: {twice:?}");
        let mut values: Vec<i64> = server.rows.values().map(|(value, _)| *value).collect();
        values.sort_unstable();
        let expected: Vec<i64> =
            (0..i64::try_from(batches).unwrap() * ROWS).filter(|value| !without.contains(value)).collect();
        assert_eq!(values, expected);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.request();
    }
}

async fn land(buffer: &Buffer, batches: u64) {
    land_from(buffer, 0, batches).await;
}

async fn land_from(buffer: &Buffer, after: u64, batches: u64) {
    for sequence in after + 1..=batches {
        let first = i64::try_from(sequence - 1).unwrap() * ROWS;
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + ROWS));
        let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let batch = Encoder::new().encode(&rows, &FrameSchema::of(rows.schema()), 100).unwrap();
        let id = BatchId { key: key(), sequence: Sequence(sequence) };
        let digest = Digest::of(&id, &[], &batch.payload);
        let entry = Entry::Landed { id, digest, positions: bytes::Bytes::new(), sealed_us: 1, batch };
        buffer.append(vec![entry]).await.unwrap();
    }
}

#[tokio::test]
async fn a_sink_without_its_secret_says_so_and_delivers_everything_when_it_is_there() {
    for (exit, state) in [(ExitCode::Unavailable, "retrying"), (ExitCode::Denied, "refused")] {
        let keeper = Keeper::default();
        *keeper.0.lock().unwrap() = Some(Problem::new("secret.somehow", exit, "it cannot be had"));
        let rig = Rig::with(10, None, keeper.clone()).await;
        let says = || {
            let status = rig.board.status("s".to_owned(), 1, 0, &[]);
            status.state == state
                && rig.board.problem().is_some_and(|problem| problem.contains("it cannot be had"))
        };
        rig.until("it says so", says).await;
        assert!(rig.server.0.lock().unwrap().rows.is_empty(), "nothing was asked of the server");
        *keeper.0.lock().unwrap() = None;
        rig.control.send_modify(|control| control.pokes += 1);
        rig.written(10).await;
        rig.check(10, &[]);
    }
}

#[tokio::test]
async fn a_row_that_the_server_names_becomes_a_dead_letter_alone() {
    let rig = Rig::new(30, Some((63, Refusal::Rows))).await;
    rig.written(30).await;
    rig.check(30, &[63]);
    assert_eq!(rig.letters(), [63]);
    assert_eq!(rig.store.dead_letters(UID, 1).unwrap()[0].reason, "no such value here");
}

#[tokio::test]
async fn a_row_that_the_server_does_not_name_takes_its_batch_with_it_and_no_other() {
    let rig = Rig::new(30, Some((63, Refusal::Group))).await;
    rig.written(30).await;
    rig.check(30, &[60, 61, 62, 63, 64]);
    assert_eq!(rig.letters(), [60, 61, 62, 63, 64]);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let rig = Rig::new(0, None).await;
    rig.server.0.lock().unwrap().loses_answer = true;
    land(&rig.buffer, 12).await;
    rig.written(12).await;
    rig.check(12, &[]);
    assert!(!rig.server.0.lock().unwrap().loses_answer);
}

#[tokio::test]
async fn what_was_on_its_way_is_sent_again_exactly_before_anything_else() {
    let rig = Rig::new(0, None).await;
    rig.server.0.lock().unwrap().loses_groups = 2;
    land(&rig.buffer, 3).await;
    rig.until("a group was on its way", || !rig.server.0.lock().unwrap().asked.is_empty()).await;
    // More than was there then: whoever cuts groups anew would take it, too.
    land_from(&rig.buffer, 3, 30).await;
    rig.written(30).await;
    rig.check(30, &[]);
    let asked = rig.server.0.lock().unwrap().asked.clone();
    assert!(asked.len() > 3 && asked[0] == asked[1] && asked[0] == asked[2], "{asked:?}");
    assert!(asked[0][0].through < Sequence(30), "{asked:?}");
}

#[tokio::test]
async fn dead_letters_are_replayed_once_even_if_the_answer_is_lost() {
    let rig = Rig::new(10, Some((17, Refusal::Rows))).await;
    rig.written(10).await;
    assert_eq!(rig.letters(), [17]);

    // Still refused: it comes back.
    assert_eq!(rig.store.begin_replay(UID, 0).unwrap(), (1, 1));
    rig.control.send_modify(|control| control.pokes += 1);
    let is_back = || rig.store.dead_letters(UID, 9).unwrap().iter().all(|letter| letter.replay == 0);
    rig.until("it is back", is_back).await;
    assert_eq!(rig.letters(), [17]);
    rig.check(10, &[17]);

    {
        let mut server = rig.server.0.lock().unwrap();
        (server.refuses, server.loses_answer) = (None, true);
    }
    assert_eq!(rig.store.begin_replay(UID, 0).unwrap(), (2, 1));
    rig.control.send_modify(|control| control.pokes += 1);
    rig.until("it is replayed", || rig.store.dead_letter_count(UID).unwrap() == 0).await;
    rig.check(10, &[]);
}

#[tokio::test]
async fn what_is_still_bad_after_a_replay_survives_a_lost_answer() {
    let rig = Rig::new(10, Some((17, Refusal::Rows))).await;
    rig.written(10).await;
    rig.server.0.lock().unwrap().refuses = Some((21, Refusal::Rows));
    land_from(&rig.buffer, 10, 11).await;
    rig.written(11).await;
    {
        let mut server = rig.server.0.lock().unwrap();
        (server.refuses, server.loses_answer) = (Some((17, Refusal::Rows)), true);
    }
    let (number, rows) = rig.store.begin_replay(UID, 0).unwrap();
    assert_eq!((number, rows), (1, 1));
    rig.control.send_modify(|control| control.pokes += 1);
    let is_over =
        || !rig.server.0.lock().unwrap().loses_answer && rig.store.pending_replay(UID).unwrap().is_none();
    rig.until("the replay is over", is_over).await;
    assert_eq!(rig.letters(), [17]);
    rig.check(11, &[17]);
}
