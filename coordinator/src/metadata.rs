//! Where the coordinator's metadata lies: in a file of its home, or in PostgreSQL; and its way from the one to the other.

use std::sync::Arc;
use std::time::Duration;

use aap_postgres::{PostgresStore, PostgresStoreSpec};
use aap_runtime::Shutdown;
use aap_store::{
    AccessKind, AccessStore, ClusterStore, Error, Lease, LeaseStore, MetadataStore, ResourceStore, RowsAfter,
    SqliteStore,
};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::arrival::chain;

/// What a file of metadata is called after its contents went to PostgreSQL. It is never read again.
const MOVED: &str = "moved-to-postgres";

/// The lease of a migration that has begun, which outlives its process: no coordinator may start before it has ended.
pub(crate) const MIGRATION: &str = "migration";

/// Between two attempts to reach the server: it takes seconds to start.
const PAUSE: Duration = Duration::from_secs(1);

/// The section `metadata` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataConfig {
    /// In a schema of this server. Default: in `coordinator/meta.db` of the home.
    pub postgres: Option<PostgresStoreSpec>,
}

impl MetadataConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.postgres {
            Some(spec) => spec.check().map_err(|why| format!("metadata.postgres: {why}")),
            None => Ok(()),
        }
    }

    /// Waits until the server that holds it answers: after a power cut everything starts at once. `false` if `shutdown` came first.
    ///
    /// # Errors
    /// The server answers, and lets nobody in.
    pub(crate) async fn reachable(&self, shutdown: &Shutdown) -> Result<bool> {
        let Some(spec) = &self.postgres else { return Ok(true) };
        let mut said = None;
        while !shutdown.is_requested() {
            let asked = spec.clone();
            let Some(absence) = spawn_blocking(move || PostgresStore::absence(&asked)).await?? else {
                return Ok(true);
            };
            let why = Some(chain(&absence));
            // It may be away for hours.
            if said != why {
                warn!(url = %spec.url, error = why, "PostgreSQL, where the metadata is, does not answer yet");
                said = why;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.requested() => {}
            }
        }
        Ok(false)
    }
}

/// An open store, as everything that it is.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) resources: Arc<dyn ResourceStore>,
    pub(crate) access: Arc<dyn AccessStore>,
    /// Where a damaged file was put, if a new one has taken its place.
    pub(crate) damaged: Option<Utf8PathBuf>,
}

impl Metadata {
    /// Opens it for the landing buffer `owner`. Blocking.
    ///
    /// # Errors
    /// The store cannot be opened, or holds the metadata of another landing buffer.
    pub(crate) fn open(config: &MetadataConfig, folder: &Utf8Path, owner: &str) -> Result<Self> {
        let path = folder.join("meta.db");
        match &config.postgres {
            Some(spec) => Self::open_postgres(spec, &path, owner),
            None => {
                let moved = moved(&path);
                ensure!(
                    path.exists() || !moved.exists(),
                    "the metadata of this coordinator went to PostgreSQL; set `metadata.postgres` in its configuration again"
                );
                let (store, damaged) = SqliteStore::open_or_replace(&path)?;
                let store = Arc::new(store);
                Ok(Self { store: store.clone(), resources: store.clone(), access: store, damaged })
            }
        }
    }

