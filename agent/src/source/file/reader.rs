//! One followed file: reads what is new, makes parcels of it, and knows how to go back if they do not become durable.
//!
//! All of this blocks; it runs on the blocking pool, which takes the reader and gives it back.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aap_decode::Context;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_buffer::Buffer as ArrowBuffer;
use std::sync::Arc;

use super::identity::{Detail, FileKey, Known, PRINT_BYTES, Stat, hash, stat};
use super::input::{Codec, decompress, read_up_to};

use crate::formats::first_line;
use crate::ingress::{BATCH_BYTES, IngressError, Packer, Parcel};
use crate::records::{Cut, INNER_LINE_END, Rules};

/// Batches of one parcel: enough that decoding takes longer than the fsync it overlaps with.
const PARCEL_BATCHES: usize = 4;

/// Why reading a file stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The file system.
    #[error("read `{path}`")]
    Io {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Decoding or sealing.
    #[error(transparent)]
    Pack(#[from] IngressError),
}

/// Where a reader stands: enough to go back to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    offset: u64,
    skipping: bool,
    partial: bool,
    tail: Vec<u8>,
}

/// A reader of one file.
pub(super) struct Reader {
    source: String,
    path: PathBuf,
    file: File,
    codec: Codec,
    key: FileKey,
    rules: Arc<Rules>,
    packer: Packer,
    resource: String,
    inner_line_end: u8,
    /// Where everything before it was taken.
    mark: Mark,
    /// Bytes read and not taken: they begin at `mark.offset`.
    pending: Vec<u8>,
    /// Decompressor of an archive, standing behind `pending`.
    content: Option<Box<dyn Read + Send + Sync>>,
    /// Size when last looked at.
    size_seen: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("offset", &self.mark.offset)
            .finish_non_exhaustive()
    }
}

/// What a reader is made of.
#[derive(Debug)]
pub(super) struct Setup {
    /// Name of the source.
    pub(super) source: String,
    /// Where the file is.
    pub(super) path: PathBuf,
    /// The open file.
    pub(super) file: File,
    /// How it is stored.
    pub(super) codec: Codec,
    /// Its key.
    pub(super) key: FileKey,
    /// Where to begin: content offset and detail.
    pub(super) offset: u64,
    /// The detail of the position it continues.
    pub(super) detail: Detail,
    /// How lines make records.
    pub(super) rules: Arc<Rules>,
    /// Decoder and encoder.
    pub(super) packer: Packer,
    /// Log formats keep line ends inside a record; others get a space.
    pub(super) keeps_lines: bool,
}

/// What one pass over a file gave.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// What to append.
    pub(super) parcel: Parcel,
    /// There was nothing more to read.
    pub(super) end: bool,
    /// Bytes wait for the end of their record.
    pub(super) partial: bool,
    /// Bytes were read, taken or not.
    pub(super) grew: bool,
    /// Bytes beyond the record limit that were cut.
    pub(super) cut: u64,
    /// The file was truncated or replaced in place: look at it anew. Bytes that were not read before.
    pub(super) truncated: Option<u64>,
}

impl Reader {
    /// A reader that continues at `setup.offset`.
    pub(super) fn new(setup: Setup) -> io::Result<Self> {
        let path = setup.path.to_string_lossy().into_owned();
        let name = setup.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let resource = serde_json::json!({ "log.file.name": name, "log.file.path": path }).to_string();
        let mut reader = Self {
            source: setup.source,
            path: setup.path,
            file: setup.file,
            codec: setup.codec,
            key: setup.key,
            rules: setup.rules,
            packer: setup.packer,
            resource,
            inner_line_end: if setup.keeps_lines { b'\n' } else { b' ' },
            mark: Mark {
                offset: setup.offset,
                skipping: setup.detail.skipping,
                partial: setup.detail.partial,
                tail: vec![],
            },
            pending: vec![],
            content: None,
            size_seen: setup.offset,
        };
        reader.go_to_offset()?;
        Ok(reader)
    }

