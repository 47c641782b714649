//! A coordinator that has taken its place in the cluster: what it has there, and the tasks that keep it.

use std::sync::Arc;

use aap_buffer::Buffer;
use aap_kafka::SHARDS;
use aap_lake::Lake;
use aap_proto::v1;
use aap_runtime::{Clock, Shutdown, Supervisor, TaskKind};
use aap_store::{ClusterStore, Lease, MetadataStore, ResourceStore};
use aap_types::Problem;
use anyhow::{Context, Result};
use tokio::sync::watch;

use super::{
    ClusterConfig, Detail, LEADER, Lead, LeadDependencies, Leases, Shards, View, join, lease_of, membership,
    prepare, stay,
};
use crate::catalogs::Catalogs;
use crate::gateway::Routes;
use crate::landing::Landed;
use crate::resources::mint_uid;
use crate::sinks::{Sinks, blocking};
use crate::sources::Sources;

/// What coordinators share, as one of them has it open.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) config: ClusterConfig,
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) resources: Arc<dyn ResourceStore>,
    /// Tells the lake whether it leads.
    pub(crate) lead: watch::Sender<bool>,
    /// Where metadata lies, as operators read it.
    pub(crate) described: String,
}

/// Its place in the cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) shared: Shared,
    pub(crate) leases: Leases,
    pub(crate) shards: Shards,
}

impl Joined {
    /// Takes the place: waits for brokers, and for an earlier holder of this name. `None` if `shutdown` came first.
    ///
    /// # Errors
    /// The topic is none that data may land in, or the name is another coordinator's.
    pub(crate) async fn new(
        shared: Shared,
        (buffer, lake): (Buffer, Lake),
        agents: &str,
        landed: Landed,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>> {
        let ClusterConfig { name, coordinator, advertise, landing, .. } = shared.config.clone();
        if !prepare(&landing, shutdown).await? {
            return Ok(None);
        }
        let detail = Detail {
            coordinator: coordinator.clone(),
            agents: advertise.unwrap_or_else(|| agents.to_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let detail = serde_json::to_string(&detail).context("describe this coordinator")?;
        let identity = buffer.identity();
        let home: String = identity.store_id.iter().map(|byte| format!("{byte:02x}")).collect();
        // A copy of this home would have the same beginning.
        let holder = format!("{home}/{}/{}", identity.generation, mint_uid()?);
        let leases = Leases::new(shared.store.clone(), clock.clone(), holder, detail);
        join(&shared.store, &leases, &coordinator, &home).await?;
        let view = View::new((landing.clone(), &name), (buffer.clone(), lake), landed, clock.clone())?;
        let own = (buffer, shared.store.clone());
        let shards = Shards::new((landing, name, coordinator), leases.clone(), view, own, clock);
        Ok(Some(Self { shared, leases, shards }))
    }

    /// What it does when it leads.
    pub(crate) fn lead(
        &self,
        sinks: Sinks,
        sources: Sources,
        catalogs: Catalogs,
        routes: Routes,
        clock: Arc<dyn Clock>,
    ) -> Lead {
        Lead::new(LeadDependencies {
            leases: self.leases.clone(),
            shards: self.shards.clone(),
            store: self.shared.metadata.clone(),
            cluster: self.shared.store.clone(),
            clock,
            resources: self.shared.resources.clone(),
            lead: self.shared.lead.clone(),
            sinks,
            sources,
            catalogs,
            routes,
        })
    }

    /// Starts what keeps it in the cluster: `tasks` end when it is to stop, and `base`, on which they stand, after them.
    pub(crate) fn start(&self, tasks: &Supervisor, base: &Supervisor, lead: Lead) {
        base.spawn(TaskKind::vital("leases"), self.leases.clone().run(base.shutdown()));
        base.spawn(TaskKind::vital("view"), self.shards.view().clone().run(base.shutdown()));
        let coordinator = self.shared.config.coordinator.clone();
        base.spawn(TaskKind::vital("membership"), stay(self.leases.clone(), coordinator, base.shutdown()));
        tasks.spawn(TaskKind::vital("lead"), lead.run(tasks.shutdown()));
    }

    /// Who the coordinators are, and who of them owns what.
    ///
    /// # Errors
    /// The metadata store does not say.
    pub(crate) async fn show(&self) -> Result<v1::ShowClusterReply, Problem> {
        let leases = self.leases.clone();
        let all = blocking(move || leases.all()).await?;
        let config = &self.shared.config;
        Ok(v1::ShowClusterReply {
            cluster: config.name.clone(),
            coordinators: coordinators(&all, |holder| self.leases.is_us(holder)),
            unowned_shards: unowned(&all),
            metadata: self.shared.described.clone(),
            landing: format!("topic `{}` at {}", config.landing.topic, config.landing.brokers.join(", ")),
            lake: config.lake.url.clone(),
            config: serde_norway::to_string(config).unwrap_or_default(),
            problems: self.shards.problems(),
        })
    }
}

/// Coordinators by name, with what they hold.
fn coordinators(all: &[Lease], is_us: impl Fn(&str) -> bool) -> Vec<v1::ClusterCoordinator> {
    let prefix = membership("");
    let members = all.iter().filter_map(|lease| Some((lease.name.strip_prefix(&prefix)?, lease)));
    let holds = |name: &str, holder: &str| {
        all.iter().any(|lease| lease.name == name && lease.holder == holder && !lease.left.is_zero())
    };
    let described = members.map(|(name, lease)| {
        let detail = serde_json::from_str::<Detail>(&lease.detail).ok();
        let shards = (0..SHARDS).filter(|shard| holds(&lease_of(*shard), &lease.holder));
        v1::ClusterCoordinator {
            name: name.to_owned(),
            agents: detail.as_ref().map(|detail| detail.agents.clone()).unwrap_or_default(),
            version: detail.map(|detail| detail.version).unwrap_or_default(),
            is_this: is_us(&lease.holder),
            leads: holds(LEADER, &lease.holder),
            shards: shards.map(i32::unsigned_abs).collect(),
            lease_left_ms: u64::try_from(lease.left.as_millis()).unwrap_or(u64::MAX),
        }
    });
    described.collect()
}

/// Shards that nobody owns: none of their nodes has come since the coordinator that had them went.
fn unowned(all: &[Lease]) -> Vec<u32> {
    let is_owned =
        |shard: i32| all.iter().any(|lease| lease.name == lease_of(shard) && !lease.left.is_zero());
    (0..SHARDS).filter(|shard| !is_owned(*shard)).map(i32::unsigned_abs).collect()
}
