//! Connections of clients of sources, with TLS where that is configured.

use std::io;
use std::net::SocketAddr;

use aap_runtime::Shutdown;
use aap_transport::{HttpLimits, HttpListener, Security, serve_http};
use axum::Router;
use tokio::net::TcpListener;

use super::DRAIN;
use crate::config::TlsSpec;
use crate::source::{SourceDeps, SourceError};

/// Where clients connect.
pub(in crate::source) struct Listener(HttpListener);

/// How connections are protected, as a configuration says.
pub(in crate::source) fn security(tls: Option<&TlsSpec>, deps: &SourceDeps) -> Result<Security, SourceError> {
    let Some(tls) = tls else { return Ok(Security::Plain) };
    let config = tls.files(deps.home.root()).server(&[b"h2", b"http/1.1"]);
    config.map(Security::Tls).map_err(|error| SourceError::Config(error.problem().report()))
}

impl Listener {
    /// Listens at `address`, of which one client has so many connections at once.
    pub(in crate::source) async fn bind(
        address: SocketAddr,
        security: Security,
        connections_per_address: usize,
    ) -> Result<Self, SourceError> {
        let tcp = TcpListener::bind(address).await.map_err(|source| {
            let owner = match source.kind() {
                io::ErrorKind::AddrInUse => "; see `ss -ltnp` for who has it",
                _ => "",
            };
            SourceError::Io { what: format!("listen on {address}{owner}"), source }
        })?;
        let limits = HttpLimits { connections_per_address, ..HttpLimits::default() };
        Ok(Self(HttpListener::new(tcp, security).limited(limits)))
    }

    /// Where it listens.
    pub(in crate::source) fn address(&self) -> Result<SocketAddr, SourceError> {
        self.0.address().map_err(SourceError::io("ask for the address"))
    }

    /// Serves until it is asked to stop; requests under way then have a while.
    pub(in crate::source) async fn serve(
        self,
        router: Router,
        shutdown: Shutdown,
    ) -> Result<(), SourceError> {
        let abandoned = async {
            shutdown.requested().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            () = serve_http(self.0, router, shutdown.clone()) => {}
            () = abandoned => {}
        }
        Ok(())
    }
}
