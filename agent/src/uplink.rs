//! The uplink: what is durable here goes to the coordinator, in order, until the coordinator says it is durable there.
//!
//! ```text
//! dial ─▶ Hello (tails, heads, generation) ─▶ Welcome (landed, positions, new epoch?) ─▶ batches within the credit
//!   ▲                                                                     acks ─▶ buffer.advance("uplink")
//!   └── back-off, jittered: 50 ms … 30 s ◀── any error
//! ```
//!
//! # Rules
//! - Strictly in order per (epoch, stream); the coordinator's word on where a stream stands is final, except that a
//!   stream whose history forked is held until an operator decides, and new data flows under a new epoch.
//! - Nothing is sent before it is durable here, and no cursor moves beyond what was sent.
//! - A session may break anywhere: batch ids make everything safe to repeat.
//!
//! | file | owns |
//! |---|---|
//! | `uplink/state.rs` | [`State`]: per stream what was sent and acknowledged; the credit; pure decisions |
//! | `uplink/session.rs` | one session: hello, sending, receiving |
//! | `uplink/answers.rs` | queries that run for a session, and [`Window`]: how far an answer may run ahead |
//! | `uplink/reconcile.rs` | whether the ledger has what stands here: pure decisions |
//! | `uplink/recover.rs` | what an operator decides about batches whose stream forked |
//! | `uplink/report.rs` | the node's report, and its tails |

mod answers;
mod reconcile;
mod recover;
mod report;
mod session;
mod state;

pub use answers::Window;
pub use recover::{Recovered, Recovery, recover};
pub use report::{node_report, tails};
pub use state::{Next, State, landing_consumer};

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::Buffer;
use aap_runtime::{Clock, Shutdown};
use aap_transport::{AgentSession, ClientConfig, Dialer, Prefer, TlsFiles};
use aap_types::NodeId;
use camino::Utf8PathBuf;
use futures::future::BoxFuture;

use crate::board::Board;
use crate::config::{CarrierChoice, CoordinatorSpec};
use crate::counters::Counters;
use crate::deletions::Deletions;
use crate::failpoint::Failpoints;
use crate::query::NodeQueries;
use crate::welcome::FirstWelcome;

/// First pause after a session broke: a coordinator that restarts on the same machine is back in well under a second.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: an outage of hours must not become a storm of connections, nor its end go unnoticed for minutes.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// For this long after a break, pauses stay under [`PAUSE_SOON`]: most outages are restarts.
const SOON: Duration = Duration::from_secs(60);
/// See [`SOON`].
const PAUSE_SOON: Duration = Duration::from_secs(1);

/// A break of this length is worth a warning: a coordinator that just restarts is back sooner.
const WORRY: Duration = Duration::from_secs(5);

/// Opens sessions; the seam behind which tests have a coordinator in memory.
pub trait Dial: Send + Sync + 'static {
    /// Opens one session.
    fn dial(&self) -> BoxFuture<'_, Result<AgentSession, aap_transport::Error>>;
}

/// Dials a real coordinator. The address is read anew each time, because `auto` follows `run/coordinator.json`.
#[derive(Debug)]
pub struct RealDial {
    spec: CoordinatorSpec,
    node: NodeId,
    home: Utf8PathBuf,
    dialer: tokio::sync::Mutex<Option<(String, Arc<Dialer>)>>,
}

impl RealDial {
    /// Dials what `spec` says; relative paths are below `home`.
    pub fn new(spec: CoordinatorSpec, node: NodeId, home: Utf8PathBuf) -> Self {
        Self { spec, node, home, dialer: tokio::sync::Mutex::new(None) }
    }

    fn address(&self) -> Option<String> {
        if self.spec.address != "auto" {
            return Some(self.spec.address.clone());
        }
        let text = std::fs::read(self.home.join("run").join("coordinator.json")).ok()?;
        let endpoints: serde_json::Value = serde_json::from_slice(&text).ok()?;
        endpoints.get("agents")?.as_str().map(str::to_owned)
    }

    async fn dialer(&self) -> Result<Arc<Dialer>, aap_transport::Error> {
        let address = self.address().ok_or_else(|| aap_transport::Error::Connect {
            address: "auto".to_owned(),
            carrier: "any carrier",
            source: Arc::new(std::io::Error::other(
                "the coordinator has not written `run/coordinator.json` yet",
            )),
        })?;
        let mut kept = self.dialer.lock().await;
        match &*kept {
            Some((known, dialer)) if *known == address => Ok(dialer.clone()),
            _ => {
                let dialer = Arc::new(Dialer::new(self.client_config(address.clone()))?);
                *kept = Some((address, dialer.clone()));
                Ok(dialer)
            }
        }
    }

