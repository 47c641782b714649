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
//! | `daemon.rs` | start, listening, stop in the order of data |
//! | `init.rs`, `config.rs` | a home; the settings |
//! | `session.rs` | one session of a node |
//! | `room.rs` | memory for what all sessions have on its way |
//! | `arrival.rs` | checking what arrives |
//! | `ledger.rs` | what is answered to a hello and to a batch: pure decisions |
//! | `landing.rs` | appending, in groups, per node in order |
//! | `nodes.rs` | who is here, and calls to them |
//! | `deletions.rs` | telling nodes what was deleted of what they delivered |
//! | `catalog.rs` | what tables are made of |
//! | `queries.rs`, `freshness.rs`, `node_query.rs` | queries |
//! | `status.rs`, `metrics.rs` | the books |
//! | `operator.rs`, `http.rs` | the operators' port |

pub mod arrival;
pub mod catalog;
pub mod config;
pub mod daemon;
pub mod deletions;
pub mod freshness;
mod http;
pub mod init;
pub mod landing;
pub mod ledger;
mod metrics;
mod node_query;
pub mod nodes;
pub mod operator;
pub mod queries;
pub mod room;
pub mod session;
pub mod status;
#[cfg(test)]
mod tests;
