//! The coordinators' metadata in PostgreSQL: the same records as in SQLite, in a schema of their own.
//!
//! ```text
//!  method ──► one transaction: BEGIN, the change, COMMIT                    writers one after another (an advisory lock)
//!               └── the connection was lost before COMMIT: once more on a new one
//!               └── no answer to COMMIT: an error; whoever asks again finds what became of it
//! ```
//! The trait blocks and the client does not, so a connection has a runtime of its own, of one thread that is the caller's.
//! There are two: one for all of the above, and one for leases, which must not wait behind anything.
//!
//! | file | owns |
//! |---|---|
//! | `schema.rs` | tables, and how those of an earlier version become those of this one |
//! | `lake.rs` | nodes, streams, files, cuts |
//! | `resources.rs` | declared objects, state and dead letters of sinks |
//! | `leases.rs` | leases on their own connection, and the fence of the lake |
//! | `cluster.rs` | whose the metadata is, positions of sources |
//! | `access.rs` | users, sessions, tokens, node identities |
//! | `line.rs` | a connection and what drives it; failures |

mod access;
mod cluster;
mod lake;
mod leases;
mod line;
mod resources;
mod schema;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aap_runtime::SecretRef;
use aap_store::{
    Catalogue, Deleted, Error, Fence, Fencing, LakeCommit, MetadataStore, NodeRecord, ResourceRecord,
    ResourceStore, Retention, SinkDeadLetter, SinkState,
};
use aap_types::{NodeId, Sequence, StreamKey, StreamName};
use serde::{Deserialize, Serialize};

use crate::connection::{Access, Error as ServerError, ServerUrl, Session};
use crate::names::{IDENTIFIER_BYTES_MAX, quoted};
use line::{Failure, Line};

/// Where metadata lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresStoreSpec {
    /// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. A password is refused here.
    pub url: ServerUrl,
    /// Where the password stands. Default: none, for servers that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// The schema of its tables, made where it is missing. Default: `aap`.
    #[serde(default = "schema")]
    pub schema: String,
}

fn schema() -> String {
    "aap".to_owned()
}

impl PostgresStoreSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Whether it makes sense, as far as that can be told without the server.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self.schema.len() {
            1..=IDENTIFIER_BYTES_MAX if !self.schema.contains('\0') => Ok(()),
            _ => Err(format!("`schema` must be a name of 1 to {IDENTIFIER_BYTES_MAX} bytes")),
        }
    }
}

/// What is attempted when nothing else can be.
const REACHING: &str = "connect to the server of the metadata";

/// Metadata in a schema of a server.
#[derive(Debug)]
pub struct PostgresStore {
    access: Access,
    schema: String,
    line: Mutex<Line>,
    lease_line: Mutex<Line>,
    fencing: Mutex<Fencing>,
}

