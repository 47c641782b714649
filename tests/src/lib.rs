//! The harness of the end-to-end tests: a platform of real processes, producers that remember what was acknowledged, faults.
//!
//! | file | owns |
//! |---|---|
//! | `platform.rs` | one `AAP_HOME`: start, stop, kill, ask; the home is removed and every process stopped when it is dropped |
//! | `http.rs` | requests to the agent's HTTP source |
//! | `wait.rs` | waiting for a condition with a deadline |
//! | `small_disk.rs` | a file system of a few megabytes, for tests of a full disk |
//! | `random.rs` | a seeded generator whose seed is printed |
//!
//! The oracle stands outside the blast radius: producers keep in this process what they sent and what was answered,
//! and compare that with what `aap query` says.

#![expect(clippy::unwrap_used, reason = "a harness of tests fails by panicking, as tests do")]
#![expect(clippy::print_stderr, reason = "what a failed test shows")]
#![expect(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]

mod http;
mod platform;
mod random;
mod small_disk;
mod wait;

pub use http::{Answer, Http};
pub use platform::{Platform, Ran, Running, Signal, program};
pub use random::Random;
pub use small_disk::SmallDisk;
pub use wait::{PATIENCE, eventually, wait_until};
