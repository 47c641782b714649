//! One followed file: reads what is new, makes parcels of it, and knows how to go back if they do not become durable.
//!
//! All of this blocks; it runs on the blocking pool, which takes the reader and gives it back.
//!
//! What was read is checked before it is taken: the bytes before the offset must still be what was read there, or the file
//! was truncated and written again in between. Nothing of a plain file stays in memory between two passes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aap_decode::Context;
use aap_types::StreamName;

use super::identity::{Detail, FileKey, Known, PRINT_BYTES, Stamp, Stat, hash, stat};
use super::input::{Codec, ContentEnd, Peek, decompress, read_fully, read_up_to};
use super::take::Gathered;
use crate::formats::{Recipe, first_line};
use crate::ingress::{BATCH_BYTES, IngressError, Packer, Parcel, positions_only};
use crate::line_ends::INNER_LINE_END;
use crate::records::{Cut, Ending, Rules};

/// Batches of one parcel: enough that decoding takes longer than the fsync it overlaps with.
const PARCEL_BATCHES: usize = 4;
/// A position that moved this far without a row (the rest of a long line) is made durable by itself.
const SKIP_COMMIT_BYTES: u64 = 1 << 20;

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
    setup: Setup,
    file: File,
    resource: String,
    /// Decoder and encoder, and what stands between the lines of one record. Made when needed: they hold memory.
    packer: Option<(Packer, u8)>,
    /// Where everything before it was taken.
    mark: Mark,
    /// Where it stood when the last pass began.
    begun: Option<Mark>,
    /// The file has not been seen to fit the position that the reader was made of.
    unverified: bool,
    /// Bytes read and not taken: they begin at `mark.offset`.
    pending: Vec<u8>,
    /// Decompressor of an archive, standing behind `pending`. `None`: it must go to the offset first.
    content: Option<Box<dyn Read + Send + Sync>>,
    /// Where the content of an archive ended.
    content_end: Option<ContentEnd>,
    /// Size when last looked at, and how an archive looked when it was opened.
    size_seen: u64,
    opened_as: Stamp,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.setup.path)
            .field("offset", &self.mark.offset)
            .finish_non_exhaustive()
    }
}

/// What a reader is made of.
#[derive(Debug)]
pub(super) struct Setup {
    /// Name of the source.
    pub(super) source: String,
    /// The stream it feeds.
    pub(super) stream: StreamName,
    /// Where the file is.
    pub(super) path: PathBuf,
    /// How it is stored.
    pub(super) codec: Codec,
    /// Where to begin.
    pub(super) known: Known,
    /// How lines make records.
    pub(super) rules: Arc<Rules>,
    /// How records are decoded.
    pub(super) recipe: Recipe,
}

/// What is asked of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// The time for rows that have none.
    pub(super) observed_us: i64,
    /// Nothing was added for a while: take the last record as it is.
    pub(super) idle: bool,
    /// A record has been open for too long while more came: take whole lines.
    pub(super) held: bool,
    /// About how much to read.
    pub(super) bytes_max: u64,
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
    /// Whole lines do.
    pub(super) held: bool,
    /// Bytes were added since the last pass.
    pub(super) grew: bool,
    /// Bytes beyond the record limit that were cut.
    pub(super) cut: u64,
    /// The file was truncated or replaced in place: look at it anew. Bytes that were not read before.
    pub(super) truncated: Option<u64>,
    /// An archive ends before its end, or is damaged: nothing more comes unless it changes.
    pub(super) damaged: Option<String>,
    /// An archive was read to its end.
    pub(super) complete: bool,
}

/// Bytes read ahead of the mark.
enum Filled {
    /// There may be more.
    More,
    /// All there is.
    All,
    /// What stands before them is not what was read there.
    Replaced,
}

impl Mark {
    /// Bytes before it.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

impl Reader {
    /// A reader of an open file that continues where `setup.known` says.
    pub(super) fn new(setup: Setup, file: File) -> io::Result<Self> {
        let path = setup.path.to_string_lossy().into_owned();
        let name = setup.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let resource = serde_json::json!({ "log.file.name": name, "log.file.path": path }).to_string();
        let Known { offset, detail, .. } = &setup.known;
        let mark = Mark { offset: *offset, skipping: detail.skipping, partial: detail.partial, tail: vec![] };
        let opened_as = stat(&file)?.stamp;
        Ok(Self {
            resource,
            packer: None,
            size_seen: mark.offset,
            mark,
            begun: None,
            unverified: true,
            pending: vec![],
            content: None,
            content_end: None,
            opened_as,
            file,
            setup,
        })
    }

