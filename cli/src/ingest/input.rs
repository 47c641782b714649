//! The bytes to be taken, from any durable offset on.
//!
//! A file is read again from wherever the agent says. Stdin and other pipes cannot be: what was read and is not yet durable
//! is kept in memory, so that the run survives a restart of the agent.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;

use aap_types::{ExitCode, Problem};
use bytes::Bytes;
use camino::Utf8PathBuf;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::failure::Failure;

/// One message: large enough that the cost of a message does not show, small enough for prompt progress.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 8;
/// Most of a pipe that is kept for a restart of the agent.
const RETAINED_BYTES_MAX: u64 = 64 << 20;

/// Format and compression of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) format: &'static str,
    pub(crate) codec: &'static str,
}

impl Kind {
    /// As told, else by the name.
    pub(crate) fn of(file: &str, format: Option<&str>, codec: Option<&str>) -> Result<Self, Problem> {
        let lower = file.to_lowercase();
        let (stem, codec_of_name) = match lower.rsplit_once('.') {
            Some((stem, "gz")) => (stem, "gzip"),
            Some((stem, "zst" | "zstd")) => (stem, "zstd"),
            _ => (lower.as_str(), ""),
        };
        let codec = match codec {
            Some("gzip") => "gzip",
            Some("zstd") => "zstd",
            Some(_) => "",
            None => codec_of_name,
        };
        let name = match format {
            Some(format) => format,
            None => stem.rsplit_once('.').map_or("", |(_, extension)| extension),
        };
        let format = match name {
            "ndjson" | "jsonl" | "json" => "ndjson",
            "csv" => "csv",
            "text" | "txt" | "log" => "text",
            "parquet" => "parquet",
            "arrow" | "arrows" | "ipc" => "arrow",
            _ => {
                let message = format!("the format of `{file}` is not clear from its name");
                return Err(Problem::new("ingest.format_unknown", ExitCode::Usage, message)
                    .hint("add `--format` with ndjson, csv, text, parquet or arrow"));
            }
        };
        Ok(Self { format, codec })
    }
}

/// Where the bytes come from.
pub(crate) enum Input {
    File { path: Utf8PathBuf, size: u64, chunks: Option<Chunks> },
    Pipe(Pipe),
}

type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// Stdin, or a pipe with a path: read once, from its beginning to its end. What was read of it may have to be sent again.
pub(crate) struct Pipe {
    from: Origin,
    chunks: Option<Chunks>,
    retained: VecDeque<Bytes>,
    /// Offset of the first retained byte.
    start: u64,
    /// How many retained chunks this connection has sent.
    sent: usize,
}

/// Where a pipe is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Stdin,
    /// One without a name, as the shell's `<(…)` gives it: `/dev/fd/63`.
    Descriptor(Utf8PathBuf),
    /// One in the file system.
    Named(Utf8PathBuf),
}

/// Other names of stdin.
const STDIN_PATHS: [&str; 3] = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

impl Input {
    /// Looks at what `file` is. A pipe is not opened here: that waits for whoever writes it.
    pub(crate) fn open(file: &str) -> Result<Self, Problem> {
        if file == "-" {
            return Ok(Self::Pipe(Pipe::of(Origin::Stdin)));
        }
        let given = Utf8PathBuf::from(file);
        let metadata = std::fs::metadata(&given).map_err(|error| unreadable(&given, &error))?;
        if metadata.file_type().is_fifo() {
            // The name of one that has no name leads nowhere.
            let origin = given.canonicalize_utf8().map_or(Origin::Descriptor(given), Origin::Named);
            return Ok(Self::Pipe(Pipe::of(origin)));
        }
        if STDIN_PATHS.contains(&file) && !metadata.is_file() {
            return Ok(Self::Pipe(Pipe::of(Origin::Stdin)));
        }
        if metadata.is_file() {
            let opened = given.canonicalize_utf8().and_then(|path| {
                let size = File::open(&path)?.metadata()?.len();
                Ok(Self::File { path, size, chunks: None })
            });
            return opened.map_err(|error| unreadable(&given, &error));
        }
        let message = format!("`{given}` is neither a regular file nor a pipe");
        let hint = match metadata.is_dir() {
            true => format!("name a file in it, or pipe them: `cat {given}/* | aap ingest STREAM -`"),
            false => format!("give its content as stdin: `aap ingest STREAM - < {given}`"),
        };
        Err(Problem::new("ingest.not_a_file", ExitCode::Usage, message).hint(hint))
    }

    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::File { size, .. } => Some(*size),
            Self::Pipe(_) => None,
        }
    }

    pub(crate) fn is_replayable(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// The absolute path; for what has none a name that no other run has.
    pub(crate) fn default_name(&self, context: &Context<'_>) -> Result<String, Problem> {
        match self {
            Self::File { path, .. } | Self::Pipe(Pipe { from: Origin::Named(path), .. }) => {
                Ok(path.to_string())
            }
            Self::Pipe(_) => Ok(format!("stdin-{}-{}", context.now_us(), std::process::id())),
        }
    }

    /// Makes the next byte the one at `offset`. The bytes before it must have `digest`.
    pub(crate) async fn position(&mut self, offset: u64, digest: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File { path, size, chunks } => {
                let (path, digest, size) = (path.clone(), digest.to_vec(), *size);
                *chunks = None;
                let file = tokio::task::spawn_blocking(move || checked(path, offset, &digest))
                    .await
                    .map_err(|error| {
                        Problem::new("cli.task", ExitCode::Bug, "reading the file failed").caused_by(&error)
                    })??;
                *chunks = Some(read_ahead(move || Ok(file.take(size.saturating_sub(offset)))));
                Ok(())
            }
            Self::Pipe(pipe) => pipe.position(offset, digest).await,
        }
    }

    /// The next bytes; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self {
            Self::File { path, chunks, .. } => {
                let Some(chunks) = chunks else { return Ok(None) };
                chunks.recv().await.transpose().map_err(|error| unreadable(path, &error))
            }
            Self::Pipe(pipe) => pipe.next().await,
        }
    }

    /// Everything before `offset` is durable.
    pub(crate) fn durable(&mut self, offset: u64) {
        if let Self::Pipe(pipe) = self {
            pipe.forget_before(offset);
        }
    }
}

