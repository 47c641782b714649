//! What a sink is written next: rows behind its positions, of every node that has some, in turns.

use std::sync::atomic::{AtomicUsize, Ordering};

use aap_buffer::Buffer;
use aap_columns::held_bytes;
use aap_lake::{Error, FeedLimits, Lake, unite};
use aap_sinks::{Group, GroupLimits, Positions, Range, Slice};
use aap_store::SinkState;
use aap_types::{Problem, Sequence, StreamKey};
use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, UInt64Type};
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use arrow_select::filter::filter_record_batch;
use tokio::sync::watch;
use tracing::warn;

use super::filter::Filter;
use super::spec::{SinkSpec, Streams};

/// Reads what a sink lacks.
#[derive(Debug)]
pub(crate) struct Groups {
    lake: Lake,
    buffer: Buffer,
    streams: Streams,
    /// In microseconds: rows that are known to be older are left out.
    start_us: Option<i64>,
    filter: Option<Filter>,
    starts: Positions,
    /// Each group begins at another key, so that one cannot keep the others waiting.
    turn: AtomicUsize,
}

impl Groups {
    pub(crate) fn new(
        lake: Lake,
        buffer: Buffer,
        spec: &SinkSpec,
        state: &SinkState,
    ) -> Result<Self, Problem> {
        let starts = state.starts.iter().cloned().collect();
        let (streams, filter, start_us) = (spec.streams()?, spec.filter(), state.start_us);
        Ok(Self { lake, buffer, streams, start_us, filter, starts, turn: AtomicUsize::new(0) })
    }

    /// Changes whenever something has landed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.buffer.changes()
    }

    /// The ends of the keys that this sink takes.
    pub(crate) fn tails(&self) -> Vec<(StreamKey, Sequence)> {
        let mut tails = self.lake.ends();
        tails.retain(|(key, _)| self.streams.take(&key.stream));
        tails
    }

    /// Where it begins with the keys that were there when it was created.
    pub(crate) fn starts(&self) -> &Positions {
        &self.starts
    }

    /// The next group behind `written`, and whether more was looked at than fits: then it need not wait for company, however
    /// few of the rows were chosen. `None` where nothing waits. Blocking.
    pub(crate) fn next(
        &self,
        written: &Positions,
        limits: GroupLimits,
    ) -> Result<Option<(Group, bool)>, Error> {
        let stands = |key: &StreamKey| written.get(key).copied().unwrap_or_default();
        let mut waiting = self.tails();
        waiting.retain(|(key, tail)| stands(key) < *tail);
        if waiting.is_empty() {
            return Ok(None);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % waiting.len();
        waiting.rotate_left(first);
        let mut group = Group::default();
        let (mut rows, mut bytes) = (0, 0);
        for (key, _) in waiting {
            if rows >= limits.rows || bytes >= limits.bytes {
                break;
            }
            let after = stands(&key);
            let from = after.max(self.starts.get(&key).copied().unwrap_or_default());
            let room = FeedLimits {
                rows: limits.rows.saturating_sub(rows),
                bytes: limits.bytes.saturating_sub(bytes) as u64,
            };
            let Some(fed) = self.lake.feed(&key, from, room)? else { continue };
            if fed.lost > 0 {
                warn!(%key, rows = fed.lost, "rows that were given up, or were kept too short, do not reach a sink");
            }
            rows += fed.rows.num_rows();
            bytes += held_bytes(&fed.rows);
            let rows = self.chosen(fed.rows)?;
            group.slices.push(Slice { key, after, through: fed.through, rows });
        }
        let is_full = rows >= limits.rows || bytes >= limits.bytes;
        Ok((!group.slices.is_empty()).then_some((group, is_full)))
    }

    /// The group that covers exactly `ranges`. Blocking.
    pub(crate) fn exactly(&self, ranges: &[Range], limits: GroupLimits) -> Result<Group, Error> {
        let room = FeedLimits { rows: limits.rows, bytes: limits.bytes as u64 };
        let mut group = Group::default();
        for Range { key, after, through } in ranges.iter().cloned() {
            let mut at = after.max(self.starts.get(&key).copied().unwrap_or_default());
            let mut parts = vec![];
            while at < through {
                let Some(fed) = self.lake.feed(&key, at, room)? else { break };
                at = fed.through;
                parts.push(up_to(&fed.rows, through));
            }
            let rows = self.chosen(unite(parts)?)?;
            group.slices.push(Slice { key, after, through, rows });
        }
        Ok(group)
    }

    /// The rows that the document asks for.
    fn chosen(&self, rows: RecordBatch) -> Result<RecordBatch, Error> {
        let rows = self.since_start(rows)?;
        match &self.filter {
            Some(filter) => filter.apply(&rows).map_err(|error| Error::about_rows("filter rows", error)),
            None => Ok(rows),
        }
    }

    /// Without the rows that are known to be older than the start.
    fn since_start(&self, rows: RecordBatch) -> Result<RecordBatch, Error> {
        let Some(start_us) = self.start_us else { return Ok(rows) };
        let Some(ts) = rows.column_by_name("ts") else { return Ok(rows) };
        if !matches!(ts.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return Ok(rows);
        }
        let times = ts.as_primitive::<TimestampMicrosecondType>();
        let kept: BooleanArray =
            times.iter().map(|time| Some(time.is_none_or(|time| time >= start_us))).collect();
        filter_record_batch(&rows, &kept).map_err(|error| Error::about_rows("leave out older rows", error))
    }
}

/// The rows of the batches up to and including one.
fn up_to(rows: &RecordBatch, through: Sequence) -> RecordBatch {
    let end = rows.column_by_name("_seq").map_or(0, |sequences| {
        sequences.as_primitive::<UInt64Type>().values().partition_point(|sequence| *sequence <= through.0)
    });
    rows.slice(0, end)
}
