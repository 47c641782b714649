//! The second copy of who may do what: `coordinator/access.json`, written after every change of users, API tokens, nodes
//! and kept secrets, which are sealed here as there.
//!
//! Sessions, enrolment tokens and counted failures are over within a day, and are not in it.

use std::sync::{Arc, Mutex, PoisonError};

use aap_runtime::write_durably;
use aap_store::{AccessKind, AccessRow, AccessStore, Error, PAGE_ROWS_MAX, RowsAfter};
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

/// What is in the copy.
const KINDS: [AccessKind; 4] = [AccessKind::User, AccessKind::ApiToken, AccessKind::Node, AccessKind::Secret];

/// A store with a copy beside it. What is changed in the store is in the copy when the change returns; where the copy cannot be
/// written, the change stands all the same.
#[derive(Debug)]
pub(crate) struct CopiedAccess {
    store: Arc<dyn AccessStore>,
    path: Utf8PathBuf,
    /// One writes at a time: two would tear it.
    writing: Mutex<()>,
}

impl CopiedAccess {
    /// The store with its copy in the coordinator's `folder`. A store that knows of nobody gets back what the copy has: it was lost, or
    /// there never was anybody, and then the copy says so too. Blocking.
    ///
    /// # Errors
    /// The copy cannot be read, or the store not written.
    pub(crate) fn open(store: Arc<dyn AccessStore>, folder: &Utf8Path) -> Result<Self> {
        let copied = Self { store, path: folder.join("access.json"), writing: Mutex::default() };
        let restored = copied.restore()?;
        if restored > 0 {
            tracing::warn!(
                records = restored,
                "the metadata was lost; users, tokens and nodes are back from their second copy"
            );
        }
        Ok(copied)
    }

    fn restore(&self) -> Result<usize> {
        if !self.path.exists() || !self.rows()?.is_empty() {
            return Ok(0);
        }
        let json = std::fs::read(&self.path).with_context(|| format!("read `{}`", self.path))?;
        let rows: Vec<(AccessKind, AccessRow)> =
            serde_json::from_slice(&json).with_context(|| format!("understand `{}`", self.path))?;
        for (kind, row) in &rows {
            self.store.swap_access_row(*kind, None, row)?;
        }
        Ok(rows.len())
    }

    fn rows(&self) -> Result<Vec<(AccessKind, AccessRow)>, Error> {
        let mut all = vec![];
        for kind in KINDS {
            let mut after = String::new();
            loop {
                let page = RowsAfter { owner: None, after: &after, limit: PAGE_ROWS_MAX };
                let rows = self.store.access_rows(kind, page)?;
                let Some(last) = rows.last() else { break };
                last.key.clone_into(&mut after);
                all.extend(rows.into_iter().map(|row| (kind, row)));
            }
        }
        Ok(all)
    }

    fn keep(&self, kind: AccessKind, changed: bool) {
        if !changed || !KINDS.contains(&kind) {
            return;
        }
        if let Err(error) = self.write() {
            tracing::warn!(
                error = format!("{error:#}"),
                "the second copy of who may do what cannot be written"
            );
        }
    }

    fn write(&self) -> Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let json = serde_json::to_vec(&self.rows()?).context("put records into JSON")?;
        write_durably(&self.path, &json, 0o600).with_context(|| format!("write `{}`", self.path))
    }
}

impl AccessStore for CopiedAccess {
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error> {
        self.store.access_row(kind, key)
    }

    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error> {
        self.store.access_rows(kind, which)
    }

    fn swap_access_row(
        &self,
        kind: AccessKind,
        before: Option<&str>,
        row: &AccessRow,
    ) -> Result<bool, Error> {
        let swapped = self.store.swap_access_row(kind, before, row)?;
        self.keep(kind, swapped);
        Ok(swapped)
    }

    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error> {
        let deleted = self.store.delete_access_row(kind, key)?;
        self.keep(kind, deleted);
        Ok(deleted)
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        let deleted = self.store.delete_access_rows(kind, owner)?;
        self.keep(kind, deleted > 0);
        Ok(deleted)
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        self.store.forget_access_rows(now_us)
    }
}

#[cfg(test)]
mod tests {
    use aap_store::MemoryStore;

    use super::*;

    fn row(key: &str) -> AccessRow {
        AccessRow { key: key.to_owned(), owner: String::new(), expires_us: None, record: "{}".to_owned() }
    }

    #[test]
    fn users_and_nodes_survive_the_loss_of_the_store_and_who_was_deleted_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let open = || CopiedAccess::open(Arc::new(MemoryStore::default()), folder).unwrap();
        let first = open();
        for (kind, key) in [
            (AccessKind::User, "ana"),
            (AccessKind::User, "ben"),
            (AccessKind::Node, "n1"),
            (AccessKind::Session, "s"),
        ] {
            assert!(first.swap_access_row(kind, None, &row(key)).unwrap());
        }
        assert!(first.delete_access_row(AccessKind::User, "ben").unwrap());
        let second = open();
        assert_eq!(second.access_row(AccessKind::User, "ana").unwrap(), Some(row("ana")));
        assert_eq!(second.access_row(AccessKind::Node, "n1").unwrap(), Some(row("n1")));
        assert_eq!(second.access_row(AccessKind::User, "ben").unwrap(), None);
        assert_eq!(second.access_row(AccessKind::Session, "s").unwrap(), None);
    }
}
