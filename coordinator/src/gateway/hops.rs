//! Requests that came by way of proxies: who they are from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aap_gateway::{Network, client_of, is_trusted};
use aap_transport::Client;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderName;
use axum::middleware::Next;
use axum::response::Response;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hops(Arc<[Network]>);

impl Hops {
    pub(crate) fn new(trusted: &[Network]) -> Self {
        Self(trusted.into())
    }

    /// Whether an address is one of theirs.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        is_trusted(&self.0, address)
    }
}

/// The middleware. Everything behind it sees the client in the place of the proxy: limits, log-ins, records, and what is only for this machine.
pub(crate) async fn name_client(State(hops): State<Hops>, mut request: Request, next: Next) -> Response {
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<Client>>() {
        let peer = peer.clone();
        // A byte that is no text is somebody's own, and what a proxy wrote behind it counts all the same.
        let values = request.headers().get_all(FORWARDED_FOR).iter();
        let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let client = client_of(&hops.0, peer.address.ip(), values.iter().map(AsRef::as_ref));
        if client != peer.address.ip() {
            // The port is the proxy's, and says nothing of the client.
            let address = SocketAddr::new(client, 0);
            request.extensions_mut().insert(ConnectInfo(Client { address, ..peer }));
        }
    }
    next.run(request).await
}
