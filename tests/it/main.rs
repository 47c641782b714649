//! End to end: the real programs, killed, cut off and fed bad input, and every row counted afterwards.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]
#![expect(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]

mod access;
mod accounting;
mod alone;
mod attacks;
mod audit;
mod backup;
mod bad_input;
mod changes;
mod cli;
mod cluster;
mod comparison;
mod coordinator_store;
mod crash_points;
mod discovery;
mod disk;
mod drop_oldest;
mod elsewhere;
mod endurance;
mod enrolment;
mod first_load;
mod gateway;
mod http;
mod ingest;
mod keyring;
mod kills;
mod lost_acks;
mod mutants;
mod network;
mod node_store;
mod node_tables;
mod oidc;
mod operators;
mod orderly_stop;
mod people;
mod permissions;
mod power;
mod queries;
mod secrets;
mod sessions;
mod sinks;
mod sources;
mod spark;
mod statements;
mod syscalls;
mod telemetry;
