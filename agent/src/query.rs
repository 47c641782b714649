//! SQL over the node's own buffer: everything retained and everything that waits, whether a coordinator is there or not.

use std::sync::Arc;

use aap_buffer::Buffer;
use aap_proto::v1::query_output::Kind as OutputKind;
use aap_proto::v1::{AgentMessage, QueryOutput, RunQuery, agent_message};
use aap_runtime::Shutdown;
use aap_sql::{
    Catalog, Engine, EngineQuery, Format, Limits, Manifest, QueryEvent, ResolvedTables, SegmentRef,
    TableManifest, TableNeed,
};
use aap_transport::AgentSender;
use aap_types::{Problem, StreamName};
use bytes::Bytes;

use crate::uplink::Window;

/// Bytes of an answer in one message: small enough that batches between them are not kept waiting.
const CHUNK_BYTES: usize = 256 << 10;

/// Runs queries on this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeQueries {
    engine: Engine,
    buffer: Buffer,
}

impl NodeQueries {
    /// Queries over `buffer`.
    pub fn new(engine: Engine, buffer: Buffer) -> Self {
        Self { engine, buffer }
    }

    /// Answers the coordinator's query over the session it came from.
    pub async fn answer(&self, query: RunQuery, tx: AgentSender, cancel: Shutdown, window: Window) {
        let id = query.id.clone();
        let result = self.stream(query, &tx, cancel, &window).await;
        let last = match result {
            Ok(end) => OutputKind::End(end),
            Err(problem) => OutputKind::Problem(serde_json::to_string(&problem).unwrap_or_default()),
        };
        if let Err(error) = send(&tx, &id, last).await {
            tracing::debug!(query = id, %error, "the answer's end did not leave; its session is over");
        }
    }

    async fn stream(
        &self,
        query: RunQuery,
        tx: &AgentSender,
        cancel: Shutdown,
        window: &Window,
    ) -> Result<String, Problem> {
        let asked = query.limits.unwrap_or_default();
        let limits =
            Limits { rows: asked.rows, bytes: asked.bytes, deadline_ms: asked.deadline_ms, memory_bytes: 0 };
        let run = EngineQuery { sql: query.sql, format: Format::Arrow, limits, ..EngineQuery::default() };
        let catalog = Arc::new(BufferCatalog { buffer: self.buffer.clone() });
        let mut answer = self.engine.run(run, catalog, cancel.clone()).await?;
        let mut end = String::new();
        while let Some(event) = answer.next().await {
            match event? {
                QueryEvent::Columns(_) => {}
                QueryEvent::Data(bytes) => {
                    for chunk in chunks(bytes) {
                        tokio::select! {
                            () = window.pass() => {}
                            () = cancel.requested() => return Err(aap_sql::problem::cancelled()),
                        }
                        send(tx, &query.id, OutputKind::ArrowIpc(chunk))
                            .await
                            .map_err(|error| error.problem())?;
                    }
                }
                QueryEvent::End(query_end) => end = serde_json::to_string(&query_end).unwrap_or_default(),
            }
        }
        Ok(end)
    }
}

fn chunks(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
        (!chunk.is_empty()).then_some(chunk)
    })
}

async fn send(tx: &AgentSender, id: &str, kind: OutputKind) -> Result<(), aap_transport::Error> {
    let output = QueryOutput { id: id.to_owned(), kind: Some(kind) };
    tx.send(AgentMessage { kind: Some(agent_message::Kind::QueryOutput(output)) }).await
}

/// The streams of the buffer as tables.
#[derive(Debug)]
pub(crate) struct BufferCatalog {
    pub(crate) buffer: Buffer,
}

impl BufferCatalog {
    pub(crate) fn streams(&self) -> Vec<StreamName> {
        let mut names: Vec<StreamName> = self.buffer.tails().into_iter().map(|(key, _)| key.stream).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Catalog for BufferCatalog {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let streams = self.streams();
        let known: Vec<(&TableNeed, StreamName)> = need
            .iter()
            .filter_map(|need| stream_of(need).map(|name| (need, name)))
            .filter(|(_, name)| streams.contains(name))
            .collect();
        let names: Vec<StreamName> = known.iter().map(|(_, name)| name.clone()).collect();
        let snapshot = self.buffer.snapshot(Some(&names));
        let segments: Vec<SegmentRef> = snapshot.segments.clone();
        let tables = known
            .into_iter()
            .map(|(need, only)| TableManifest {
                name: need.name.clone(),
                segments: segments.clone(),
                only: Some(only),
                ..TableManifest::default()
            })
            .collect();
        Ok(ResolvedTables { manifest: Manifest { tables }, pins: Box::new(snapshot) })
    }

    fn table_names(&self) -> Vec<String> {
        self.streams().iter().map(StreamName::to_string).collect()
    }
}

/// The stream that a table's name means. `nodes.logs`, which elsewhere is what all nodes hold of `logs`, is what this one does.
fn stream_of(need: &TableNeed) -> Option<StreamName> {
    let name = match need.path.as_slice() {
        [nodes, rest @ ..] if nodes.eq_ignore_ascii_case("nodes") && !rest.is_empty() => {
            rest.join(".").to_lowercase()
        }
        _ => need.name.clone(),
    };
    name.parse().ok()
}
