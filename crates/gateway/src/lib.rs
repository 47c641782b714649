//! The gateway: how often something may be done, and routes to other servers.
//!
//! # Limits
//! ```text
//! Key, Rate ──► LocalLimiter ── too often ──────────────────────────────────► Taken, with the wait
//!                    │ may                                          ▲
//!                    └──► SharedLimiter, where there is one ────────┤
//!                              │ away: what was decided here counts ┘
//! ```
//! The algorithm is GCRA, the generic cell rate algorithm of ITU-T I.371: one number for each key, the time at which everything that was
//! taken is paid for. Nothing runs between two calls, and a key that has paid for all is no different from one that was never seen.
//!
//! | file | owns |
//! |---|---|
//! | `rate.rs` | [`Rate`]: `50/s burst 100` |
//! | `gcra.rs` | [`Taken`], and the decision: pure |
//! | `key.rs` | [`Key`]: what is counted together |
//! | `local.rs` | [`LocalLimiter`]: a bounded number of keys in memory |
//! | `limiter.rs` | [`Limiter`]: both together; [`SharedLimiter`]: the seam to what coordinators share |
//! | `hops.rs` | [`Network`], [`client_of`]: proxies that are believed |
//! | `route.rs`, `route/` | routes: declared ways to other servers |

mod gcra;
mod hops;
mod key;
mod limiter;
mod local;
mod rate;
pub mod route;

pub use gcra::Taken;
pub use hops::{Network, NetworkError, client_of, is_trusted};
pub use key::Key;
pub use limiter::{Limiter, Shared, SharedError, SharedLimiter};
pub use local::LocalLimiter;
pub use rate::{Rate, RateError};
