//! The second copy of what operators declared: `coordinator/resources.json`, written after every change; and of who may do what
//! (`access.rs`).
//!
//! Everything else in the metadata store can be rebuilt: the lake has a manifest, the landing buffer its frames. What was
//! declared cannot, and a sink that came back under another uid would deliver everything again.

mod access;

use std::sync::Arc;

use aap_runtime::write_durably;
use aap_store::{ResourceRecord, ResourceStore, SinkState};
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

pub(crate) use access::CopiedAccess;

/// Writes the copy, and reads it where the store was lost. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SecondCopy {
    store: Arc<dyn ResourceStore>,
    path: Utf8PathBuf,
}

impl SecondCopy {
    /// The copy of `store` in the coordinator's `folder`.
    pub(crate) fn new(store: Arc<dyn ResourceStore>, folder: &Utf8Path) -> Self {
        Self { store, path: folder.join("resources.json") }
    }

    /// Writes down how everything stands, except for the object `without`, which is about to be deleted: the copy must never
    /// have what the store has no more. Blocking.
    ///
    /// # Errors
    /// The store cannot be read, or the disk not written.
    pub(crate) fn write(&self, without: Option<&str>) -> Result<()> {
        let records =
            self.store.resources()?.into_iter().filter(|record| without != Some(record.uid.as_str()));
        let all: Vec<(ResourceRecord, SinkState)> = records
            .map(|record| Ok((record.clone(), self.store.sink_state(&record.uid)?)))
            .collect::<Result<_>>()?;
        let json = serde_json::to_vec(&all).context("put resources into JSON")?;
        write_durably(&self.path, &json, 0o600).with_context(|| format!("write `{}`", self.path))
    }

    /// Puts everything back into a store that knows of nothing: it was lost, or nothing was ever declared, and then the copy
    /// says so too. Returns how many objects. Blocking.
    ///
    /// # Errors
    /// The copy cannot be read, or the store not written.
    pub(crate) fn restore(&self) -> Result<usize> {
        if !self.path.exists() || !self.store.resources()?.is_empty() {
            return Ok(0);
        }
        let json = std::fs::read(&self.path).with_context(|| format!("read `{}`", self.path))?;
        let all: Vec<(ResourceRecord, SinkState)> =
            serde_json::from_slice(&json).with_context(|| format!("understand `{}`", self.path))?;
        self.store.restore_resources(&all)?;
        Ok(all.len())
    }
}

#[cfg(test)]
mod tests {
    use aap_store::MemoryStore;

    use super::*;

    #[test]
    fn what_was_declared_survives_the_loss_of_the_store_under_its_uid() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let first: Arc<dyn ResourceStore> = Arc::new(MemoryStore::default());
        let record = ResourceRecord {
            kind: "Sink".to_owned(),
            name: "pg".to_owned(),
            uid: "0123".to_owned(),
            revision: 1,
            document: "kind: Sink\n".to_owned(),
            author: "operator".to_owned(),
            created_us: 1,
            updated_us: 2,
        };
        first.put_resource(&record).unwrap();
        let state = SinkState { paused: true, start_us: Some(9), replays: 3, ..SinkState::default() };
        first.set_sink_state("0123", &state).unwrap();
        let copy = SecondCopy::new(first, folder);
        copy.write(None).unwrap();
        assert_eq!(copy.restore().unwrap(), 0, "the store has it");

        let second: Arc<dyn ResourceStore> = Arc::new(MemoryStore::default());
        let copy = SecondCopy::new(second.clone(), folder);
        assert_eq!(copy.restore().unwrap(), 1);
        assert_eq!(second.resources().unwrap(), [record]);
        assert_eq!(second.sink_state("0123").unwrap(), state);
        copy.write(Some("0123")).unwrap();
        second.delete_resource("Sink", "pg").unwrap();
        assert_eq!(copy.restore().unwrap(), 0, "what was deleted does not come back");
        let elsewhere = tempfile::tempdir().unwrap();
        let elsewhere = Utf8Path::from_path(elsewhere.path()).unwrap();
        assert_eq!(SecondCopy::new(second, elsewhere).restore().unwrap(), 0, "nothing was ever declared");
    }
}
