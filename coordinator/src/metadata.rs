//! Where the coordinator's metadata lies: in a file of its home, or in PostgreSQL; and its way from the one to the other.

use std::sync::Arc;

use aap_postgres::{PostgresStore, PostgresStoreSpec};
use aap_store::{Error, MetadataStore, ResourceStore, SqliteStore};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// What a file of metadata is called after its contents went to PostgreSQL. It is never read again.
const MOVED: &str = "moved-to-postgres";

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
}

/// An open store, as both of what it is.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) resources: Arc<dyn ResourceStore>,
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
                Ok(Self { store: store.clone(), resources: store, damaged })
            }
        }
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
            std::fs::rename(path, moved(path)).with_context(|| format!("put `{path}` aside"))?;
        }
        let store = Arc::new(store);
        Ok(Self { store: store.clone(), resources: store, damaged: None })
    }
}

fn moved(path: &Utf8Path) -> Utf8PathBuf {
    format!("{path}.{MOVED}").into()
}

/// Copies everything. After a crash in between it is done again: what was copied stays, and nothing ran on it yet.
fn take_over(from: &SqliteStore, to: &PostgresStore) -> Result<()> {
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
        objects.push((record, state));
    }
    to.restore_resources(&objects)?;
    // Last: its version says that all of it is there.
    to.restore(&old)?;
    info!(objects = objects.len(), files = old.files.len(), "the metadata is in PostgreSQL now");
    Ok(())
}