/// How a transaction is begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl PostgresStore {
    /// Why the server does not answer, where later may help; none where it does. Blocking.
    ///
    /// # Errors
    /// [`Error::Server`] where waiting does not help: it lets nobody in, or its certificate is not believed.
    pub fn absence(spec: &PostgresStoreSpec) -> Result<Option<Error>, Error> {
        let access = Access { url: spec.url.clone(), password: spec.password.clone() };
        let mut line = Line::new()?;
        let (runtime, ..) = line.parts()?;
        match runtime.block_on(access.connect()).map_err(Failure::from) {
            Ok(_session) => Ok(None),
            Err(failure) if failure.is_lost_line() => Ok(Some(failure.during(REACHING))),
            Err(failure) => Err(failure.during(REACHING)),
        }
    }

    /// Connects, and brings the schema to this version. Blocking, as everything here.
    ///
    /// # Errors
    /// [`Error::Newer`] where a later version has been there, [`Error::Server`].
    pub fn open(spec: &PostgresStoreSpec) -> Result<Self, Error> {
        let store = Self {
            access: Access { url: spec.url.clone(), password: spec.password.clone() },
            schema: spec.schema.clone(),
            line: Mutex::new(Line::new()?),
            lease_line: Mutex::new(Line::new()?),
            fencing: Mutex::default(),
        };
        store.transact(Kind::Write, "bring metadata to the newest version", async |session: &Session| {
            schema::migrate(session, &spec.schema).await
        })?;
        Ok(store)
    }

    /// Takes the schema for the landing buffer `owner`, whose cuts it holds: those of two buffers cannot stand in one.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another one, or a cluster, has taken it.
    pub fn claim(&self, owner: &str) -> Result<(), Error> {
        self.write("take the metadata", async |s: &Session| {
            cluster::claim(s, |found| found.by_embedded(owner)).await
        })
    }

    /// A change of files or cuts, under the fence.
    fn change_lake<T>(
        &self,
        doing: &'static str,
        change: impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        self.write(doing, async |s: &Session| {
            let fencing = self.fencing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(fence) = fencing.fence().map_err(Failure::Refused)? {
                leases::check_fence(s, fence).await?;
            }
            change(s).await
        })
    }

    fn read<T>(
        &self,
        doing: &'static str,
        look: impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        self.transact(Kind::Read, doing, look)
    }

    fn write<T>(
        &self,
        doing: &'static str,
        change: impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        self.transact(Kind::Write, doing, change)
    }

    /// One transaction. What goes wrong before its end is tried once more on a new connection.
    fn transact<T>(
        &self,
        kind: Kind,
        doing: &'static str,
        work: impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        // A panic while the lock was held dropped its future, and the server rolls back.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (runtime, session, in_doubt) = line.parts()?;
        runtime.block_on(async {
            let mut is_first = session.is_some();
            loop {
                let attempt = match *in_doubt {
                    true => self.settle(session).await.map_err(|error| (Failure::Server(error), false)),
                    false => Ok(()),
                };
                *in_doubt &= attempt.is_err();
                let attempt = match attempt {
                    Ok(()) => self.attempt(session, kind, &work).await,
                    Err(failure) => Err(failure),
                };
                match attempt {
                    Err((failure, false)) if is_first && failure.is_lost_line() => {
                        *session = None;
                        is_first = false;
                    }
                    Err((failure, was_committing)) => {
                        *in_doubt |= was_committing && matches!(failure, Failure::Server(_));
                        // Whatever is open there ends with the connection.
                        *session = None;
                        return Err(failure.during(doing));
                    }
                    Ok(value) => return Ok(value),
                }
            }
        })
    }

    /// Waits until a commit that was not answered is visible or will never be: whoever commits holds the lock until then. In a
    /// transaction of its own, so that the next one begins to look after that.
    async fn settle(&self, session: &mut Option<Session>) -> Result<(), ServerError> {
        let open = self.access.connect().await?;
        open.begin().await?;
        open.batch("wait for a commit that was not answered", schema::LOCK).await?;
        open.rollback().await?;
        *session = Some(open);
        Ok(())
    }

    /// The error tells whether a commit was under way.
    async fn attempt<T>(
        &self,
        session: &mut Option<Session>,
        kind: Kind,
        work: &impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, (Failure, bool)> {
        let before = |error: ServerError| (Failure::Server(error), false);
        if session.as_ref().is_none_or(Session::is_closed) {
            *session = Some(self.access.connect().await.map_err(before)?);
        }
        let Some(open) = session.as_ref() else {
            return Err((Failure::Refused(Error::Unreadable("a connection".to_owned())), false));
        };
        match kind {
            Kind::Read => open.begin_snapshot().await.map_err(before)?,
            Kind::Write => open.begin().await.map_err(before)?,
        }
        choose(open, &self.schema).await.map_err(before)?;
        if kind == Kind::Write {
            open.batch("wait for other writers", schema::LOCK).await.map_err(before)?;
        }
        match work(open).await {
            Ok(value) => {
                open.commit().await.map_err(|error| (Failure::Server(error), true))?;
                Ok(value)
            }
            Err(Failure::Refused(error)) => {
                open.rollback().await.map_err(before)?;
                Err((Failure::Refused(error), true))
            }
            Err(failure) => Err((failure, false)),
        }
    }
}

/// Has names mean those of the schema, until the transaction ends.
async fn choose(session: &Session, schema: &str) -> Result<(), ServerError> {
    let path = format!("SET LOCAL search_path = {}", quoted(schema));
    session.batch("choose the schema", &path).await
}

impl MetadataStore for PostgresStore {
    fn record_node(&self, node: &NodeRecord) -> Result<(), Error> {
        self.write("record node", async |s: &Session| lake::record_node(s, node).await)
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        self.read("list nodes", async |s: &Session| lake::nodes(s, None).await)
    }

    fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, Error> {
        self.read("look up node", async |s: &Session| Ok(lake::nodes(s, Some(node)).await?.pop()))
    }

    fn catalogue(&self) -> Result<Catalogue, Error> {
        self.read("read the catalogue", async |s: &Session| lake::catalogue(s).await)
    }

    fn catalogue_version(&self) -> Result<u64, Error> {
        self.read("read the version of the catalogue", async |s: &Session| lake::version(s).await)
    }

    fn commit(&self, commit: &LakeCommit) -> Result<(), Error> {
        self.change_lake("commit a change of the lake", async |s: &Session| lake::commit(s, commit).await)
    }

    fn declare_columns(&self, stream: &StreamName, columns: &[(String, String)]) -> Result<(), Error> {
        self.write("declare columns", async |s: &Session| lake::declare(s, stream, columns).await)
    }