    fn client_config(&self, address: String) -> ClientConfig {
        let own = |path: &Option<Utf8PathBuf>, kind| match path {
            Some(path) => self.home.join(path),
            None => self.home.join("tls").join("nodes").join(format!("{}.{kind}", self.node)),
        };
        let tls = TlsFiles {
            root: self.home.join(&self.spec.ca),
            certificate: own(&self.spec.certificate, "pem"),
            key: own(&self.spec.key, "key"),
        };
        let prefer = match self.spec.carrier {
            CarrierChoice::Auto => Prefer::Auto,
            CarrierChoice::Quic => Prefer::Quic,
            CarrierChoice::Grpc => Prefer::Grpc,
        };
        ClientConfig { address, tls, prefer }
    }
}

impl Dial for RealDial {
    fn dial(&self) -> BoxFuture<'_, Result<AgentSession, aap_transport::Error>> {
        Box::pin(async move { self.dialer().await?.connect().await })
    }
}

/// What the uplink works with. Cheap to clone.
#[derive(Clone)]
pub struct UplinkDeps {
    /// What is to be delivered.
    pub buffer: Buffer,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The books that are reported.
    pub counters: Arc<Counters>,
    /// Where it says how it is.
    pub board: Arc<Board>,
    /// Crash points.
    pub failpoints: Failpoints,
    /// What was sent, and which streams are held.
    pub state: Arc<State>,
    /// Where sources hear that they may read.
    pub first_welcome: Arc<FirstWelcome>,
    /// Where `aap ingest` hears what was deleted.
    pub deletions: Arc<Deletions>,
    /// Answers the coordinator's queries.
    pub queries: Option<NodeQueries>,
}

impl std::fmt::Debug for UplinkDeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UplinkDeps").finish_non_exhaustive()
    }
}

/// Keeps a session with the coordinator until it is asked to stop.
pub async fn run(
    dial: Arc<dyn Dial>,
    deps: UplinkDeps,
    shutdown: Shutdown,
) -> Result<(), std::convert::Infallible> {
    deps.board.uplink(|entry| entry.configured = true);
    let state = deps.state.clone();
    let mut backoff = Backoff::new(deps.clock.clone());
    while !shutdown.is_requested() {
        let end = match dial.dial().await {
            Ok(session) => session::hold(session, &deps, &state, &shutdown, || backoff.succeeded()).await,
            Err(error) => session::End::Broken(chain(&error)),
        };
        deps.board.uplink(|entry| {
            entry.connected = false;
            if let session::End::Broken(reason) = &end {
                entry.problem = format!("not connected to the coordinator: {reason}");
            }
        });
        match end {
            session::End::Stopped => break,
            session::End::BetterCarrier => continue,
            session::End::Broken(reason) => backoff.log(&reason),
        }
        let pause = backoff.next_pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => break,
        }
    }
    Ok(())
}

/// The error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Pauses that grow, with jitter, and a log that tells the first failure and then only now and then.
struct Backoff {
    clock: Arc<dyn Clock>,
    pause: Duration,
    broken_since: Option<Duration>,
    attempts: u32,
    warned: bool,
    seed: u64,
}

impl Backoff {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let seed = clock.unix_us().unsigned_abs() ^ (u64::from(std::process::id()) << 32);
        Self { clock, pause: PAUSE_MIN, broken_since: None, attempts: 0, warned: false, seed }
    }

    fn succeeded(&mut self) {
        (self.pause, self.broken_since) = (PAUSE_MIN, None);
        (self.attempts, self.warned) = (0, false);
    }

    fn log(&mut self, reason: &str) {
        self.attempts += 1;
        let now = self.clock.monotonic();
        let since = *self.broken_since.get_or_insert(now);
        if !self.warned && now.saturating_sub(since) >= WORRY {
            self.warned = true;
            tracing::warn!(reason, "uplink is down; data waits in the buffer");
        } else if self.attempts.is_power_of_two() {
            tracing::info!(reason, attempts = self.attempts, "uplink is down");
        }
    }

    fn next_pause(&mut self) -> Duration {
        let now = self.clock.monotonic();
        let since = *self.broken_since.get_or_insert(now);
        let limit = if now.saturating_sub(since) < SOON { PAUSE_SOON } else { PAUSE_MAX };
        let pause = self.pause.min(limit);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        // splitmix64: a thousand nodes must not come back in the same millisecond.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let half = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX) / 2;
        Duration::from_micros(half + (mixed >> 33) % half.max(1))
    }
}

#[cfg(test)]
mod tests;
