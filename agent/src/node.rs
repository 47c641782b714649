//! What the agent answers on its unix socket: who can open it (mode 0600) may call it.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::pin::Pin;
use std::sync::Arc;

use aap_proto::status_of_problem;
use aap_proto::v1::node_server::{Node, NodeServer};
use aap_proto::v1::operator_server::OperatorServer;
use aap_proto::v1::{
    IngestReply, IngestRequest, NodeStatusReply, NodeStatusRequest, RecoverReply, RecoverRequest,
    SourceStatus,
};
use aap_runtime::{Home, Shutdown};
use aap_types::{ExitCode, NodeId, Problem};
use anyhow::Context;
use camino::Utf8Path;
use futures::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::ingest::{self, Runs};
use crate::operator::OperatorService;
use crate::source::SourceDeps;
use crate::uplink::{self, Recovery, node_report};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeService {
    deps: SourceDeps,
    node: NodeId,
    uplink: Arc<uplink::State>,
    runs: Runs,
    shutdown: Shutdown,
}

impl NodeService {
    /// A service over what the sources work with.
    pub fn new(deps: SourceDeps, node: NodeId, uplink: Arc<uplink::State>, shutdown: Shutdown) -> Self {
        Self { deps, node, uplink, runs: Runs::default(), shutdown }
    }
}

/// Opens the socket, in place of one that nobody answers any more.
pub async fn bind(home: &Home) -> anyhow::Result<UnixListener> {
    let path = home.agent_socket();
    refuse_exposed_socket(&path)?;
    if path.exists() {
        if UnixStream::connect(&path).await.is_ok() {
            anyhow::bail!("another agent answers on `{path}`");
        }
        std::fs::remove_file(&path).with_context(|| format!("remove the old socket `{path}`"))?;
    }
    let listener = UnixListener::bind(&path).with_context(|| bind_failure(&path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect the socket `{path}`"))?;
    Ok(listener)
}

/// A socket that was left there, and that everybody may call, was not made by an agent: nothing is known of who calls it.
fn refuse_exposed_socket(path: &Utf8Path) -> Result<(), Problem> {
    const EVERYBODY_WRITES: u32 = 0o002;
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    let refused = |what: &str| {
        let problem = Problem::new("agent.socket_exposed", ExitCode::Usage, format!("`{path}` {what}"));
        problem.hint_command("remove it, and start the agent again", format!("rm {path}"))
    };
    match there.permissions().mode() {
        _ if !there.file_type().is_socket() => Err(refused("stands where the agent's socket belongs")),
        mode if mode & EVERYBODY_WRITES != 0 => Err(refused("is a socket that everybody may call")),
        _ => Ok(()),
    }
}

fn bind_failure(path: &Utf8Path) -> String {
    // sockaddr_un holds 108 bytes with the final zero.
    const PATH_BYTES_MAX: usize = 107;
    if path.as_str().len() > PATH_BYTES_MAX {
        return format!(
            "open the socket `{path}`: its path has more than {PATH_BYTES_MAX} bytes; choose a shorter `--home`"
        );
    }
    format!("open the socket `{path}`")
}

/// Serves until it is asked to stop.
pub async fn serve(
    listener: UnixListener,
    service: NodeService,
    operator: OperatorService,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let operator = OperatorServer::new(operator).max_encoding_message_size(aap_proto::MESSAGE_BYTES_MAX);
    let node = NodeServer::new(service)
        .max_decoding_message_size(aap_proto::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(aap_proto::MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .add_service(node)
        .add_service(operator)
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            async move { shutdown.requested().await },
        )
        .await
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn status(&self, _: Request<NodeStatusRequest>) -> Result<Response<NodeStatusReply>, Status> {
        let (deps, uplink) = (&self.deps, self.deps.board.uplink_entry());
        let ingress = &deps.ingress;
        let sources = deps.board.sources().into_iter().map(|(name, entry)| {
            let problems = entry.problems.values().take(8).cloned();
            let detail =
                problems.chain(Some(entry.detail).filter(|text| !text.is_empty())).collect::<Vec<_>>();
            SourceStatus {
                name,
                kind: entry.kind.to_owned(),
                stream: entry.stream,
                guarantee: entry.guarantee.to_owned(),
                state: entry.state.label().to_owned(),
                detail: detail.join("; "),
            }
        });
        Ok(Response::new(NodeStatusReply {
            node: self.node.to_string(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: ingress.buffer.identity().epoch.0,
            connected: uplink.connected,
            transport: uplink.carrier,
            report: Some(node_report(
                &ingress.buffer,
                &ingress.counters,
                (deps.board.as_ref(), ingress.drain.as_ref()),
                ingress.clock.as_ref(),
            )),
            sources: sources.collect(),
        }))
    }

    async fn recover(&self, request: Request<RecoverRequest>) -> Result<Response<RecoverReply>, Status> {
        let how = if request.into_inner().resend { Recovery::Resend } else { Recovery::Discard };
        let done = uplink::recover(&self.deps.ingress.buffer, &self.uplink, &self.deps.board, how).await;
        let done = done.map_err(|problem| status_of_problem(&problem))?;
        Ok(Response::new(RecoverReply { streams: done.streams, batches: done.batches, rows: done.rows }))
    }

    type IngestStream = Pin<Box<dyn Stream<Item = Result<IngestReply, Status>> + Send>>;

    async fn ingest(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        // Two: one being read by the client, one being made.
        let (replies, answers) = mpsc::channel(2);
        let run = ingest::serve(
            self.deps.clone(),
            self.runs.clone(),
            request.into_inner(),
            replies,
            self.shutdown.clone(),
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its call: the client's stream or the shutdown ends it"
        )]
        tokio::spawn(run);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
