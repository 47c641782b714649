//! What a node answers operators by itself, on its unix socket: the coordinator's service as far as one node has the
//! answers. A node that never had a coordinator, or whose coordinator is away, is asked as the platform is.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::Stats;
use aap_proto::status_of_problem;
use aap_proto::v1;
use aap_proto::v1::operator_server::Operator;
use aap_sql::serving::Answer;
use aap_sql::{Catalog, QueryEvent, Serving, TailTables, unknown_stream};
use aap_types::{ExitCode, NodeId, Problem, StreamName};
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::query::BufferCatalog;
use crate::source::SourceDeps;
use crate::uplink::node_report;

/// Whoever can open the socket, which only the agent's own user can.
const PRINCIPAL: &str = "local";
/// Rates are taken over this time, when somebody asks: a node that nobody looks at measures nothing.
const RATE_WINDOW: Duration = Duration::from_millis(500);

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OperatorService {
    deps: SourceDeps,
    node: NodeId,
    serving: Serving,
    tables: Arc<BufferCatalog>,
    started_us: i64,
    /// To a coordinator, which then has more than this node.
    delivers: bool,
}

type EventStream = Pin<Box<dyn Stream<Item = Result<v1::QueryEvent, Status>> + Send>>;

fn events(answer: Answer) -> Response<EventStream> {
    let events =
        ReceiverStream::new(answer).map(|event| event.map_err(|problem| status_of_problem(&problem)));
    Response::new(events.boxed())
}

fn refuse(problem: Problem) -> Status {
    status_of_problem(&problem)
}

/// What only a coordinator knows.
fn needs_coordinator(what: &str) -> Status {
    let message = format!("{what} is the coordinator's, and this node answers alone");
    refuse(
        Problem::new("platform.needs_coordinator", ExitCode::Unavailable, message)
            .hint("ask again where a coordinator runs, or give its home with `--home`"),
    )
}

impl OperatorService {
    /// Answers of `node` over what its sources work with; `delivers` says whether it has a coordinator.
    pub fn new(deps: SourceDeps, node: NodeId, serving: Serving, delivers: bool) -> Self {
        let tables = Arc::new(BufferCatalog { buffer: deps.ingress.buffer.clone() });
        let started_us = deps.ingress.clock.unix_us();
        Self { deps, node, serving, tables, started_us, delivers }
    }

    fn require_stream(&self, name: &str) -> Result<StreamName, Status> {
        let known = name.parse().ok().filter(|name| self.tables.streams().contains(name));
        known.ok_or_else(|| refuse(unknown_stream(self.tables.as_ref(), name)))
    }

    /// Rows a second that became durable, by stream.
    async fn rates(&self) -> BTreeMap<StreamName, f64> {
        let ingress = &self.deps.ingress;
        let (before, from) = (ingress.counters.snapshot(), ingress.clock.monotonic());
        tokio::time::sleep(RATE_WINDOW).await;
        let seconds = ingress.clock.monotonic().saturating_sub(from).as_secs_f64().max(0.001);
        let rate = |(stream, count): (StreamName, crate::counters::StreamCount)| {
            let rows = count.rows_durable - before.get(&stream).map_or(0, |before| before.rows_durable);
            (stream, rows as f64 / seconds)
        };
        ingress.counters.snapshot().into_iter().map(rate).collect()
    }

    fn node_status(&self, rates: &BTreeMap<StreamName, f64>, stats: &Stats) -> v1::NodeStatus {
        let (ingress, uplink) = (&self.deps.ingress, self.deps.board.uplink_entry());
        let told = (self.deps.board.as_ref(), ingress.drain.as_ref());
        let report = node_report(&ingress.buffer, &ingress.counters, told, ingress.clock.as_ref());
        // Where nothing is to be delivered, nothing waits for it, unless the buffer is full of it.
        let waits = self.delivers || stats.blocked;
        v1::NodeStatus {
            identity: None,
            node: self.node.to_string(),
            connected: uplink.connected || !self.delivers,
            transport: uplink.carrier,
            last_seen_us: ingress.clock.unix_us(),
            reported_us: ingress.clock.unix_us(),
            epoch: ingress.buffer.identity().epoch.0,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            rows_per_second: rates.values().sum(),
            waiting_bytes: if waits { report.waiting_bytes } else { 0 },
            waiting_batches: if waits { report.waiting_batches } else { 0 },
            stored_bytes: report.stored_bytes,
            capacity_bytes: report.capacity_bytes,
            clock_offset_us: uplink.clock_offset_us,
            lag_ms: 0,
            problems: report.problems,
            streams: report.streams,
            quiet: report.draining,
        }
    }

