//! Dialling the coordinator.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

use tracing::{debug, info};

use crate::limits::{QUIC_RETRY_PAUSE, QUIC_RETRY_PAUSE_MAX, QUIC_SUSPECT_DEADLINE};
use crate::quic::Endpoints;
use crate::session::BetterCarrier;
use crate::{AgentSession, Error, QUIC_CONNECT_DEADLINE, TlsFiles, grpc, quic};

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

/// Opens sessions with one coordinator, one after the other, and remembers which carrier works.
#[derive(Debug)]
pub struct Dialer {
    config: ClientConfig,
    target: Target,
    /// Whether UDP did not get through the last time.
    suspect: Arc<AtomicBool>,
}

impl Dialer {
    /// A dialer. Nothing is dialled yet.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let target = Target::parse(&config.address)?;
        Ok(Self { config, target, suspect: Arc::default() })
    }

    /// A dialer of another coordinator, from the same sockets as this one.
    pub fn beside(&self, config: ClientConfig) -> Result<Self, Error> {
        let target = Target { endpoints: self.target.endpoints.clone(), ..Target::parse(&config.address)? };
        Ok(Self { config, target, suspect: Arc::default() })
    }

    /// Opens a session. Returns when the coordinator has accepted the node's certificate. Not retried: the caller
    /// knows how urgent it is.
    pub async fn connect(&self) -> Result<AgentSession, Error> {
        match self.config.prefer {
            Prefer::Auto => self.connect_either().await,
            Prefer::Quic => self.connect_quic(QUIC_CONNECT_DEADLINE).await,
            Prefer::Grpc => self.connect_grpc().await,
        }
    }

    async fn connect_quic(&self, deadline: Duration) -> Result<AgentSession, Error> {
        // Boxed, like the other: a handshake in progress is ten kilobytes, which every caller would carry.
        Box::pin(quic::connect(&self.target, &self.config.tls, deadline, self.suspect.clone())).await
    }

    async fn connect_grpc(&self) -> Result<AgentSession, Error> {
        Box::pin(grpc::connect(&self.target, &self.config.tls)).await
    }

    /// QUIC, and gRPC if that fails; QUIC gets less time where it failed before.
    async fn connect_either(&self) -> Result<AgentSession, Error> {
        let suspect = self.suspect.load(Ordering::Relaxed);
        let deadline = if suspect { QUIC_SUSPECT_DEADLINE } else { QUIC_CONNECT_DEADLINE };
        let failure = match self.connect_quic(deadline).await {
            Ok(session) => {
                self.suspect.store(false, Ordering::Relaxed);
                return Ok(session);
            }
            Err(failure) => failure,
        };
        let mut session = self.connect_grpc().await?;
        if !suspect {
            info!(address = self.target.text(), error = %crate::server::chain(&failure), "fell back to gRPC");
        }
        self.suspect.store(true, Ordering::Relaxed);
        session.better = BetterCarrier::after(self.find_quic());
        Ok(session)
    }

    /// Tries QUIC in the background until it works.
    fn find_quic(&self) -> impl Future<Output = ()> + Send + 'static {
        let (target, files, suspect) = (self.target.clone(), self.config.tls.clone(), self.suspect.clone());
        async move {
            let mut pause = QUIC_RETRY_PAUSE;
            loop {
                tokio::time::sleep(jittered(pause)).await;
                match quic::probe(&target, &files, QUIC_CONNECT_DEADLINE).await {
                    Ok(()) => break,
                    Err(error) => debug!(%error, "QUIC does not get through yet"),
                }
                pause = (pause * 2).min(QUIC_RETRY_PAUSE_MAX);
            }
            info!(address = target.text(), "QUIC gets through again");
            suspect.store(false, Ordering::Relaxed);
        }
    }
}

/// Three quarters to five quarters of `pause`, so that a thousand agents do not come back in step.
fn jittered(pause: Duration) -> Duration {
    // A fresh `RandomState` is seeded by the system; nothing here needs more than to differ between processes.
    let random = RandomState::new().hash_one(0_u8) % 1024;
    pause.mul_f64(0.75 + random as f64 / 2048.0)
}

/// Opens one session. For more than one, keep a [`Dialer`]: it remembers which carrier works.
pub async fn connect(config: &ClientConfig) -> Result<AgentSession, Error> {
    Dialer::new(config.clone())?.connect().await
}

/// Whether `text` has the form `HOST:PORT`, so that it can be dialled.
pub fn is_address(text: &str) -> bool {
    Target::parse(text).is_ok()
}

/// A parsed `HOST:PORT`.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    text: Arc<str>,
    name: ServerName<'static>,
    /// Where QUIC dials from.
    pub(crate) endpoints: Endpoints,
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadAddress { address: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        Ok(Self { text: text.into(), name, endpoints: Endpoints::default() })
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