fn unreadable(path: &Utf8PathBuf, error: &io::Error) -> Problem {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => ExitCode::NotFound,
        io::ErrorKind::PermissionDenied => ExitCode::Denied,
        _ => ExitCode::Failed,
    };
    Problem::new("ingest.unreadable", exit, format!("`{path}` cannot be read"))
        .caused_by(error)
        .hint_command("look at it", format!("ls -l {path}"))
}

/// What was taken under this name before is not what stands there now.
pub(crate) fn changed(what: &str) -> Problem {
    Problem::new(
        "ingest.content_changed",
        ExitCode::Conflict,
        format!("the content differs from what was taken under this name: {what}"),
    )
    .hint("take it again from the beginning with `--again`, or under another `--name`")
}

/// Opens the file at `offset`, having checked what lies before it.
fn checked(path: Utf8PathBuf, offset: u64, digest: &[u8]) -> Result<File, Problem> {
    let mut file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
    let length = file.metadata().map_err(|error| unreadable(&path, &error))?.len();
    if length < offset {
        return Err(changed(&format!("`{path}` has {length} bytes, and {offset} were taken")));
    }
    if offset > 0 {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0u8; 1 << 20];
        let mut rest = (&mut file).take(offset);
        loop {
            match rest.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(&path, &error)),
            };
        }
        if hasher.finalize().as_bytes() != digest {
            return Err(changed(&format!("the first {offset} bytes of `{path}` are others")));
        }
    }
    file.seek(SeekFrom::Start(offset)).map_err(|error| unreadable(&path, &error))?;
    Ok(file)
}

