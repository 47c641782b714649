//! Lines of an ingest run: decompress, cut into records, decode, seal, and note the position of every batch.

use std::io::Write;

use aap_decode::Context;
use aap_types::{ExitCode, Problem};
use flate2::write::MultiGzDecoder;

use super::digest::{PrefixDigest, SavedDigest};
use super::run::{End, Run, Whole, content_changed};
use crate::config::FormatSpec;
use crate::formats::Recipe;
use crate::ingress::{BATCH_BYTES, Packer, Parcel, Tally, positions_only};
use crate::records::{Cut, Rules};

/// Compressed bytes that are expanded at a time. A zstd block of a few bytes can stand for 128 KiB, so 512 bytes can
/// become 16 MiB at most before what came out is cut into batches.
const SLICE_BYTES: usize = 512;
/// zstd frames that ask for a larger window are refused: 8 MiB (reliability-security 4.6).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Decompression, from outside in: bytes are pushed, content comes out.
enum Inflate {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd(Box<ZstdWriter>),
}

type ZstdWriter = zstd::stream::zio::Writer<Vec<u8>, zstd::stream::raw::Decoder<'static>>;

/// Largest JSON document: it is read as a whole, as over HTTP. Lines of JSON have no such limit.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Content without rows after which the position is stored by itself: blank lines, the rest of a record that is too long.
const QUIET_BYTES: u64 = 8 << 20;

/// Takes the bytes of one run in order. Blocks: it belongs on the blocking pool.
pub(super) struct Taker {
    run: Run,
    packer: Packer,
    rules: Rules,
    inflate: Inflate,
    /// Digest of the input as it is sent. Without compression it is the digest of the content.
    input: blake3::Hasher,
    input_bytes: u64,
    /// Digest of the content up to the position.
    content: PrefixDigest,
    /// The offset and the digest of the last position that was made: what is known when everything made is durable.
    noted: (u64, SavedDigest),
    /// Content that is durable already and passes again.
    passing: Option<Passing>,
    /// The content that is durable ends within a line: its end must come next.
    wants_line_end: bool,
    /// What is called lines of JSON is one document.
    document: Document,
    /// Content not cut yet: it begins at the run's offset.
    pending: Vec<u8>,
}

/// Whether an input is one JSON document, an array of records, although its name promises lines of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Document {
    /// Its first byte that is no space will tell.
    Unclear,
    Yes,
    No,
}

/// Content before the durable offset, which is hashed and compared but not decoded.
struct Passing {
    left: u64,
}

impl Taker {
    /// A taker that continues `run`. The client sends from [`Taker::resume_offset`] on.
    pub(super) fn new(run: Run, packer: Packer, rules: Rules) -> Result<Self, Problem> {
        let inflate = Inflate::new(&run.detail.codec)?;
        let mut taker = Self {
            packer,
            rules,
            inflate,
            input: blake3::Hasher::new(),
            input_bytes: 0,
            content: PrefixDigest::default(),
            noted: (run.offset, run.detail.content.clone()),
            passing: None,
            wants_line_end: run.detail.end == Some(End::Open),
            document: Document::No,
            pending: vec![],
            run,
        };
        if taker.run.detail.format != "csv" && taker.run.detail.format != "text" && taker.run.offset == 0 {
            taker.document = Document::Unclear;
        }
        let from = taker.resume_offset();
        if from > 0 {
            let restored = PrefixDigest::restore(&taker.run.detail.content);
            taker.content = restored.ok_or_else(|| damaged(&taker.run))?;
        }
        let left = taker.run.offset - from;
        taker.passing = (left > 0 || from > 0).then_some(Passing { left });
        if taker.run.offset > 0 && !taker.run.detail.header.is_empty() {
            let header = taker.run.detail.header.clone();
            taker.packer.learn(header.as_bytes());
        }
        taker.input_bytes = from;
        Ok(taker)
    }

    /// The byte of the input from which the client must send: the last whole unit of the digest. A compressed input is sent
    /// from its beginning, because a decompressor cannot begin in the middle.
    pub(super) fn resume_offset(&self) -> u64 {
        match self.inflate {
            Inflate::Plain => self.run.detail.content.unit_end(),
            _ => 0,
        }
    }

    /// The digest that the input up to there must have.
    pub(super) fn resume_digest(&self) -> [u8; 32] {
        match self.inflate {
            Inflate::Plain => self.content.finish(),
            _ => *blake3::hash(b"").as_bytes(),
        }
    }

