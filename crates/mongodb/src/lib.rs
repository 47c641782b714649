//! MongoDB: the sink that inserts rows as documents.
//!
//! Nothing else in the workspace names `mongodb`.
//!
//! A document is inserted under the id of its row, and never written over. So what was written can be written again without a
//! change, and no transaction is needed, which only replica sets have:
//!
//! ```text
//!  Group ──► do the keys stand at `after`, and is the place still ours?              no: moved
//!            is each collection one that keeps `_id` unique?                         no: refused
//!            make the documents                                                      rows that no document can hold
//!            insert, unordered, w: majority, j: true
//!              duplicate key, and a document of that `_id` is there                  it is this row
//!              any other answer about a document                                     a row that the server never takes
//!            when all are acknowledged: aap_ledger: after ──► through, where it stands at `after`
//! ```
//!
//! # Documents
//! ```text
//!  _id                              "NODE/EPOCH/STREAM/SEQ/ROW"
//!  one field for each column        absent where the row has no value
//!  _ts_us                           `ts` to the microsecond, beside each time: a date of the server ends at milliseconds
//!  _node, _epoch, _seq, _row        the parts of the id
//! ```
//!
//! # Who writes
//! ```text
//!  aap_ledger
//!    _id: UID                         {sink, owner}       set by whoever asks for the resume point, looked at before each group
//!    _id: "UID/NODE/EPOCH/STREAM"     {sink, through}     the last batch that was written
//! ```
//! A writer that is no longer the owner finds out before its next group. One that slept between that look and its inserts
//! inserts what its successor inserts, document by document the same, and its change of the ledger finds another position or
//! makes the right one: a position is only reached when all rows up to it are there.
//!
//! A majority that acknowledged a duplicate has the document itself, too: a server that changes nothing waits until everything
//! before it is replicated.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`MongoDbSpec`]: what an operator says about a sink |
//! | `sink.rs` | [`MongoDbSink`]: the steps above |
//! | `link.rs` | the client, its deadlines, TLS |
//! | `ledger.rs` | who may write, and how far everything was written |
//! | `rows.rs` | documents into collections, and what the server says of each |
//! | `documents.rs`, `cells.rs`, `names.rs` | slices as documents, values, names of fields |
//! | `fail.rs` | what the runner is told of trouble |
//! | `probe.rs` | a look that changes nothing |

mod cells;
mod documents;
mod fail;
mod ledger;
mod link;
mod names;
mod probe;
mod rows;
mod sink;
mod spec;

pub use sink::MongoDbSink;
pub use spec::{Decimals, MongoDbSpec, Tls};
