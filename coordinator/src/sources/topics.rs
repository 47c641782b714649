//! Topics of Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use aap_kafka::{Begin, KafkaSourceSpec, SourceReader};
use aap_types::{ExitCode, Problem, SourceKind, SourcePosition};
use tracing::{info, warn};

use super::rows::Rows;
use super::{Read, Runner, cannot};

/// Topics, and the columns that each of them has had.
pub(super) struct Topics {
    spec: KafkaSourceSpec,
    rows: Rows,
}

impl Topics {
    pub(super) fn new(name: String, spec: KafkaSourceSpec) -> Self {
        Self { rows: Rows::new(name, spec.clone()), spec }
    }

    /// Behind what landed of each partition.
    async fn begin(spec: &KafkaSourceSpec, runner: &Runner) -> Result<Begin, Problem> {
        let start_ms = spec.start_ms(runner.made_us);
        let start_ms = start_ms.map_err(|why| Problem::new("config.invalid", ExitCode::Usage, why))?;
        let landed = runner.landed(SourceKind::Kafka).await?.into_iter().filter_map(|(rest, position)| {
            let (topic, partition) = rest.rsplit_once('/')?;
            Some(((topic.to_owned(), partition.parse().ok()?), i64::try_from(position.offset).ok()?))
        });
        Ok(Begin { next: landed.collect(), start_ms })
    }
}

impl Read for Topics {
    async fn read(&mut self, runner: &Runner, pause: &mut Duration) -> Result<(), Problem> {
        let begin = Self::begin(&self.spec, runner).await?;
        info!(source = runner.name, partitions = begin.next.len(), "source begins");
        let reader = SourceReader::start(&runner.name, &self.spec, begin);
        let mut reader = reader.map_err(|error| cannot("start reading", &error))?;
        loop {
            let chunk = tokio::select! {
                chunk = reader.next() => chunk,
                () = runner.stop.requested() => return Ok(()),
            };
            let Some(chunk) = chunk else { return Ok(()) };
            let chunk = chunk.map_err(|failure| *failure.problem)?;
            if chunk.lost > 0 {
                let (topic, records) = (&chunk.topic, chunk.lost);
                warn!(source = runner.name, topic, records, "Kafka removed records before they were read");
            }
            let positions = positions(&runner.uid, &chunk.topic, &chunk.next);
            let (rows, now_us) = (std::mem::take(&mut self.rows), runner.clock.unix_us());
            let made = tokio::task::spawn_blocking(move || rows.batches(&chunk, now_us)).await;
            let (rows, batches) = made.map_err(|panic| {
                // What was known of the columns went with it.
                self.rows = Rows::new(runner.name.clone(), self.spec.clone());
                cannot("make rows of records", &panic)
            })?;
            self.rows = rows;
            runner.land(batches?, positions, pause).await?;
        }
    }
}

fn positions(uid: &str, topic: &str, next: &BTreeMap<i32, i64>) -> Vec<SourcePosition> {
    let position = |(partition, next): (&i32, &i64)| SourcePosition {
        kind: SourceKind::Kafka,
        key: format!("{uid}/{topic}/{partition}"),
        offset: u64::try_from(*next).unwrap_or(0),
        detail: String::new(),
    };
    next.iter().map(position).collect()
}