    /// How far the run is, as the position of the last batch made here says.
    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// From where the client may have to send again after what was made here is durable.
    pub(super) fn durable_offset(&self) -> u64 {
        match self.inflate {
            Inflate::Plain => self.noted.1.unit_end(),
            _ => 0,
        }
    }

    /// Takes the next bytes of the input while there is `room` for their content; returns how many were taken.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        room: &mut usize,
        observed_us: i64,
        parcel: &mut Parcel,
    ) -> Result<usize, Problem> {
        let is_plain = matches!(self.inflate, Inflate::Plain);
        let mut used = 0;
        for slice in bytes.chunks(if is_plain { BATCH_BYTES } else { SLICE_BYTES }) {
            if *room == 0 {
                break;
            }
            let length = if is_plain {
                self.content_came(slice, observed_us, parcel)?;
                slice.len()
            } else {
                self.input.update(slice);
                let content = self.inflate.push(slice)?;
                self.content_came(&content, observed_us, parcel)?;
                content.len()
            };
            *room = room.saturating_sub(length);
            used += slice.len();
            self.input_bytes += slice.len() as u64;
        }
        Ok(used)
    }

    /// The client has nothing for the moment: what is whole need not wait.
    pub(super) fn flush(&mut self, observed_us: i64) -> Result<Parcel, Problem> {
        let mut parcel = Parcel::default();
        self.cut(observed_us, 0, false, &mut parcel)?;
        Ok(parcel)
    }

    /// The input ends.
    pub(super) fn finish(&mut self, observed_us: i64) -> Result<Parcel, Problem> {
        let mut parcel = Parcel::default();
        let rest = self.inflate.finish()?;
        self.content_came(&rest, observed_us, &mut parcel)?;
        if self.passing.as_ref().is_some_and(|passing| passing.left > 0) {
            return Err(self.changed("it is shorter"));
        }
        self.end_passing()?;
        if !self.pending.is_empty() {
            self.pass_line_end(true)?;
        }
        let open = self.open_end();
        self.cut(observed_us, 0, true, &mut parcel)?;
        let digest = match self.inflate {
            Inflate::Plain => self.content.finish(),
            _ => *self.input.finalize().as_bytes(),
        };
        let whole = Whole::new(self.input_bytes, &digest);
        let detail = &mut self.run.detail;
        if detail.complete && detail.input.as_ref() == Some(&whole) {
            // Nothing came that was not taken before.
            return Ok(parcel);
        }
        if !detail.complete {
            detail.end = open;
        }
        detail.complete = true;
        detail.input = Some(whole);
        self.note(&mut parcel)?;
        Ok(parcel)
    }

    /// How the content would end if it ended with what waits.
    fn open_end(&self) -> Option<End> {
        match self.document {
            Document::Yes => return None,
            // Blank so far: what comes may be a document.
            Document::Unclear if self.run.offset > 0 || !self.pending.is_empty() => return None,
            Document::Unclear | Document::No => {}
        }
        let rest = match memchr::memchr(b'\n', &self.pending) {
            // The rest of a record that is too long ends with its line.
            None if self.run.detail.skipping => return Some(End::Open),
            Some(end) if self.run.detail.skipping => &self.pending[end + 1..],
            _ => &self.pending[..],
        };
        let ends = |bytes: &[u8]| self.packer.decoder().boundary(bytes) == bytes.len();
        if rest.is_empty() || ends(rest) {
            return Some(End::Closed);
        }
        // A carriage return would become part of the line end that follows; a quote may still be open.
        let is_line = !rest.ends_with(b"\r") && ends(&[rest, b"\n"].concat());
        is_line.then_some(End::Open)
    }

    fn content_came(
        &mut self,
        mut content: &[u8],
        observed_us: i64,
        parcel: &mut Parcel,
    ) -> Result<(), Problem> {
        if let Some(passing) = &mut self.passing {
            let known = usize::try_from(passing.left).unwrap_or(usize::MAX).min(content.len());
            passing.left -= known as u64;
            self.content.update(&content[..known]);
            content = &content[known..];
            if passing.left > 0 {
                return Ok(());
            }
            self.end_passing()?;
        }
        if content.is_empty() {
            return Ok(());
        }
        self.pending.extend_from_slice(content);
        if !self.pass_line_end(false)? {
            return Ok(());
        }
        self.look_for_document()?;
        self.cut(observed_us, BATCH_BYTES, false, parcel)
    }

    /// All that is durable has passed: it must be what was taken.
    fn end_passing(&mut self) -> Result<(), Problem> {
        if self.passing.take().is_some() && self.content.save() != self.run.detail.content {
            return Err(self.changed("its beginning is another"));
        }
        Ok(())
    }

    /// Takes the line end that closes the last line of before; returns whether it has come. Anything else continues that line,
    /// which is then another one.
    fn pass_line_end(&mut self, last: bool) -> Result<bool, Problem> {
        if !self.wants_line_end {
            return Ok(true);
        }
        let length = match &self.pending[..] {
            [] => return Ok(false),
            [b'\r'] if !last => return Ok(false),
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return Err(self.changed("its last line, which had no line end, goes on")),
        };
        self.wants_line_end = false;
        self.run.detail.skipping = false;
        let line_end: Vec<u8> = self.pending.drain(..length).collect();
        self.pass_over(&line_end);
        Ok(true)
    }

    /// Finds out what the input is, as soon as that can be known.
    fn look_for_document(&mut self) -> Result<(), Problem> {
        if self.document == Document::Unclear {
            let content = self.pending.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.pending);
            self.document = match content.trim_ascii_start().first() {
                None => Document::Unclear,
                Some(b'[') => Document::Yes,
                Some(_) => Document::No,
            };
            if self.document == Document::Yes {
                let made = Recipe::new(FormatSpec::JsonDocument, None, None, false).build(b"");
                let (decoder, _) = made.map_err(|error| failed(&self.run, &error))?;
                self.packer = Packer::new(self.run.stream.clone(), self.run.name.clone(), decoder);
            }
        }
        if self.document == Document::Yes && self.pending.len() > DOCUMENT_BYTES_MAX {
            let message = format!("`{}` is one JSON array of more than 16 MiB", self.run.name);
            return Err(Problem::new("ingest.decode", ExitCode::Failed, message)
                .hint("write one record a line, as `jq -c '.[]'` does: lines may be any number"));
        }
        Ok(())
    }

    /// Takes the whole document, once it is here.
    fn take_document(&mut self, observed_us: i64, last: bool, parcel: &mut Parcel) -> Result<(), Problem> {
        if last && !self.pending.is_empty() {
            let document = std::mem::take(&mut self.pending);
            self.pack(&document, &document, observed_us, parcel)?;
        }
        Ok(())
    }

    /// Cuts batches off while more than `keep` bytes wait.
    fn cut(&mut self, observed_us: i64, keep: usize, last: bool, parcel: &mut Parcel) -> Result<(), Problem> {
        match self.document {
            Document::Yes => return self.take_document(observed_us, last, parcel),
            // Blank so far.
            Document::Unclear if !last && self.pending.len() < DOCUMENT_BYTES_MAX => return Ok(()),
            Document::Unclear | Document::No => {}
        }
        let mut from = 0;
        let pending = std::mem::take(&mut self.pending);
        while pending.len() - from > keep {
            // About one batch, but never less than a record may have.
            let window = (BATCH_BYTES).max(self.rules.record_bytes_max() + 1).min(pending.len() - from);
            let window = if self.fits_batch(&pending[from..]) {
                BATCH_BYTES.min(pending.len() - from)
            } else {
                window
            };
            let all = last && from + window == pending.len();
            let bytes = &pending[from..from + window];
            let decoder = self.packer.decoder();
            let cut = self.rules.cut(bytes, self.run.detail.skipping, all, |bytes| decoder.boundary(bytes));
            let consumed = match cut {
                Cut::More => break,
                Cut::Whole(whole) => {
                    self.pack(whole, whole, observed_us, parcel)?;
                    whole.len()
                }
                Cut::Rewritten { records, consumed, cut, skipping } => {
                    self.run.detail.skipping = skipping;
                    self.count_cut(cut, parcel);
                    self.pack(&bytes[..consumed], &records, observed_us, parcel)?;
                    consumed
                }
                Cut::Skipped { consumed, cut, skipping } => {
                    self.run.detail.skipping = skipping;
                    self.count_cut(cut, parcel);
                    self.pass_over(&bytes[..consumed]);
                    consumed
                }
            };
            from += consumed;
        }
        self.pending = pending;
        self.pending.drain(..from);
        if self.run.offset - self.noted.0 >= QUIET_BYTES {
            self.note(parcel)?;
        }
        Ok(())
    }

    /// Whether a record ends within one batch of bytes.
    fn fits_batch(&self, bytes: &[u8]) -> bool {
        let window = &bytes[..bytes.len().min(BATCH_BYTES)];
        self.packer.decoder().boundary(window) > 0
    }

    /// Makes the position as it stands part of a parcel, without rows.
    fn note(&mut self, parcel: &mut Parcel) -> Result<(), Problem> {
        self.run.detail.content = self.content.save();
        let position = positions_only(&self.run.stream, vec![self.run.position()]);
        parcel.join(position.map_err(|error| failed(&self.run, &error))?);
        self.noted = (self.run.offset, self.run.detail.content.clone());
        Ok(())
    }

    fn count_cut(&mut self, cut: u64, parcel: &mut Parcel) {
        self.run.detail.cut += cut;
        if cut > 0 {
            parcel.tallies.push(Tally { cut, ..Tally::new(&self.run.stream) });
        }
    }

    fn pass_over(&mut self, consumed: &[u8]) {
        self.run.detail.begin_to_grow();
        self.content.update(consumed);
        self.run.offset += consumed.len() as u64;
    }

    fn pack(
        &mut self,
        consumed: &[u8],
        records: &[u8],
        observed_us: i64,
        parcel: &mut Parcel,
    ) -> Result<(), Problem> {
        if self.run.detail.format == "csv" && self.run.detail.header.is_empty() {
            let length = self.packer.decoder().header_length(records);
            self.run.detail.header = String::from_utf8_lossy(&records[..length]).into_owned();
        }
        self.pass_over(consumed);
        self.run.detail.content = self.content.save();
        let resource = serde_json::json!({ "ingest.name": self.run.name }).to_string();
        // A table of data is taken as it is; lines of text are logs.
        let is_log = self.run.detail.format == "text";
        let context = Context { observed_us, resource: is_log.then_some(&*resource), path: None };
        // The position of this batch counts its own rows, which are known only after decoding.
        let packed =
            self.packer.pack(records, &context, vec![]).map_err(|error| failed(&self.run, &error))?;
        let mut packed = packed.parcel;
        self.run.detail.rows += packed.rows();
        self.run.detail.bad += packed.bad();
        if let Some(aap_buffer::Entry::Own { positions, .. }) = packed.entries.last_mut() {
            positions.push(self.run.position());
            self.noted = (self.run.offset, self.run.detail.content.clone());
        }
        parcel.join(packed);
        Ok(())
    }

    fn changed(&self, what: &str) -> Problem {
        content_changed(&self.run.stream, &self.run.name, what)
    }
}

