//! The daemon on a node: sources, durable buffer, uplink, and answers to its own CLI.
//!
//! *Append durably → acknowledge upstream → consume downstream → commit the cursor → reclaim.* A source is answered only
//! after its rows, and the position that they reach, are durable in one group of the buffer.
//!
//! | file | owns |
//! |---|---|
//! | `daemon.rs` | the daemon's life: start, readiness, stop in the order of the data |
//! | `config.rs` | kinds `Agent` and `Source`, errors with file and line |
//! | `sources.rs` | the running sources, and how a new configuration reaches them |
//! | `source.rs` | the sources themselves |
//! | `ingress.rs` | the way of records into the buffer |
//! | `formats.rs`, `records.rs` | which decoder; where records end |
//! | `ingest.rs` | `aap ingest` |
//! | `node.rs` | the unix socket |
//! | `operator.rs` | what the node answers operators by itself |
//! | `uplink.rs` | delivery to the coordinator |
//! | `deletions.rs` | what was deleted at the coordinator, and may be taken again |
//! | `drain.rs` | whether the node takes new rows, as an operator decided |
//! | `welcome.rs` | when sources may begin: after the coordinator's first word, or without it |
//! | `query.rs` | SQL over the node's own buffer |
//! | `offline.rs`, `replay.rs` | `aap-agent buffer …` |
//! | `board.rs`, `counters.rs` | health and books |
//! | `failpoint.rs` | numbered crash points |
//! | `trial.rs` | `aap-agent source …`: the types there are, and sources tried out |
//! | `cli.rs` | the command line |

pub mod board;
pub mod cli;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod deletions;
pub mod drain;
mod enrol;
pub mod failpoint;
pub mod formats;
pub mod ingest;
pub mod ingress;
mod line_ends;
pub mod node;
pub mod offline;
pub mod operator;
pub mod query;
pub mod records;
mod replay;
pub mod source;
mod sources;
mod trial;
pub mod uplink;
pub mod welcome;

#[cfg(test)]
mod testing;
