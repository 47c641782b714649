//! The operators' service: every method checks its request, does its work elsewhere, and answers.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use aap_access::{Kind, NodeIdentity, Object, Verb};
use aap_lake::Lake;
use aap_proto::v1::{self, operator_server::Operator};
use aap_proto::{status_of_problem, v1::CancelQueryReply};
use aap_sql::Catalog;
use aap_sql::serving::Answer;
use aap_store::MetadataStore;
use aap_types::{ExitCode, NodeId, Problem, StreamName};
use futures::{Stream, StreamExt};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::{self, Caller, Scope, Statement};
use crate::asking::unknown_node;
use crate::catalog::{catalogue_problem, cut_of};
use crate::cluster::Lead;
use crate::deletions;
use crate::identities::Identities;
use crate::nodes::Nodes;
use crate::queries::Queries;
use crate::status::{Board, Books};

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

/// An answer on its way to a caller, who may lose the right to it meanwhile. Its end is recorded.
fn events(
    answer: Answer,
    (caller, statement): (Caller, Statement),
    may: impl Fn(&Caller) -> bool + Send + 'static,
) -> Response<EventStream> {
    let events = ReceiverStream::new(answer).map(|event| event.map_err(refuse));
    let refused = async move { Err(refuse(caller.until_refused(may).await)) };
    Response::new(statement.recorded(until_first_of(events, refused)).boxed())
}

/// What comes of a stream, until `end` has come, which is then the last of it.
pub(crate) fn until_first_of<T: Send + 'static>(
    stream: impl Stream<Item = T> + Send + 'static,
    end: impl Future<Output = T> + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    let (stream, end) = (Box::pin(stream), Box::pin(end));
    futures::stream::unfold(Some((stream, end)), |state| async {
        let (mut stream, mut end) = state?;
        tokio::select! {
            next = stream.next() => next.map(|item| (item, Some((stream, end)))),
            last = &mut end => Some((last, None)),
        }
    })
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

    /// What a caller may see in queries.
    async fn scope(&self, caller: &Caller) -> Result<Scope, Status> {
        Scope::of(caller, &self.identities).await.map_err(refuse)
    }

    /// The stream of that name, if the caller may do that to it.
    async fn stream_for(&self, caller: &Caller, verb: Verb, name: &str) -> Result<StreamName, Status> {
        let may = |name: &str| caller.may(Verb::Read, Object::named(Kind::Stream, name));
        let stream = require_stream(&self.queries, name, &may).await.map_err(refuse)?;
        caller.require(verb, Object::named(Kind::Stream, stream.as_str())).map_err(refuse)?;
        Ok(stream)
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
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let from_others = self.queries.inner.reach.told_by_others().await;
        let mut status = self.read(move |board| board.status(&from_others)).await?;
        let known = self.identities.list(None).await.map_err(refuse)?;
        add_identities(&mut status.nodes, &known);
        retain_nodes(&mut status.nodes, &caller, &known);
        retain_streams(&mut status.streams, &caller);
        Ok(Response::new(status))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let wanted = request.into_inner().node;
        let from_others = self.queries.inner.reach.told_by_others().await;
        let mut nodes = self.board.nodes(&from_others);
        let known = self.identities.list(None).await.map_err(refuse)?;
        add_identities(&mut nodes, &known);
        retain_nodes(&mut nodes, &caller, &known);
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
        request: Request<v1::ListStreamsRequest>,
    ) -> Result<Response<v1::ListStreamsReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let mut streams = self.read(|board| Ok(board.streams(&board.books()?))).await?;
        retain_streams(&mut streams, &caller);
        Ok(Response::new(v1::ListStreamsReply { streams }))
    }

    async fn show_stream(
        &self,
        request: Request<v1::ShowStreamRequest>,
    ) -> Result<Response<v1::ShowStreamReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().stream;
        self.stream_for(&caller, Verb::Read, &name).await?;
        let (books, statuses) = self
            .read(|board| {
                let books = board.books()?;
                let statuses = board.streams(&books);
                Ok((books, statuses))
            })
            .await?;
        let mut shown = self.show(&books, &name, statuses);
        let known = self.identities.list(None).await.map_err(refuse)?;
        let sees = sees_nodes(&caller, &known);
        shown.origins.retain(|origin| sees(&origin.node));
        Ok(Response::new(shown))
    }

    async fn list_stream_files(
        &self,
        request: Request<v1::ShowStreamRequest>,
    ) -> Result<Response<v1::ListStreamFilesReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().stream;
        let stream = self.stream_for(&caller, Verb::Read, &name).await?;
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
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().stream;
        caller
            .require_of(Verb::Delete, Object::named(Kind::Stream, &name), || no_such_stream(&name))
            .map_err(refuse)?;
        if let Some(lead) = &self.lead {
            lead.require().await.map_err(refuse)?;
            lead.catch_up().await.map_err(refuse)?;
        }
        let stream = self.stream_for(&caller, Verb::Delete, &name).await?;
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
        let caller = Caller::of(&request).map_err(refuse)?;
        let statement = Statement::of(&request).map_err(refuse)?;
        let request = request.into_inner();
        let scope = self.scope(&caller).await?;
        let sees = |name: &str| name.parse().is_ok_and(|stream| scope.sees(&stream));
        require_stream(&self.queries, &request.stream, &sees).await.map_err(refuse)?;
        caller.touched().note(Kind::Stream, &request.stream);
        let answer = self.queries.tail(&request, caller.name(), scope).map_err(refuse)?;
        let rows = |caller: &Caller, stream: &str| caller.policy.rows(&caller.principal, stream);
        let (stream, seen) = (request.stream.clone(), rows(&caller, &request.stream));
        Ok(events(answer, (caller, statement), move |now| rows(now, &stream) == seen))
    }

    type RunQueryStream = EventStream;

    async fn run_query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<Self::RunQueryStream>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let statement = Statement::of(&request).map_err(refuse)?;
        let request = request.into_inner();
        let statement = statement.with_sql(&request.sql);
        let scope = self.scope(&caller).await?;
        let answer = self.queries.run(request, caller.name(), scope).map_err(refuse)?;
        // What a statement reads was decided when it began; whoever has other roles by now begins again.
        let before = caller.clone();
        Ok(events(answer, (caller, statement), move |now| now.has_rights_of(&before)))
    }

    async fn list_queries(
        &self,
        request: Request<v1::ListQueriesRequest>,
    ) -> Result<Response<v1::ListQueriesReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let mut queries = self.queries.inner.serving.list();
        queries.retain(|query| may_of_query(&caller, Verb::Read, query));
        Ok(Response::new(v1::ListQueriesReply { queries }))
    }

    async fn cancel_query(
        &self,
        request: Request<v1::CancelQuery>,
    ) -> Result<Response<CancelQueryReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let id = request.into_inner().id;
        let serving = &self.queries.inner.serving;
        let found = serving.list().into_iter().find(|query| query.id == id);
        if let Some(query) = found.filter(|query| !may_of_query(&caller, Verb::Operate, query)) {
            let object = Object::named(Kind::Query, &query.id);
            caller.require_of(Verb::Operate, object, || serving.unknown(&id)).map_err(refuse)?;
        }
        serving.cancel_or_refuse(&id).map_err(refuse)?;
        Ok(Response::new(CancelQueryReply { found: true }))
    }
}

