//! The rights that an engine gives up before it touches what a user wrote. Each layer that this machine lacks is
//! named in the answer; none is fatal, because DuckDB's own locks and the allow-list over the statement stand too.
//!
//! | layer | what it stops | where |
//! |---|---|---|
//! | limits | more memory than granted, cores, endless files | `sandbox/limits.rs` |
//! | seccomp | sockets, new programs, tracing, signals to others, executable memory | `sandbox/calls.rs` |
//! | Landlock | every file but the planned ones (read) and scratch (read and write) | `sandbox/files.rs` |

mod calls;
mod files;
mod limits;
mod probe;

pub use probe::self_test;

pub(crate) use calls::forbid_system_calls;
pub(crate) use files::restrict_files;
pub(crate) use limits::{PLAN_MEMORY_BYTES, limit};
