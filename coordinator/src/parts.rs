//! What the coordinator stands on: its buffer, its stores, the lake; opened before it serves, and open until it stops.

use std::sync::Arc;

use aap_buffer::{Buffer, BufferConfig, Durability, RealFileSystem};
use aap_lake::{CONSUMER, Lake, LakeDependencies};
use aap_runtime::{Clock, Home};
use aap_store::{AccessStore, Fence, MetadataStore, ResourceStore};
use aap_types::NodeId;
use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::audit::AuditTrail;
use crate::cluster::{self, ClusterConfig, Shared};
use crate::config::Config;
use crate::daemon::OWN_NODE;
use crate::init;
use crate::metadata::Metadata;
use crate::second_copy::{CopiedAccess, SecondCopy};

/// What stays open from start to stop.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) resources: Arc<dyn ResourceStore>,
    pub(crate) access: Arc<dyn AccessStore>,
    pub(crate) copy: SecondCopy,
    pub(crate) audit: AuditTrail,
    pub(crate) buffer: Buffer,
    pub(crate) lake: Lake,
    /// What coordinators share, where this is one of several.
    pub(crate) shared: Option<Shared>,
}

impl Parts {
    /// Closes what has to be closed.
    pub(crate) async fn close(self) -> Result<()> {
        let buffer = self.buffer;
        spawn_blocking(move || buffer.close()).await.context("close the landing buffer")?;
        info!("landing buffer closed");
        self.audit.close().await
    }

    pub(crate) async fn open(home: &Home, config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let audit = AuditTrail::open(home, clock.clone()).await?;
        let buffer = Self::open_buffer(home, config, clock.clone()).await?;
        match &config.cluster {
            None => Self::open_alone(home, config, audit, buffer, clock).await,
            Some(cluster) => {
                Self::open_in_cluster(home, config, cluster.clone(), (audit, buffer), clock).await
            }
        }
    }

    /// The landing buffer; in a cluster, the view of what landed, which can be read again from the topic.
    async fn open_buffer(home: &Home, config: &Config, clock: Arc<dyn Clock>) -> Result<Buffer> {
        let node: NodeId = OWN_NODE.parse().context("name this store")?;
        let (folder, durability) = match &config.cluster {
            None => ("landing", config.landing.durability),
            Some(_) => ("view", Durability::Os),
        };
        let landing = BufferConfig {
            budget: config.landing.budget,
            retain: config.landing.retain,
            durability,
            landing_consumer: CONSUMER.to_owned(),
            ..BufferConfig::new(home.coordinator().join(folder), node)
        };
        if config.cluster.is_none()
            && let Some(window) = landing.durability.loss_window()
        {
            warn!(durability = ?landing.durability, "{window}");
        }
        let is_view = config.cluster.is_some();
        let opened = spawn_blocking(move || -> Result<_> {
            let fs = Arc::new(RealFileSystem);
            let opened = Buffer::open(fs.clone(), clock.clone(), landing.clone())?;
            if !is_view || opened.recovery.problems.is_empty() {
                return Ok(opened);
            }
            // What it has lost is in the topic, or in the lake: it is read again.
            warn!(problems = ?opened.recovery.problems, "the view of what landed is damaged and is made anew");
            opened.buffer.close();
            drop(opened);
            std::fs::remove_dir_all(&landing.directory)
                .with_context(|| format!("remove `{}`", landing.directory))?;
            Ok(Buffer::open(fs, clock, landing)?)
        });
        let opened = opened.await?.context("open the landing buffer")?;
        for problem in &opened.recovery.problems {
            warn!(%problem, "landing buffer recovered with a problem");
        }
        info!(
            segments = opened.recovery.segments,
            torn_bytes = opened.recovery.torn_bytes,
            "landing buffer open"
        );
        Ok(opened.buffer)
    }

    async fn open_alone(
        home: &Home,
        config: &Config,
        audit: AuditTrail,
        buffer: Buffer,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let owner = store_id(&buffer);
        let (wanted, folder) = (config.metadata.clone(), home.coordinator());
        let opened = spawn_blocking(move || Metadata::open(&wanted, &folder, &owner));
        let Metadata { store, resources, access, damaged } =
            opened.await?.context("open the metadata store")?;
        let copy = SecondCopy::new(resources.clone(), &home.coordinator());
        let lost = copy.clone();
        let restored = spawn_blocking(move || lost.restore()).await?.context("restore what was declared")?;
        if restored > 0 {
            warn!(
                objects = restored,
                "the metadata was lost; what was declared is back from its second copy"
            );
        }
        let (known, folder) = (access.clone(), home.coordinator());
        let access: Arc<dyn AccessStore> = match &config.metadata.postgres {
            // The server's own copies are its operator's to make.
            Some(_) => access,
            None => Arc::new(spawn_blocking(move || CopiedAccess::open(known, &folder)).await??),
        };
        let dependencies = LakeDependencies {
            buffer: buffer.clone(),
            store: store.clone(),
            clock,
            root: home.lake(),
            objects: None,
            lead: None,
        };
        let lake = Lake::open(dependencies, config.lake.clone()).await.context("open the lake")?;
        if let Some(damaged) = damaged {
            lake.note(format!(
                "the metadata was damaged and was rebuilt from the lake's manifest; the damaged file is `{damaged}`"
            ));
        }
        Ok(Self { store, resources, access, copy, audit, buffer, lake, shared: None })
    }

    async fn open_in_cluster(
        home: &Home,
        config: &Config,
        cluster: ClusterConfig,
        (audit, buffer): (AuditTrail, Buffer),
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let wanted = config.metadata.postgres.clone().context("`cluster` needs `metadata.postgres`")?;
        let described = format!("schema `{}` at {}", wanted.schema, wanted.url);
        let (folder, tls, name) = (home.coordinator(), home.tls(), cluster.name.clone());
        let spec = cluster.lake.clone();
        let opened = spawn_blocking(move || -> Result<_> {
            let authority = init::authority_fingerprint(&tls)?;
            let store = Metadata::open_cluster(&wanted, &folder, (&name, &authority))
                .context("open the metadata store")?;
            Ok((store, spec.open().context("open the store of the lake")?))
        });
        let (store, objects) = opened.await??;
        // Nothing changes the lake before this coordinator leads: no lease has this token.
        store.set_fence(Some(Fence { lease: cluster::LEADER.to_owned(), token: 0 }));
        let copy = SecondCopy::new(store.clone(), &home.coordinator());
        let lead = watch::Sender::new(false);
        let dependencies = LakeDependencies {
            buffer: buffer.clone(),
            store: store.clone(),
            clock,
            // Copies of what lies in the object store.
            root: home.coordinator().join("lake-copies"),
            objects: Some(objects),
            lead: Some(lead.subscribe()),
        };
        let lake = Lake::open(dependencies, config.lake.clone()).await.context("open the lake")?;
        let shared = Shared {
            config: cluster,
            store: store.clone(),
            metadata: store.clone(),
            resources: store.clone(),
            lead,
            described,
        };
        let (resources, access) = (store.clone(), store.clone());
        Ok(Self { store, resources, access, copy, audit, buffer, lake, shared: Some(shared) })
    }
}

/// Who a buffer is, in hexadecimal digits.
pub(crate) fn store_id(buffer: &Buffer) -> String {
    buffer.identity().store_id.iter().map(|byte| format!("{byte:02x}")).collect()
}
