//! The suite that every sink passes against its real server.
//!
//! A crate that implements [`Sink`] writes a [`Server`] that starts instances over one place and reads back what stands there,
//! by a client that shares no code with the sink, and calls [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, SystemClock};
use aap_types::{Epoch, Sequence, StreamKey};
use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use futures::future::BoxFuture;

use crate::{FailureKind, Group, Guarantee, Sink, Slice};

/// Where a row of the suite stands in the server: its id, and the value of its column `n`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// `_node`.
    pub node: String,
    /// `_epoch`.
    pub epoch: u64,
    /// `_seq`.
    pub seq: u64,
    /// `_row`.
    pub row: u64,
    /// The column `n`.
    pub n: i64,
}

/// A place in a real server, empty at the beginning.
pub trait Server {
    /// Another instance of the same sink, as a coordinator that has just started would make it.
    fn sink(&self) -> Box<dyn Sink>;
    /// Every row that a reader of the server sees, in any order; one that stands there twice comes twice.
    fn stored(&self) -> BoxFuture<'_, Vec<Stored>>;
    /// Kills the server with SIGKILL and starts it again. Returns when it answers.
    fn restart(&self) -> BoxFuture<'_, ()>;
}

/// Ticks of `/proc/self/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// What moving rows took, in a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seconds on the clock.
    pub seconds: f64,
    /// Seconds of a core, of both processes where a child did it.
    pub cpu: f64,
}

impl Effort {
    /// The quickest of several rounds.
    pub fn best(rounds: &[Self]) -> Self {
        let least = rounds.iter().copied().min_by(|one, other| one.seconds.total_cmp(&other.seconds));
        least.expect("at least one round")
    }

    /// "NAME: 123456 rows/s, 1.23 µs of CPU a row", for the table of figures.
    pub fn line(&self, name: &str, rows: f64) -> String {
        format!("{name}: {:.0} rows/s, {:.2} µs of CPU a row", rows / self.seconds, self.cpu * 1e6 / rows)
    }
}

/// Measures from its start on.
#[derive(Debug)]
pub struct Meter<'a> {
    clock: &'a SystemClock,
    began: Duration,
    cpu: f64,
}

impl<'a> Meter<'a> {
    /// Begins.
    pub fn start(clock: &'a SystemClock) -> Self {
        Self { clock, began: clock.monotonic(), cpu: cpu_seconds() }
    }

    /// What was spent since.
    pub fn stop(self) -> Effort {
        Effort { seconds: (self.clock.monotonic() - self.began).as_secs_f64(), cpu: cpu_seconds() - self.cpu }
    }
}

/// Seconds of a core that this process, and the children that it waited for, have used so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses, which may hold anything: own time in user and system mode, then the children's.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / TICKS
}

/// Rows in a batch of the suite.
const ROWS: u64 = 7;

/// The key of a node of the suite.
pub fn key(node: &str, stream: &str) -> StreamKey {
    StreamKey {
        node: node.parse().expect("a node name"),
        epoch: Epoch(0x0019_2f00_0000_0001),
        stream: stream.parse().expect("a stream name"),
    }
}

