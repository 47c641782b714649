//! The coordinator's metadata: nodes, streams, columns, lake files and how far each stream went into the lake.
//!
//! The truth about *landed data* is the landing buffer; this store holds what that buffer cannot say: which lake files
//! are visible, and the *cut* of each stream (everything up to it is in the lake or was deleted, everything after it
//! still lies in the landing buffer). Files and cut change in one transaction, so a query that reads both in one
//! transaction sees every row exactly once. It is never on the path of an acknowledgement.
//!
//! All methods block; call them on the blocking pool.
//!
//! | file | owns |
//! |---|---|
//! | `model.rs` | the records |
//! | `sqlite.rs`, `sqlite/`, `schema.rs` | [`SqliteStore`]: one file, WAL, `synchronous=FULL` |
//! | `memory.rs`, `memory/` | [`MemoryStore`] for tests |
//! | `lease.rs` | [`LeaseStore`]: rights that one coordinator has at a time, and the [`Fence`] of the lake |
//! | `cluster.rs` | [`ClusterStore`]: whose metadata it is, and positions of sources that all coordinators see |
//! | `access.rs` | [`AccessStore`]: users, sessions, tokens, node identities, and how they change |
//! | `resources.rs` | what the SQLite store knows of declared objects and of sinks |
//! | `conformance.rs`, `conformance/` | the suites that every store passes (feature `conformance`) |

mod access;
mod cluster;
#[cfg(any(test, feature = "conformance"))]
#[expect(clippy::unwrap_used, reason = "a promise that is not kept panics")]
pub mod conformance;
mod lease;
mod memory;
mod model;
mod resources;
mod schema;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use aap_types::{NodeId, Sequence, StreamKey, StreamName};

pub use access::{AccessKind, AccessRow, AccessStore, LoginFailures, PAGE_ROWS_MAX, Record, RowsAfter};
pub use cluster::{Claim, ClusterStore, LandedPosition};
pub use lease::{Acquired, Fence, Fencing, Lease, LeaseStore};
pub use memory::MemoryStore;
pub use model::{
    Catalogue, CursorMove, Deleted, LakeCommit, LakeFile, NodeRecord, ResourceRecord, Retention, RowCounts,
    SequenceRange, SinkDeadLetter, SinkState, StreamRecord,
};
pub use sqlite::SqliteStore;

/// Why metadata could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite says no.
    #[error("{doing}")]
    Sqlite {
        /// What was being attempted.
        doing: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A database server says no, or nothing.
    #[error("{doing}")]
    Server {
        /// What was being attempted.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Sessions lie in a server of their own, which does not answer.
    #[error("sessions cannot be looked up")]
    Sessions(#[source] Box<Self>),
    /// The metadata is another coordinator's, or another cluster's.
    #[error("the metadata belongs to the landing buffer or cluster `{found}`")]
    Foreign {
        /// Whose it is.
        found: String,
    },
    /// Coordinators that trust different authorities cannot be one cluster.
    #[error(
        "the cluster's certificate authority is another one, with the fingerprint `{found}`: give this coordinator that one"
    )]
    OtherAuthority {
        /// The fingerprint of the one that the cluster has.
        found: String,
    },
    /// Another coordinator may have taken over, so the lake must not be changed from here.
    #[error("this coordinator does not have the lease `{lease}`, without which it may not change the lake")]
    Fenced {
        /// Its name.
        lease: String,
    },
    /// The file was written by a later version.
    #[error("`{path}` has schema version {found}; this build knows versions up to {known}")]
    Newer {
        /// The database.
        path: camino::Utf8PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file has pages that do not fit together.
    #[error("`{path}` is damaged: {found}")]
    Damaged {
        /// The database.
        path: camino::Utf8PathBuf,
        /// What SQLite found.
        found: String,
    },
    /// A damaged file could not be renamed.
    #[error("put `{path}` aside")]
    PutAside {
        /// The file.
        path: camino::Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The cut of a stream is not where the writer believed; somebody deleted or committed in between.
    #[error("cut of `{key}` stands at {found}, not at {expected}")]
    CutMoved {
        /// The stream.
        key: StreamKey,
        /// Where the writer believed it.
        expected: Sequence,
        /// Where it stands.
        found: Sequence,
    },
    /// A file to be replaced is no longer in the catalogue.
    #[error("lake file `{0}` is no longer in the catalogue")]
    FileGone(String),
    /// Somebody changed a declared object in between.
    #[error("`{kind}/{name}` stands at revision {found}, not at {expected}")]
    Revision {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Where the writer believed it; 0: not there.
        expected: u64,
        /// Where it stands; 0: not there.
        found: u64,
    },
    /// A stored value means nothing to this build.
    #[error("metadata holds `{0}`, which cannot be read")]
    Unreadable(String),
}

impl Error {
    /// Whether the file itself is broken, rather than the disk full or the file in use.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        match self {
            Self::Damaged { .. } => true,
            Self::Sqlite { source, .. } => {
                matches!(source.sqlite_error_code(), Some(Code::DatabaseCorrupt | Code::NotADatabase))
            }
            _ => false,
        }
    }

    /// Whether the caller only has to look again: its view was out of date.
    pub fn is_stale_view(&self) -> bool {
        matches!(self, Self::CutMoved { .. } | Self::FileGone(_))
    }
}

