//! Frames that cannot be rows of their stream: kept whole, as rows of its dead letters.
//!
//! They become visible before their stream's cut passes them. A crash in between makes them visible twice, under the
//! same row id, that of the batch.

use std::sync::Arc;

use aap_buffer::Frame;
use aap_store::{LakeCommit, LakeFile, RowCounts};
use aap_types::{BatchId, StreamName};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};

use crate::file::{NewFile, Ranges};
use crate::partition::by_day;
use crate::rows::Part;
use crate::unite::United;
use crate::{Error, Lake};

/// A frame that was refused, and why.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) frame: Frame,
    pub(crate) reason: String,
    pub(crate) now_us: i64,
}

impl Lake {
    /// Makes dead letters of `stream` visible.
    pub(crate) fn write_dead_letters(
        &self,
        stream: &StreamName,
        letters: &[DeadLetter],
    ) -> Result<(), Error> {
        let name = stream.dead_letters();
        let parts = letters.iter().map(part_of).collect::<Result<Vec<Part>, _>>()?;
        let (mut parts, mut united) = (parts, United::default());
        parts.iter().for_each(|part| united.add(&part.batch.schema()));
        parts.iter_mut().for_each(|part| part.place(&united));
        let written = self.dead_letter_files(&name, &parts, &united);
        if written.is_err() {
            self.remove_orphans();
        }
        let last = letters.iter().map(|letter| letter.now_us).max().unwrap_or(0);
        let counts = RowCounts {
            rows: letters.len() as u64,
            batches: letters.len() as u64,
            bytes: letters.iter().map(|letter| letter.frame.payload.len() as u64).sum(),
            newest_us: last,
            landed_us: last,
            ..RowCounts::default()
        };
        let columns = united.described();
        self.commit(&LakeCommit {
            stream: name,
            add: written?,
            remove: vec![],
            cursors: vec![],
            counts,
            columns,
        })
    }

    fn dead_letter_files(
        &self,
        name: &StreamName,
        parts: &[Part],
        united: &United,
    ) -> Result<Vec<LakeFile>, Error> {
        let files = by_day(parts, united)?.into_iter().map(|day| {
            let mut file = NewFile::create(self, name, &format!("{name}/date={}", day.date), united)?;
            let mut ranges = Ranges::default();
            for (part, row) in day.picks() {
                file.row(parts, part, row)?;
                let id = parts[part].id.as_ref();
                id.into_iter()
                    .for_each(|id| ranges.add(&id.key.node, id.key.epoch, id.sequence, id.sequence));
            }
            file.flush(parts)?;
            file.finish(day.time_range(), ranges.list())
        });
        files.collect()
    }
}

fn part_of(letter: &DeadLetter) -> Result<Part, Error> {
    let DeadLetter { frame, reason, now_us } = letter;
    let BatchId { key, sequence } = &frame.id;
    let text = |value: String| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let number = |value: u64| Arc::new(UInt64Array::from(vec![value])) as ArrayRef;
    let row = RecordBatch::try_from_iter([
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![*now_us]).with_timezone("UTC")) as ArrayRef),
        ("reason", text(reason.clone())),
        ("node", text(key.node.to_string())),
        ("stream", text(key.stream.to_string())),
        ("epoch", number(key.epoch.0)),
        ("sequence", number(sequence.0)),
        ("rows", number(u64::from(frame.rows))),
        ("payload", Arc::new(BinaryArray::from(vec![frame.payload.as_ref()]))),
    ]);
    Ok(Part::new(Some(frame.id.clone()), row.map_err(Error::arrow("write a dead letter"))?))
}
