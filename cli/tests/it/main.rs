//! The real `aap` against a coordinator and an agent that run in this process and answer what a test needs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod access;
mod cluster;
mod commands;
mod completion;
mod contexts;
mod fake;
mod ingest;
mod matrix;
mod queries;
mod resources;
mod sinks;
mod supervisor;
