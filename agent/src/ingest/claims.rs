//! What an Arrow stream or file says its batches become, looked at before any of it is read.
//!
//! Buffers may be compressed, each with its length before it, and a reader takes that word: a few kilobytes can claim gigabytes.
//! Rows of columns without buffers (type `Null`) cost nothing in the input and are as good as a claim.

use std::io::{self, Read, Seek, SeekFrom};

use arrow_ipc::reader::read_footer_length;
use arrow_ipc::{Block, Message, MessageHeader, RecordBatch, Type, root_as_footer, root_as_message};

/// Largest description of a message. That of a batch has some hundred bytes a column.
const METADATA_BYTES_MAX: u64 = 16 << 20;
/// What a row costs beyond its buffers: its time, and as much for each column without buffers.
const ROW_BYTES: u64 = 8;
const CONTINUATION: [u8; 4] = [0xff; 4];

/// What a reader may be asked to hold, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// One batch or dictionary.
    pub message: u64,
    /// All of them.
    pub total: u64,
}

/// Why a reader must not be let at it.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It would become too large.
    #[error("it holds more than {0} bytes after decompression")]
    TooLarge(u64),
    /// It is not what it must be.
    #[error("{0}")]
    Malformed(&'static str),
    /// It cannot be read.
    #[error("read it")]
    Io(#[from] io::Error),
}

/// Checks a stream of messages from its beginning.
pub fn check_stream(input: &mut (impl Read + Seek), allowance: Allowance) -> Result<(), ClaimError> {
    let mut checker = Checker { input, allowance, spent: 0, null_columns: 0 };
    checker.input.seek(SeekFrom::Start(0))?;
    while let Some(metadata) = checker.next_metadata()? {
        let message = checker.message(&metadata)?;
        let body = checker.input.stream_position()?;
        let length = u64::try_from(message.bodyLength()).map_err(|_| malformed("a negative length"))?;
        checker.check(&message, body)?;
        checker.input.seek(SeekFrom::Start(body.saturating_add(length)))?;
    }
    Ok(())
}

/// Checks a file: its footer says where the batches are.
pub(super) fn check_file(input: &mut (impl Read + Seek), allowance: Allowance) -> Result<(), ClaimError> {
    let size = input.seek(SeekFrom::End(0))?;
    let mut trailer = [0; 10];
    input.seek(SeekFrom::Start(size.checked_sub(10).ok_or(malformed("a file without a footer"))?))?;
    input.read_exact(&mut trailer)?;
    let length = read_footer_length(trailer).map_err(|_| malformed("a file without a footer"))? as u64;
    let start = (size - 10).checked_sub(length).ok_or(malformed("a footer larger than its file"))?;
    let footer = read_at(input, start, length)?;
    let footer = root_as_footer(&footer).map_err(|_| malformed("an unreadable footer"))?;
    let null_columns = footer.schema().map_or(0, |schema| null_columns(&schema));
    let mut checker = Checker { input, allowance, spent: 0, null_columns };
    for block in footer.dictionaries().into_iter().chain(footer.recordBatches()).flatten() {
        checker.block(block, size)?;
    }
    Ok(())
}

struct Checker<'a, R> {
    input: &'a mut R,
    allowance: Allowance,
    spent: u64,
    null_columns: u64,
}