/// Reads in a thread of its own, some chunks ahead. The thread ends when nobody takes its chunks.
fn read_ahead<R: Read>(open: impl FnOnce() -> io::Result<R> + Send + 'static) -> Chunks {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        let mut source = match open() {
            Ok(source) => source,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        loop {
            match read_chunk(&mut source) {
                Ok(chunk) if chunk.is_empty() => return,
                Ok(chunk) => {
                    if sender.blocking_send(Ok(chunk)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Nobody takes it: then nobody cares.
                    let _ignored = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    receiver
}

/// What is there, up to a chunk. A pipe gives what it has at once, so that slow input still flows.
fn read_chunk(source: &mut impl Read) -> io::Result<Bytes> {
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(read) => {
                buffer.truncate(read);
                return Ok(buffer.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::Descriptor(path) | Self::Named(path) => write!(f, "`{path}`"),
        }
    }
}

impl Pipe {
    fn of(from: Origin) -> Self {
        Self { from, chunks: None, retained: VecDeque::new(), start: 0, sent: 0 }
    }

    fn begin(&self) -> Chunks {
        match self.from.clone() {
            Origin::Stdin => read_ahead(|| Ok(io::stdin())),
            Origin::Descriptor(path) | Origin::Named(path) => read_ahead(move || File::open(path)),
        }
    }

    async fn position(&mut self, offset: u64, digest: &[u8]) -> Result<(), Failure> {
        if self.chunks.is_none() {
            self.chunks = Some(self.begin());
            return self.skip_known(offset, digest).await;
        }
        self.forget_before(offset);
        if offset != self.start {
            let message = format!("{} cannot be read again from byte {offset}", self.from);
            return Err(Problem::new("ingest.stdin_lost", ExitCode::Failed, message)
                .cause("the agent went back further than what is kept of it")
                .hint("ingest from a file: it can be read again from anywhere")
                .into());
        }
        self.sent = 0;
        Ok(())
    }

    /// Passes over what an earlier run under the same name made durable.
    async fn skip_known(&mut self, offset: u64, digest: &[u8]) -> Result<(), Failure> {
        let mut hasher = blake3::Hasher::new();
        while self.start < offset {
            let Some(mut chunk) = self.read().await? else {
                return Err(changed(&format!(
                    "{} ended after {} bytes, and {offset} were taken",
                    self.from, self.start
                ))
                .into());
            };
            let known = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(chunk.len());
            hasher.update(&chunk.split_to(known));
            self.start += known as u64;
            if !chunk.is_empty() {
                self.retained.push_back(chunk);
            }
        }
        if offset > 0 && hasher.finalize().as_bytes() != digest {
            return Err(changed(&format!("the first {offset} bytes of {} are others", self.from)).into());
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.sent == self.retained.len() {
            let Some(chunk) = self.read().await? else { return Ok(None) };
            self.retained.push_back(chunk);
        }
        let chunk = self.retained[self.sent].clone();
        self.sent += 1;
        self.bound();
        Ok(Some(chunk))
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(chunks) = &mut self.chunks else { return Ok(None) };
        chunks.recv().await.transpose().map_err(|error| {
            let message = format!("{} cannot be read", self.from);
            Problem::new("ingest.unreadable", ExitCode::Failed, message).caused_by(&error)
        })
    }

    fn forget_before(&mut self, offset: u64) {
        while self.start < offset {
            let Some(first) = self.retained.front_mut() else { return };
            let known = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
            if known < first.len() {
                // Only part of it is durable: the rest keeps its place.
                let _durable = first.split_to(known);
                self.start += known as u64;
                return;
            }
            self.start += first.len() as u64;
            self.retained.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }

    /// Lets go of the oldest that was sent, durable or not, when too much is kept.
    fn bound(&mut self) {
        let mut kept: u64 = self.retained.iter().map(|chunk| chunk.len() as u64).sum();
        while kept > RETAINED_BYTES_MAX && self.sent > 0 {
            let Some(first) = self.retained.pop_front() else { return };
            kept -= first.len() as u64;
            self.start += first.len() as u64;
            self.sent -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_known_by_the_name_or_asked_for() {
        for (file, format, codec) in [
            ("a.ndjson", "ndjson", ""),
            ("A.JSONL.GZ", "ndjson", "gzip"),
            ("x.json", "ndjson", ""),
            ("x.csv.zst", "csv", "zstd"),
            ("/var/log/x.log", "text", ""),
            ("x.parquet", "parquet", ""),
            ("x.arrow", "arrow", ""),
        ] {
            assert_eq!(Kind::of(file, None, None), Ok(Kind { format, codec }), "{file}");
        }
        assert_eq!(Kind::of("x", None, None).unwrap_err().exit, ExitCode::Usage);
        assert_eq!(Kind::of("x.bin", Some("csv"), Some("gzip")), Ok(Kind { format: "csv", codec: "gzip" }));
        assert_eq!(Kind::of("x.csv.gz", None, Some("none")), Ok(Kind { format: "csv", codec: "" }));
    }

    #[tokio::test]
    async fn a_pipe_is_read_once_and_opening_it_waits_for_its_writer_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("pipe")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.as_str(), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let mut input = Input::open(path.as_str()).unwrap();
        assert_eq!((input.size(), input.is_replayable()), (None, false));
        let Input::Pipe(pipe) = &input else { panic!("not a pipe") };
        assert_eq!(pipe.from, Origin::Named(path.canonicalize_utf8().unwrap()));
        input.position(0, &[]).await.unwrap_or_else(|_| panic!("nothing to look for"));
        // Only now somebody writes.
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "one\ntwo\n").unwrap()
        });
        let mut content = Vec::new();
        while let Some(chunk) = input.next().await.unwrap() {
            content.extend_from_slice(&chunk);
        }
        writer.join().unwrap();
        assert_eq!(content, b"one\ntwo\n");
    }

    #[test]
    fn a_pipe_without_a_name_is_one_however_its_descriptor_is_written() {
        let (reader, _writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let Input::Pipe(pipe) = Input::open(&path).unwrap() else { panic!("not a pipe") };
        assert_eq!(pipe.from, Origin::Descriptor(path.into()));
        for other in ["/", "/dev/null"] {
            let problem = Input::open(other).err().unwrap();
            assert_eq!((problem.code.as_str(), problem.exit), ("ingest.not_a_file", ExitCode::Usage));
        }
    }

    #[tokio::test]
    async fn what_is_not_durable_of_stdin_is_sent_again() {
        let (sender, receiver) = mpsc::channel(8);
        for text in ["abc", "defg", "hi"] {
            sender.send(Ok(Bytes::from_static(text.as_bytes()))).await.unwrap();
        }
        drop(sender);
        let mut stdin = Pipe { chunks: Some(receiver), ..Pipe::of(Origin::Stdin) };
        assert_eq!(stdin.next().await.unwrap().unwrap(), "abc");
        assert_eq!(stdin.next().await.unwrap().unwrap(), "defg");
        stdin.forget_before(4);
        assert!(stdin.position(4, &[]).await.is_ok());
        assert_eq!(stdin.next().await.unwrap().unwrap(), "efg");
        assert_eq!(stdin.next().await.unwrap().unwrap(), "hi");
        assert_eq!(stdin.next().await.unwrap(), None);
        assert!(stdin.position(2, &[]).await.is_err());
    }
}
