//! Calls between coordinators: who may make them, and what becomes of them.

use std::sync::{Arc, Mutex};

use aap_proto::v1::agent_message::Kind;
use aap_proto::v1::peer_client::PeerClient;
use aap_proto::v1::peer_server::Peer;
use aap_proto::v1::uplink_client::UplinkClient;
use aap_proto::v1::{self, AgentMessage};
use aap_runtime::Shutdown;
use aap_transport::{LiveTls, Prefer, Server, ServerConfig, TlsFiles, connect, peer_channel};
use aap_types::CoordinatorName;
use futures::stream::{BoxStream, StreamExt};
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};

use crate::support::{Checker, Platform, greet, node, within};

/// Says who called, and of which node.
#[derive(Clone, Default)]
struct Echo {
    calls: Arc<Mutex<Vec<(String, String)>>>,
}

#[tonic::async_trait]
impl Peer for Echo {
    type RunQueryStream = BoxStream<'static, Result<v1::QueryOutput, Status>>;

    async fn barrier(
        &self,
        request: Request<v1::PeerBarrierRequest>,
    ) -> Result<Response<v1::PeerBarrierReply>, Status> {
        let caller = request.extensions().get::<CoordinatorName>().unwrap().to_string();
        self.calls.lock().unwrap().push((caller, request.into_inner().node));
        Ok(Response::new(v1::PeerBarrierReply::default()))
    }

    async fn run_query(
        &self,
        request: Request<v1::PeerQueryRequest>,
    ) -> Result<Response<Self::RunQueryStream>, Status> {
        let id = request.into_inner().id;
        let end = v1::QueryOutput { id, kind: Some(v1::query_output::Kind::End("{}".to_owned())) };
        Ok(Response::new(futures::stream::iter([Ok(end)]).chain(futures::stream::pending()).boxed()))
    }

    async fn nodes(&self, _: Request<v1::PeerNodesRequest>) -> Result<Response<v1::PeerNodesReply>, Status> {
        Ok(Response::new(v1::PeerNodesReply::default()))
    }
}

/// A coordinator of a cluster beside the platform's own one, which is in none.
async fn in_cluster(platform: &Platform, echo: &Echo) -> String {
    let tls = LiveTls::open(platform.authority.server_files(&[]).unwrap(), None).unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(&ServerConfig { bind, tls }).await.unwrap().with_peers(echo.clone());
    let address = server.address().to_string();
    let checker: Arc<Checker> = platform.checker.clone();
    tokio::spawn(server.run(checker, platform.shutdown.clone()));
    address
}

fn c2(platform: &Platform) -> TlsFiles {
    platform.authority.coordinator_files(&"c2".parse().unwrap()).unwrap()
}

async fn barrier(address: &str, files: TlsFiles) -> Result<(), Status> {
    let mut peer = PeerClient::new(peer_channel(address, files).unwrap());
    let request = v1::PeerBarrierRequest { node: "n1".to_owned() };
    within(peer.barrier(request)).await.map(drop)
}

#[tokio::test]
async fn a_coordinator_is_known_by_name_and_a_node_may_not_call() {
    let (platform, echo) = (Platform::start().await, Echo::default());
    let address = in_cluster(&platform, &echo).await;
    barrier(&address, c2(&platform)).await.unwrap();
    assert_eq!(*echo.calls.lock().unwrap(), [("c2".to_owned(), "n1".to_owned())]);
    let refused = barrier(&address, platform.authority.node_files(&node()).unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(echo.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_coordinator_may_not_open_a_session() {
    let (platform, echo) = (Platform::start().await, Echo::default());
    let address = in_cluster(&platform, &echo).await;
    for prefer in [Prefer::Grpc, Prefer::Quic] {
        let mut config = platform.client_as(c2(&platform), prefer);
        config.address = address.clone();
        assert!(within(connect(&config)).await.is_err(), "{prefer:?}");
    }
    let mut uplink = UplinkClient::new(peer_channel(&address, c2(&platform)).unwrap());
    let hello = AgentMessage { kind: Some(Kind::Hello(v1::Hello::default())) };
    let refused = within(uplink.session(futures::stream::iter([hello]))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(platform.checker.peers.lock().unwrap().is_empty());
    // Nodes are served there as anywhere.
    let mut config = platform.client(Prefer::Grpc);
    config.address = address;
    greet(&mut connect(&config).await.unwrap(), 1).await;
}

#[tokio::test]
async fn certificates_that_are_no_coordinators_of_this_authority_are_not_let_in() {
    let (platform, echo) = (Platform::start().await, Echo::default());
    let address = in_cluster(&platform, &echo).await;
    let foreign = Platform::start().await;
    let stranger = TlsFiles { root: platform.authority.root_path(), ..c2(&foreign) };
    for (files, why) in
        [(stranger, "another authority"), (platform.authority.server_files(&[]).unwrap(), "a server's")]
    {
        let refused = barrier(&address, files).await.unwrap_err();
        assert_ne!(refused.code(), Code::PermissionDenied, "{why} reached the service");
    }
    // Who is in no cluster lets no coordinator in.
    assert!(barrier(&platform.serving.address().to_string(), c2(&platform)).await.is_err());
    assert!(echo.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_peer_that_is_gone_or_frozen_fails_the_call_and_the_next_one_dials_again() {
    let (platform, echo) = (Platform::start().await, Echo::default());
    // The kernel accepts, and nothing follows, as with a process that is frozen.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = barrier(&frozen.local_addr().unwrap().to_string(), c2(&platform)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    let shutdown = Shutdown::default();
    let tls = LiveTls::open(platform.authority.server_files(&[]).unwrap(), None).unwrap();
    let bind = async |bind: &str| {
        let config = ServerConfig { bind: bind.parse().unwrap(), tls: tls.clone() };
        Server::bind(&config).await.unwrap().with_peers(echo.clone())
    };
    let first = bind("127.0.0.1:0").await;
    let address = first.address().to_string();
    let running = tokio::spawn(first.run(platform.checker.clone(), shutdown.clone()));
    let mut peer = PeerClient::new(peer_channel(&address, c2(&platform)).unwrap());
    within(peer.nodes(v1::PeerNodesRequest {})).await.unwrap();
    shutdown.request();
    within(running).await.unwrap().unwrap();
    assert!(within(peer.nodes(v1::PeerNodesRequest {})).await.is_err());
    let second = bind(&address).await;
    tokio::spawn(second.run(platform.checker.clone(), platform.shutdown.clone()));
    within(async {
        while peer.nodes(v1::PeerNodesRequest {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_home_that_was_copied_gets_an_identity_of_its_own() {
    let platform = Platform::start().await;
    let read = |files: &TlsFiles| std::fs::read(&files.certificate).unwrap();
    let first = platform.authority.coordinator_files(&"c1".parse().unwrap()).unwrap();
    let of_first = read(&first);
    assert_eq!(read(&platform.authority.coordinator_files(&"c1".parse().unwrap()).unwrap()), of_first);
    assert_ne!(read(&c2(&platform)), of_first);
}