impl<R: Read + Seek> Checker<'_, R> {
    /// The description of the next message; `None` at the end.
    fn next_metadata(&mut self) -> Result<Option<Vec<u8>>, ClaimError> {
        let mut length = [0; 4];
        match self.input.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        if length == CONTINUATION {
            self.input.read_exact(&mut length)?;
        }
        match u64::from(u32::from_le_bytes(length)) {
            0 => Ok(None),
            length => {
                let at = self.input.stream_position()?;
                read_at(self.input, at, length).map(Some)
            }
        }
    }

    fn message<'b>(&mut self, metadata: &'b [u8]) -> Result<Message<'b>, ClaimError> {
        let message = root_as_message(metadata).map_err(|_| malformed("an unreadable message"))?;
        if let Some(schema) = message.header_as_schema() {
            self.null_columns = null_columns(&schema);
        }
        Ok(message)
    }

    fn block(&mut self, block: &Block, size: u64) -> Result<(), ClaimError> {
        let range = (u64::try_from(block.offset()), u64::try_from(block.metaDataLength()));
        let (Ok(offset), Ok(length)) = range else { return Err(malformed("a negative length")) };
        let body_length = u64::try_from(block.bodyLength()).map_err(|_| malformed("a negative length"))?;
        let end = offset.saturating_add(length).saturating_add(body_length);
        if end > size {
            return Err(malformed("a batch outside of its file"));
        }
        let metadata = read_at(self.input, offset, length)?;
        let metadata = match metadata.strip_prefix(&CONTINUATION) {
            Some(rest) => rest.get(4..),
            None => metadata.get(4..),
        };
        let message = self.message(metadata.ok_or(malformed("a cut message"))?)?;
        self.check(&message, offset + length)
    }

    /// Adds up what a message claims.
    fn check(&mut self, message: &Message<'_>, body: u64) -> Result<(), ClaimError> {
        let batch = match message.header_type() {
            MessageHeader::RecordBatch => message.header_as_record_batch(),
            MessageHeader::DictionaryBatch => {
                message.header_as_dictionary_batch().and_then(|batch| batch.data())
            }
            _ => return Ok(()),
        };
        let Some(batch) = batch else { return Ok(()) };
        let claimed = self.claimed(&batch, body)?;
        self.spent = self.spent.saturating_add(claimed);
        for (spent, allowed) in [(claimed, self.allowance.message), (self.spent, self.allowance.total)] {
            if spent > allowed {
                return Err(ClaimError::TooLarge(allowed));
            }
        }
        Ok(())
    }

    fn claimed(&mut self, batch: &RecordBatch<'_>, body: u64) -> Result<u64, ClaimError> {
        let rows = u64::try_from(batch.length()).map_err(|_| malformed("a negative number of rows"))?;
        let mut claimed = rows.saturating_mul(ROW_BYTES * (1 + self.null_columns));
        let is_compressed = batch.compression().is_some();
        for buffer in batch.buffers().into_iter().flatten() {
            let range = (u64::try_from(buffer.offset()), u64::try_from(buffer.length()));
            let (Ok(offset), Ok(length)) = range else { return Err(malformed("a negative length")) };
            let mut own = length;
            if is_compressed && length >= 8 {
                let mut prefix = [0; 8];
                self.input.seek(SeekFrom::Start(body.saturating_add(offset)))?;
                match self.input.read_exact(&mut prefix) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(malformed("a cut message body"));
                    }
                    other => other?,
                }
                // A negative length stands for "not compressed".
                own = u64::try_from(i64::from_le_bytes(prefix)).unwrap_or(length);
            }
            claimed = claimed.saturating_add(own);
        }
        Ok(claimed)
    }
}

fn null_columns(schema: &arrow_ipc::Schema<'_>) -> u64 {
    let fields = schema.fields().into_iter().flatten();
    fields.filter(|field| field.type_type() == Type::Null).count() as u64
}

fn read_at(input: &mut (impl Read + Seek), at: u64, length: u64) -> Result<Vec<u8>, ClaimError> {
    if length > METADATA_BYTES_MAX {
        return Err(malformed("a description of more than 16 MiB"));
    }
    input.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    let read = input.by_ref().take(length).read_to_end(&mut bytes)?;
    if read as u64 == length { Ok(bytes) } else { Err(malformed("a cut message")) }
}

fn malformed(what: &'static str) -> ClaimError {
    ClaimError::Malformed(what)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, NullArray, RecordBatch, StringArray};
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

    use super::*;

    const ALLOWED: Allowance = Allowance { message: 1 << 20, total: 2 << 20 };

    fn both(batch: &RecordBatch, times: usize) -> [Vec<u8>; 2] {
        let options =
            || IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
        let (mut stream, mut file) = (Vec::new(), Vec::new());
        let schema = batch.schema();
        let mut writer = StreamWriter::try_new_with_options(&mut stream, &schema, options()).unwrap();
        (0..times).for_each(|_| writer.write(batch).unwrap());
        writer.finish().unwrap();
        let mut writer = FileWriter::try_new_with_options(&mut file, &schema, options()).unwrap();
        (0..times).for_each(|_| writer.write(batch).unwrap());
        writer.finish().unwrap();
        [stream, file]
    }

    fn check(column: ArrayRef, times: usize) -> [bool; 2] {
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        let [stream, file] = both(&batch, times);
        [
            check_stream(&mut Cursor::new(stream), ALLOWED).is_ok(),
            check_file(&mut Cursor::new(file), ALLOWED).is_ok(),
        ]
    }

    #[test]
    fn what_decompresses_beyond_the_allowance_is_refused_before_it_is_read() {
        let zeros = |rows: usize| Arc::new(Int64Array::from(vec![0; rows])) as ArrayRef;
        assert_eq!(check(zeros(1000), 10), [true; 2]);
        assert_eq!(check(zeros(200_000), 1), [false; 2]);
        assert_eq!(check(zeros(50_000), 5), [false; 2], "all together");
        let text = Arc::new(StringArray::from(vec!["x".repeat(2 << 20)])) as ArrayRef;
        assert_eq!(check(text, 1), [false; 2]);
    }

    #[test]
    fn rows_without_buffers_count() {
        assert_eq!(check(Arc::new(NullArray::new(1000)), 1), [true; 2]);
        assert_eq!(check(Arc::new(NullArray::new(1 << 30)), 1), [false; 2]);
    }

    #[test]
    fn no_truncation_and_no_flipped_byte_panics() {
        let column = Arc::new(Int64Array::from_iter_values(0..100)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        for bytes in both(&batch, 2) {
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0xff;
                for bytes in [&bytes[..at], &flipped[..]] {
                    check_stream(&mut Cursor::new(bytes), ALLOWED).ok();
                    check_file(&mut Cursor::new(bytes), ALLOWED).ok();
                }
            }
        }
    }
}
