//! The gateway: what stands before every call whoever makes it, and ways to other servers.
//!
//! | file | owns |
//! |---|---|
//! | `config.rs` | [`GatewayConfig`]: the section `gateway` |
//! | `limits.rs` | [`Limits`]: limits by address and by caller; [`Quota`]: what an answer says of them |
//! | `routes.rs` | [`Routes`]: what is declared as kind Route |
//! | `front.rs` | [`Front`]: the listener of routes: who asks, whether they may, how often |
//! | `hops.rs` | requests that came by way of proxies |

mod config;
mod front;
mod hops;
mod limits;
mod routes;

pub(crate) use config::GatewayConfig;
pub(crate) use front::{Front, serve as serve_routes};
pub(crate) use hops::{Hops, name_client};
pub(crate) use limits::{Limits, Quota, is_limited};
pub(crate) use routes::{KIND, Routes};
