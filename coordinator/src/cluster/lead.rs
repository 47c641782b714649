//! What one coordinator does for all: the lake, the sinks and the sources. And what each does for itself: knowing the systems
//! whose tables can be named, and the routes of its gateway.
//!
//! Objects are declared at any coordinator and stand in the metadata store. Each looks there for what changed, at once where it was
//! declared here, and every [`LOOK`] otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aap_runtime::{Clock, Shutdown};
use aap_store::{ClusterStore, Fence, MetadataStore, ResourceRecord, ResourceStore};
use aap_types::{ExitCode, Problem, SourceKind};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::leases::{Hold, Leases, Taken};
use super::{Detail, LEADER, LEADERS_SHARD, Place, Shards};
use crate::catalogs::{self, Catalogs};
use crate::gateway::{self, Routes};
use crate::sinks::{self, Sinks, blocking};
use crate::sources::{self, Sources};

/// How often it is looked whether anybody leads, and what is declared.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is looked which records of the topic may go.
const TRIM: Duration = Duration::from_secs(30);
/// How long keys of HTTP requests are kept, as in a landing buffer.
const HTTP_KEY_KEPT_US: i64 = 24 * 3600 * 1_000_000;
/// How long a command waits for what landed elsewhere.
const CATCH_UP: Duration = Duration::from_secs(15);

/// What it works with.
#[derive(Debug)]
pub(crate) struct LeadDependencies {
    pub(crate) leases: Leases,
    pub(crate) shards: Shards,
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) cluster: Arc<dyn ClusterStore>,
    pub(crate) resources: Arc<dyn ResourceStore>,
    /// Tells the lake whether it leads.
    pub(crate) lead: watch::Sender<bool>,
    pub(crate) sinks: Sinks,
    pub(crate) sources: Sources,
    pub(crate) catalogs: Catalogs,
    pub(crate) routes: Routes,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Leading, or waiting to. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    with: LeadDependencies,
    look: Notify,
    leads: AtomicBool,
}

/// What was started, by kind and name: uid and revision.
type Started = BTreeMap<(String, String), (String, u64)>;

/// What each coordinator does for itself.
fn is_everywhere(kind: &str) -> bool {
    [catalogs::KIND, gateway::KIND].contains(&kind)
}

impl Lead {
    /// Not leading yet.
    pub(crate) fn new(with: LeadDependencies) -> Self {
        Self { inner: Arc::new(Inner { with, look: Notify::new(), leads: AtomicBool::new(false) }) }
    }

    /// Something was declared, or is no more.
    pub(crate) fn look(&self) {
        self.inner.look.notify_one();
    }

    /// Whether this coordinator leads.
    pub(crate) fn leads(&self) -> bool {
        self.inner.leads.load(Ordering::Acquire)
    }

    /// Refuses what only the leader knows.
    pub(crate) async fn require(&self) -> Result<(), Problem> {
        if self.leads() {
            return Ok(());
        }
        let leases = self.inner.with.leases.clone();
        let all = blocking(move || leases.all()).await?;
        let leader = all.into_iter().find(|lease| lease.name == LEADER && !lease.left.is_zero());
        let detail = leader.and_then(|lease| serde_json::from_str::<Detail>(&lease.detail).ok());
        let (message, hint) = match detail {
            Some(Detail { coordinator, .. }) => (
                format!("only the coordinator that leads does this, and that is `{coordinator}`"),
                format!("type the command at `{coordinator}`; `aap cluster status` shows where that is"),
            ),
            None => (
                "no coordinator leads the cluster at the moment".to_owned(),
                "one takes the lead within half a minute; then try again".to_owned(),
            ),
        };
        Err(Problem::new("cluster.not_leader", ExitCode::Conflict, message).hint(hint))
    }

    /// Waits until this coordinator knows of everything that has landed.
    pub(crate) async fn catch_up(&self) -> Result<(), Problem> {
        match self.inner.with.shards.view().catch_up(CATCH_UP).await {
            true => Ok(()),
            false => {
                let message = "this coordinator does not know yet what landed last";
                Err(Problem::new("cluster.behind", ExitCode::Unavailable, message)
                    .hint_command("see why, and try again", "aap cluster status"))
            }
        }
    }

    /// Until `shutdown`; then it lets go.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Problem> {
        let mut started = Started::new();
        let mut lead: Option<Hold> = None;
        let clock = &self.inner.with.clock;
        let mut trim_at = clock.monotonic() + TRIM;
        while !shutdown.is_requested() {
            if lead.as_ref().is_some_and(|hold| hold.lost.is_requested()) {
                self.end(&mut started).await;
                lead = None;
            }
            if lead.is_none() {
                lead = self.begin().await;
            }
            if clock.monotonic() >= trim_at {
                match lead.is_some() {
                    true => self.trim().await,
                    false => self.inner.with.shards.view().forget_passed(),
                }
                trim_at = clock.monotonic() + TRIM;
            }
            if let Err(problem) = self.reconcile(&mut started, lead.is_some()).await {
                warn!(causes = ?problem.causes, "what is declared cannot be looked at: {problem}");
            }
            let lost = async {
                match &lead {
                    Some(hold) => hold.lost.requested().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = lost => {}
                () = self.inner.look.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.requested() => {}
            }
        }
        self.end(&mut started).await;
        Ok(())
    }

