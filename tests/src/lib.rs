//! The harness of the end-to-end tests: a platform of real processes, producers that remember what was acknowledged, faults.
//!
//! | file | owns |
//! |---|---|
//! | `platform.rs` | one `AAP_HOME`: start, stop, kill, ask; the home is removed and every process stopped when it is dropped |
//! | `daemon.rs` | the same with daemons that the test starts itself, each time with the environment it chooses |
//! | `load.rs` | producers that know what they produced, and the comparison with what is there |
//! | `proxy.rs` | a network between the daemons that can fail |
//! | `files.rs` | copies of what daemons store |
//! | `disk.rs` | a small disk that can be full or lose its power |
//! | `ports.rs` | ports that nobody else takes |
//! | `http.rs` | requests to the agent's HTTP source |
//! | `services.rs` | real servers that `cargo xtask test` started |
//! | `version.rs` | the default and the long version of the tests |
//! | `wait.rs` | waiting for a condition with a deadline |
//! | `random.rs` | a seeded generator whose seed is printed |
//!
//! The oracle stands outside the blast radius: producers keep in this process what they sent and what was answered,
//! and compare that with what `aap query` says.

#![expect(clippy::unwrap_used, reason = "a harness of tests fails by panicking, as tests do")]
#![expect(clippy::print_stderr, reason = "what a failed test shows")]
#![expect(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]

mod daemon;
mod disk;
mod files;
mod http;
pub mod load;
mod platform;
mod ports;
mod proxy;
mod random;
mod services;
mod version;
mod wait;

pub use daemon::{Daemon, Settings, source};
pub use disk::SmallDisk;
pub use files::{copy, put_back};
pub use http::{Answer, Http};
pub use load::{Differs, Load, Pace, Produced};
pub use platform::{Platform, Ran, Running, Signal, program};
pub use ports::free_port;
pub use proxy::Proxy;
pub use random::Random;
pub use services::Service;
pub use version::{amount, is_long, skipped};
pub use wait::{PATIENCE, eventually, wait_until};
