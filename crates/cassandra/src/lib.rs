//! Cassandra: the sink that delivers rows to its tables.
//!
//! Nothing else in the workspace names `scylla`.
//!
//! Cassandra has no transaction over partitions, so what is written is made harmless to write again:
//!
//! ```text
//!  Group ──► do the keys stand at `after`, and is the place still ours?                        no: moved
//!            make each table, or add columns                                                   cannot: refused
//!            look at every value                                                               rows that no table takes
//!            INSERT … USING TIMESTAMP t(epoch, seq): UNLOGGED batches, each in one partition,
//!              many at a time; a value that is absent is not bound                             no answer: retry, and ask
//!            when all are acknowledged: INSERT INTO aap_ledger … USING TIMESTAMP through
//! ```
//!
//! # Tables
//! ```text
//!  "_stream" text, "_node" text, "_bucket" timestamp     partition key
//!  "ts" timestamp, "_epoch", "_seq", "_row" bigint       clustering key: the row's id, in the order of time
//!  "_ts_us" bigint                                       `ts` to the microsecond
//!  one column for each of the stream's
//! ```
//! A partition is what one node said in one stream within an hour or a day of `ts`: large enough to be read in one go, and
//! bounded however long the stream runs. A row without `ts` (or whose `ts` is no time) stands at 1970-01-01 with no `_ts_us`, in
//! buckets before 1970 that hold a fixed number of batches each. The names are quoted everywhere; a column of the stream that
//! would take one of them, or differs from another by case only, gets a number (`ts_1`).
//!
//! Cassandra's `timestamp` ends at milliseconds, and ours have microseconds: beside each such column `x` stands `_x_us`, the
//! same time as microseconds since 1970. The readable one is rounded down.
//!
//! # Written again
//! The key of a row is its id, its content never changes, and neither does its write time: `t` is the millisecond in which the
//! epoch began, in microseconds, plus the number of the batch. So it grows along a stream, depends on no clock at the time of
//! writing, and lies in the past: a DELETE by an operator holds, also when the row is written again. The other side of it: what
//! Cassandra hides because something newer deleted it stays hidden. That is why a column that was dropped and made again is
//! refused.
//!
//! # Who writes
//! The ledger has an owner for each sink, changed by a lightweight transaction when a sink asks for its resume point, and only
//! then. A writer that is no longer the owner finds out before its next group. One that wakes between that look and its writes
//! repeats what its successor writes, row by row the same; and the ledger's rows carry their own position as their write
//! time, so the furthest one stands, whoever writes last.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`CassandraSpec`]: what an operator says about a sink |
//! | `sink.rs` | [`CassandraSink`]: the steps above |
//! | `session.rs`, `tunnel.rs` | the connection, its deadlines, TLS |
//! | `ledger.rs` | who may write, and how far everything was written |
//! | `table.rs` | tables as they are, made, and followed |
//! | `names.rs`, `kind.rs` | names and types in the server |
//! | `cells.rs`, `rows.rs` | Arrow as cells, slices as rows in batches; the rows that no table takes |
//! | `fail.rs` | what the runner is told of trouble |
//! | `probe.rs` | a look that changes nothing |
//! | `remote.rs`, `remote/` | [`CassandraTables`]: tables as tables of a query |

mod cells;
mod fail;
mod kind;
mod ledger;
mod names;
mod probe;
mod remote;
mod rows;
mod session;
mod sink;
mod spec;
mod table;
mod tunnel;

pub use remote::{CassandraTables, CassandraTablesSpec};
pub use sink::CassandraSink;
pub use spec::{Bucket, CassandraSpec, Consistency, ReplicationOption, Tls};