    /// The file's key.
    pub(super) fn key(&self) -> &FileKey {
        &self.setup.known.key
    }
    /// Where it stands now: everything before was taken.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }
    /// Where it stood when the last pass began. `None` if none could.
    pub(super) fn begun(&self) -> Option<&Mark> {
        self.begun.as_ref()
    }
    /// Bytes of content taken.
    pub(super) fn offset(&self) -> u64 {
        self.mark.offset
    }
    /// Size when last looked at.
    pub(super) fn size_seen(&self) -> u64 {
        self.size_seen
    }
    /// Whether the content can grow.
    pub(super) fn is_plain(&self) -> bool {
        self.setup.codec == Codec::Plain
    }
    /// How the file looked when it was opened.
    pub(super) fn opened_as(&self) -> Stamp {
        self.opened_as
    }
    /// What the file system says.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        stat(&self.file)
    }
    /// The file was found under another name.
    pub(super) fn renamed(&mut self, path: &Path) {
        path.clone_into(&mut self.setup.path);
    }
    /// Gives the open file back.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// The position as it is known now.
    pub(super) fn known(&self) -> Known {
        if self.unverified {
            return self.setup.known.clone();
        }
        let before = &self.setup.known.detail;
        let detail = Detail {
            path: self.setup.path.to_string_lossy().into_owned(),
            skipping: self.mark.skipping,
            partial: self.mark.partial,
            complete: before.complete,
            copy_of: before.copy_of.clone(),
            ..Detail::default()
        };
        Known { key: self.key().clone(), offset: self.mark.offset, detail: detail.with_tail(&self.mark.tail) }
    }