    fn streams(&self, rates: &BTreeMap<StreamName, f64>, stats: &Stats) -> Vec<v1::StreamStatus> {
        let known = self.tables.streams().into_iter();
        let described = known.map(|stream| {
            let stored = stats.streams.get(&stream).cloned().unwrap_or_default();
            v1::StreamStatus {
                rows: stored.rows,
                batches: stored.batches,
                bytes: stored.bytes,
                raw_bytes: stored.raw_bytes,
                rows_skipped: stored.dropped_rows,
                rows_per_second: rates.get(&stream).copied().unwrap_or_default(),
                stream: stream.to_string(),
                ..v1::StreamStatus::default()
            }
        });
        described.collect()
    }

    /// The columns as a query would see them: the engine reads them from the frames.
    async fn columns(&self, stream: &StreamName) -> Result<Vec<v1::Column>, Problem> {
        let sql = format!("select * from \"{stream}\" limit 0");
        let query = self.serving.engine_query(&v1::QueryRequest { sql, ..v1::QueryRequest::default() })?;
        let ticket = self.serving.register("", &format!("show {stream}"), PRINCIPAL)?;
        let tables: Arc<dyn Catalog> = self.tables.clone();
        let mut answer = self.serving.engine().run(query, tables, ticket.cancel.clone()).await?;
        while let Some(event) = answer.next().await {
            if let QueryEvent::Columns(columns) = event? {
                let own = columns.into_iter().filter(|column| !column.name.starts_with('_'));
                return Ok(own.map(|c| v1::Column { name: c.name, r#type: c.type_name }).collect());
            }
        }
        Ok(vec![])
    }

    /// Where a node delivers, its own data is not all of it: who asks for all is not given a part.
    fn check_whole(&self) -> Result<(), Problem> {
        if !self.delivers {
            return Ok(());
        }
        let message = "this node delivers to a coordinator elsewhere, which has all data";
        Err(Problem::new("platform.needs_coordinator", ExitCode::Unavailable, message)
            .hint_command(
                "ask the node for what it holds",
                format!("aap query --node {} 'select …'", self.node),
            )
            .hint("or ask on the coordinator's machine")
            .retry_after_ms(1000))
    }

    fn check_nodes(&self, request: &v1::QueryRequest) -> Result<(), Problem> {
        match request.nodes.iter().find(|name| **name != self.node.as_str()) {
            None => Ok(()),
            Some(other) => Err(Problem::new(
                "node.unknown",
                ExitCode::NotFound,
                format!("there is no node `{other}` here; this is `{}`, without a coordinator", self.node),
            )
            .hint_command("see it", "aap node ls")),
        }
    }

    fn done(&self) -> v1::QueryDone {
        let name = vec![self.node.to_string()];
        let coverage = v1::Coverage { asked: name.clone(), answered: name, ..v1::Coverage::default() };
        let as_of_us = self.deps.ingress.clock.unix_us();
        v1::QueryDone { as_of_us, coverage: Some(coverage), ..v1::QueryDone::default() }
    }

    fn run(&self, request: v1::QueryRequest) -> Result<Answer, Problem> {
        if request.nodes.is_empty() {
            self.check_whole()?;
        }
        self.check_nodes(&request)?;
        let query = self.serving.engine_query(&request)?;
        let ticket = self.serving.register(&request.id, &request.sql, PRINCIPAL)?;
        let (serving, tables, done) = (self.serving.clone(), self.tables.clone(), self.done());
        Ok(self.serving.spawn(ticket, move |ticket, answer| async move {
            // What was acknowledged lies in this buffer: there is nothing to wait for.
            serving.answer(query, tables, &ticket, &answer, done).await
        }))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let rates = self.rates().await;
        let stats = self.deps.ingress.buffer.stats();
        Ok(Response::new(v1::StatusReply {
            // None: a node answers.
            coordinator_version: String::new(),
            as_of_us: self.deps.ingress.clock.unix_us(),
            started_us: self.started_us,
            streams: self.streams(&rates, &stats),
            nodes: vec![self.node_status(&rates, &stats)],
            problems: vec![],
        }))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        let node = request.into_inner().node;
        let asked = v1::QueryRequest {
            nodes: Some(node).filter(|name| !name.is_empty()).into_iter().collect(),
            ..v1::QueryRequest::default()
        };
        self.check_nodes(&asked).map_err(refuse)?;
        let rates = self.rates().await;
        let nodes = vec![self.node_status(&rates, &self.deps.ingress.buffer.stats())];
        Ok(Response::new(v1::ListNodesReply { nodes }))
    }

    async fn list_streams(
        &self,
        _: Request<v1::ListStreamsRequest>,
    ) -> Result<Response<v1::ListStreamsReply>, Status> {
        self.check_whole().map_err(refuse)?;
        let rates = self.rates().await;
        let streams = self.streams(&rates, &self.deps.ingress.buffer.stats());
        Ok(Response::new(v1::ListStreamsReply { streams }))
    }

    async fn show_stream(
        &self,
        request: Request<v1::ShowStreamRequest>,
    ) -> Result<Response<v1::ShowStreamReply>, Status> {
        self.check_whole().map_err(refuse)?;
        let stream = self.require_stream(&request.into_inner().stream)?;
        let columns = self.columns(&stream).await.map_err(refuse)?;
        let rates = self.rates().await;
        let statuses = self.streams(&rates, &self.deps.ingress.buffer.stats());
        let tails = self.deps.ingress.buffer.tails().into_iter().filter(|(key, _)| key.stream == stream);
        let origins = tails.map(|(key, tail)| v1::Origin {
            node: key.node.to_string(),
            epoch: key.epoch.0,
            sequence: tail.0,
            rows: 0,
        });
        Ok(Response::new(v1::ShowStreamReply {
            status: statuses.into_iter().find(|status| status.stream == stream.as_str()),
            columns,
            origins: origins.collect(),
        }))
    }

    async fn list_stream_files(
        &self,
        _: Request<v1::ShowStreamRequest>,
    ) -> Result<Response<v1::ListStreamFilesReply>, Status> {
        Err(needs_coordinator("the lake"))
    }

    async fn delete_stream(
        &self,
        _: Request<v1::DeleteStreamRequest>,
    ) -> Result<Response<v1::DeleteStreamReply>, Status> {
        Err(needs_coordinator("deleting a stream"))
    }

    type TailStreamStream = EventStream;

    async fn tail_stream(
        &self,
        request: Request<v1::TailStreamRequest>,
    ) -> Result<Response<Self::TailStreamStream>, Status> {
        let request = request.into_inner();
        self.check_whole().map_err(refuse)?;
        self.require_stream(&request.stream)?;
        let source = TailTables { tables: self.tables.clone(), buffer: self.deps.ingress.buffer.clone() };
        Ok(events(aap_sql::tail(&self.serving, source, &request, PRINCIPAL).map_err(refuse)?))
    }

    type RunQueryStream = EventStream;

    async fn run_query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<Self::RunQueryStream>, Status> {
        Ok(events(self.run(request.into_inner()).map_err(refuse)?))
    }

    async fn list_queries(
        &self,
        _: Request<v1::ListQueriesRequest>,
    ) -> Result<Response<v1::ListQueriesReply>, Status> {
        Ok(Response::new(v1::ListQueriesReply { queries: self.serving.list() }))
    }

    async fn cancel_query(
        &self,
        request: Request<v1::CancelQuery>,
    ) -> Result<Response<v1::CancelQueryReply>, Status> {
        self.serving.cancel_or_refuse(&request.into_inner().id).map_err(refuse)?;
        Ok(Response::new(v1::CancelQueryReply { found: true }))
    }
}