    fn delete_stream(
        &self,
        stream: &StreamName,
        floors: &[(StreamKey, Sequence)],
        now_us: i64,
    ) -> Result<Deleted, Error> {
        self.change_lake("delete stream", async |s: &Session| {
            lake::delete_stream(s, stream, floors, now_us).await
        })
    }

    fn deletions_of(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, Error> {
        self.read("look up deletions", async |s: &Session| lake::deletions(s, Some(node)).await)
    }

    fn restore(&self, catalogue: &Catalogue) -> Result<(), Error> {
        self.change_lake("restore the catalogue", async |s: &Session| lake::restore(s, catalogue).await)
    }

    fn set_retention(&self, stream: &StreamName, retention: Option<&Retention>) -> Result<(), Error> {
        self.write("set retention", async |s: &Session| lake::set_retention(s, stream, retention).await)
    }

    fn set_fence(&self, fence: Option<Fence>) {
        self.fencing.lock().unwrap_or_else(PoisonError::into_inner).set(fence);
    }
}

impl ResourceStore for PostgresStore {
    fn resources(&self) -> Result<Vec<ResourceRecord>, Error> {
        self.read("list resources", async |s: &Session| resources::all(s).await)
    }

    fn put_resource(&self, resource: &ResourceRecord) -> Result<(), Error> {
        self.write("write a resource", async |s: &Session| resources::put(s, resource).await)
    }

    fn restore_resources(&self, records: &[(ResourceRecord, SinkState)]) -> Result<(), Error> {
        self.write("restore resources", async |s: &Session| resources::restore(s, records).await)
    }

    fn delete_resource(&self, kind: &str, name: &str) -> Result<bool, Error> {
        self.write("delete a resource", async |s: &Session| resources::delete(s, kind, name).await)
    }

    fn sink_state(&self, uid: &str) -> Result<SinkState, Error> {
        self.read("read the state of a sink", async |s: &Session| resources::state(s, uid).await)
    }

    fn set_sink_state(&self, uid: &str, state: &SinkState) -> Result<(), Error> {
        self.write("write the state of a sink", async |s: &Session| resources::set_state(s, uid, state).await)
    }

    fn sink_ledger(&self, uid: &str) -> Result<Option<(u64, String)>, Error> {
        self.read("read the ledger of a sink", async |s: &Session| resources::ledger(s, uid).await)
    }

    fn replace_sink_ledger(&self, uid: &str, version: u64, ledger: &str) -> Result<(), Error> {
        self.write("write the ledger of a sink", async |s: &Session| {
            resources::replace_ledger(s, uid, version, ledger).await
        })
    }

    fn add_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error> {
        self.write("keep dead letters", async |s: &Session| resources::add_letters(s, uid, letters).await)
    }

    fn drop_dead_letters_beyond(
        &self,
        uid: &str,
        written: &BTreeMap<StreamKey, Sequence>,
    ) -> Result<(), Error> {
        self.write("drop dead letters", async |s: &Session| resources::drop_beyond(s, uid, written).await)
    }

    fn dead_letters(&self, uid: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, Error> {
        self.read("list dead letters", async |s: &Session| resources::letters(s, uid, None, limit).await)
    }

    fn dead_letter_count(&self, uid: &str) -> Result<u64, Error> {
        self.read("count dead letters", async |s: &Session| resources::letter_count(s, uid).await)
    }

    fn set_sink_paused(&self, uid: &str, paused: bool) -> Result<(), Error> {
        self.write("pause a sink", async |s: &Session| {
            let state = resources::state(s, uid).await?;
            resources::set_state(s, uid, &SinkState { paused, ..state }).await
        })
    }

    fn begin_replay(&self, uid: &str, now_us: i64) -> Result<(u64, u64), Error> {
        self.write("begin a replay", async |s: &Session| resources::begin_replay(s, uid, now_us).await)
    }

    fn pending_replay(&self, uid: &str) -> Result<Option<(u64, Vec<SinkDeadLetter>)>, Error> {
        self.read("look for a replay", async |s: &Session| resources::pending_replay(s, uid).await)
    }

    fn requeue_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error> {
        self.write("take letters out of a replay", async |s: &Session| {
            resources::requeue(s, uid, letters).await
        })
    }

    fn end_replay(&self, uid: &str, replay: u64) -> Result<(), Error> {
        self.write("end a replay", async |s: &Session| resources::end_replay(s, uid, replay).await)
    }

    fn purge_dead_letters(&self, uid: &str) -> Result<u64, Error> {
        self.write("purge dead letters", async |s: &Session| resources::purge(s, uid).await)
    }
}