/// Whether somebody may do something to a query: to their own always.
fn may_of_query(caller: &Caller, verb: Verb, query: &v1::RunningQuery) -> bool {
    query.principal == caller.name() || caller.may(verb, Object::named(Kind::Query, &query.id))
}

/// Leaves those that a caller may see.
fn retain_nodes(nodes: &mut Vec<v1::NodeStatus>, caller: &Caller, known: &[NodeIdentity]) {
    let sees = sees_nodes(caller, known);
    nodes.retain(|status| sees(&status.node));
}

/// Whether a caller may see the node of a name.
fn sees_nodes(caller: &Caller, known: &[NodeIdentity]) -> impl Fn(&str) -> bool {
    let reach = caller.reach(Kind::Node, Verb::Read);
    let known: HashMap<&NodeId, &NodeIdentity> = known.iter().map(|known| (&known.node, known)).collect();
    move |name| {
        let node = name.parse::<NodeId>();
        node.is_ok_and(|node| reach.admits(access::facts_of(&node, known.get(&node).copied())))
    }
}

/// Leaves those that a caller may see.
fn retain_streams(streams: &mut Vec<v1::StreamStatus>, caller: &Caller) {
    let reach = caller.reach(Kind::Stream, Verb::Read);
    streams.retain(|status| reach.admits(Object::named(Kind::Stream, &status.stream)));
}

/// `stream.unknown`, without the near ones.
fn no_such_stream(name: &str) -> Problem {
    let near = aap_sql::problem::unknown_table(name, &[]);
    Problem { code: "stream.unknown".to_owned(), ..near }
}

/// A node that is being drained is drained once all that it has is here. What it said before it was told to does not count: it may speak of
/// another time.
fn with_drain(identity: v1::NodeIdentity, status: &v1::NodeStatus) -> v1::NodeIdentity {
    let is_new = status.reported_us >= identity.updated_us;
    let is_drained =
        identity.state == access::DRAINING && is_new && status.quiet && status.waiting_batches == 0;
    let state = if is_drained { access::DRAINED.to_owned() } else { identity.state };
    v1::NodeIdentity { state, ..identity }
}

/// What each node is to the platform; those that enrolled and never came are nodes too.
fn add_identities(nodes: &mut Vec<v1::NodeStatus>, known: &[NodeIdentity]) {
    for identity in known {
        let identity = access::wire_identity(identity);
        match nodes.iter_mut().find(|status| status.node == identity.node) {
            Some(status) => status.identity = Some(with_drain(identity, status)),
            None => nodes.push(v1::NodeStatus {
                node: identity.node.clone(),
                identity: Some(identity),
                ..v1::NodeStatus::default()
            }),
        }
    }
    nodes.sort_by(|one, other| one.node.cmp(&other.node));
}

/// Whether the stream is there for somebody who sees those of `sees`. Blocking work on the pool.
async fn require_stream(
    queries: &Queries,
    name: &str,
    sees: &(dyn Fn(&str) -> bool + Sync),
) -> Result<StreamName, Problem> {
    let (tables, wanted) = (queries.inner.tables.clone(), name.to_owned());
    let found = spawn_blocking(move || {
        let catalogue = tables.lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let stream: Option<StreamName> = wanted.parse().ok();
        Ok(stream.filter(|stream| tables.streams(&catalogue).contains(stream)))
    });
    let found: Result<Option<StreamName>, Problem> = found.await.map_err(|panic| bug(&panic))?;
    match found? {
        Some(stream) if sees(stream.as_str()) => Ok(stream),
        _ => {
            let tables = queries.inner.tables.clone();
            let mut names =
                spawn_blocking(move || tables.table_names()).await.map_err(|panic| bug(&panic))?;
            names.retain(|name| sees(name));
            let near = aap_sql::problem::unknown_table(name, &names);
            Err(Problem { code: "stream.unknown".to_owned(), ..near })
        }
    }
}

/// A panic of ours, as a problem.
fn bug(error: &tokio::task::JoinError) -> Problem {
    Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work").caused_by(error)
}