    /// The file's key.
    pub(super) fn key(&self) -> &FileKey {
        &self.key
    }
    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
    /// Where it stands now: everything before was taken.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }
    /// Bytes of content taken.
    pub(super) fn offset(&self) -> u64 {
        self.mark.offset
    }
    /// Whether the content can grow.
    pub(super) fn is_plain(&self) -> bool {
        self.codec == Codec::Plain
    }
    /// The position as it is known now.
    pub(super) fn known(&self) -> Known {
        Known { key: self.key.clone(), offset: self.mark.offset, detail: self.detail() }
    }
    /// What the file system says.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        stat(&self.file)
    }
    /// The file was found under another name.
    pub(super) fn renamed(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }

    /// Goes back to `mark`, because what was taken after it did not become durable.
    pub(super) fn rewind(&mut self, mark: Mark) -> io::Result<()> {
        self.mark = mark;
        self.go_to_offset()
    }

    /// Shows the first line to a decoder that begins in the middle of a file and needs its header.
    pub(super) fn learn_header(&mut self) -> io::Result<()> {
        const HEADER_BYTES_MAX: usize = 64 << 10;
        let mut head = vec![0; HEADER_BYTES_MAX];
        let length = match self.codec {
            Codec::Plain => read_up_to(&self.file, &mut head, 0)?,
            codec => read_fully(&mut decompress(&self.file, codec)?, &mut head)?,
        };
        let header = &head[..length];
        self.packer.learn(&header[..first_line(header)]);
        Ok(())
    }

    /// Skips to the end, as `start: end` asks.
    pub(super) fn skip_to_end(&mut self) -> io::Result<()> {
        if self.is_plain() {
            self.mark.offset = self.stat()?.size;
            self.go_to_offset()?;
        }
        Ok(())
    }

    fn go_to_offset(&mut self) -> io::Result<()> {
        self.pending = vec![];
        self.content = None;
        self.size_seen = self.size_seen.max(self.mark.offset);
        let tail_from = self.mark.offset.saturating_sub(PRINT_BYTES as u64);
        let mut tail = vec![0; usize::try_from(self.mark.offset - tail_from).unwrap_or(0)];
        if self.codec == Codec::Plain {
            let read = read_up_to(&self.file, &mut tail, tail_from)?;
            tail.truncate(read);
        } else {
            let mut content = decompress(&self.file, self.codec)?;
            io::copy(&mut content.by_ref().take(tail_from), &mut io::sink())?;
            content.read_exact(&mut tail)?;
            self.content = Some(content);
        }
        self.mark.tail = tail;
        Ok(())
    }

    fn detail(&self) -> Detail {
        Detail {
            path: self.path.to_string_lossy().into_owned(),
            tail_length: u16::try_from(self.mark.tail.len()).unwrap_or(0),
            tail_hash: format!("{:016x}", hash(&self.mark.tail)),
            skipping: self.mark.skipping,
            partial: self.mark.partial,
        }
    }

    /// Reads and packs the next parcel. With `idle`, the last record is taken although its end has not come.
    pub(super) fn pass(&mut self, observed_us: i64, idle: bool) -> Result<Pass, ReadError> {
        let mut pass = Pass::default();
        let path = self.path.to_string_lossy().into_owned();
        let failed = |source| ReadError::Io { path: path.clone(), source };
        if let Some(lost) = self.truncation().map_err(failed)? {
            pass.truncated = Some(lost);
            return Ok(pass);
        }
        while pass.parcel.tallies.len() < PARCEL_BATCHES {
            let before = self.pending.len();
            let more = self.fill().map_err(failed)?;
            pass.grew |= self.pending.len() > before;
            // What just came shows that its writer is not idle.
            let took = self.take(observed_us, idle && !more && !pass.grew, &mut pass)?;
            pass.end = !more && !took;
            if pass.end {
                break;
            }
        }
        pass.partial = !self.pending.is_empty();
        if pass.end && self.pending.capacity() > 64 << 10 {
            // Hundreds of quiet files must not hold a megabyte each.
            self.pending.shrink_to_fit();
        }
        Ok(pass)
    }

    /// Whether the content before the offset is still what was read; if not, how much was never read.
    fn truncation(&mut self) -> io::Result<Option<u64>> {
        if !self.is_plain() {
            return Ok(None);
        }
        let size = self.stat()?.size;
        let read_to = self.mark.offset + self.pending.len() as u64;
        let unread = self.size_seen.saturating_sub(read_to) + self.pending.len() as u64;
        self.size_seen = size;
        if size < read_to {
            return Ok(Some(unread));
        }
        let mut tail = vec![0; self.mark.tail.len()];
        let read = read_up_to(&self.file, &mut tail, self.mark.offset - self.mark.tail.len() as u64)?;
        Ok((read < tail.len() || tail != self.mark.tail).then_some(unread))
    }

    /// Reads until a batch is there. Returns whether there may be more.
    fn fill(&mut self) -> io::Result<bool> {
        let wanted = BATCH_BYTES.max(self.rules.record_bytes_max() + 1);
        let have = self.pending.len();
        if have >= wanted {
            return Ok(true);
        }
        let available = match self.codec {
            // Not a megabyte of zeros for every line that is written.
            Codec::Plain => {
                let left = self.stat()?.size.saturating_sub(self.mark.offset + have as u64);
                usize::try_from(left).unwrap_or(usize::MAX).min(wanted - have)
            }
            _ => wanted - have,
        };
        if available == 0 {
            return Ok(false);
        }
        self.pending.resize(have + available, 0);
        let read = match &mut self.content {
            None => read_up_to(&self.file, &mut self.pending[have..], self.mark.offset + have as u64),
            Some(content) => read_fully(content, &mut self.pending[have..]),
        };
        self.pending.truncate(have + read.as_ref().copied().unwrap_or(0));
        Ok(read? == available && self.pending.len() >= wanted)
    }

    /// Takes the next records out of what was read. Returns whether there was anything to take.
    fn take(&mut self, observed_us: i64, last: bool, pass: &mut Pass) -> Result<bool, ReadError> {
        if self.mark.partial {
            self.swallow_line_end();
        }
        let pending = std::mem::take(&mut self.pending);
        let decoder = self.packer.decoder();
        let cut = self.rules.cut(&pending, self.mark.skipping, last, |bytes| decoder.boundary(bytes));
        let (records, consumed): (std::borrow::Cow<'_, [u8]>, usize) = match cut {
            Cut::More => {
                self.pending = pending;
                return Ok(false);
            }
            Cut::Whole(whole) => (whole.into(), whole.len()),
            Cut::Skipped { consumed, cut, skipping } => {
                self.mark.skipping = skipping;
                pass.cut += cut;
                (vec![].into(), consumed)
            }
            Cut::Rewritten { records, consumed, cut, skipping } => {
                self.mark.skipping = skipping;
                pass.cut += cut;
                (records.into(), consumed)
            }
        };
        self.mark.partial = last && pending[..consumed].last() != Some(&b'\n');
        let result = self.pack(&pending[..consumed], &records, observed_us, pass);
        drop(records);
        let mut rest = pending;
        rest.drain(..consumed);
        self.pending = rest;
        result.map(|()| true)
    }

    fn pack(
        &mut self,
        consumed: &[u8],
        records: &[u8],
        observed_us: i64,
        pass: &mut Pass,
    ) -> Result<(), ReadError> {
        self.mark.offset += consumed.len() as u64;
        remember_tail(&mut self.mark.tail, consumed);
        if records.is_empty() {
            return Ok(());
        }
        let position = self.known().position(&self.source);
        let path = self.path.to_string_lossy();
        let context = Context { observed_us, resource: Some(&self.resource), path: Some(&path) };
        let line_end = self.inner_line_end;
        let finish = |batch| restore_line_ends(batch, line_end);
        let packed = self.packer.pack_with(records, &context, vec![position], finish)?;
        pass.parcel.join(packed.parcel);
        Ok(())
    }

    /// A record was taken before its line end came; the line end alone is not another record.
    fn swallow_line_end(&mut self) {
        let length = match self.pending.as_slice() {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => return,
            _ => 0,
        };
        self.mark.partial = false;
        let swallowed: Vec<u8> = self.pending.drain(..length).collect();
        self.mark.offset += length as u64;
        remember_tail(&mut self.mark.tail, &swallowed);
    }
}