    async fn begin(&self) -> Option<Hold> {
        let LeadDependencies { leases, store, lead, .. } = &self.inner.with;
        match leases.take_from_gone(LEADER).await {
            Ok(Taken::Ours(hold)) => {
                info!(token = hold.token, "this coordinator leads");
                store.set_fence(Some(Fence { lease: LEADER.to_owned(), token: hold.token }));
                lead.send_replace(true);
                self.inner.leads.store(true, Ordering::Release);
                Some(hold)
            }
            Ok(Taken::Theirs(_)) => None,
            Err(error) => {
                warn!(error = crate::arrival::chain(&error), "it cannot be asked who leads");
                None
            }
        }
    }

    async fn end(&self, started: &mut Started) {
        if !self.inner.leads.swap(false, Ordering::AcqRel) {
            return;
        }
        let LeadDependencies { store, lead, .. } = &self.inner.with;
        lead.send_replace(false);
        store.set_fence(None);
        let led: Vec<(String, String)> =
            started.keys().filter(|(kind, _)| !is_everywhere(kind)).cloned().collect();
        for object in led {
            self.stop(&object).await;
            started.remove(&object);
        }
        // Whoever leads next needs the shard of what sources read.
        self.inner.with.shards.give_up(LEADERS_SHARD).await;
        info!("this coordinator does not lead any more");
    }

    /// Starts what is declared and stops what is not.
    async fn reconcile(&self, started: &mut Started, leads: bool) -> Result<(), Problem> {
        let resources = self.inner.with.resources.clone();
        let declared = blocking(move || resources.resources()).await?;
        let can_lead = leads && self.owns_its_shard().await;
        let ours = |kind: &str| is_everywhere(kind) || can_lead;
        let known = |record: &ResourceRecord| (record.kind.clone(), record.name.clone());
        let gone: Vec<(String, String)> = started
            .iter()
            .filter(|(object, (uid, _))| {
                !declared.iter().any(|record| known(record) == **object && record.uid == *uid)
            })
            .map(|(object, _)| object.clone())
            .collect();
        for object in gone {
            self.stop(&object).await;
            if object.0 == sources::KIND {
                self.inner.with.sources.clean_up(&object.1).await;
            }
            started.remove(&object);
        }
        for record in declared.iter().filter(|record| ours(&record.kind)) {
            let stands = (record.uid.clone(), record.revision);
            if started.get(&known(record)) == Some(&stands) {
                continue;
            }
            if let Err(problem) = self.start(record).await {
                warn!(kind = record.kind, name = record.name, %problem, "what is declared cannot be started");
            }
            started.insert(known(record), stands);
        }
        Ok(())
    }

    async fn trim(&self) {
        let LeadDependencies { shards, cluster, clock, .. } = &self.inner.with;
        if let Err(error) = shards.view().trim(cluster).await {
            warn!(error = crate::arrival::chain(&error), "the landing topic keeps what it could do without");
        }
        // A key is promised for a day.
        let (cluster, before_us) = (cluster.clone(), clock.unix_us() - HTTP_KEY_KEPT_US);
        let forgotten = blocking(move || cluster.forget_positions(SourceKind::HttpKey, before_us)).await;
        if let Err(problem) = forgotten {
            warn!(causes = ?problem.causes, "old keys of requests are kept: {problem}");
        }
    }

    /// Sources land in a shard of their own, which whoever led before may still hold.
    async fn owns_its_shard(&self) -> bool {
        match self.inner.with.shards.own(LEADERS_SHARD).await {
            Ok(Place::Here { .. }) => true,
            Ok(Place::Elsewhere(at)) => {
                warn!(at, "sinks and sources wait: a former leader still has the shard of what sources read");
                false
            }
            Err(error) => {
                warn!(error = crate::arrival::chain(&error), "the leader's shard cannot be taken over yet");
                false
            }
        }
    }

    async fn start(&self, record: &ResourceRecord) -> Result<(), Problem> {
        let LeadDependencies { sinks, sources, catalogs, routes, .. } = &self.inner.with;
        match record.kind.as_str() {
            catalogs::KIND => catalogs.start(record),
            gateway::KIND => routes.start(record),
            sources::KIND => sources.start(record).await,
            sinks::KIND => sinks.start_or_show(record).await,
            // Of a later version.
            _ => Ok(()),
        }
    }

    async fn stop(&self, (kind, name): &(String, String)) {
        let LeadDependencies { sinks, sources, catalogs, routes, .. } = &self.inner.with;
        match kind.as_str() {
            catalogs::KIND => catalogs.stop(name),
            gateway::KIND => routes.stop(name),
            sources::KIND => sources.stop(name).await,
            _ => drop(sinks.stop(name).await),
        }
    }
}
