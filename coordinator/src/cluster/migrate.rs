//! From one machine into a cluster: everything that a coordinator alone has goes to the servers of the cluster, and nothing is lost
//! on the way.
//!
//! ```text
//!  1  files of the lake      ─▶ object store        what is there with its size stays
//!  2  what waits for it      ─▶ topic               behind what the topic has of each stream
//!  3  positions of sources   ─▶ PostgreSQL
//!  4  metadata               ─▶ PostgreSQL          its version says that all of it is there
//!  5  the old places are put aside
//! ```
//! The coordinator must be stopped; agents keep what they have until one of the cluster takes it. Each step can be repeated after
//! a crash. Nothing of the old home is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, Entry, Frame, FrameKind, RealFileSystem};
use aap_kafka::{SHARDS, ShardWriter};
use aap_lake::{CONSUMER, Lake, LakeDependencies};
use aap_postgres::PostgresStore;
use aap_runtime::{Clock, Home, Shutdown, Supervisor, TaskKind, failpoint};
use aap_store::{
    Acquired, Catalogue, ClusterStore, Fence, LandedPosition, LeaseStore, MetadataStore, SqliteStore,
};
use aap_types::{ExitCode, Problem, Sequence, StreamKey};
use anyhow::{Context, Result};
use camino::Utf8Path;
use tokio::task::spawn_blocking;
use tracing::info;

use super::leases::{Leases, Taken};
use super::view::{View, landed_position};
use super::{ClusterConfig, LEADER, lease_of, prepare, record, shard_of};
use crate::config::Config;
use crate::landing::Landed;
use crate::metadata::{self, MIGRATION, take_over};
use crate::{daemon, init, parts};

/// How long the topic may take to be read as far as it is filled.
const READ_TOPIC: Duration = Duration::from_secs(600);
/// What goes into one transaction.
const GROUP_BYTES: usize = 8 << 20;
/// One read of the landing buffer.
const READ_BYTES: usize = 4 << 20;
/// A migration lasts until it ends, over crashes and weekends.
const UNTIL_IT_ENDS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// What the folder of the landing buffer is called after its contents went to the cluster.
const MOVED: &str = "landing.moved-to-cluster";

/// What was moved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    /// Files of the lake.
    pub(crate) files: usize,
    /// Batches that waited for it.
    pub(crate) batches: u64,
    /// Rows in these.
    pub(crate) rows: u64,
}

/// Moves everything.
///
/// # Errors
/// A daemon runs in this home, the cluster has other data, or a server refuses.
pub(crate) async fn run(home: &Home, config: &Config, clock: Arc<dyn Clock>) -> Result<Option<Moved>> {
    let (Some(cluster), Some(postgres)) = (&config.cluster, &config.metadata.postgres) else {
        let message = "the configuration names no cluster";
        return Err(Problem::new("cluster.not_configured", ExitCode::Usage, message)
            .hint("write the sections `cluster` and `metadata.postgres`; docs/cluster.md shows them")
            .into());
    };
    let old = home.coordinator().join("landing");
    if !old.exists() {
        return Ok(None);
    }
    let buffer = open_landing(&old, clock.clone()).await?;
    let owner = parts::store_id(&buffer);
    let authority = init::authority_fingerprint(&home.tls())?;
    let (spec, alone) = (postgres.clone(), home.coordinator().join("meta.db"));
    let name = cluster.name.clone();
    let (store, before, sqlite) = spawn_blocking(move || -> Result<_> {
        let store = PostgresStore::open(&spec)?;
        let sqlite = match alone.exists() {
            true => Some(SqliteStore::open(&alone).context("open the metadata of this home")?),
            false => None,
        };
        match &sqlite {
            Some(_) => store.claim_cluster(&name, &authority)?,
            None => store.convert_claim(&owner, &name, &authority)?,
        }
        let before = match &sqlite {
            Some(sqlite) => sqlite.catalogue()?,
            None => store.catalogue()?,
        };
        Ok((Arc::new(store), before, sqlite))
    })
    .await?
    .context("open the metadata store of the cluster")?;
    let shutdown = Shutdown::on_signals()?;
    if !prepare(&cluster.landing, &shutdown).await? {
        return Ok(None);
    }
    begin(&store, &parts::store_id(&buffer)).await?;
    failpoint::hit("migration.begun");
    let sqlite = sqlite.map(Arc::new);
    let moving = Moving { cluster, store, clock, buffer, before, sqlite, shutdown };
    let moved = moving.run(home, config).await?;
    let Moving { buffer, sqlite, store, .. } = moving;
    let home_of = parts::store_id(&buffer);
    let closed = spawn_blocking(move || {
        buffer.close();
        drop(sqlite);
    });
    closed.await?;
    metadata::put_aside(&home.coordinator().join("meta.db"))?;
    // Before the last place is put aside: without it nobody would come back to end the migration after a crash.
    end(&store, &home_of).await?;
    failpoint::hit("migration.ended");
    let aside = home.coordinator().join(MOVED);
    std::fs::rename(&old, &aside).with_context(|| format!("put `{old}` aside"))?;
    Ok(Some(moved))
}