fn remember_tail(tail: &mut Vec<u8>, consumed: &[u8]) {
    if consumed.len() >= PRINT_BYTES {
        tail.clear();
        tail.extend_from_slice(&consumed[consumed.len() - PRINT_BYTES..]);
        return;
    }
    tail.extend_from_slice(consumed);
    let excess = tail.len().saturating_sub(PRINT_BYTES);
    tail.drain(..excess);
}

/// Reads until `into` is full or the content ends. An archive that is not finished yet ends too.
fn read_fully(content: &mut Box<dyn Read + Send + Sync>, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match content.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if filled == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(filled)
}

/// Puts the line ends back into the bodies of records of several lines. Same length, so the offsets stay.
fn restore_line_ends(batch: RecordBatch, line_end: u8) -> RecordBatch {
    let Some(index) = batch.schema_ref().index_of("body").ok() else { return batch };
    let Some(body) = batch.column(index).as_string_opt::<i32>() else { return batch };
    if memchr::memchr(INNER_LINE_END, body.values()).is_none() {
        return batch;
    }
    let values: Vec<u8> =
        body.values().iter().map(|byte| if *byte == INNER_LINE_END { line_end } else { *byte }).collect();
    let restored =
        StringArray::try_new(body.offsets().clone(), ArrowBuffer::from(values), body.nulls().cloned());
    let Ok(restored) = restored else { return batch };
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[index] = Arc::new(restored);
    RecordBatch::try_new(batch.schema(), columns).unwrap_or(batch)
}
