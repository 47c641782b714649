//! The ledger of sinks whose server keeps none, in the metadata store.

use std::sync::Arc;

use aap_sinks::{Entry, Failure, FailureKind, Ledger, Range};
use aap_store::ResourceStore;
use aap_types::{ExitCode, Problem, Sequence, StreamKey};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::store_problem;

/// The ledger of one sink.
#[derive(Debug)]
pub(crate) struct StoreLedger {
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) uid: String,
}

/// An entry as it is stored, beside its version.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    positions: Vec<(StreamKey, Sequence)>,
    #[serde(default)]
    intent: Vec<Range>,
}

impl Ledger for StoreLedger {
    fn read(&self) -> BoxFuture<'_, Result<Entry, Failure>> {
        let (store, uid) = (self.store.clone(), self.uid.clone());
        Box::pin(async move {
            let read = spawn_blocking(move || store.sink_ledger(&uid)).await.map_err(|panic| bug(&panic))?;
            let Some((version, text)) = read.map_err(|error| local(store_problem(&error)))? else {
                return Ok(Entry::default());
            };
            let Stored { positions, intent } = serde_json::from_str(&text).map_err(|error| {
                let message = "the ledger of a sink cannot be read";
                local(Problem::new("resource.store", ExitCode::Failed, message).caused_by(&error))
            })?;
            Ok(Entry { version, positions: positions.into_iter().collect(), intent })
        })
    }

    fn replace(&self, entry: Entry) -> BoxFuture<'_, Result<(), Failure>> {
        let (store, uid) = (self.store.clone(), self.uid.clone());
        Box::pin(async move {
            let Entry { version, positions, intent } = entry;
            let stored = Stored { positions: positions.into_iter().collect(), intent };
            let text = serde_json::to_string(&stored).expect("names and numbers are JSON");
            let replaced = spawn_blocking(move || store.replace_sink_ledger(&uid, version, &text)).await;
            replaced.map_err(|panic| bug(&panic))?.map_err(|error| match error {
                aap_store::Error::Revision { .. } => {
                    Failure::moved("another writer was at the ledger of the sink")
                }
                error => local(store_problem(&error)),
            })
        })
    }
}

/// A failure of our own side: trying again may help.
fn local(problem: Problem) -> Failure {
    Failure::new(FailureKind::Retry, problem)
}

fn bug(panic: &tokio::task::JoinError) -> Failure {
    local(Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work").caused_by(panic))
}