/// The batches after `after` up to `through`, with a column of each common type, some of them null.
pub fn slice(key: &StreamKey, after: u64, through: u64) -> Slice {
    let ids: Vec<(u64, u64)> =
        (after + 1..=through).flat_map(|seq| (0..ROWS).map(move |row| (seq, row))).collect();
    let numbers: Vec<i64> = ids.iter().map(|(seq, row)| (seq * ROWS + row) as i64).collect();
    let texts =
        numbers.iter().map(|n| (n % 3 != 0).then(|| format!("row {n} \"quoted\", tab\t, é, \\ and '")));
    let columns: [(&str, ArrayRef); 10] = [
        (
            "ts",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(
                    numbers.iter().map(|n| 1_760_000_000_123_456 + n),
                )
                .with_timezone("UTC"),
            ),
        ),
        ("n", Arc::new(Int64Array::from(numbers.clone()))),
        ("message", Arc::new(texts.collect::<StringArray>())),
        (
            "score",
            Arc::new(
                numbers.iter().map(|n| (n % 5 != 0).then_some(*n as f64 / 8.0)).collect::<Float64Array>(),
            ),
        ),
        (
            "good",
            Arc::new(numbers.iter().map(|n| (n % 4 != 0).then_some(n % 2 == 0)).collect::<BooleanArray>()),
        ),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter_values(numbers.iter().map(|n| i128::from(*n) * 101))
                    .with_precision_and_scale(12, 2)
                    .expect("a decimal of 12 digits"),
            ),
        ),
        ("_node", Arc::new(StringArray::from_iter_values(ids.iter().map(|_| key.node.as_str())))),
        ("_epoch", Arc::new(UInt64Array::from_iter_values(ids.iter().map(|_| key.epoch.0)))),
        ("_seq", Arc::new(UInt64Array::from_iter_values(ids.iter().map(|(seq, _)| *seq)))),
        ("_row", Arc::new(UInt64Array::from_iter_values(ids.iter().map(|(_, row)| *row)))),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(
        columns.map(|(name, array)| (name, array, !name.starts_with('_'))),
    )
    .expect("columns of one length");
    Slice { key: key.clone(), after: Sequence(after), through: Sequence(through), rows }
}

fn group(slices: impl IntoIterator<Item = Slice>) -> Group {
    Group { slices: slices.into_iter().collect() }
}

/// What the server must hold after these slices.
fn expected(written: &[(StreamKey, u64)]) -> BTreeSet<Stored> {
    let rows = written.iter().flat_map(|(key, through)| {
        (1..=*through).flat_map(move |seq| {
            (0..ROWS).map(move |row| Stored {
                node: key.node.to_string(),
                epoch: key.epoch.0,
                seq,
                row,
                n: (seq * ROWS + row) as i64,
            })
        })
    });
    rows.collect()
}

async fn expect(server: &dyn Server, written: &[(StreamKey, u64)], when: &str) {
    let stored = server.stored().await;
    let distinct: BTreeSet<Stored> = stored.iter().cloned().collect();
    let wanted = expected(written);
    let missing: Vec<_> = wanted.difference(&distinct).take(3).collect();
    let foreign: Vec<_> = distinct.difference(&wanted).take(3).collect();
    assert!(missing.is_empty() && foreign.is_empty(), "{when}: missing {missing:?}, not written {foreign:?}");
    let mut times: BTreeMap<&Stored, usize> = BTreeMap::new();
    stored.iter().for_each(|row| *times.entry(row).or_default() += 1);
    let doubled: Vec<_> = times.iter().filter(|(_, times)| **times > 1).take(3).collect();
    assert!(doubled.is_empty(), "{when}: rows that stand there twice: {doubled:?}");
}

