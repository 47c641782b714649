//! The real `aap` against a coordinator and an agent that run in this process and answer what a test needs.

mod commands;
mod fake;
mod ingest;
mod queries;
mod supervisor;
