//! What the sources share that cannot be asked to send again: bytes come in, are sealed in batches, and counted.
//!
//! A feed has one batch under way and gathers the next meanwhile. When it has gathered more than a few megabytes it
//! does not take more: a pipe or a TCP peer then waits; datagrams stay in the kernel's queue, which counts what it drops.

use std::time::Duration;

use aap_decode::Context;
use aap_runtime::Shutdown;
use aap_types::StreamName;
use tokio::sync::mpsc;

use super::SourceDeps;
use crate::formats::Recipe;
use crate::ingress::{BATCH_BYTES, Packer};
use crate::source::SourceError;

/// Pieces of at most 64 KiB that wait for the feed: some 4 MiB.
const PIECES: usize = 64;
/// A batch is sealed when nothing came for this long.
const LINGER: Duration = Duration::from_millis(10);
/// Between attempts to store a batch.
const RETRY: Duration = Duration::from_millis(500);

/// Where receivers put whole records, each with its line end.
pub(super) type Pieces = mpsc::Sender<Vec<u8>>;

/// Makes the way from receivers to the buffer. `run` it beside them; it ends when all senders are gone, or at a stop.
pub(super) fn feed() -> (Pieces, mpsc::Receiver<Vec<u8>>) {
    mpsc::channel(PIECES)
}

/// Stores what comes until nobody can send any more. On a stop it still stores what is in the queue.
pub(super) async fn run(
    stream: StreamName,
    source: String,
    recipe: Recipe,
    deps: SourceDeps,
    mut pieces: mpsc::Receiver<Vec<u8>>,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let mut packer: Option<Box<Packer>> = None;
    let resource = serde_json::json!({ "source.name": source }).to_string();
    loop {
        let first = tokio::select! {
            piece = pieces.recv() => piece,
            () = shutdown.requested() => pieces.try_recv().ok(),
        };
        let Some(mut bytes) = first else { return Ok(()) };
        while bytes.len() < BATCH_BYTES {
            match tokio::time::timeout(LINGER, pieces.recv()).await {
                Ok(Some(more)) => bytes.extend_from_slice(&more),
                Ok(None) | Err(_) => break,
            }
        }
        let ready = match packer.take() {
            Some(packer) => packer,
            None => {
                let (decoder, _) =
                    recipe.build(&bytes).map_err(|error| SourceError::Config(error.to_string()))?;
                Box::new(Packer::new(stream.clone(), source.clone(), decoder))
            }
        };
        packer = store(ready, bytes, &resource, &deps, &source).await;
    }
}

/// Decodes and appends, again and again until it is durable: nobody can send these bytes a second time.
async fn store(
    mut packer: Box<Packer>,
    bytes: Vec<u8>,
    resource: &str,
    deps: &SourceDeps,
    source: &str,
) -> Option<Box<Packer>> {
    let (observed_us, resource) = (deps.ingress.clock.unix_us(), resource.to_owned());
    let permit = deps.decoding.clone().acquire_owned().await.ok()?;
    let packing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let context = Context { observed_us, resource: Some(&resource), path: None };
        let packed = packer.pack(&bytes, &context, vec![]);
        (packer, packed)
    });
    let (packer, packed) = packing.await.ok()?;
    let parcel = match packed {
        Ok(packed) => packed.parcel,
        Err(error) => {
            deps.board.source_problem(source, "decode", Some(error.to_string()));
            return Some(packer);
        }
    };
    let mut failed = false;
    while !parcel.is_empty() {
        match deps.ingress.append(parcel.clone()).await {
            Ok(_) => break,
            Err(crate::ingress::IngressError::Append(aap_buffer::Error::Closed)) => break,
            Err(error) => {
                failed = true;
                deps.board.source_problem(source, "store", Some(format!("rows wait: {error}")));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    if failed {
        deps.board.source_problem(source, "store", None);
    }
    Some(packer)
}
