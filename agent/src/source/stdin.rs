//! Standard input: lines, unacknowledged. Once from the moment they are durable; a full buffer makes the writer wait.
//!
//! At a stop, what the writer has written is still taken, its last line also without a line end.

use aap_runtime::Shutdown;
use aap_types::StreamName;
use memchr::memrchr;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{SourceDeps, SourceError, lines};
use crate::config::StdinSpec;
use crate::formats::Recipe;
use crate::records::{Cut, Rules};

/// One read.
const READ_BYTES: usize = 64 << 10;
/// A line is cut at this length; the rest is counted.
const LINE_BYTES_MAX: usize = 1 << 20;
/// A writer that writes nothing for so long has written what it had when the stop came.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Reads until the input ends or the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: StdinSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let (pieces, queue) = lines::feed();
    let recipe = Recipe::new(spec.format, spec.pattern.clone(), spec.timestamp.clone(), false);
    let reading = read(tokio::io::stdin(), pieces, deps.clone(), spec.stream.clone(), shutdown);
    let storing = lines::run(spec.stream, name, recipe, deps, queue);
    let (stored, read) = tokio::join!(storing, reading);
    stored.and(read)
}

/// Sends whole lines of any input; what is left at the end is a line too.
pub(super) async fn read(
    mut input: impl AsyncRead + Unpin,
    pieces: lines::Pieces,
    deps: SourceDeps,
    stream: StreamName,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let rules = Rules::new(None, LINE_BYTES_MAX).map_err(|error| SourceError::Config(error.to_string()))?;
    let mut lines = Lines { rules, pending: Vec::with_capacity(READ_BYTES), skipping: false, cut: 0 };
    let mut deadline = None;
    loop {
        lines.pending.reserve(READ_BYTES);
        let read = match deadline {
            None => tokio::select! {
                read = input.read_buf(&mut lines.pending) => read,
                () = shutdown.requested() => {
                    deadline = Some(tokio::time::Instant::now() + lines::DRAIN);
                    continue;
                }
            },
            Some(deadline) => {
                let until = deadline.min(tokio::time::Instant::now() + PAUSE);
                let reading = tokio::time::timeout_at(until, input.read_buf(&mut lines.pending));
                reading.await.unwrap_or(Ok(0))
            }
        };
        let failure = read.as_ref().err().map(|error| std::io::Error::new(error.kind(), error.to_string()));
        let is_end = read.unwrap_or(0) == 0;
        while let Some(piece) = lines.next(is_end) {
            if !piece.is_empty() && pieces.send(piece).await.is_err() {
                return Ok(());
            }
        }
        if lines.cut > 0 {
            let cut = std::mem::take(&mut lines.cut);
            deps.ingress.counters.count(&stream, |count| count.bytes_cut += cut);
        }
        match failure {
            Some(failure) => return Err(SourceError::io("read lines")(failure)),
            None if is_end => return Ok(()),
            None => {}
        }
    }
}

/// Finds lines in what was read.
struct Lines {
    rules: Rules,
    pending: Vec<u8>,
    skipping: bool,
    cut: u64,
}

impl Lines {
    /// The next whole lines; `None` when more must be read first.
    fn next(&mut self, is_end: bool) -> Option<Vec<u8>> {
        let lines = |bytes: &[u8]| memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        let (piece, consumed) = match self.rules.cut(&self.pending, self.skipping, is_end, lines) {
            Cut::More => return None,
            Cut::Whole(whole) => {
                let length = whole.len();
                let rest = self.pending.split_off(length);
                return Some(std::mem::replace(&mut self.pending, rest));
            }
            Cut::Rewritten { records, consumed, cut, skipping } => {
                (self.cut, self.skipping) = (self.cut + cut, skipping);
                (records, consumed)
            }
            Cut::Skipped { consumed, cut, skipping } => {
                (self.cut, self.skipping) = (self.cut + cut, skipping);
                (vec![], consumed)
            }
        };
        self.pending.drain(..consumed);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::testing::Rig;

    async fn check(rig: &Rig, shutdown: &Shutdown, input: impl AsyncRead + Unpin) {
        let (pieces, queue) = lines::feed();
        let stream: StreamName = "lines".parse().unwrap();
        let recipe = Recipe::new(crate::config::FormatSpec::Text, None, None, false);
        let storing = lines::run(stream.clone(), "stdin".into(), recipe, rig.deps.clone(), queue);
        let reading = read(input, pieces, rig.deps.clone(), stream, shutdown.clone());
        let (stored, read) = tokio::join!(storing, reading);
        stored.and(read).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_beyond_the_limit_is_one_row_and_its_excess_is_counted() {
        let rig = Rig::new();
        let input = [b"first\n", &*vec![b'x'; LINE_BYTES_MAX + 7], b"\nlast"].concat();
        check(&rig, &Shutdown::default(), &*input).await;
        let lengths: Vec<usize> = rig.texts("lines", "body").iter().map(String::len).collect();
        assert_eq!(lengths, [5, LINE_BYTES_MAX, 4]);
        let stream: StreamName = "lines".parse().unwrap();
        assert_eq!(rig.deps.ingress.counters.snapshot()[&stream].bytes_cut, 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_written_before_a_stop_is_stored_also_a_line_without_its_end() {
        let rig = Rig::new();
        let (mut writer, reader) = tokio::io::duplex(1 << 20);
        let shutdown = Shutdown::default();
        let writing = async {
            writer.write_all(b"one\ntwo\nthr").await.unwrap();
            shutdown.request();
            writer.write_all(b"ee").await.unwrap();
            // The writer stays: its end is not what ends the source.
            tokio::time::sleep(Duration::from_secs(3)).await;
        };
        tokio::select! {
            () = check(&rig, &shutdown, reader) => {}
            () = writing => panic!("the source did not stop"),
        }
        assert_eq!(rig.texts("lines", "body"), ["one", "two", "three"]);
    }
}
