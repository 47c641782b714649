//! Every change of tables of PostgreSQL.

use std::time::Duration;

use aap_postgres::{ChangesReader, ChangesSource, LogPosition, drop_slot, slot_name};
use aap_types::{Problem, SourceKind, SourcePosition};
use tracing::{info, warn};

use super::rows::encode;
use super::{Read, Runner, cannot};

/// The key of the position, behind the source's identity. Another server is the same place: what its slot lacks is missed then, and
/// said.
const PLACE: &str = "changes";
/// How long the server may take to drop what a source kept there: whoever deletes the source waits.
const DROP_DEADLINE: Duration = Duration::from_secs(20);

/// Tables whose changes are read.
pub(super) struct ChangedTables {
    source: ChangesSource,
}

impl ChangedTables {
    pub(super) fn new(source: ChangesSource) -> Self {
        Self { source }
    }
}

impl Read for ChangedTables {
    async fn read(&mut self, runner: &Runner, pause: &mut Duration) -> Result<(), Problem> {
        let landed = runner.landed(SourceKind::Table).await?.into_iter().find(|(key, _)| key == PLACE);
        // Counts groups, so that of two positions the later one is known: several groups of one transaction have one LSN.
        let mut groups = landed.as_ref().map_or(0, |(_, position)| position.offset);
        let landed = landed.map(|(_, position)| position_of(&position.detail)).transpose()?;
        info!(source = runner.name, after = landed.map(LogPosition::to_detail), "source begins");
        let mut reader = ChangesReader::new(self.source.clone(), &runner.uid, landed);
        loop {
            let changes = tokio::select! {
                changes = reader.next() => changes?,
                () = runner.stop.requested() => return Ok(()),
            };
            let Some(changes) = changes else {
                runner.is_well();
                tokio::select! {
                    () = tokio::time::sleep(self.source.every) => continue,
                    () = runner.stop.requested() => return Ok(()),
                }
            };
            groups += 1;
            let position = SourcePosition {
                kind: SourceKind::Table,
                key: format!("{}/{PLACE}", runner.uid),
                offset: groups,
                detail: changes.position.to_detail(),
            };
            let encoded = tokio::task::spawn_blocking(move || {
                let batches = changes.batches.into_iter();
                let encoded = batches.map(|(stream, batch)| {
                    let bytes = batch.get_array_memory_size() as u64;
                    encode(&batch, bytes).map(|batch| (stream, batch))
                });
                encoded.collect()
            });
            let encoded: Result<Vec<_>, Problem> =
                encoded.await.map_err(|panic| cannot("make batches of rows", &panic))?;
            runner.land(encoded?, vec![position], pause).await?;
        }
    }
}

fn position_of(detail: &str) -> Result<LogPosition, Problem> {
    LogPosition::of_detail(detail).ok_or_else(|| {
        let said = std::io::Error::other(format!("`{detail}` is no position of a log"));
        cannot("learn how far it was read", &said)
    })
}

/// Drops the slot and the publication of a source that is no more.
pub(super) async fn drop_kept(name: &str, uid: &str, source: &ChangesSource) {
    let dropped = tokio::time::timeout(DROP_DEADLINE, drop_slot(source, uid)).await;
    let why = match dropped {
        Ok(Ok(())) => return info!(source = name, "its slot and publication are dropped"),
        Ok(Err(problem)) => problem.to_string(),
        Err(_elapsed) => format!("no answer within {} s", DROP_DEADLINE.as_secs()),
    };
    let slot = slot_name(uid);
    warn!(
        source = name,
        why,
        "the server keeps its log for slot `{slot}`, which nobody reads any more: SELECT pg_drop_replication_slot('{slot}'); \
         DROP PUBLICATION IF EXISTS \"{slot}\""
    );
}
