//! Where sessions of people are kept: with the other records of access, or in Redis, if the configuration names one.

use std::sync::Arc;

use aap_access::HashKey;
use aap_redis::{RedisAccess, RedisServer};
use aap_runtime::SecretRef;
use aap_store::{AccessKind, AccessRow, AccessStore, Error, PAGE_ROWS_MAX, RowsAfter};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

/// The section `sessions` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsConfig {
    /// In a server. Default: in the metadata store.
    pub redis: Option<RedisServer>,
}

impl SessionsConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.redis {
            Some(server) => server.check().map_err(|why| format!("sessions.redis: {why}")),
            None => Ok(()),
        }
    }

    /// Every secret that it refers to.
    pub(crate) fn secrets(&self) -> Vec<SecretRef> {
        self.redis.iter().flat_map(RedisServer::secrets).collect()
    }

    /// The server, where one is named. Coordinators that have the same key share what is there, and nobody else does.
    pub(crate) fn open(&self, key: &HashKey) -> Option<Arc<RedisAccess>> {
        let server = self.redis.clone()?;
        Some(Arc::new(RedisAccess::new(server, &key.name(), Handle::current())))
    }
}

/// Records of access of which sessions lie elsewhere.
#[derive(Debug)]
pub(crate) struct SessionsElsewhere {
    rest: Arc<dyn AccessStore>,
    sessions: Arc<dyn AccessStore>,
}

impl SessionsElsewhere {
    pub(crate) fn new(rest: Arc<dyn AccessStore>, sessions: Arc<dyn AccessStore>) -> Self {
        Self { rest, sessions }
    }

    fn at<T>(
        &self,
        kind: AccessKind,
        work: impl FnOnce(&dyn AccessStore) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match kind {
            AccessKind::Session => work(self.sessions.as_ref()).map_err(sessions_failed),
            _ => work(self.rest.as_ref()),
        }
    }

    /// Ends the sessions of the time before they were elsewhere: nobody could end one of them now, and all would count again when they are kept
    /// with the rest once more.
    fn end_former(&self) -> Result<u64, Error> {
        let mut ended = 0;
        loop {
            let first = RowsAfter { owner: None, after: "", limit: PAGE_ROWS_MAX };
            let rows = self.rest.access_rows(AccessKind::Session, first)?;
            for row in &rows {
                ended += u64::from(self.rest.delete_access_row(AccessKind::Session, &row.key)?);
            }
            if rows.len() < PAGE_ROWS_MAX {
                return Ok(ended);
            }
        }
    }
}

fn sessions_failed(error: Error) -> Error {
    match error {
        Error::Server { .. } => Error::Sessions(Box::new(error)),
        other => other,
    }
}

impl AccessStore for SessionsElsewhere {
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error> {
        self.at(kind, |store| store.access_row(kind, key))
    }

    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error> {
        self.at(kind, |store| store.access_rows(kind, which))
    }

    fn swap_access_row(
        &self,
        kind: AccessKind,
        before: Option<&str>,
        row: &AccessRow,
    ) -> Result<bool, Error> {
        self.at(kind, |store| store.swap_access_row(kind, before, row))
    }

    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error> {
        let former = kind == AccessKind::Session && self.rest.delete_access_row(kind, key)?;
        Ok(self.at(kind, |store| store.delete_access_row(kind, key))? || former)
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        let former = match kind {
            AccessKind::Session => self.rest.delete_access_rows(kind, owner)?,
            _ => 0,
        };
        Ok(self.at(kind, |store| store.delete_access_rows(kind, owner))? + former)
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        let rest = self.rest.forget_access_rows(now_us)? + self.end_former()?;
        Ok(rest + self.sessions.forget_access_rows(now_us).map_err(sessions_failed)?)
    }
}

#[cfg(test)]
mod tests {
    use aap_store::MemoryStore;
    use aap_store::conformance::{Shared, run_access};

    use super::*;

    #[test]
    fn records_of_which_sessions_lie_elsewhere_keep_the_promises_of_every_store() {
        run_access(&mut || {
            let (rest, sessions) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
            let make = || Box::new(SessionsElsewhere::new(rest.clone(), sessions.clone()));
            Shared { one: make(), other: make() }
        });
    }

    #[test]
    fn sessions_and_nothing_else_lie_elsewhere() {
        let (rest, sessions) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
        let both = SessionsElsewhere::new(rest.clone(), sessions.clone());
        for kind in AccessKind::ALL {
            let row = AccessRow { key: "k".into(), owner: "o".into(), expires_us: None, record: "{}".into() };
            assert!(both.swap_access_row(kind, None, &row).unwrap());
            let is_there = |store: &MemoryStore| store.access_row(kind, "k").unwrap().is_some();
            let is_session = kind == AccessKind::Session;
            assert_eq!((is_there(&rest), is_there(&sessions)), (!is_session, is_session), "{kind:?}");
        }
    }

    #[test]
    fn sessions_of_before_end_and_do_not_come_back_when_they_are_kept_with_the_rest_again() {
        let (rest, sessions) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
        let both = SessionsElsewhere::new(rest.clone(), sessions.clone());
        let put = |store: &dyn AccessStore, key: &str, owner: &str| {
            let row =
                AccessRow { key: key.into(), owner: owner.into(), expires_us: None, record: "{}".into() };
            assert!(store.swap_access_row(AccessKind::Session, None, &row).unwrap());
        };
        put(rest.as_ref(), "1", "ana");
        put(rest.as_ref(), "2", "ben");
        put(rest.as_ref(), "3", "ben");
        put(&both, "4", "ana");
        assert_eq!(both.delete_access_rows(AccessKind::Session, "ana").unwrap(), 2);
        assert!(both.delete_access_row(AccessKind::Session, "2").unwrap());
        put(&both, "5", "ben");
        assert_eq!(both.forget_access_rows(0).unwrap(), 1);
        let left = |store: &MemoryStore| {
            let all = RowsAfter { owner: None, after: "", limit: PAGE_ROWS_MAX };
            store.access_rows(AccessKind::Session, all).unwrap().len()
        };
        assert_eq!((left(&rest), left(&sessions)), (0, 1));
    }
}
