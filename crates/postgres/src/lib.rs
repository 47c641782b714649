//! PostgreSQL: the sink that delivers rows to its tables, its tables as tables of a query, and the connection under both.
//!
//! Nothing else in the workspace names `tokio-postgres`.
//!
//! ```text
//!  Group ──► BEGIN
//!            lock the owner's row of the ledger; is it ours, do the keys stand at `after`?     no: moved
//!            lock each table; make it, widen it, add partitions                                cannot: refused
//!            look at every value                                                               rows that no table takes
//!            COPY … FROM STDIN (FORMAT binary), a table after the other                        refused by the server: group
//!            advance the ledger
//!            COMMIT                                                                            no answer: retry, and ask
//! ```
//! Rows and positions are one commit, so a crash of either side leaves both or none. Whoever asks for the resume point becomes
//! the owner under the same lock, so it waits for a commit that is still under way, and whoever wrote before is told so at its
//! next write. A transaction needs nothing of the session around it, so a pooler in transaction mode may sit in between.
//!
//! A table of one's own need not have the columns `_node`, `_epoch`, `_seq` and `_row`: they are written where it has them.
//!
//! | file | owns |
//! |---|---|
//! | `connection.rs`, `connection/` | URL, TLS, secrets, deadlines, errors: everything that is not about sinks |
//! | `copy.rs`, `copy/` | Arrow as binary COPY: types, values, what cannot be held |
//! | `table.rs`, `names.rs` | a table as it is now; names in the server |
//! | `sink.rs`, `sink/` | [`PostgresSink`], its [`PostgresSpec`], its ledger |
//! | `remote.rs`, `remote/` | [`PostgresTables`]: tables as tables of a query |
//! | `source.rs`, `source/` | [`TableReader`]: the new rows of a table; what an operator says about a source |
//! | `changes.rs`, `changes/` | [`ChangesReader`]: every change of some tables |
//! | `store.rs`, `store/` | [`PostgresStore`]: the coordinators' metadata, their leases, and what those of a cluster share |

mod changes;
mod connection;
mod copy;
mod names;
mod remote;
mod sink;
mod source;
mod store;
mod table;

pub use changes::{Changes, ChangesReader, LogPosition, drop_slot, slot_name};
pub use connection::{ServerUrl, UrlError};
pub use remote::{PostgresTables, PostgresTablesSpec};
pub use sink::{Mode, Partition, PostgresSink, PostgresSpec};
pub use source::{
    ChangesSource, Page, PostgresSource, PostgresSourceSpec, Publish, TableReader, TableSource,
};
pub use store::{PostgresStore, PostgresStoreSpec};
