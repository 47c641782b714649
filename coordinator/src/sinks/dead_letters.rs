//! Rows that a server does not take: kept one by one with the reason, and replayed under a number of their own.

use std::collections::BTreeMap;

use aap_columns::value::Objects;
use aap_sinks::{BadRow, Group, Positions, Slice};
use aap_store::SinkDeadLetter;
use aap_types::{BatchId, Epoch, ExitCode, NodeId, Problem, Sequence, StreamKey, StreamName};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;

/// Whose batches replays are, in the ledger of a server.
pub(crate) const REPLAYS: &str = "aap-dead-letters";

/// The bad rows of a group, to be kept.
pub(crate) fn of(group: &Group, bad: &[BadRow], now_us: i64) -> Result<Vec<SinkDeadLetter>, ArrowError> {
    bad.iter().map(|bad| letter(&group.slices[bad.slice], bad, now_us)).collect()
}

fn letter(slice: &Slice, bad: &BadRow, now_us: i64) -> Result<SinkDeadLetter, ArrowError> {
    let row = slice.rows.slice(bad.row, 1);
    let column = |name: &str| {
        row.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column `{name}`")))
    };
    let number = |name: &str| Ok::<_, ArrowError>(column(name)?.as_primitive::<UInt64Type>().value(0));
    let node: NodeId = column("_node")?
        .as_string::<i32>()
        .value(0)
        .parse()
        .map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
    let mut arrow = vec![];
    let mut writer = StreamWriter::try_new(&mut arrow, &row.schema())?;
    writer.write(&row)?;
    writer.finish()?;
    let key = StreamKey { node, epoch: Epoch(number("_epoch")?), stream: slice.key.stream.clone() };
    Ok(SinkDeadLetter {
        batch: BatchId { key, sequence: Sequence(number("_seq")?) },
        row: number("_row")?,
        reason: bad.reason.clone(),
        at_us: now_us,
        arrow,
        replay: 0,
    })
}

/// The row of a letter.
pub(crate) fn row(letter: &SinkDeadLetter) -> Result<RecordBatch, ArrowError> {
    let mut rows = StreamReader::try_new(letter.arrow.as_slice(), None)?;
    rows.next().unwrap_or_else(|| Err(ArrowError::ParseError("a dead letter without a row".to_owned())))
}

/// The row of a letter as a JSON object, in the form that queries have; what cannot be read says so.
pub(crate) fn json(letter: &SinkDeadLetter) -> String {
    match row(letter) {
        Ok(row) => {
            let mut text = vec![];
            Objects::of(&row).write(0, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        Err(error) => serde_json::json!({ "unreadable": error.to_string() }).to_string(),
    }
}

/// Replay `number` as a group: a slice for each stream, whose position is the number. A slice that the server has taken
/// already has its `after` at its `through`.
pub(crate) fn group(
    letters: &[SinkDeadLetter],
    number: u64,
    written: &Positions,
) -> Result<Group, ArrowError> {
    let mut streams: BTreeMap<&StreamName, Vec<RecordBatch>> = BTreeMap::new();
    for letter in letters {
        streams.entry(&letter.batch.key.stream).or_default().push(row(letter)?);
    }
    let node: NodeId = REPLAYS.parse().expect("a name of a node");
    let slices = streams.into_iter().map(|(stream, rows)| {
        let key = StreamKey { node: node.clone(), epoch: Epoch(1), stream: stream.clone() };
        let after = written.get(&key).copied().unwrap_or_default();
        let rows = aap_lake::unite(rows).map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        Ok(Slice { key, after, through: Sequence(number).max(after), rows })
    });
    let mut slices = slices.collect::<Result<Vec<_>, ArrowError>>()?;
    slices.retain(|slice| slice.after < slice.through);
    Ok(Group { slices })
}

/// Rows that cannot be handled.
pub(crate) fn problem(doing: &str, error: &ArrowError) -> Problem {
    Problem::new("sink.dead_letters", ExitCode::Failed, format!("cannot {doing}")).caused_by(error)
}
