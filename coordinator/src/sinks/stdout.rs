//! The sink for trying out: rows as JSON lines on the coordinator's standard output.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use aap_columns::value::Objects;
use aap_sinks::{Book, Failure, Group, GroupLimits, Guarantee, Ledger, Positions, Sink};
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::task::spawn_blocking;

/// Rows at a time.
const GROUP_ROWS: usize = 1_000;
/// Bytes at a time.
const GROUP_BYTES: usize = 1 << 20;
/// How long rows wait for others: whoever watches waits, too.
const LINGER: Duration = Duration::from_millis(50);

/// What an operator says about it: nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StdoutSpec {}

/// Prints rows. They are as durable as whatever reads them.
#[derive(Debug)]
pub(crate) struct StdoutSink {
    book: Book,
}

impl StdoutSink {
    pub(crate) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { book: Book::new(ledger) }
    }

    async fn print(&mut self, group: &Group) -> Result<(), Failure> {
        if group.rows() > 0 {
            // Whoever was replaced finds out before it prints.
            self.book.intend(group).await?;
            let rows: Vec<_> = group.slices.iter().map(|slice| slice.rows.clone()).collect();
            let printed = spawn_blocking(move || {
                let mut lines = vec![];
                for batch in &rows {
                    let objects = Objects::of(batch);
                    for row in 0..batch.num_rows() {
                        objects.write(row, &mut lines);
                        lines.push(b'\n');
                    }
                }
                let mut out = std::io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            });
            let printed = printed.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
            printed.map_err(|error| {
                Failure::unreachable("the coordinator's standard output takes no rows", &error)
            })?;
        }
        self.book.commit(group).await
    }
}

impl Sink for StdoutSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: GROUP_ROWS, bytes: GROUP_BYTES, linger: LINGER }
    }

    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        Box::pin(self.book.take_over())
    }

    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.print(group))
    }

    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(async {
            let written = self.book.look().await?;
            Ok(vec![format!("ledger: at the coordinator, {} keys of this sink", written.len())])
        })
    }
}
