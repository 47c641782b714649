//! Rows as records, one after another through one buffer.
//!
//! Each record is handed on as soon as it is there: librdkafka copies it, and compresses and sends in the meantime. So a row that
//! is too large is found when others were sent already; they are given up with their transaction.

use aap_columns::held_bytes;
use aap_columns::value::{Form, Objects, is_null, writer};
use aap_sinks::{BadRow, Failure, FailureKind, Slice};
use aap_types::{ExitCode, Problem};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;

use crate::spec::{Format, KafkaSpec};

/// What a record takes in a batch beside key, value and headers, rounded up: the batch's own 61 bytes, and lengths.
const RECORD_OVERHEAD: usize = 192;
/// What the headers of a record take at most: two names of 63 bytes, five numbers of 20 digits, names and lengths.
const HEADERS_BYTES_MAX: usize = 384;

/// One record.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) key: Option<&'a [u8]>,
    /// Where that is decided here; librdkafka decides otherwise.
    pub(crate) partition: Option<i32>,
    /// `_seq` and `_row` of its (first) row.
    pub(crate) id: (u64, u64),
    /// How many.
    pub(crate) rows: usize,
}

/// What the topic of a slice takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) partitions: i32,
    pub(crate) batch_bytes: usize,
}

/// Makes the records of a slice.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    pub(crate) spec: &'a KafkaSpec,
    pub(crate) slice: &'a Slice,
    /// Its place in the group.
    pub(crate) number: usize,
    pub(crate) room: Room,
}

/// Takes a record.
pub(crate) type Take<'a> = &'a mut dyn FnMut(&Record<'_>) -> Result<(), Failure>;

impl Encoder<'_> {
    /// Hands on the records of the slice, until there is a bad row in the group; from then on only looks for more of these.
    pub(crate) fn each(&self, bad: &mut Vec<BadRow>, take: Take<'_>) -> Result<(), Failure> {
        match self.spec.format {
            Format::Json => self.json(bad, take),
            Format::Arrow => self.arrow(bad, take),
        }
    }

    fn json(&self, bad: &mut Vec<BadRow>, take: Take<'_>) -> Result<(), Failure> {
        let rows = &self.slice.rows;
        let (objects, ids, mut buffer) = (Objects::of(rows), Ids::of(self.slice), vec![]);
        let decides = self.spec.key.as_ref().or(self.spec.partition_by.as_ref());
        // A stream without that column has rows without that value.
        let column = decides.and_then(|name| rows.column_by_name(name)).map(AsRef::as_ref);
        let text = column.map(|column| (column, writer(column, Form::Plain)));
        let is_key = self.spec.key.is_some();
        for row in 0..rows.num_rows() {
            buffer.clear();
            objects.write(row, &mut buffer);
            let end = buffer.len();
            let decided = match &text {
                Some((column, text)) if !is_null(*column, row) => {
                    text(row, &mut buffer);
                    true
                }
                _ => false,
            };
            let (value, text) = buffer.split_at(end);
            let key = (decided && is_key).then_some(text);
            let size = value.len() + key.map_or(0, <[u8]>::len);
            if size > self.size_max() {
                bad.push(self.oversize(row, size));
            }
            if bad.is_empty() {
                let partition = (decided && !is_key).then(|| partition_of(text, self.room.partitions));
                take(&Record { value, key, partition, id: ids.get(row), rows: 1 })?;
            }
        }
        Ok(())
    }

    fn arrow(&self, bad: &mut Vec<BadRow>, take: Take<'_>) -> Result<(), Failure> {
        let (rows, ids, mut buffer) = (&self.slice.rows, Ids::of(self.slice), vec![]);
        let all = rows.num_rows();
        // As many as should fit; parts that are too large are halved. The last in here comes next.
        let step = (all * self.size_max() / held_bytes(rows).max(1)).max(1);
        let mut parts: Vec<_> =
            (0..all).step_by(step).map(|begin| begin..all.min(begin + step)).rev().collect();
        while let Some(part) = parts.pop() {
            buffer.clear();
            stream(&rows.slice(part.start, part.len()), &mut buffer).map_err(|error| not_encoded(&error))?;
            if buffer.len() <= self.size_max() {
                if bad.is_empty() {
                    let id = ids.get(part.start);
                    take(&Record { value: &buffer, key: None, partition: None, id, rows: part.len() })?;
                }
            } else if part.len() == 1 {
                bad.push(self.oversize(part.start, buffer.len()));
            } else {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
            }
        }
        Ok(())
    }

    /// Bytes of key and value.
    fn size_max(&self) -> usize {
        let headers = if self.spec.headers { HEADERS_BYTES_MAX } else { 0 };
        self.room.batch_bytes.saturating_sub(RECORD_OVERHEAD + headers)
    }

    fn oversize(&self, row: usize, size: usize) -> BadRow {
        let limit = self.room.batch_bytes;
        let reason = format!("its record is of {size} bytes; the topic's `max.message.bytes` is {limit}");
        BadRow { slice: self.number, row, reason }
    }
}

/// `_seq` and `_row` of the rows of a slice.
struct Ids<'a> {
    columns: Option<(&'a [u64], &'a [u64])>,
    through: u64,
}

impl<'a> Ids<'a> {
    fn of(slice: &'a Slice) -> Self {
        let column = |name| {
            let column = slice.rows.column_by_name(name)?.as_primitive_opt::<UInt64Type>()?;
            Some(column.values().as_ref())
        };
        Self { columns: column("_seq").zip(column("_row")), through: slice.through.0 }
    }

    fn get(&self, row: usize) -> (u64, u64) {
        self.columns.map_or((self.through, row as u64), |(seqs, rows)| (seqs[row], rows[row]))
    }
}

fn stream(rows: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let mut writer = StreamWriter::try_new(out, &rows.schema())?;
    writer.write(rows)?;
    writer.finish()
}

fn not_encoded(error: &ArrowError) -> Failure {
    let problem = Problem::new("sink.bad_rows", ExitCode::Failed, "rows could not be written as Arrow");
    Failure::new(FailureKind::Group, problem.caused_by(error))
}

/// The partition of a value, as Java's producers find that of a key.
fn partition_of(value: &[u8], partitions: i32) -> i32 {
    let positive = murmur2(value) & 0x7fff_ffff;
    (positive % partitions.max(1).unsigned_abs()) as i32
}

/// MurmurHash2 with the seed that Kafka's clients agreed upon.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_where_java_producers_send_keys() {
        // The values that the tests of Kafka's own client expect.
        for (text, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text}");
        }
        assert!((0..3).contains(&partition_of(b"21", 3)));
    }
}
