//! The operators' service: every method checks its request, does its work elsewhere, and answers.

use std::pin::Pin;
use std::sync::Arc;

use aap_lake::Lake;
use aap_proto::v1::{self, operator_server::Operator};
use aap_proto::{status_of_problem, v1::CancelQueryReply};
use aap_sql::serving::Answer;
use aap_sql::unknown_stream;
use aap_store::MetadataStore;
use aap_types::{ExitCode, Problem, StreamName};
use futures::{Stream, StreamExt};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access;
use crate::asking::unknown_node;
use crate::catalog::{catalogue_problem, cut_of};
use crate::cluster::Lead;
use crate::deletions;
use crate::identities::Identities;
use crate::nodes::Nodes;
use crate::queries::Queries;
use crate::status::{Board, Books};

/// Whoever holds the operator's token.
const PRINCIPAL: &str = "operator";

/// The service.
#[derive(Debug, Clone)]
pub struct OperatorService {
    /// The books.
    pub board: Board,
    /// Queries.
    pub queries: Queries,
    /// For deletion.
    pub lake: Lake,
    /// Who hears of it.
    pub nodes: Nodes,
    /// Where it is remembered.
    pub store: Arc<dyn MetadataStore>,
    /// Which machines are nodes.
    pub(crate) identities: Identities,
    /// In a cluster one coordinator changes the lake, not necessarily this one.
    pub(crate) lead: Option<Lead>,
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

impl OperatorService {
    /// Reads the books on the blocking pool and makes a reply of them.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Board) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Status> {
        let board = self.board.clone();
        let reply = spawn_blocking(move || look(&board)).await.map_err(|panic| refuse(bug(&panic)))?;
        reply.map_err(refuse)
    }