/// Runs everything. Panics where a promise is broken.
pub async fn run(server: &dyn Server) {
    let (one, two) = (key("edge-1", "events"), key("edge-2", "events"));

    let mut first = server.sink();
    let found = first.resume_point().await.expect("an empty place is taken over");
    assert!(found.is_empty(), "an empty place knows positions: {found:?}");
    expect(server, &[], "before anything was written").await;

    first.write(&group([slice(&one, 0, 3), slice(&two, 0, 1)])).await.expect("write a first group");
    expect(server, &[(one.clone(), 3), (two.clone(), 1)], "after the first group").await;
    first.write(&group([slice(&one, 3, 5)])).await.expect("write a second group");
    let written = [(one.clone(), 5), (two.clone(), 1)];
    expect(server, &written, "after the second group").await;

    stands(first.as_mut(), &written, "the same instance").await;
    let mut second = server.sink();
    stands(second.as_mut(), &written, "a second instance").await;

    // The first one does not know that it was replaced, and writes what the second has written meanwhile.
    second.write(&group([slice(&one, 5, 6)])).await.expect("the new owner writes");
    let replayed = first.write(&group([slice(&one, 5, 6), slice(&two, 1, 2)])).await;
    let written = match first.guarantee() {
        Guarantee::ExactlyOnce => {
            let failure = replayed.expect_err("an owner that was replaced still writes");
            assert_eq!(failure.kind, FailureKind::Moved, "{failure:?}");
            [(one.clone(), 6), (two.clone(), 1)]
        }
        // Idempotent: what it writes is what its successor would write.
        _ => match replayed {
            Ok(()) => [(one.clone(), 6), (two.clone(), 2)],
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::Moved, "{failure:?}");
                [(one.clone(), 6), (two.clone(), 1)]
            }
        },
    };
    let mut third = server.sink();
    stands(third.as_mut(), &written, "after the replaced owner").await;
    expect(server, &written, "after the replaced owner").await;

    skips(server, third.as_mut(), &two, written[1].1).await;
    let mut written = vec![(one.clone(), 6), (two.clone(), written[1].1)];
    let (skipped, two_through) = (written[1].1 + 4, written[1].1);
    written[1].1 = two_through;

    // After the server was killed, the same instance finds its way back.
    server.restart().await;
    let positions = settle(third.as_mut()).await;
    assert_eq!(positions.get(&one).copied(), Some(Sequence(6)), "after the server was killed");
    assert_eq!(positions.get(&two).copied(), Some(Sequence(skipped)), "after the server was killed");
    third.write(&group([slice(&one, 6, 40)])).await.expect("write after the server was killed");
    written[0].1 = 40;
    expect(server, &written, "after the server was killed").await;

    grown(server, third.as_mut(), &one, &mut written).await;
}

/// Resume point until it answers: a server that has just started may ask for patience.
async fn settle(sink: &mut dyn Sink) -> crate::Positions {
    let mut last = None;
    for _ in 0..60 {
        match sink.resume_point().await {
            Ok(positions) => return positions,
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}");
                last = Some(failure);
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
    panic!("no resume point within 30 s: {last:?}");
}

async fn stands(sink: &mut dyn Sink, written: &[(StreamKey, u64)], who: &str) {
    let found = sink.resume_point().await.expect("ask for the resume point");
    let wanted = written.iter().map(|(key, through)| (key.clone(), Sequence(*through))).collect();
    assert_eq!(found, wanted, "where {who} stands");
}

/// A slice without rows moves the position.
async fn skips(server: &dyn Server, sink: &mut dyn Sink, key: &StreamKey, from: u64) {
    let before = server.stored().await.len();
    let mut empty = slice(key, from, from + 4);
    empty.rows = empty.rows.slice(0, 0);
    sink.write(&group([empty])).await.expect("write a slice without rows");
    assert_eq!(server.stored().await.len(), before, "a slice without rows wrote some");
    let mut other = server.sink();
    let found = other.resume_point().await.expect("ask for the resume point");
    assert_eq!(found.get(key).copied(), Some(Sequence(from + 4)), "a slice without rows moves the position");
    let _taken_back = sink.resume_point().await.expect("take the place back");
}

/// A column that was not there before, and one that has become wider.
async fn grown(server: &dyn Server, sink: &mut dyn Sink, key: &StreamKey, written: &mut [(StreamKey, u64)]) {
    let after = written[0].1;
    let plain = slice(key, after, after + 1);
    let rows = plain.rows.num_rows();
    let mut columns: Vec<(String, ArrayRef)> = plain
        .rows
        .schema()
        .fields()
        .iter()
        .zip(plain.rows.columns())
        .map(|(field, column)| (field.name().clone(), column.clone()))
        .collect();
    columns.insert(6, ("Später".to_owned(), Arc::new(StringArray::from(vec![Some("new"); rows]))));
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    sink.write(&group([Slice { rows: batch, ..plain }])).await.expect("write a column that is new");
    written[0].1 = after + 1;
    expect(server, written, "after a column was added").await;
}