/// Where metadata lives. Implementations: [`SqliteStore`], `aap_postgres::PostgresStore` and, for tests, [`MemoryStore`].
///
/// Every method is one transaction and durable when it returns.
pub trait MetadataStore: std::fmt::Debug + Send + Sync + 'static {
    /// Records what a node said in its hello; `first_seen_us` of a known node is kept.
    fn record_node(&self, node: &NodeRecord) -> Result<(), Error>;
    /// All nodes ever seen, by name.
    fn nodes(&self) -> Result<Vec<NodeRecord>, Error>;
    /// One node.
    fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, Error>;
    /// Files, cuts, streams and columns as of one moment.
    fn catalogue(&self) -> Result<Catalogue, Error>;
    /// The version of the catalogue: what a coordinator asks every second that only wants to know whether files or cuts changed.
    fn catalogue_version(&self) -> Result<u64, Error> {
        Ok(self.catalogue()?.version)
    }
    /// Makes files visible, hides others and moves cuts, all or nothing.
    ///
    /// # Errors
    /// [`Error::CutMoved`] and [`Error::FileGone`] when the view on which the commit was built is out of date;
    /// [`Error::Fenced`], as for every change of the lake.
    fn commit(&self, commit: &LakeCommit) -> Result<(), Error>;
    /// Declares columns of a stream that has no data in the lake yet, or has new ones. Here as in a commit, a column
    /// that is known already keeps its spelling and gets the type that holds both.
    fn declare_columns(&self, stream: &StreamName, columns: &[(String, String)]) -> Result<(), Error>;
    /// Hides everything a stream holds: its files go, its cuts move to `floors`, its counts start again. The floors of the
    /// stream are remembered as deletions.
    fn delete_stream(
        &self,
        stream: &StreamName,
        floors: &[(StreamKey, Sequence)],
        now_us: i64,
    ) -> Result<Deleted, Error>;
    /// What was deleted of the batches of a node: by stream key, everything up to a sequence.
    fn deletions_of(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, Error>;
    /// Replaces files, cuts, deletions, counts and columns by `catalogue`, as a manifest of the lake told it. Nodes stay, and so
    /// does a retention that is set here.
    fn restore(&self, catalogue: &Catalogue) -> Result<(), Error>;
    /// How long a stream is kept; `None` for the default of the configuration.
    fn set_retention(&self, stream: &StreamName, retention: Option<&Retention>) -> Result<(), Error>;
    /// From now on what changes files or cuts (`commit`, `delete_stream`, `restore`) first checks, in its own transaction, that this
    /// lease has this token and has not expired, and whoever takes the lease over waits for that transaction. After `None` nothing
    /// is changed any more, except where there never was a fence: a store of one coordinator needs none. One of a cluster is
    /// given a fence with the token 0 until it has a lease.
    fn set_fence(&self, _fence: Option<Fence>) {}
}

/// What operators declared, and what became of it: sinks with their state and dead letters. Implemented by the same stores.
///
/// Every method is one transaction and durable when it returns.
pub trait ResourceStore: std::fmt::Debug + Send + Sync + 'static {
    /// Declared objects by kind and name.
    fn resources(&self) -> Result<Vec<ResourceRecord>, Error>;
    /// Creates an object, or changes it if it stands at the revision before; every revision is kept.
    ///
    /// # Errors
    /// [`Error::Revision`] when somebody changed it in between.
    fn put_resource(&self, resource: &ResourceRecord) -> Result<(), Error>;
    /// Puts objects back as they stood, with what was known of them as sinks: for a store that was lost.
    fn restore_resources(&self, resources: &[(ResourceRecord, SinkState)]) -> Result<(), Error>;
    /// Deletes an object, and what is known of it as a sink. Whether it was there.
    fn delete_resource(&self, kind: &str, name: &str) -> Result<bool, Error>;
    /// What is known of a sink; the default of one that nothing is known of.
    fn sink_state(&self, uid: &str) -> Result<SinkState, Error>;
    /// Replaces it.
    fn set_sink_state(&self, uid: &str, state: &SinkState) -> Result<(), Error>;
    /// The ledger of a sink whose server keeps none, and its version; `None` where nothing was written yet.
    fn sink_ledger(&self, uid: &str) -> Result<Option<(u64, String)>, Error>;
    /// Puts a ledger of this version in the place of the one before; the first is version 1.
    ///
    /// # Errors
    /// [`Error::Revision`] when another version stands there.
    fn replace_sink_ledger(&self, uid: &str, version: u64, ledger: &str) -> Result<(), Error>;
    /// Keeps rows that a sink could not write; one that is kept already stays as it is.
    fn add_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error>;
    /// Drops those that lie beyond what was written, also out of replays: their group was never committed, so their rows will be
    /// tried again.
    fn drop_dead_letters_beyond(
        &self,
        uid: &str,
        written: &BTreeMap<StreamKey, Sequence>,
    ) -> Result<(), Error>;
    /// The oldest `limit` of them, in order of key, sequence and row.
    fn dead_letters(&self, uid: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, Error>;
    /// How many there are.
    fn dead_letter_count(&self, uid: &str) -> Result<u64, Error>;
    /// Pauses or resumes a sink.
    fn set_sink_paused(&self, uid: &str, paused: bool) -> Result<(), Error>;
    /// Makes all of a sink's dead letters that are in no replay part of the next one. Returns its number and how many they
    /// are; 0 where there is nothing to replay. A number never comes twice, even after a loss of the store: it is at least
    /// `now_us`.
    fn begin_replay(&self, uid: &str, now_us: i64) -> Result<(u64, u64), Error>;
    /// The oldest replay that has letters, and these in order.
    fn pending_replay(&self, uid: &str) -> Result<Option<(u64, Vec<SinkDeadLetter>)>, Error>;
    /// Takes letters out of their replay, with new reasons: call it before the rest of the replay is written.
    fn requeue_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error>;
    /// What is left of a replay was written.
    fn end_replay(&self, uid: &str, replay: u64) -> Result<(), Error>;
    /// Drops all dead letters that are in no replay. Returns how many.
    fn purge_dead_letters(&self, uid: &str) -> Result<u64, Error>;
}
