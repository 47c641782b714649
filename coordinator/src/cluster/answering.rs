//! What other coordinators of the cluster call here: the nodes whose session this one has, and no others.

use std::convert::Infallible;

use aap_proto::v1::{self, peer_server::Peer, query_output};
use aap_runtime::{Supervisor, TaskKind};
use aap_types::{CoordinatorName, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::nodes::{Nodes, Session};
use crate::status::Board;

/// Parts of an answer between the session and the connection to the other coordinator. What waits beyond waits at the node.
const PARTS: usize = 2;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Answering {
    /// Who has a session here.
    pub(crate) nodes: Nodes,
    /// What is known of them.
    pub(crate) board: Board,
    /// Own the answers that are under way.
    pub(crate) tasks: Supervisor,
}

type Output = Result<v1::QueryOutput, Status>;

impl Answering {
    fn session(&self, name: &str) -> Result<Session, Status> {
        let node = name.parse::<NodeId>().map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.nodes
            .session(&node)
            .ok_or_else(|| Status::not_found(format!("node `{node}` has no session here")))
    }
}

#[tonic::async_trait]
impl Peer for Answering {
    async fn barrier(
        &self,
        request: Request<v1::PeerBarrierRequest>,
    ) -> Result<Response<v1::PeerBarrierReply>, Status> {
        let session = self.session(&request.into_inner().node)?;
        let tails = session.barrier().await;
        let tails = tails.ok_or_else(|| Status::unavailable("the session of the node ended"))?;
        Ok(Response::new(v1::PeerBarrierReply { tails }))
    }

    type RunQueryStream = ReceiverStream<Output>;

    async fn run_query(
        &self,
        request: Request<v1::PeerQueryRequest>,
    ) -> Result<Response<Self::RunQueryStream>, Status> {
        let caller = request.extensions().get::<CoordinatorName>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("a call without a caller"))?;
        let v1::PeerQueryRequest { node, id, sql, limits } = request.into_inner();
        let session = self.session(&node)?;
        // Two coordinators may have queries with one id.
        let id = format!("{caller}/{id}");
        let parts = session.query(&id, &sql, limits.unwrap_or_default()).await;
        let parts = parts.ok_or_else(|| Status::unavailable("the session of the node ended"))?;
        let (to, answer) = mpsc::channel(PARTS);
        self.tasks.spawn(TaskKind::optional("query of another coordinator"), pass_on(session, id, parts, to));
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn nodes(&self, _: Request<v1::PeerNodesRequest>) -> Result<Response<v1::PeerNodesReply>, Status> {
        let mut nodes = self.board.own_nodes();
        nodes.retain(|node| node.connected);
        Ok(Response::new(v1::PeerNodesReply { nodes }))
    }
}

/// Hands parts of an answer on as they are taken; cancels the query when nobody takes them any more.
async fn pass_on(
    session: Session,
    id: String,
    mut parts: mpsc::Receiver<query_output::Kind>,
    to: mpsc::Sender<Output>,
) -> Result<(), Infallible> {
    let mut taken = 0;
    loop {
        let part = tokio::select! {
            part = parts.recv() => part,
            () = to.closed() => break,
        };
        let output = match part {
            Some(kind) => Ok(v1::QueryOutput { id: id.clone(), kind: Some(kind) }),
            None => Err(Status::unavailable("the session of the node ended before it had answered")),
        };
        let goes_on =
            matches!(&output, Ok(output) if matches!(output.kind, Some(query_output::Kind::ArrowIpc(_))));
        if to.send(output).await.is_err() {
            break;
        }
        if !goes_on {
            session.query_done(&id);
            return Ok(());
        }
        session.query_taken(&id, &mut taken).await;
    }
    session.cancel_query(&id).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aap_proto::v1::coordinator_message::Kind;
    use aap_runtime::Shutdown;
    use aap_transport::testing::pair;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "tests own the tasks they spawn")]
    async fn an_answer_is_passed_on_as_it_is_taken_and_cancelled_when_nobody_takes_it() {
        let (mut agent, tx, _rx) = pair();
        let (nodes, node) = (Nodes::new(vec![]), "n1".parse().unwrap());
        let attached = nodes.attach(&node, "memory".to_owned(), tx, Shutdown::default()).await;
        attached.ready();
        let session = nodes.session(&node).unwrap();
        let parts = session.query("c2/q1", "select 1", v1::QueryLimits::default()).await.unwrap();
        let Some(Kind::RunQuery(asked)) = agent.rx.recv().await.unwrap().unwrap().kind else { panic!() };
        assert_eq!(asked.id, "c2/q1");
        let (to, mut answer) = mpsc::channel(PARTS);
        let passing = tokio::spawn(pass_on(session.clone(), asked.id.clone(), parts, to));
        let part = || v1::QueryOutput {
            id: "c2/q1".to_owned(),
            kind: Some(query_output::Kind::ArrowIpc(vec![1].into())),
        };
        for _ in 0..asked.window / 2 {
            assert_eq!(session.query_answered(part()), None);
            answer.recv().await.unwrap().unwrap();
        }
        let Some(Kind::QueryCredit(credit)) = agent.rx.recv().await.unwrap().unwrap().kind else { panic!() };
        assert_eq!(credit.messages, asked.window / 2);
        drop(answer);
        let Some(Kind::CancelQuery(cancel)) = agent.rx.recv().await.unwrap().unwrap().kind else { panic!() };
        assert_eq!(cancel.id, "c2/q1");
        passing.await.unwrap().unwrap();
        assert_eq!(session.query_answered(part()), None, "it is forgotten");
    }
}
