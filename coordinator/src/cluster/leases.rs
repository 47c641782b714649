//! The leases that this coordinator holds: taken, renewed, and given up as soon as there is a doubt.
//!
//! A lease lasts [`LAST`] by the clock of the store. Here it is over a little earlier, by our own clock, counted from before it was
//! asked for: whoever waits for its end elsewhere never meets us. That is courtesy; what makes two owners harmless is fencing,
//! by the transactional id in Kafka and by the token in PostgreSQL.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_runtime::{Clock, Shutdown};
use aap_store::{Acquired, ClusterStore, Error, Lease};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

/// How long a lease lasts without being renewed: long enough for a pause of the disk or the network that ends by itself, short
/// enough that agents of a coordinator that died wait little.
pub(crate) const LAST: Duration = Duration::from_secs(15);
/// How often it is renewed: often, so that others soon see that nobody does any more.
const RENEW: Duration = Duration::from_secs(1);
/// How long a renewal may take before that is said.
const RENEWAL: Duration = Duration::from_secs(3);
/// By how much earlier it is over here.
const MARGIN: Duration = Duration::from_secs(2);
/// How often it is looked whether one is over.
const LOOK: Duration = Duration::from_millis(500);

/// A lease that is held.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    /// Its fencing token.
    pub(crate) token: u64,
    /// Requested when it is lost.
    pub(crate) lost: Shutdown,
}

/// Whether a lease was to be had.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(Hold),
    /// Somebody else has it.
    Theirs(Lease),
}

#[derive(Debug)]
struct Held {
    hold: Hold,
    /// By our own clock.
    until: Duration,
}

/// How long the holder of a lease may take to take up a connection. One that is asked is on the way of a node that waits.
const PROBE: Duration = Duration::from_secs(1);
/// A holder that has not renewed for so long, and whose machine refuses connections, is taken for gone: its process is dead.
/// Refusal alone says nothing: a firewall refuses too.
const DEAD: Duration = Duration::from_millis(2_500);
/// The same of one that cannot be reached at all.
const SILENT: Duration = Duration::from_secs(7);

/// All leases of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ClusterStore>,
    clock: Arc<dyn Clock>,
    /// Who we are; of each start its own.
    holder: String,
    /// What others need to know of us.
    detail: String,
    held: Mutex<BTreeMap<String, Held>>,
    /// Why they cannot be renewed.
    problem: Mutex<Option<String>>,
}

impl Leases {
    /// None yet, for the holder `holder`, of whom others learn `detail`.
    pub(crate) fn new(
        store: Arc<dyn ClusterStore>,
        clock: Arc<dyn Clock>,
        holder: String,
        detail: String,
    ) -> Self {
        let (held, problem) = Default::default();
        Self { inner: Arc::new(Inner { store, clock, holder, detail, held, problem }) }
    }

    /// Takes a lease, or says who has it. One that is held already is the same again.
    pub(crate) async fn take(&self, name: &str) -> Result<Taken, Error> {
        if let Some(hold) = self.hold(name) {
            return Ok(Taken::Ours(hold));
        }
        let until = self.inner.clock.monotonic() + LAST - MARGIN;
        let (leases, wanted) = (self.clone(), name.to_owned());
        let acquired = spawn_blocking(move || {
            let Inner { store, holder, detail, .. } = &*leases.inner;
            store.acquire_lease(&wanted, holder, detail, LAST)
        });
        match acquired.await.map_err(|panic| Error::Unreadable(panic.to_string()))?? {
            Acquired::Held(lease) => Ok(Taken::Theirs(lease)),
            Acquired::Taken(lease) => {
                let hold = Hold { token: lease.token, lost: Shutdown::default() };
                self.held().insert(name.to_owned(), Held { hold: hold.clone(), until });
                Ok(Taken::Ours(hold))
            }
        }
    }

    /// The same, but from a holder that is gone it is taken before it is over: from one that has not renewed it for a while and
    /// cannot be reached where agents find it. That a holder who lives after all goes on is harmless, as it is with a lease
    /// that is over.
    pub(crate) async fn take_from_gone(&self, name: &str) -> Result<Taken, Error> {
        let lease = match self.take(name).await? {
            Taken::Theirs(lease) if !lease.holder.is_empty() => lease,
            taken => return Ok(taken),
        };
        if !is_gone(&lease).await {
            return Ok(Taken::Theirs(lease));
        }
        info!(lease = name, holder = lease.detail, "the holder of a lease is gone");
        let (leases, token) = (self.clone(), (name.to_owned(), lease.token));
        let released =
            spawn_blocking(move || leases.inner.store.release_leases(&lease.holder, &[token])).await;
        released.map_err(|panic| Error::Unreadable(panic.to_string()))??;
        self.take(name).await
    }

