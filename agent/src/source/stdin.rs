//! Standard input: lines, unacknowledged. Once from the moment they are durable; a full buffer makes the writer wait.

use aap_runtime::Shutdown;
use memchr::memrchr;
use tokio::io::AsyncReadExt;

use super::{SourceDeps, SourceError, lines};
use crate::config::StdinSpec;
use crate::formats::Recipe;

/// One read.
const READ_BYTES: usize = 64 << 10;
/// A line is cut at this length.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Reads until the input ends or the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: StdinSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let (pieces, queue) = lines::feed();
    let recipe = Recipe::new(spec.format, spec.pattern.clone(), spec.timestamp.clone(), false);
    let storing = lines::run(spec.stream.clone(), name, recipe, deps, queue, shutdown.clone());
    let reading = read(pieces, shutdown);
    let (stored, read) = tokio::join!(storing, reading);
    stored.and(read)
}

/// Sends whole lines; what is left at the end is a line too.
async fn read(pieces: lines::Pieces, shutdown: Shutdown) -> Result<(), SourceError> {
    let mut input = tokio::io::stdin();
    let mut pending: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        pending.reserve(READ_BYTES);
        let read = tokio::select! {
            read = input.read_buf(&mut pending) => read,
            () = shutdown.requested() => return Ok(()),
        };
        let read = read.map_err(SourceError::io("read standard input"))?;
        let whole = match memrchr(b'\n', &pending) {
            _ if read == 0 => pending.len(),
            Some(end) => end + 1,
            None if pending.len() >= LINE_BYTES_MAX => pending.len(),
            None => 0,
        };
        let rest = pending.split_off(whole);
        let piece = std::mem::replace(&mut pending, rest);
        if !piece.is_empty() && pieces.send(piece).await.is_err() {
            return Ok(());
        }
        if read == 0 {
            return Ok(());
        }
    }
}