    /// Goes back to `mark`, because what was taken after it did not become durable. The decoder begins anew: it may
    /// have learned from what is to be read again.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.mark = mark;
        self.packer = None;
        self.pending = vec![];
        self.content = None;
        self.content_end = None;
        self.setup.known.detail.complete = None;
    }

    /// Reads and packs the next parcel.
    pub(super) fn pass(&mut self, order: Order) -> Result<Pass, ReadError> {
        let path = self.setup.path.to_string_lossy().into_owned();
        let failed = |source| ReadError::Io { path: path.clone(), source };
        let mut pass = Pass::default();
        let (begin, unread) = (self.mark.offset, self.size_seen.saturating_sub(self.mark.offset));
        if !self.place().map_err(failed)? {
            pass.truncated = Some(unread);
            return Ok(pass);
        }
        self.begun = Some(self.mark.clone());
        let size_before = self.size_seen;
        loop {
            let ready = self.pending.len();
            let filled = self.fill().map_err(failed)?;
            if matches!(filled, Filled::Replaced) {
                // What stands before the offset in this parcel was taken from what was there then.
                if pass.parcel.is_empty() {
                    pass.truncated = Some(unread);
                }
                break;
            }
            // What just came shows that its writer is not idle.
            pass.grew |=
                if self.is_plain() { self.size_seen > size_before } else { self.pending.len() > ready };
            let all = matches!(filled, Filled::All);
            let whole_archive = matches!(self.content_end, Some(ContentEnd::Clean));
            let ending = if all && (whole_archive || (order.idle && !pass.grew)) {
                Ending::Last
            } else if order.held {
                Ending::Lines
            } else {
                Ending::Open
            };
            self.make_packer().map_err(failed)?;
            let took = self.take(order.observed_us, ending, &mut pass)?;
            pass.end = all && !took;
            let is_full = pass.parcel.tallies.len() >= PARCEL_BATCHES;
            if pass.end || is_full || self.mark.offset - begin >= order.bytes_max {
                break;
            }
        }
        self.conclude(begin, &mut pass)?;
        Ok(pass)
    }

    /// What is left when a pass is over.
    fn conclude(&mut self, begin: u64, pass: &mut Pass) -> Result<(), ReadError> {
        pass.partial = !self.pending.is_empty();
        pass.held = !self.setup.rules.joins_lines() && memchr::memchr(b'\n', &self.pending).is_some();
        if pass.end
            && let Some(end) = &self.content_end
        {
            pass.damaged = end.reason();
            pass.complete = pass.damaged.is_none() && self.pending.is_empty();
        }
        if pass.complete {
            self.setup.known.detail.complete = Some(self.opened_as);
        }
        let skipped = pass.parcel.is_empty() && self.mark.offset - begin >= SKIP_COMMIT_BYTES;
        if skipped || pass.complete {
            let position = self.known().position(&self.setup.source);
            pass.parcel.join(positions_only(&self.setup.stream, vec![position])?);
        }
        if self.is_plain() {
            self.pending.clear();
        }
        if pass.end && self.pending.capacity() > 64 << 10 {
            // Hundreds of quiet files must not hold a megabyte each.
            self.pending.shrink_to_fit();
        }
        Ok(())
    }

    /// Brings the reader to its offset. `false` if the file does not have there what was read.
    fn place(&mut self) -> io::Result<bool> {
        if self.is_plain() && !self.unverified || self.content.is_some() {
            return Ok(true);
        }
        let length = match self.unverified {
            true => u64::from(self.setup.known.detail.tail_length),
            false => self.mark.tail.len() as u64,
        };
        let Some(from) = self.mark.offset.checked_sub(length) else { return Ok(false) };
        let mut tail = vec![0; usize::try_from(length).unwrap_or(0)];
        if self.is_plain() {
            let read = read_up_to(&self.file, &mut tail, from)?;
            tail.truncate(read);
        } else {
            self.opened_as = self.stat()?.stamp;
            let mut content = decompress(&self.file, self.setup.codec)?;
            let skipped = io::copy(&mut content.by_ref().take(from), &mut io::sink());
            match skipped {
                Ok(skipped) if skipped == from => {}
                Err(error) if error.raw_os_error().is_some() => return Err(error),
                Ok(_) | Err(_) => return Ok(false),
            }
            let (read, _) = read_fully(&mut content, &mut tail)?;
            tail.truncate(read);
            self.content = Some(content);
            self.content_end = None;
            self.pending.clear();
        }
        let fits = match self.unverified {
            true => self.setup.known.detail.tail_fits(&tail),
            false => tail == self.mark.tail,
        };
        if fits {
            (self.unverified, self.mark.tail) = (false, tail);
        }
        Ok(fits)
    }

    /// Reads until a batch is there.
    fn fill(&mut self) -> io::Result<Filled> {
        let wanted = BATCH_BYTES.max(self.setup.rules.record_bytes_max() + 1);
        let have = self.pending.len();
        let mut filled = if have >= wanted { Filled::More } else { Filled::All };
        if self.is_plain() {
            // Not a megabyte of zeros for every line that is written.
            let left = self.stat()?.stamp.size.saturating_sub(self.mark.offset + have as u64);
            let available = usize::try_from(left).unwrap_or(usize::MAX).min(wanted.saturating_sub(have));
            self.pending.resize(have + available, 0);
            let from = self.mark.offset + have as u64;
            let read = read_up_to(&self.file, &mut self.pending[have..], from);
            self.pending.truncate(have + read.as_ref().copied().unwrap_or(0));
            if read? == available && self.pending.len() >= wanted {
                filled = Filled::More;
            }
            return Ok(if self.is_intact()? { filled } else { Filled::Replaced });
        }
        if have < wanted
            && self.content_end.is_none()
            && let Some(content) = &mut self.content
        {
            self.pending.resize(wanted, 0);
            let read = read_fully(content, &mut self.pending[have..]);
            self.pending.truncate(have + read.as_ref().map_or(0, |(read, _)| *read));
            self.content_end = read?.1;
            if self.content_end.is_none() {
                filled = Filled::More;
            }
        }
        Ok(filled)
    }

    /// Whether what stands before the offset is still what was read there, now that the bytes behind it were read.
    fn is_intact(&mut self) -> io::Result<bool> {
        let size = self.stat()?.stamp.size;
        if size < self.mark.offset + self.pending.len() as u64 {
            return Ok(false);
        }
        let tail = &self.mark.tail;
        let mut now = vec![0; tail.len()];
        let read = read_up_to(&self.file, &mut now, self.mark.offset - tail.len() as u64)?;
        if read < tail.len() || now != *tail {
            return Ok(false);
        }
        self.size_seen = size;
        let head_length = usize::from(self.key().head_length);
        if self.mark.offset >= head_length as u64 {
            return Ok(true);
        }
        // So near to the beginning that the tail is all there is before the offset.
        now.extend_from_slice(&self.pending[..self.pending.len().min(head_length - now.len())]);
        Ok(now.len() == head_length && hash(&now) == self.key().head_hash)
    }

    /// Makes decoder and encoder. One that begins in the middle of a file is shown the header.
    fn make_packer(&mut self) -> io::Result<()> {
        const HEADER_BYTES_MAX: usize = 64 << 10;
        if self.packer.is_some() {
            return Ok(());
        }
        let Setup { codec, recipe, stream, path, .. } = &self.setup;
        let needs_header = self.mark.offset > 0 && recipe.has_header();
        let length = if needs_header { HEADER_BYTES_MAX } else { PRINT_BYTES };
        let head = Peek { file: &self.file, codec: *codec }.head(length)?;
        let (decoder, keeps_lines) = recipe.build(&head).map_err(io::Error::other)?;
        let joins_lines = keeps_lines && self.setup.rules.joins_lines();
        let packer = Packer::new(stream.clone(), path.display().to_string(), decoder);
        let mut packer = packer.joining_lines(joins_lines);
        if needs_header {
            packer.learn(&head[..first_line(&head)]);
        }
        self.packer = Some((packer, if keeps_lines { INNER_LINE_END } else { b' ' }));
        Ok(())
    }

    /// Takes the next records out of what was read, as one batch. Returns whether there was anything to take.
    fn take(&mut self, observed_us: i64, ending: Ending, pass: &mut Pass) -> Result<bool, ReadError> {
        let Some((packer, join)) = &mut self.packer else { return Ok(false) };
        let pending = std::mem::take(&mut self.pending);
        let mut gathered = Gathered::new(&pending);
        let (mut at, mark) = (0, &mut self.mark);
        while at < pending.len() && gathered.len() < BATCH_BYTES {
            if mark.partial && !mark.skipping {
                // A record was taken before its line end came; the line end alone is not another record.
                let Some(length) = line_end(&pending[at..]) else { break };
                (mark.partial, at) = (false, at + length);
                continue;
            }
            let decoder = packer.decoder();
            let rest = &pending[at..];
            match self
                .setup
                .rules
                .cut_with(rest, mark.skipping, ending, *join, |bytes| decoder.boundary(bytes))
            {
                Cut::More => break,
                Cut::Whole(whole) => {
                    gathered.piece(at..at + whole.len());
                    at += whole.len();
                }
                Cut::Skipped { consumed, cut, skipping } => {
                    (mark.skipping, at) = (skipping, at + consumed);
                    pass.cut += cut;
                }
                Cut::Rewritten { records, consumed, cut, skipping } => {
                    gathered.rewritten(&records);
                    (mark.skipping, at) = (skipping, at + consumed);
                    pass.cut += cut;
                }
            }
            let ends_line = pending[..at].last() == Some(&b'\n');
            mark.partial = ending == Ending::Last && !mark.skipping && !ends_line;
        }
        mark.offset += at as u64;
        remember_tail(&mut mark.tail, &pending[..at]);
        let result = self.pack(gathered.records(), observed_us, pass);
        self.pending = pending;
        self.pending.drain(..at);
        result.map(|()| at > 0)
    }

    fn pack(&mut self, records: &[u8], observed_us: i64, pass: &mut Pass) -> Result<(), ReadError> {
        if records.is_empty() {
            return Ok(());
        }
        let position = self.known().position(&self.setup.source);
        let path = self.setup.path.to_string_lossy();
        let context = Context { observed_us, resource: Some(&self.resource), path: Some(&path) };
        let Some((packer, _)) = &mut self.packer else { return Ok(()) };
        let packed = packer.pack(records, &context, vec![position])?;
        pass.parcel.join(packed.parcel);
        Ok(())
    }
}

/// The length of the line end at the beginning; `None` if that cannot be told yet.
fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        [] | [b'\r'] => None,
        _ => Some(0),
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
