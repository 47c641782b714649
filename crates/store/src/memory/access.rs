//! Records of access, in memory.

use std::collections::btree_map::Entry;

use super::MemoryStore;
use crate::{AccessKind, AccessRow, AccessStore, Error, RowsAfter};

impl AccessStore for MemoryStore {
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error> {
        Ok(self.state().access.get(&(kind, key.to_owned())).cloned())
    }

    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error> {
        let state = self.state();
        let wanted = |row: &&AccessRow| {
            row.key.as_str() > which.after && which.owner.is_none_or(|owner| owner == row.owner)
        };
        let of_kind = state.access.iter().filter(|((of, _), _)| *of == kind).map(|(_, row)| row);
        Ok(of_kind.filter(wanted).take(which.limit()).cloned().collect())
    }

    fn swap_access_row(
        &self,
        kind: AccessKind,
        before: Option<&str>,
        row: &AccessRow,
    ) -> Result<bool, Error> {
        let mut state = self.state();
        match (state.access.entry((kind, row.key.clone())), before) {
            (Entry::Vacant(place), None) => drop(place.insert(row.clone())),
            (Entry::Occupied(mut known), Some(before)) if known.get().record == before => {
                known.insert(row.clone());
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error> {
        Ok(self.state().access.remove(&(kind, key.to_owned())).is_some())
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        Ok(self.state().drop_access(|of, row| of == kind && row.owner == owner))
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        Ok(self.state().drop_access(|_, row| row.expires_us.is_some_and(|expires| expires <= now_us)))
    }
}

impl super::State {
    fn drop_access(&mut self, goes: impl Fn(AccessKind, &AccessRow) -> bool) -> u64 {
        let before = self.access.len();
        self.access.retain(|(kind, _), row| !goes(*kind, row));
        (before - self.access.len()) as u64
    }
}
