//! Tables of PostgreSQL that only grow.

use std::time::Duration;

use aap_postgres::{TableReader, TableSource};
use aap_types::{Problem, SourceKind, SourcePosition};
use tracing::info;

use super::rows::encode;
use super::{Read, Runner, cannot};

/// A table.
pub(super) struct Table {
    source: TableSource,
}

impl Table {
    pub(super) fn new(source: TableSource) -> Self {
        Self { source }
    }
}

impl Read for Table {
    async fn read(&mut self, runner: &Runner, pause: &mut Duration) -> Result<(), Problem> {
        let TableSource { stream, place, every, .. } = self.source.clone();
        // Another table, or another column, is another place: it begins with its first row.
        let landed = runner.landed(SourceKind::Table).await?.into_iter().find(|(key, _)| *key == place);
        // Counts pages, so that of two positions the later one is known.
        let mut pages = landed.as_ref().map_or(0, |(_, position)| position.offset);
        let landed = landed.map(|(_, position)| position.detail);
        info!(source = runner.name, after = landed, "source begins");
        let mut reader = TableReader::new(self.source.clone(), landed);
        loop {
            let page = tokio::select! {
                page = reader.next(runner.clock.unix_us()) => page?,
                () = runner.stop.requested() => return Ok(()),
            };
            let Some(page) = page else {
                runner.is_well();
                tokio::select! {
                    () = tokio::time::sleep(every) => continue,
                    () = runner.stop.requested() => return Ok(()),
                }
            };
            let position = SourcePosition {
                kind: SourceKind::Table,
                key: format!("{}/{place}", runner.uid),
                offset: pages + 1,
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
            pages += 1;
            reader.taken(&page);
        }
    }
}
