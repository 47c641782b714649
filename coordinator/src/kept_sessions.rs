//! Where sessions of people are kept: with the other records of access, or in Redis, if the configuration names one.

use std::sync::Arc;

use aap_access::HashKey;
use aap_redis::{RedisAccess, RedisServer};
use aap_runtime::SecretRef;
use aap_store::{AccessKind, AccessRow, AccessStore, Error, RowsAfter};
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
        self.at(kind, |store| store.delete_access_row(kind, key))
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        self.at(kind, |store| store.delete_access_rows(kind, owner))
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        // Sessions of the time before they were elsewhere end here.
        let rest = self.rest.forget_access_rows(now_us)?;
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
}
