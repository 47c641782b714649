//! End to end: the real programs, killed, cut off and fed bad input, and every row counted afterwards.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]
#![expect(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]

mod bad_input;
mod cli;
mod http;
mod ingest;
mod kills;
mod sources;
mod statements;
