//! Lines of an ingest run: decompress, cut into records, decode, seal, and note the position of every batch.

use std::io::Write;

use aap_decode::Context;
use aap_types::{ExitCode, Problem};
use flate2::write::MultiGzDecoder;

use super::digest::PrefixDigest;
use super::run::{Run, Whole, content_changed};
use crate::formats::first_line;
use crate::ingress::{BATCH_BYTES, Packer, Parcel, positions_only};
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
    /// Content that is durable already and passes again.
    passing: Option<Passing>,
    /// Content not cut yet: it begins at the run's offset.
    pending: Vec<u8>,
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
            passing: None,
            pending: vec![],
            run,
        };
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
            Inflate::Plain => self.content.save().unit_end(),
            _ => 0,
        }
    }

    /// Takes the next bytes of the input.
    pub(super) fn take(&mut self, bytes: &[u8], observed_us: i64) -> Result<Parcel, Problem> {
        let mut parcel = Parcel::default();
        self.input_bytes += bytes.len() as u64;
        match &self.inflate {
            Inflate::Plain => self.content_came(bytes, observed_us, &mut parcel)?,
            _ => {
                self.input.update(bytes);
                for slice in bytes.chunks(SLICE_BYTES) {
                    let content = self.inflate.push(slice)?;
                    self.content_came(&content, observed_us, &mut parcel)?;
                }
            }
        }
        Ok(parcel)
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
        if self.passing.is_some() {
            return Err(self.changed("it is shorter"));
        }
        self.cut(observed_us, 0, true, &mut parcel)?;
        let digest = match self.inflate {
            Inflate::Plain => self.content.finish(),
            _ => *self.input.finalize().as_bytes(),
        };
        self.run.detail.complete = true;
        self.run.detail.input = Some(Whole::new(self.input_bytes, &digest));
        let done = positions_only(&self.run.stream, vec![self.run.position()]);
        parcel.join(done.map_err(|error| failed(&self.run, &error))?);
        Ok(parcel)
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
            self.passing = None;
            if self.content.save() != self.run.detail.content {
                return Err(self.changed("its beginning is another"));
            }
        }
        self.pending.extend_from_slice(content);
        self.cut(observed_us, BATCH_BYTES, false, parcel)
    }

    /// Cuts batches off while more than `keep` bytes wait.
    fn cut(&mut self, observed_us: i64, keep: usize, last: bool, parcel: &mut Parcel) -> Result<(), Problem> {
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
                Cut::Rewritten { records, consumed, skipping, .. } => {
                    self.run.detail.skipping = skipping;
                    self.pack(&bytes[..consumed], &records, observed_us, parcel)?;
                    consumed
                }
                Cut::Skipped { consumed, skipping, .. } => {
                    self.run.detail.skipping = skipping;
                    self.pass_over(&bytes[..consumed]);
                    consumed
                }
            };
            from += consumed;
        }
        self.pending = pending;
        self.pending.drain(..from);
        Ok(())
    }

    /// Whether a record ends within one batch of bytes.
    fn fits_batch(&self, bytes: &[u8]) -> bool {
        let window = &bytes[..bytes.len().min(BATCH_BYTES)];
        self.packer.decoder().boundary(window) > 0
    }

    fn pass_over(&mut self, consumed: &[u8]) {
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
        if self.run.offset == 0 && self.run.detail.format == "csv" {
            self.run.detail.header = String::from_utf8_lossy(&records[..first_line(records)]).into_owned();
        }
        self.pass_over(consumed);
        self.run.detail.content = self.content.save();
        let resource = serde_json::json!({ "ingest.name": self.run.name }).to_string();
        let context = Context { observed_us, resource: Some(&resource), path: None };
        // The position of this batch counts its own rows, which are known only after decoding.
        let packed =
            self.packer.pack(records, &context, vec![]).map_err(|error| failed(&self.run, &error))?;
        let mut packed = packed.parcel;
        self.run.detail.rows += packed.rows();
        self.run.detail.bad += packed.bad();
        if let Some(aap_buffer::Entry::Own { positions, .. }) = packed.entries.last_mut() {
            positions.push(self.run.position());
        }
        parcel.join(packed);
        Ok(())
    }

    fn changed(&self, what: &str) -> Problem {
        content_changed(&self.run.stream, &self.run.name, what)
    }
}

fn failed(run: &Run, error: &crate::ingress::IngressError) -> Problem {
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