fn failed(run: &Run, error: &(dyn std::error::Error + 'static)) -> Problem {
    let message = format!("`{}` cannot be taken into stream `{}`", run.name, run.stream);
    Problem::new("ingest.decode", ExitCode::Failed, message).caused_by(error)
}

fn damaged(run: &Run) -> Problem {
    let message = format!("what is known of `{}` in stream `{}` is damaged", run.name, run.stream);
    Problem::new("ingest.position_damaged", ExitCode::Failed, message)
        .hint("take it again from the beginning with `--again`")
}

impl Inflate {
    fn new(codec: &str) -> Result<Self, Problem> {
        Ok(match codec {
            "" => Self::Plain,
            "gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "zstd" => {
                let made = zstd::stream::raw::Decoder::new();
                let mut decoder = made.map_err(|error| broken("zstd", &error))?;
                let window = zstd::zstd_safe::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
                decoder.set_parameter(window).map_err(|error| broken("zstd", &error))?;
                Self::Zstd(Box::new(ZstdWriter::new(Vec::new(), decoder)))
            }
            other => {
                let message = format!("codec `{other}` is not known: gzip or zstd");
                return Err(Problem::new("ingest.codec_unknown", ExitCode::Usage, message));
            }
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Plain => Ok(bytes.to_vec()),
            Self::Gzip(decoder) => {
                let written = decoder.write_all(bytes).and_then(|()| decoder.flush());
                written.map_err(|error| broken("gzip", &error))?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Self::Zstd(decoder) => {
                let written = decoder.write_all(bytes).and_then(|()| decoder.flush());
                written.map_err(|error| broken("zstd", &error))?;
                Ok(std::mem::take(decoder.writer_mut()))
            }
        }
    }

    fn finish(&mut self) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Plain => Ok(vec![]),
            Self::Gzip(decoder) => {
                decoder.try_finish().map_err(|error| broken("gzip", &error))?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Self::Zstd(decoder) => {
                decoder.finish().map_err(|error| broken("zstd", &error))?;
                Ok(std::mem::take(decoder.writer_mut()))
            }
        }
    }
}

fn broken(codec: &str, error: &std::io::Error) -> Problem {
    Problem::new("ingest.bad_compression", ExitCode::Failed, format!("the input is not whole {codec} data"))
        .caused_by(error)
        .hint("what was decompressed before is kept; with the repaired file the run continues")
}