    /// Opens it as one coordinator of several, whose certificate authority has the fingerprint `authority`. Blocking.
    ///
    /// # Errors
    /// The store cannot be opened, or is that of another cluster, or of one coordinator alone.
    pub(crate) fn open_cluster(
        spec: &PostgresStoreSpec,
        folder: &Utf8Path,
        (cluster, authority): (&str, &str),
    ) -> Result<Arc<PostgresStore>> {
        let alone = folder.join("meta.db");
        ensure!(
            !alone.exists(),
            "`{alone}` is the metadata of a platform on one machine; take it along with `aap cluster migrate`"
        );
        let landing = folder.join("landing");
        ensure!(
            !landing.exists(),
            "`{landing}` holds what landed at this platform alone; take it along with `aap cluster migrate`"
        );
        let store = PostgresStore::open(spec)?;
        let is_moving = |lease: &Lease| lease.name == MIGRATION && !lease.left.is_zero();
        ensure!(
            !store.leases()?.iter().any(is_moving),
            "a platform is on its way into this cluster: run its `aap cluster migrate` to its end, again if it was broken off"
        );
        store.claim_cluster(cluster, authority).map_err(|error| match error {
            Error::Foreign { .. } => anyhow::Error::new(error).context(format!(
                "schema `{}` at {} is not that of the cluster `{cluster}`: give this one a `schema` of its own",
                spec.schema, spec.url
            )),
            Error::OtherAuthority { .. } => anyhow::Error::new(error).context(
                "this home has made a certificate authority of its own: stop, copy `tls/` from the home of a \
                 coordinator of the cluster over it, and start again",
            ),
            other => other.into(),
        })?;
        Ok(Arc::new(store))
    }

    fn open_postgres(spec: &PostgresStoreSpec, path: &Utf8Path, owner: &str) -> Result<Self> {
        let store = PostgresStore::open(spec)?;
        store.claim(owner).map_err(|error| match error {
            Error::Foreign { .. } => anyhow::Error::new(error).context(format!(
                "schema `{}` at {} is another coordinator's: give this one a `schema` of its own",
                spec.schema, spec.url
            )),
            other => other.into(),
        })?;
        if path.exists() {
            let before = SqliteStore::open(path)
                .context("open the file of metadata that PostgreSQL takes over from")?;
            take_over(&before, &store).context("move the metadata to PostgreSQL")?;
            drop(before);
            put_aside(path)?;
        }
        let store = Arc::new(store);
        Ok(Self { store: store.clone(), resources: store.clone(), access: store, damaged: None })
    }
}

/// Puts a file of metadata aside whose contents are elsewhere now, if there is one.
pub(crate) fn put_aside(path: &Utf8Path) -> Result<()> {
    match path.exists() {
        true => std::fs::rename(path, moved(path)).with_context(|| format!("put `{path}` aside")),
        false => Ok(()),
    }
}

fn moved(path: &Utf8Path) -> Utf8PathBuf {
    format!("{path}.{MOVED}").into()
}

/// Copies everything. After a crash in between it is done again: what was copied stays, and nothing ran on it yet.
pub(crate) fn take_over(from: &SqliteStore, to: &PostgresStore) -> Result<()> {
    let (old, new) = (from.catalogue()?, to.catalogue()?);
    if new.version > old.version {
        warn!("PostgreSQL has later metadata than the file, which is put aside");
        return Ok(());
    }
    for node in from.nodes()? {
        to.record_node(&node)?;
    }
    let mut objects = vec![];
    for record in from.resources()? {
        let state = from.sink_state(&record.uid)?;
        to.add_dead_letters(&record.uid, &from.dead_letters(&record.uid, usize::MAX)?)?;
        if let Some((_, ledger)) = from.sink_ledger(&record.uid)? {
            let there = to.sink_ledger(&record.uid)?.map_or(0, |(version, _)| version);
            to.replace_sink_ledger(&record.uid, there + 1, &ledger)?;
        }
        objects.push((record, state));
    }
    for kind in AccessKind::ALL {
        take_over_access(from, to, kind)?;
    }
    to.restore_resources(&objects)?;
    // Last: its version says that all of it is there.
    to.restore(&old)?;
    info!(objects = objects.len(), files = old.files.len(), "the metadata is in PostgreSQL now");
    Ok(())
}

/// What stands there already is of an earlier attempt.
fn take_over_access(from: &SqliteStore, to: &PostgresStore, kind: AccessKind) -> Result<()> {
    let mut after = String::new();
    loop {
        let which = RowsAfter { owner: None, after: &after, limit: aap_store::PAGE_ROWS_MAX };
        let page = from.access_rows(kind, which)?;
        for row in &page {
            to.swap_access_row(kind, None, row)?;
        }
        match page.last() {
            Some(last) => last.key.clone_into(&mut after),
            None => return Ok(()),
        }
    }
}