    /// The lease, while it is held.
    pub(crate) fn hold(&self, name: &str) -> Option<Hold> {
        let now = self.inner.clock.monotonic();
        self.held().get(name).filter(|held| now < held.until).map(|held| held.hold.clone())
    }

    /// Gives a hold up: whoever wants the lease has it at once. One that was taken anew meanwhile is left alone.
    pub(crate) async fn give_up(&self, name: &str, hold: &Hold) {
        if self.forget(name, hold) {
            self.release(vec![(name.to_owned(), hold.token)]).await;
        }
    }

    /// Ends a hold, without telling the store: others have the lease when it is over, and this coordinator as soon as it asks.
    /// Whether it was the present one.
    pub(crate) fn forget(&self, name: &str, hold: &Hold) -> bool {
        hold.lost.request();
        let mut held = self.held();
        let is_present = held.get(name).is_some_and(|known| known.hold.lost.is_requested());
        if is_present {
            held.remove(name);
        }
        is_present
    }

    /// Gives all up. Call it when nothing is done under them any more.
    pub(crate) async fn give_all_up(&self) {
        let held = std::mem::take(&mut *self.held());
        held.values().for_each(|held| held.hold.lost.request());
        self.release(held.into_iter().map(|(name, held)| (name, held.hold.token)).collect()).await;
    }

    async fn release(&self, leases: Vec<(String, u64)>) {
        let inner = self.inner.clone();
        let released = spawn_blocking(move || inner.store.release_leases(&inner.holder, &leases)).await;
        if !matches!(released, Ok(Ok(()))) {
            // They end by themselves.
            info!(?released, "leases were not given up");
        }
    }

    /// Who holds what. Blocking.
    pub(crate) fn all(&self) -> Result<Vec<Lease>, Error> {
        self.inner.store.leases()
    }

    /// Whether a holder is this process.
    pub(crate) fn is_us(&self, holder: &str) -> bool {
        self.inner.holder == holder
    }

    /// Why leases cannot be renewed, if they cannot.
    pub(crate) fn problem(&self) -> Option<String> {
        self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renews until `shutdown`, and tells whoever works under one that was lost.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        let mut renewed = Duration::ZERO;
        while !shutdown.is_requested() {
            // First: what is over must not be renewed, though nobody has taken it.
            self.drop_expired();
            let now = self.inner.clock.monotonic();
            if now.saturating_sub(renewed) >= RENEW {
                renewed = now;
                tokio::select! {
                    // What a server that hangs answers later is not looked at: the look below comes in time.
                    () = self.renew() => {}
                    () = sleep(RENEWAL) => self.note(Some("the metadata store does not answer".to_owned())),
                }
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = shutdown.requested() => {}
            }
        }
        Ok(())
    }

    async fn renew(&self) {
        let wanted: Vec<(String, u64)> =
            self.held().iter().map(|(name, held)| (name.clone(), held.hold.token)).collect();
        if wanted.is_empty() {
            return;
        }
        let until = self.inner.clock.monotonic() + LAST - MARGIN;
        let (inner, asked) = (self.inner.clone(), wanted.clone());
        let renewed = spawn_blocking(move || inner.store.renew_leases(&inner.holder, &asked, LAST)).await;
        let renewed = match renewed {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(error)) => return self.note(Some(crate::arrival::chain(&error))),
            Err(panic) => return self.note(Some(panic.to_string())),
        };
        self.note(None);
        let mut held = self.held();
        for (name, token) in wanted {
            match held.get_mut(&name).filter(|held| held.hold.token == token) {
                Some(held) if renewed.contains(&name) => held.until = until,
                Some(_) => {
                    if let Some(gone) = held.remove(&name) {
                        warn!(lease = name, "another coordinator has taken a lease of this one");
                        gone.hold.lost.request();
                    }
                }
                None => {}
            }
        }
    }

    fn drop_expired(&self) {
        let now = self.inner.clock.monotonic();
        self.held().retain(|name, held| {
            let lasts = now < held.until;
            if !lasts {
                warn!(lease = name, "a lease is over before it could be renewed");
                held.hold.lost.request();
            }
            lasts
        });
    }

    fn note(&self, problem: Option<String>) {
        let mut known = self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none()
            && let Some(problem) = &problem
        {
            warn!(problem, "leases cannot be renewed");
        }
        *known = problem;
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the holder of a lease is gone.
async fn is_gone(lease: &Lease) -> bool {
    let address = super::agents_address(&lease.detail);
    let silent = LAST.saturating_sub(lease.left);
    if silent < DEAD {
        return false;
    }
    match tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(&address)).await {
        Ok(Ok(_answers)) => false,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => true,
        Ok(Err(_)) | Err(_) => silent >= SILENT,
    }
}
