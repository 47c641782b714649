//! The uplink: what is durable here goes to the coordinator, in order, until the coordinator says it is durable there.
//!
//! ```text
//! dial ─▶ Hello (tails, heads, generation) ─▶ Welcome (landed, positions, new epoch?) ─▶ batches within the credit
//!   ▲                                                                     acks ─▶ buffer.advance("uplink")
//!   ├── at once: where a REDIRECT says, or the next address ◀── any error
//!   └── back-off, jittered: 50 ms … 30 s ◀── a round of all addresses that failed
//! ```
//!
//! # Rules
//! - Strictly in order per (epoch, stream); the coordinator's word on where a stream stands is final, except that a
//!   stream whose history forked is held until an operator decides, and new data flows under a new epoch.
//! - Nothing is sent before it is durable here, and no cursor moves beyond what was sent.
//! - A session may break anywhere: batch ids make everything safe to repeat, also with another coordinator of the cluster.
//!
//! | file | owns |
//! |---|---|
//! | `uplink/dial.rs` | [`Dial`]: the seam to coordinators, and the real thing |
//! | `uplink/route.rs` | which coordinator is dialled next: pure decisions |
//! | `uplink/state.rs` | [`State`]: per stream what was sent and acknowledged; the credit; pure decisions |
//! | `uplink/session.rs` | one session: hello, sending, receiving |
//! | `uplink/answers.rs` | queries that run for a session, and [`Window`]: how far an answer may run ahead |
//! | `uplink/reconcile.rs` | whether the ledger has what stands here: pure decisions |
//! | `uplink/recover.rs` | what an operator decides about batches whose stream forked |
//! | `uplink/renewal.rs` | [`Renewal`]: the node's certificate |
//! | `uplink/report.rs` | the node's report, and its tails |

mod answers;
mod dial;
mod reconcile;
mod recover;
mod renewal;
mod report;
mod route;
mod session;
mod state;

pub use answers::Window;
pub use dial::{Dial, RealDial};
pub use recover::{Recovered, Recovery, recover};
pub use renewal::Renewal;
pub use report::{node_report, tails};
pub use state::{Next, State, landing_consumer};

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::Buffer;
use aap_runtime::{Clock, Shutdown};

use self::route::{Route, Then};
use crate::board::Board;
use crate::counters::Counters;
use crate::deletions::Deletions;
use crate::drain::Drain;
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

/// A session that broke sooner says nothing good about its coordinator: it is a failure like a dial without an answer, so that
/// coordinators that welcome and drop a node in turn do not make it dial without a pause.
const STOOD: Duration = Duration::from_secs(1);

/// A break of this length is worth a warning: a coordinator that just restarts is back sooner.
const WORRY: Duration = Duration::from_secs(5);

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
    /// Whether new rows are taken.
    pub drain: Arc<Drain>,
    /// Answers the coordinator's queries.
    pub queries: Option<NodeQueries>,
    /// Looks after this node's certificate.
    pub renewal: Option<Renewal>,
}

impl std::fmt::Debug for UplinkDeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UplinkDeps").finish_non_exhaustive()
    }
}

/// Keeps a session with a coordinator until it is asked to stop.
pub async fn run(
    dial: Arc<dyn Dial>,
    deps: UplinkDeps,
    shutdown: Shutdown,
) -> Result<(), std::convert::Infallible> {
    deps.board.uplink(|entry| entry.configured = true);
    let mut route = Route::new(dial.addresses(), &deps.buffer.identity().node);
    let mut backoff = Backoff::new(deps.clock.clone());
    while !shutdown.is_requested() {
        route.follow(dial.addresses());
        let Some(address) = route.address().map(str::to_owned) else {
            let why = dial.trouble().unwrap_or_else(|| "they are looked for".to_owned());
            deps.board.uplink(|entry| entry.problem = format!("no coordinator is known: {why}"));
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = shutdown.requested() => break,
            }
            continue;
        };
        if let Some(renewal) = &deps.renewal {
            tokio::select! {
                () = renewal.recover_if_expired() => {}
                () = shutdown.requested() => break,
            }
        }
        let mut welcomed = None;
        let welcome = || {
            backoff.succeeded();
            welcomed = Some(deps.clock.monotonic());
        };
        let end = match dial.dial(&address).await {
            Ok(session) => session::hold(session, &address, &deps, &shutdown, welcome).await,
            Err(error) => session::End::Broken(chain(&error)),
        };
        if welcomed.is_some_and(|since| deps.clock.monotonic().saturating_sub(since) >= STOOD) {
            route.stood();
        }
        deps.board.uplink(|entry| entry.connected = false);
        let Some(then) = next(end, &address, &mut route, &mut backoff, &deps.board) else { break };
        if then == Then::AtOnce {
            continue;
        }
        dial.look_again();
        tokio::select! {
            () = tokio::time::sleep(backoff.next_pause()) => {}
            () = shutdown.requested() => break,
        }
    }
    Ok(())
}

/// What follows the end of a session, or of a dial. `None`: nothing, the agent stops.
fn next(
    end: session::End,
    address: &str,
    route: &mut Route,
    backoff: &mut Backoff,
    board: &Board,
) -> Option<Then> {
    let mut failed = |reason: &str| {
        board.uplink(|entry| entry.problem = format!("not connected to the coordinator: {reason}"));
        backoff.log(address, reason);
    };
    match end {
        session::End::Stopped => None,
        session::End::BetterCarrier | session::End::OtherRoots => Some(Then::AtOnce),
        session::End::Broken(reason) => {
            failed(&reason);
            Some(route.failed())
        }
        session::End::Redirected(to) if aap_transport::is_address(&to) => {
            tracing::debug!(address, to, "sent to another coordinator");
            let then = route.redirected(to);
            if then == Then::AfterPause {
                failed("its coordinators send this node from one to another, and none takes it");
            }
            Some(then)
        }
        session::End::Redirected(to) => {
            tracing::warn!(address, to, "the coordinator sent this node to what is no address");
            failed("it sent this node to what is no address of a coordinator");
            Some(route.failed())
        }
    }
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

    fn log(&mut self, address: &str, reason: &str) {
        self.attempts += 1;
        let now = self.clock.monotonic();
        let since = *self.broken_since.get_or_insert(now);
        if !self.warned && now.saturating_sub(since) >= WORRY {
            self.warned = true;
            tracing::warn!(address, reason, "uplink is down; data waits in the buffer");
        } else if self.attempts.is_power_of_two() {
            tracing::info!(address, reason, attempts = self.attempts, "uplink is down");
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
