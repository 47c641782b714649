//! What the sources share that cannot be asked to send again: bytes come in, are sealed in batches, and counted.
//!
//! A feed has one batch under way and gathers the next meanwhile. When it has gathered more than a few megabytes it
//! does not take more: a pipe or a TCP peer then waits; datagrams stay in the kernel's queue, which counts what it drops.
//!
//! At a stop the receivers take what has come and let go of their senders; the feed ends when the last of them is gone and
//! everything is stored. What cannot be decoded is kept as dead letters, and what cannot be kept at all is counted.

use std::time::Duration;

use aap_decode::Context;
use aap_types::StreamName;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::SourceDeps;
use crate::counters::DropReason;
use crate::formats::Recipe;
use crate::ingress::{BATCH_BYTES, IngressError, Packer, Parcel};
use crate::source::SourceError;

/// Pieces of at most 64 KiB that wait for the feed: some 4 MiB.
const PIECES: usize = 64;
/// A batch is sealed this long after its first piece came, however many follow: the promise of "once from the moment it
/// is durable" is worth as much as that moment is near.
const LINGER: Duration = Duration::from_millis(20);
/// Between attempts to store a batch.
const RETRY: Duration = Duration::from_millis(500);
/// How long a receiver that was asked to stop takes what still comes from a sender that never pauses.
pub(super) const DRAIN: Duration = Duration::from_secs(1);

/// Where receivers put whole records, each with its line end.
pub(super) type Pieces = mpsc::Sender<Vec<u8>>;

/// Makes the way from receivers to the buffer. `run` it beside them; it ends when all senders are gone.
pub(super) fn feed() -> (Pieces, mpsc::Receiver<Vec<u8>>) {
    mpsc::channel(PIECES)
}

/// Stores what comes until nobody can send any more.
pub(super) async fn run(
    stream: StreamName,
    source: String,
    recipe: Recipe,
    deps: SourceDeps,
    mut pieces: mpsc::Receiver<Vec<u8>>,
) -> Result<(), SourceError> {
    let mut packer: Option<Box<Packer>> = None;
    let resource = serde_json::json!({ "source.name": source }).to_string();
    while let Some(bytes) = gather(&mut pieces).await {
        let ready = match packer.take() {
            Some(packer) => packer,
            None => {
                let (decoder, _) =
                    recipe.build(&bytes).map_err(|error| SourceError::Config(error.to_string()))?;
                let packer = Packer::new(stream.clone(), source.clone(), decoder);
                Box::new(packer.joining_lines(recipe.joins_lines()))
            }
        };
        packer = store(ready, bytes, &resource, &deps, &source, &stream).await;
    }
    Ok(())
}

/// The pieces of the next batch, `None` when nobody can send any more.
async fn gather(pieces: &mut mpsc::Receiver<Vec<u8>>) -> Option<Vec<u8>> {
    let mut bytes = pieces.recv().await?;
    let deadline = Instant::now() + LINGER;
    while bytes.len() < BATCH_BYTES {
        match tokio::time::timeout_at(deadline, pieces.recv()).await {
            Ok(Some(more)) => bytes.extend_from_slice(&more),
            Ok(None) | Err(_) => break,
        }
    }
    Some(bytes)
}

/// Decodes and appends, again and again until it is durable: nobody can send these bytes a second time.
async fn store(
    mut packer: Box<Packer>,
    bytes: Vec<u8>,
    resource: &str,
    deps: &SourceDeps,
    source: &str,
    stream: &StreamName,
) -> Option<Box<Packer>> {
    let (observed_us, resource) = (deps.ingress.clock.unix_us(), resource.to_owned());
    let lines = memchr::memchr_iter(b'\n', &bytes).count() as u64;
    let permit = deps.decoding.clone().acquire_owned().await.ok()?;
    let packing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let packed = pack(&mut packer, &bytes, &resource, observed_us);
        (packer, packed)
    });
    let Ok((packer, packed)) = packing.await else {
        drop_rows(deps, stream, lines, "decoding failed unexpectedly");
        return None;
    };
    let (parcel, problem) = match packed {
        Ok((parcel, problem)) => (parcel, problem),
        Err(error) => {
            drop_rows(deps, stream, lines, &error.to_string());
            (Parcel::default(), Some(error))
        }
    };
    deps.board.source_problem(source, "decode", problem.map(|error| text(&error)));
    let mut failed = false;
    while !parcel.is_empty() {
        match deps.ingress.append(parcel.clone()).await {
            Ok(_) => break,
            Err(IngressError::Append(error)) if error.retry() == aap_buffer::Retry::No => {
                drop_rows(deps, stream, parcel.rows() + parcel.bad(), &error.to_string());
                break;
            }
            Err(error) => {
                failed = true;
                deps.board.source_problem(source, "store", Some(format!("rows wait: {}", text(&error))));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    if failed {
        deps.board.source_problem(source, "store", None);
    }
    Some(packer)
}

/// Rows of a batch, or its lines as dead letters and why.
fn pack(
    packer: &mut Packer,
    bytes: &[u8],
    resource: &str,
    observed_us: i64,
) -> Result<(Parcel, Option<IngressError>), IngressError> {
    let context = Context { observed_us, resource: Some(resource), path: None };
    match packer.pack(bytes, &context, vec![]) {
        Ok(packed) => Ok((packed.parcel, None)),
        Err(error) => Ok((packer.refuse(bytes, observed_us, &text(&error))?, Some(error))),
    }
}

/// Counts rows that are lost.
fn drop_rows(deps: &SourceDeps, stream: &StreamName, rows: u64, why: &str) {
    tracing::warn!(%stream, rows, why, "rows of an unacknowledged source are lost; they are counted");
    deps.ingress.counters.count(stream, |count| {
        count.rows_read += rows;
        *count.rows_dropped.entry(DropReason::NotStored).or_default() += rows;
    });
}

/// An error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_sealed_soon_after_its_first_piece_however_many_follow() {
        let (sender, mut pieces) = feed();
        #[expect(clippy::disallowed_methods, reason = "ends when the receiver goes")]
        tokio::spawn(async move {
            while sender.send(b"a line\n".to_vec()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let start = Instant::now();
        let bytes = gather(&mut pieces).await.unwrap();
        // Far less than a minute, which is what it takes to gather a whole batch of such lines; this machine may be busy.
        assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(bytes.len() < BATCH_BYTES);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn lines_that_cannot_be_decoded_become_dead_letters() {
        let rig = crate::testing::Rig::new();
        let (sender, pieces) = feed();
        let header = format!("{}\n1\n2\n", "n".repeat(600));
        sender.send(header.into_bytes()).await.unwrap();
        drop(sender);
        let recipe = Recipe::new(crate::config::FormatSpec::Csv, None, None, false);
        let stream: StreamName = "events".parse().unwrap();
        run(stream.clone(), "s".into(), recipe, rig.deps.clone(), pieces).await.unwrap();
        assert_eq!(rig.texts("events.dead", "text")[1..], ["1", "2"]);
        let count = rig.deps.ingress.counters.snapshot()[&stream].clone();
        assert_eq!((count.rows_read, count.rows_durable, count.rows_dropped_total()), (3, 0, 3));
    }
}