/// From now on no coordinator of the cluster starts, until the migration of this landing buffer has ended.
async fn begin(store: &Arc<PostgresStore>, owner: &str) -> Result<()> {
    let (store, owner) = (store.clone(), owner.to_owned());
    let begun = spawn_blocking(move || store.acquire_lease(MIGRATION, &owner, "{}", UNTIL_IT_ENDS)).await??;
    match begun {
        Acquired::Taken(_) => Ok(()),
        Acquired::Held(_) => {
            let message = "the migration of another platform into this cluster has begun";
            Err(Problem::new("cluster.has_data", ExitCode::Conflict, message)
                .hint("name a cluster, a schema, a topic and a prefix of their own for this platform")
                .into())
        }
    }
}

async fn end(store: &Arc<PostgresStore>, owner: &str) -> Result<()> {
    let (store, owner) = (store.clone(), owner.to_owned());
    let ended = spawn_blocking(move || -> Result<(), aap_store::Error> {
        let ours = |lease: &aap_store::Lease| lease.name == MIGRATION && lease.holder == owner;
        let leases = store.leases()?;
        let tokens: Vec<(String, u64)> =
            leases.into_iter().filter(ours).map(|lease| (lease.name, lease.token)).collect();
        store.release_leases(&owner, &tokens)
    });
    Ok(ended.await??)
}

async fn open_landing(folder: &Utf8Path, clock: Arc<dyn Clock>) -> Result<Buffer> {
    let config = BufferConfig {
        landing_consumer: CONSUMER.to_owned(),
        ..BufferConfig::new(folder.to_owned(), daemon::OWN_NODE.parse().context("name this store")?)
    };
    let opened = spawn_blocking(move || Buffer::open(Arc::new(RealFileSystem), clock, config)).await?;
    Ok(opened.context("open the landing buffer of this home; `aap down` stops whoever has it")?.buffer)
}

/// What is moved, and where to.
struct Moving<'a> {
    cluster: &'a ClusterConfig,
    store: Arc<PostgresStore>,
    clock: Arc<dyn Clock>,
    /// What landed at the coordinator alone.
    buffer: Buffer,
    /// Its lake.
    before: Catalogue,
    /// Its metadata, where it has a file of it.
    sqlite: Option<Arc<SqliteStore>>,
    shutdown: Shutdown,
}

