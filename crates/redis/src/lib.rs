//! Redis: the sink that appends rows to streams, limits that coordinators share, and sessions of people.
//!
//! Nothing else in the workspace names `redis`.
//!
//! Rows and their position are written by one script, which the server runs as one: nobody sees half of it, and neither does its
//! append-only file.
//!
//! ```text
//!  Group ──► for each key of the server, one EVAL:
//!              is the place still ours, and does the ledger stand at `after`?   no: moved, and nothing was written
//!              XADD key * …          for each row
//!              HSET ledger …         the positions
//! ```
//!
//! # Keys
//! ```text
//!  aap:events                        stream   the rows: a name of the operator's
//!  aap:ledger:UID:{aap:events}       hash     "owner", and "node/epoch/stream" → the last batch that was written
//!  aap:sink:UID                      hash     "owner", and "key:aap:events" for each stream that has a ledger
//!  aap:limit:KEY                     string   until when a key of `aap-gateway` is paid for; goes when it is
//! ```
//! The braces make a cluster keep the ledger where its stream is: only so can one script have both. The entries' ids are the server's
//! own, because ids must grow and rows of several nodes meet in one stream; the row's id is in the entry (`_node`, `_epoch`,
//! `_seq`, `_row`).
//!
//! # What is lost is lost together
//! A server that loses its last second, or fails over to a replica that lacks it, loses rows and positions alike. The line broke
//! then, so the sink asks where the ledger stands, and writes again what is gone. Only a reader that had read it before sees it
//! twice.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`RedisSpec`]: what an operator says about a sink |
//! | `sink.rs` | [`RedisSink`]: the steps above |
//! | `ledger.rs` | keys and scripts |
//! | `limiter.rs` | [`RedisLimiter`]: limits that coordinators share |
//! | `access.rs` | [`RedisAccess`]: records of access, with their keys |
//! | `link.rs` | connections, their deadlines, TLS, the nodes of a cluster |
//! | `entries.rs` | rows as entries |
//! | `fail.rs` | what the runner is told of trouble |

mod access;
mod entries;
mod fail;
mod ledger;
mod limiter;
mod link;
mod sink;
mod spec;

pub use access::RedisAccess;
pub use limiter::RedisLimiter;
pub use sink::RedisSink;
pub use spec::{Format, RedisServer, RedisSpec};
