//! The bytes of one open file: as they are, or decompressed. Opened without waiting and without following surprises.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::{Mode, OFlags};

use super::identity::{Content, PRINT_BYTES, Stat, stat};

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
    /// The first bytes of the content, at most 1 KiB.
    pub(super) fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; PRINT_BYTES];
        let length = match self.codec {
            Codec::Plain => read_up_to(self.file, &mut head, 0)?,
            codec => fill(&mut decompress(self.file, codec)?, &mut head)?,
        };
        head.truncate(length);
        Ok(head)
    }
}

impl Content for Peek<'_> {
    fn bytes(&self, from: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = match self.codec {
            Codec::Plain => read_up_to(self.file, &mut bytes, from).ok()?,
            codec => {
                let mut content = decompress(self.file, codec).ok()?;
                let skipped = io::copy(&mut content.by_ref().take(from), &mut io::sink()).ok()?;
                if skipped < from {
                    return None;
                }
                fill(&mut content, &mut bytes).ok()?
            }
        };
        (read == length).then_some(bytes)
    }
}

/// Fills `into` as far as `content` goes.
fn fill(content: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match content.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What is there counts; the rest of an unfinished archive comes later.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