impl Moving<'_> {
    async fn run(&self, home: &Home, config: &Config) -> Result<Moved> {
        let holder = format!("{}/migration", parts::store_id(&self.buffer));
        let store: Arc<dyn ClusterStore> = self.store.clone();
        let leases = Leases::new(store, self.clock.clone(), holder, "{}".to_owned());
        let tasks = Supervisor::new(self.shutdown.child());
        tasks.spawn(TaskKind::vital("leases"), leases.clone().run(tasks.shutdown()));
        let moved = self.under(&leases, &tasks, home, config).await;
        tasks.shutdown().request();
        tasks.finish(Duration::from_secs(10)).await;
        leases.give_all_up().await;
        moved
    }

    /// As the leader: no coordinator of the cluster changes the lake meanwhile.
    async fn under(
        &self,
        leases: &Leases,
        tasks: &Supervisor,
        home: &Home,
        config: &Config,
    ) -> Result<Moved> {
        let hold = match leases.take(LEADER).await? {
            Taken::Ours(hold) => hold,
            Taken::Theirs(_) => {
                let message = "a coordinator of the cluster runs already";
                return Err(Problem::new("cluster.has_data", ExitCode::Conflict, message)
                    .hint("stop every coordinator of it for the time of the migration")
                    .into());
            }
        };
        self.store.set_fence(Some(Fence { lease: LEADER.to_owned(), token: hold.token }));
        // All of them: a coordinator that was there already must not land what follows upon what still waits here.
        for shard in 0..SHARDS {
            if let Taken::Theirs(_) = leases.take(&lease_of(shard)).await? {
                let message = format!("a coordinator of the cluster owns shard {shard}");
                return Err(Problem::new("cluster.has_data", ExitCode::Conflict, message)
                    .hint("stop every coordinator of it for the time of the migration")
                    .into());
            }
        }
        self.refuse_other_data().await?;
        let files = self.upload(home).await?;
        failpoint::hit("migration.uploaded");
        let there = self.read_topic(tasks, home, config).await?;
        let (batches, rows) = self.land(leases, &there).await?;
        failpoint::hit("migration.landed");
        self.save_positions().await?;
        failpoint::hit("migration.positions_saved");
        if let Some(sqlite) = self.sqlite.clone() {
            let store = self.store.clone();
            let taken = spawn_blocking(move || take_over(&sqlite, &store));
            taken.await?.context("move the metadata")?;
        }
        failpoint::hit("migration.metadata_moved");
        Ok(Moved { files, batches, rows })
    }

    /// Two platforms cannot be made one: only what an earlier attempt moved may be there.
    async fn refuse_other_data(&self) -> Result<()> {
        let store = self.store.clone();
        let there = spawn_blocking(move || store.catalogue()).await??;
        let ours: Vec<&str> = self.before.files.iter().map(|file| file.path.as_str()).collect();
        match there.files.iter().find(|file| !ours.contains(&file.path.as_str())) {
            None => Ok(()),
            Some(file) => Err(Problem::new(
                "cluster.has_data",
                ExitCode::Conflict,
                format!("the cluster `{}` has data of another platform", self.cluster.name),
            )
            .cause(format!("its lake has `{}`, and this home's has not", file.path))
            .hint("name a cluster, a schema, a topic and a prefix of their own for this platform")
            .into()),
        }
    }

    async fn upload(&self, home: &Home) -> Result<usize> {
        let (spec, root) = (self.cluster.lake.clone(), home.lake());
        let alone: Arc<dyn MetadataStore> = match &self.sqlite {
            Some(sqlite) => sqlite.clone(),
            None => self.store.clone(),
        };
        let objects = spawn_blocking(move || spec.open()).await?.context("open the store of the lake")?;
        let copied = aap_lake::upload(&root, &objects, alone).await;
        let new = copied.context("copy the files of the lake to the object store")?;
        let files = self.before.files.len();
        info!(files, new, "the files of the lake are in the object store");
        Ok(files)
    }

    /// Where each stream ends in the topic: what an earlier attempt landed stays.
    async fn read_topic(
        &self,
        tasks: &Supervisor,
        home: &Home,
        config: &Config,
    ) -> Result<BTreeMap<StreamKey, Sequence>> {
        let folder = home.tmp().join("migration");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty `{folder}`"))?;
        }
        let buffer = open_landing(&folder.join("view"), self.clock.clone()).await?;
        let dependencies = LakeDependencies {
            buffer: buffer.clone(),
            store: Arc::new(aap_store::MemoryStore::default()),
            clock: self.clock.clone(),
            root: folder.join("lake"),
            objects: None,
            lead: None,
        };
        let lake = Lake::open(dependencies, config.lake.clone()).await.context("look at the topic")?;
        let landed = Landed::new(lake.waiting().clone());
        let own = (buffer.clone(), lake);
        let view =
            View::new((self.cluster.landing.clone(), &self.cluster.name), own, landed, self.clock.clone())?;
        let stop = tasks.shutdown().child();
        tasks.spawn(TaskKind::vital("view"), view.clone().run(stop.clone()));
        let caught_up = view.catch_up(READ_TOPIC).await;
        stop.request();
        anyhow::ensure!(
            caught_up,
            "the landing topic could not be read: {}",
            view.problem().unwrap_or_default()
        );
        let tails = buffer.tails().into_iter().collect();
        spawn_blocking(move || buffer.close()).await?;
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove `{folder}`"))?;
        Ok(tails)
    }

    /// What waits for the lake goes into the topic, each stream behind what is there of it.
    async fn land(&self, leases: &Leases, there: &BTreeMap<StreamKey, Sequence>) -> Result<(u64, u64)> {
        let cuts: BTreeMap<StreamKey, Sequence> = self.before.cursors.iter().cloned().collect();
        let mut by_shard: BTreeMap<i32, Vec<(StreamKey, Sequence)>> = BTreeMap::new();
        for (key, tail) in self.buffer.tails() {
            let cut = cuts.get(&key).copied().unwrap_or_default();
            let after = there.get(&key).copied().unwrap_or_default().max(cut);
            if after < tail {
                by_shard.entry(shard_of(&key.node)).or_default().push((key, after));
            }
        }
        let (mut batches, mut rows) = (0, 0);
        for (shard, keys) in by_shard {
            let Taken::Ours(hold) = leases.take(&lease_of(shard)).await? else {
                anyhow::bail!("a coordinator of the cluster owns shard {shard}: stop it, and begin again");
            };
            let mark = record::mark(&self.cluster.name, "migration", hold.token);
            let spec = &self.cluster.landing;
            let (writer, _) = ShardWriter::take_over(spec, shard, mark).await?;
            for (key, after) in keys {
                let (more, counted) = self.land_stream(&writer, &key, after).await?;
                (batches, rows) = (batches + more, rows + counted);
            }
        }
        info!(batches, rows, "what waited for the lake is in the landing topic");
        Ok((batches, rows))
    }

    async fn land_stream(
        &self,
        writer: &ShardWriter,
        key: &StreamKey,
        mut after: Sequence,
    ) -> Result<(u64, u64)> {
        let (mut batches, mut rows) = (0, 0);
        loop {
            let (buffer, wanted) = (self.buffer.clone(), key.clone());
            let frames = spawn_blocking(move || buffer.read(&wanted, after, READ_BYTES)).await??;
            let Some(last) = frames.last() else { return Ok((batches, rows)) };
            after = last.last_sequence();
            batches += frames.len() as u64;
            rows += frames.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
            let mut group = vec![];
            let mut bytes = 0;
            for frame in frames {
                bytes += frame.payload.len();
                group.extend(record::encode(&entry_of(frame)));
                if bytes >= GROUP_BYTES {
                    writer.append(std::mem::take(&mut group)).await?;
                    bytes = 0;
                }
            }
            if !group.is_empty() {
                writer.append(group).await?;
            }
            failpoint::hit("migration.landed_some");
        }
    }

    /// How far sources were read stands in the landing buffer with their rows; those of the coordinator's own sources too.
    async fn save_positions(&self) -> Result<()> {
        let nodes: BTreeSet<_> = self.buffer.tails().into_iter().map(|(key, _)| key.node).collect();
        let positions = nodes.iter().flat_map(|node| self.buffer.landed_positions_of(node));
        let positions: Vec<LandedPosition> = positions.map(landed_position).collect();
        let store = self.store.clone();
        spawn_blocking(move || store.save_positions(&positions))
            .await?
            .context("keep how far sources were read")
    }
}

fn entry_of(frame: Frame) -> Entry {
    let Frame {
        id,
        kind,
        digest,
        rows,
        ts_min_us,
        ts_max_us,
        sealed_us,
        raw_bytes,
        positions,
        schema,
        payload,
    } = frame;
    match kind {
        FrameKind::Skip { to, rows, reason } => {
            Entry::Skip { from: id.sequence, key: id.key, to, rows, reason }
        }
        FrameKind::Data => {
            let batch = aap_buffer::EncodedBatch { schema, payload, rows, ts_min_us, ts_max_us, raw_bytes };
            Entry::Landed { id, digest, positions, sealed_us, batch }
        }
    }
}
