//! The coordinator: where the data of all nodes lands, and where it is asked for.
//!
//! ```text
//! agents ──7400──▶ session ──▶ landing (buffer = ledger) ──▶ lake (Parquet + catalogue)
//!                     ▲ │            │                          │
//!                     │ ▼            └────────── seam ──────────┘
//! operators ─7401─▶ queries ─────────────────────┘
//! ```
//! An acknowledgement follows the landing buffer's fsync and depends on nothing else.
//!
//! | file | owns |
//! |---|---|
//! | `cli.rs` | the command line |
//! | `daemon.rs`, `parts.rs` | start, listening, stop in the order of data; what it stands on |
//! | `init.rs`, `config.rs` | a home; the settings |
//! | `session.rs` | one session of a node |
//! | `arrival.rs` | checking what arrives |
//! | `ledger.rs` | what is answered to a hello and to a batch: pure decisions |
//! | `landing.rs` | appending, in groups, per node in order |
//! | `nodes.rs` | who is here, and calls to them |
//! | `reach.rs` | the way to a node, wherever in a cluster its session is |
//! | `deletions.rs` | telling nodes what was deleted of what they delivered |
//! | `catalog.rs` | what tables are made of |
//! | `catalogs.rs`, `federation.rs` | other systems whose tables can be named; fetching what a query needs of them |
//! | `queries.rs`, `freshness.rs` | queries |
//! | `asking.rs`, `node_query.rs`, `node_tables.rs` | asking nodes; statements and tables that they answer from their own buffers |
//! | `spark.rs` | queries that a Spark cluster answers from the lake's files |
//! | `cluster.rs`, `cluster/` | several coordinators: leases, shards, the view of what landed, what one does for all |
//! | `metadata.rs` | where metadata lies: a file, or PostgreSQL |
//! | `resources.rs`, `second_copy.rs` | declared objects: apply, get, delete; their copy beside the store |
//! | `secrets.rs` | secrets that documents refer to: kept ones, and those of Vault |
//! | `sinks.rs`, `sinks/` | delivering to other systems |
//! | `sources.rs`, `sources/` | reading topics of Kafka |
//! | `status.rs`, `metrics.rs` | the books |
//! | `audit.rs` | the audit log, and what operators ask of it |
//! | `identities.rs`, `enrolment.rs`, `access.rs` | which machines are nodes; how they become it; what operators say about it |
//! | `oidc.rs` | log-ins at a provider of identities |
//! | `setup.rs` | `aap init`: a coordinator that others find, and its first administrator |
//! | `operator.rs`, `http.rs` | the operators' port |
//! | `gateway.rs`, `gateway/` | the gateway: limits on calls, routes to other servers, proxies that are believed |
//!
//! # Crash points
//! `AAP_FAIL` arms them, as `aap_runtime::failpoint` says. Those of the lake are passed by each load and each compaction.
//!
//! | # | point | state of the world there |
//! |---|---|---|
//! | 1 | `landing.before_commit` | batches are checked and planned; nothing is durable |
//! | 2 | `landing.after_commit_before_ack` | they are durable; the session does not know |
//! | 3 | `session.before_ack` | the session is about to acknowledge; `error` cuts the connection instead |
//! | 4 | `lake.after_files_before_commit` | files are written; the catalogue does not name them |
//! | 5 | `lake.after_commit_before_manifest` | they are visible, and the cut has moved; the manifest does not know |
//! | 6 | `lake.after_manifest_before_advance` | the landing buffer does not know |
//! | 7 | `sink.before_write` | a group was read; nothing is at the server |
//! | 8 | `sink.after_write` | the server has committed it; we have noted nothing |

mod access;
pub mod arrival;
mod asking;
mod audit;
mod beside;
pub mod catalog;
pub mod catalogs;
mod certificates;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod deletions;
pub mod discovery;
mod enrolment;
mod federation;
pub mod freshness;
mod gateway;
mod http;
mod identities;
pub mod init;
pub mod kept_sessions;
pub mod landing;
pub mod ledger;
pub mod metadata;
mod metrics;
mod node_query;
mod node_tables;
pub mod nodes;
pub mod oidc;
pub mod operator;
mod parts;
pub mod queries;
pub mod reach;
mod resources;
mod second_copy;
pub mod secrets;
pub mod session;
mod setup;
pub mod sinks;
pub mod sources;
mod spark;
pub mod status;
#[cfg(test)]
mod tests;
