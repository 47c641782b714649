//! The bytes of one open file: as they are, or decompressed. Opened without waiting and without following surprises.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::{Mode, OFlags};

use super::identity::{Content, PRINT_BYTES, Piece, Stat, stat};

/// zstd frames that ask for a larger window are refused: 2^27 = 128 MiB, what the zstd tool accepts by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a file's content is stored, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// As it is; it may grow.
    Plain,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

/// Opens a regular file for reading. Never waits, as opening a pipe would.
pub(super) fn open(path: &Path) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = stat(&file)?;
    if !stat.regular {
        return Err(io::Error::other("not a regular file"));
    }
    Ok((file, stat))
}

/// Recognises the codec. `None` while too little is there to tell.
pub(super) fn codec(file: &File) -> io::Result<Option<Codec>> {
    let mut magic = [0; 4];
    let length = read_up_to(file, &mut magic, 0)?;
    Ok(match &magic[..length] {
        [] => None,
        [0x1f, 0x8b, ..] => Some(Codec::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd] => Some(Codec::Zstd),
        [0x1f] | [0x28] | [0x28, 0xb5] | [0x28, 0xb5, 0x2f] => None,
        _ => Some(Codec::Plain),
    })
}

/// A reader of the content from its beginning.
pub(super) fn decompress(file: &File, codec: Codec) -> io::Result<Box<dyn Read + Send + Sync>> {
    let source = Positioned { file: file.try_clone()?, at: 0 };
    Ok(match codec {
        Codec::Plain => Box::new(source),
        Codec::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 << 10, source))),
        Codec::Zstd => {
            let mut decoder = zstd::Decoder::new(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// Reads by position, so that no two readers of one descriptor disturb each other.
#[derive(Debug)]
struct Positioned {
    file: File,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Fills `into` from `from` on as far as the file goes.
pub(super) fn read_up_to(file: &File, into: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The content of an open file, for recognising it.
#[derive(Debug)]
pub(super) struct Peek<'a> {
    /// The file.
    pub(super) file: &'a File,
    /// How it is stored.
    pub(super) codec: Codec,
}

impl Peek<'_> {
    /// The first bytes of the content, at most `length`.
    pub(super) fn head(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut head = vec![0; length];
        let length = match self.codec {
            Codec::Plain => read_up_to(self.file, &mut head, 0)?,
            codec => fill(&mut decompress(self.file, codec)?, &mut head)?,
        };
        head.truncate(length);
        Ok(head)
    }
}

impl Content for Peek<'_> {
    fn ranges(&self, ranges: &[(u64, usize)]) -> io::Result<Vec<Piece>> {
        if self.codec == Codec::Plain {
            return ranges.iter().map(|(from, length)| self.plain(*from, *length)).collect();
        }
        let mut content = Forward { content: decompress(self.file, self.codec)?, at: 0, last: vec![] };
        ranges.iter().map(|(from, length)| content.range(*from, *length)).collect()
    }
}

impl Peek<'_> {
    fn plain(&self, from: u64, length: usize) -> io::Result<Piece> {
        let size = stat(self.file)?.stamp.size;
        let is_whole = size >= from + length as u64;
        let start = if is_whole { from } else { size.saturating_sub(PRINT_BYTES as u64) };
        let wanted = if is_whole { length } else { usize::try_from(size - start).unwrap_or(0) };
        let mut bytes = vec![0; wanted];
        let read = read_up_to(self.file, &mut bytes, start)?;
        bytes.truncate(read);
        let is_whole = is_whole && read == length;
        Ok(if is_whole { Piece::Whole(bytes) } else { Piece::EndsAt(start + read as u64, bytes) })
    }
}

/// Goes through decompressed content once, keeping what two ranges may share.
struct Forward {
    content: Box<dyn Read + Send + Sync>,
    at: u64,
    /// The last bytes before `at`, at most [`PRINT_BYTES`].
    last: Vec<u8>,
}

impl Forward {
    fn range(&mut self, from: u64, length: usize) -> io::Result<Piece> {
        let end = from + length as u64;
        let mut chunk = vec![0; 64 << 10];
        while self.at < end {
            let wanted = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(chunk.len());
            let (read, _) = read_fully(&mut self.content, &mut chunk[..wanted])?;
            self.at += read as u64;
            self.last.extend_from_slice(&chunk[..read]);
            let excess = self.last.len().saturating_sub(PRINT_BYTES);
            self.last.drain(..excess);
            if read < wanted {
                return Ok(Piece::EndsAt(self.at, self.last.clone()));
            }
        }
        // Ranges are sorted by their ends, so `at` is `end`.
        let skip = self.last.len().saturating_sub(length);
        Ok(Piece::Whole(self.last[skip..].to_vec()))
    }
}

/// How the content of an archive ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentEnd {
    /// As it should.
    Clean,
    /// Too early: it may be unfinished.
    Early,
    /// With something that is not an archive.
    Damaged(String),
}

impl ContentEnd {
    /// Why it is not clean.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Self::Clean => None,
            Self::Early => Some("it ends before its end".to_owned()),
            Self::Damaged(reason) => Some(reason.clone()),
        }
    }
}

/// Reads until `into` is full or the content ends.
pub(super) fn read_fully(
    content: &mut impl Read,
    into: &mut [u8],
) -> io::Result<(usize, Option<ContentEnd>)> {
    let mut filled = 0;
    while filled < into.len() {
        match content.read(&mut into[filled..]) {
            Ok(0) => return Ok((filled, Some(ContentEnd::Clean))),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The disk failed, not the decompressor.
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok((filled, Some(ContentEnd::Early)));
            }
            Err(error) => return Ok((filled, Some(ContentEnd::Damaged(error.to_string())))),
        }
    }
    Ok((filled, None))
}

/// Fills `into` as far as `content` goes. An archive that cannot be read at all is an error.
fn fill(content: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let (filled, end) = read_fully(content, into)?;
    match end {
        Some(ContentEnd::Damaged(reason)) if filled == 0 => Err(io::Error::other(reason)),
        _ => Ok(filled),
    }
}