    fn show(&self, books: &Books, name: &str, statuses: Vec<v1::StreamStatus>) -> v1::ShowStreamReply {
        let known = books.catalogue.streams.iter().find(|stream| stream.stream.as_str() == name);
        let columns = known.map(|stream| stream.columns.clone()).unwrap_or_default();
        let tails = self.lake_tails(books, name);
        v1::ShowStreamReply {
            status: statuses.into_iter().find(|status| status.stream == name),
            columns: columns.into_iter().map(|(name, kind)| v1::Column { name, r#type: kind }).collect(),
            origins: tails,
        }
    }

    fn lake_tails(&self, books: &Books, name: &str) -> Vec<v1::Origin> {
        let tails = self.queries.inner.landing.buffer().tails();
        let mut origins: Vec<v1::Origin> = tails
            .into_iter()
            .filter(|(key, _)| key.stream.as_str() == name)
            .map(|(key, tail)| v1::Origin {
                rows: books
                    .waiting
                    .iter()
                    .find(|(known, _)| *known == key)
                    .map_or(0, |(_, counts)| counts.rows),
                sequence: tail.0.max(cut_of(&books.catalogue, &key).0),
                epoch: key.epoch.0,
                node: key.node.to_string(),
            })
            .collect();
        origins.sort_by(|a, b| (&a.node, a.epoch).cmp(&(&b.node, b.epoch)));
        origins
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let from_others = self.queries.inner.reach.told_by_others().await;
        let mut status = self.read(move |board| board.status(&from_others)).await?;
        let known = self.identities.list(None).await.map_err(refuse)?;
        add_identities(&mut status.nodes, &known);
        Ok(Response::new(status))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        let wanted = request.into_inner().node;
        let from_others = self.queries.inner.reach.told_by_others().await;
        let mut nodes = self.board.nodes(&from_others);
        let known = self.identities.list(None).await.map_err(refuse)?;
        add_identities(&mut nodes, &known);
        if !wanted.is_empty() {
            nodes.retain(|node| node.node == wanted);
            if nodes.is_empty() {
                return Err(refuse(unknown_node(&wanted)));
            }
        }
        Ok(Response::new(v1::ListNodesReply { nodes }))
    }

    async fn list_streams(
        &self,
        _: Request<v1::ListStreamsRequest>,
    ) -> Result<Response<v1::ListStreamsReply>, Status> {
        let streams = self.read(|board| Ok(board.streams(&board.books()?))).await?;
        Ok(Response::new(v1::ListStreamsReply { streams }))
    }

    async fn show_stream(
        &self,
        request: Request<v1::ShowStreamRequest>,
    ) -> Result<Response<v1::ShowStreamReply>, Status> {
        let name = request.into_inner().stream;
        require_stream(&self.queries, &name).await.map_err(refuse)?;
        let (books, statuses) = self
            .read(|board| {
                let books = board.books()?;
                let statuses = board.streams(&books);
                Ok((books, statuses))
            })
            .await?;
        Ok(Response::new(self.show(&books, &name, statuses)))
    }

    async fn list_stream_files(
        &self,
        request: Request<v1::ShowStreamRequest>,
    ) -> Result<Response<v1::ListStreamFilesReply>, Status> {
        let name = request.into_inner().stream;
        let stream = require_stream(&self.queries, &name).await.map_err(refuse)?;
        let books = self.read(Board::books).await?;
        let files = books.catalogue.files.into_iter().filter(|file| file.stream == stream);
        let files = files.map(|file| v1::LakeFile {
            path: self.lake.address(&file.path),
            rows: file.rows,
            bytes: file.bytes,
            ts_min_us: file.ts_min_us,
            ts_max_us: file.ts_max_us,
        });
        Ok(Response::new(v1::ListStreamFilesReply { files: files.collect() }))
    }

    async fn delete_stream(
        &self,
        request: Request<v1::DeleteStreamRequest>,
    ) -> Result<Response<v1::DeleteStreamReply>, Status> {
        let name = request.into_inner().stream;
        if let Some(lead) = &self.lead {
            lead.require().await.map_err(refuse)?;
            lead.catch_up().await.map_err(refuse)?;
        }
        let stream = require_stream(&self.queries, &name).await.map_err(refuse)?;
        let (rows, files) = self.lake.delete(&stream).await.map_err(|error| {
            let message = format!("cannot delete stream `{stream}`");
            refuse(Problem::new("stream.delete_failed", ExitCode::Failed, message).caused_by(&error))
        })?;
        deletions::tell(&self.nodes, &self.store, &stream).await;
        Ok(Response::new(v1::DeleteStreamReply { rows, files }))
    }

    type TailStreamStream = EventStream;

    async fn tail_stream(
        &self,
        request: Request<v1::TailStreamRequest>,
    ) -> Result<Response<Self::TailStreamStream>, Status> {
        let request = request.into_inner();
        require_stream(&self.queries, &request.stream).await.map_err(refuse)?;
        Ok(events(self.queries.tail(&request, PRINCIPAL).map_err(refuse)?))
    }

    type RunQueryStream = EventStream;

    async fn run_query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<Self::RunQueryStream>, Status> {
        Ok(events(self.queries.run(request.into_inner(), PRINCIPAL).map_err(refuse)?))
    }

    async fn list_queries(
        &self,
        _: Request<v1::ListQueriesRequest>,
    ) -> Result<Response<v1::ListQueriesReply>, Status> {
        Ok(Response::new(v1::ListQueriesReply { queries: self.queries.inner.serving.list() }))
    }

    async fn cancel_query(
        &self,
        request: Request<v1::CancelQuery>,
    ) -> Result<Response<CancelQueryReply>, Status> {
        self.queries.inner.serving.cancel_or_refuse(&request.into_inner().id).map_err(refuse)?;
        Ok(Response::new(CancelQueryReply { found: true }))
    }
}

/// What each node is to the platform; those that enrolled and never came are nodes too.
fn add_identities(nodes: &mut Vec<v1::NodeStatus>, known: &[aap_access::NodeIdentity]) {
    for identity in known {
        let identity = access::wire_identity(identity);
        match nodes.iter_mut().find(|status| status.node == identity.node) {
            Some(status) => status.identity = Some(identity),
            None => nodes.push(v1::NodeStatus {
                node: identity.node.clone(),
                identity: Some(identity),
                ..v1::NodeStatus::default()
            }),
        }
    }
    nodes.sort_by(|one, other| one.node.cmp(&other.node));
}

/// Whether the stream exists. Blocking work on the pool.
async fn require_stream(queries: &Queries, name: &str) -> Result<StreamName, Problem> {
    let (tables, wanted) = (queries.inner.tables.clone(), name.to_owned());
    let found = spawn_blocking(move || {
        let catalogue = tables.lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let stream: Option<StreamName> = wanted.parse().ok();
        Ok(stream.filter(|stream| tables.streams(&catalogue).contains(stream)))
    });
    let found: Result<Option<StreamName>, Problem> = found.await.map_err(|panic| bug(&panic))?;
    match found? {
        Some(stream) => Ok(stream),
        None => {
            let (tables, name) = (queries.inner.tables.clone(), name.to_owned());
            Err(spawn_blocking(move || unknown_stream(tables.as_ref(), &name))
                .await
                .unwrap_or_else(|panic| bug(&panic)))
        }
    }
}

/// A panic of ours, as a problem.
fn bug(error: &tokio::task::JoinError) -> Problem {
    Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work").caused_by(error)
}
