//! The engine: a process that answers one SELECT over frames, Parquet and Arrow files, and ends.
//!
//! It reads a request and, later, a manifest from stdin and writes frames to stdout (the dialog of `aap-sql`). In
//! between it gives up every right it does not need: no network, no other files, no new programs, a memory cap.
//! It ends itself at its deadline, and when its stdin closes.
//!
//! | file | owns |
//! |---|---|
//! | `serve.rs` | the order of steps of one query |
//! | `statement.rs`, `functions.rs` | what a statement may be, and which tables it names |
//! | `time_range.rs` | the range of `ts` it needs |
//! | `remote.rs` | what it needs of tables in other systems |
//! | `aggregation.rs` | a statement over groups that another system makes |
//! | `outline.rs` | names and types of an answer, by binding |
//! | `tree.rs` | syntax trees |
//! | `fragment.rs` | splitting a statement for many nodes |
//! | `sandbox.rs` | seccomp, Landlock, limits; the self-test |
//! | `database.rs` | DuckDB's settings; a table as a view over its parts |
//! | `scan/` | frames and IPC files as a table function |
//! | `encode/` | the formats of the answer |
//! | `output.rs`, `input.rs`, `watch.rs` | stdout, stdin, deadline |
//! | `problem.rs` | DuckDB's errors for operators |

mod aggregation;
mod database;
mod encode;
mod fragment;
mod functions;
mod input;
mod outline;
mod output;
mod problem;
mod remote;
mod sandbox;
mod scan;
mod serve;
mod statement;
mod time_range;
mod tree;
mod types;
mod watch;

pub use sandbox::self_test;
pub use serve::serve;
