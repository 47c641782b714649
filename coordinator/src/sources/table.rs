//! Tables of PostgreSQL that only grow.

use std::time::Duration;

use aap_postgres::{PostgresSourceSpec, TableReader};
use aap_types::{Problem, SourceKind, SourcePosition};
use tracing::info;

use super::rows::encode;
use super::{Read, Runner, cannot};

/// A table.
pub(super) struct Table {
    spec: PostgresSourceSpec,
}

impl Table {
    pub(super) fn new(spec: PostgresSourceSpec) -> Self {
        Self { spec }
    }
}

impl Read for Table {
    async fn read(&mut self, runner: &Runner, pause: &mut Duration) -> Result<(), Problem> {
        let stream =
            self.spec.stream().map_err(|why| cannot("name its stream", &std::io::Error::other(why)))?;
        let landed = runner.landed(SourceKind::Table).pop().map(|(_, position)| position.detail);
        info!(source = runner.name, after = landed, "source begins");
        let mut reader = TableReader::new(self.spec.clone(), landed);
        loop {
            let page = tokio::select! {
                page = reader.next(runner.clock.unix_us()) => page?,
                () = runner.stop.requested() => return Ok(()),
            };
            let Some(page) = page else {
                runner.is_well();
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(self.spec.every_seconds)) => continue,
                    () = runner.stop.requested() => return Ok(()),
                }
            };
            let position = SourcePosition {
                kind: SourceKind::Table,
                key: runner.uid.clone(),
                offset: 0,
                detail: page.last.clone(),
            };
            let batches = page.batches.clone();
            let encoded = tokio::task::spawn_blocking(move || {
                batches.iter().map(|batch| encode(batch, batch.get_array_memory_size() as u64)).collect()
            });
            let encoded: Result<Vec<_>, Problem> =
                encoded.await.map_err(|panic| cannot("make batches of rows", &panic))?;
            let batches = encoded?.into_iter().map(|batch| (stream.clone(), batch)).collect();
            runner.land(batches, vec![position], pause).await?;
            reader.taken(&page);
        }
    }
}
