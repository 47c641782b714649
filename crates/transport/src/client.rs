//! Dialling the coordinator.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::{AgentSession, Error, TlsFiles, grpc};

/// Which carrier an agent uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// QUIC, and gRPC where UDP does not get through.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// gRPC only.
    Grpc,
}

/// Whom an agent dials, as whom, and how.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `HOST:PORT` of the coordinator; the host must be among the names of its certificate.
    pub address: String,
    /// Identity of the node and root of the authority. Read at every connect.
    pub tls: TlsFiles,
    /// Carrier.
    pub prefer: Prefer,
}

/// Opens sessions with one coordinator, one after the other.
#[derive(Debug)]
pub struct Dialer {
    config: ClientConfig,
    target: Target,
}

impl Dialer {
    /// A dialer. Nothing is dialled yet.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let target = Target::parse(&config.address)?;
        Ok(Self { config, target })
    }

    /// Opens a session. Returns when the coordinator has accepted the node's certificate. Not retried: the caller
    /// knows how urgent it is.
    pub async fn connect(&self) -> Result<AgentSession, Error> {
        grpc::connect(&self.target, &self.config.tls).await
    }
}

/// Opens one session. For more than one, keep a [`Dialer`]: it remembers which carrier works.
pub async fn connect(config: &ClientConfig) -> Result<AgentSession, Error> {
    Dialer::new(config.clone())?.connect().await
}

/// A parsed `HOST:PORT`.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    text: Arc<str>,
    name: ServerName<'static>,
}

impl Target {
    fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadAddress { address: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        Ok(Self { text: text.into(), name })
    }

    /// `HOST:PORT`.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The host, as the coordinator's certificate must name it.
    pub(crate) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    pub(crate) fn failed(
        &self,
        carrier: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error::Connect { address: self.text.to_string(), carrier, source: Arc::new(source) }
    }

    pub(crate) fn timed_out(&self, carrier: &'static str, deadline: Duration) -> Error {
        Error::ConnectTimeout { address: self.text.to_string(), carrier, deadline }
    }
}
