//! Services beside the platform that it asks: one request over HTTP, and where coordinators are, by DNS or Consul, in which they register.
//!
//! ```text
//!  configuration ─▶ Directory ── every 30 s, and when no address answers ──▶ Locator ─┬─ srv+NAME ──────▶ DNS
//!                       │                                                             └─ consul+http… ──▶ Consul
//!                       └──▶ addresses: what was found last, as long as nothing else is
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `ask.rs`, `tls.rs` | [`Service`]: one request over HTTP/1.1; whom to believe on the line |
//! | `locator.rs` | [`Locator`]: where to look, as it is written, and looking there |
//! | `directory.rs` | [`Directory`]: addresses that are kept up to date |
//! | `dns.rs` | records of DNS |
//! | `consul.rs` | healthy instances of a service of Consul |
//! | `registration.rs` | [`Registration`]: a coordinator that says in Consul where it is |
//! | `order.rs` | in which order they are tried |

mod ask;
mod consul;
mod directory;
mod dns;
mod locator;
mod order;
mod registration;
mod tls;

pub use ask::{Ask, AskError, Service, ServiceUrl};
pub use directory::Directory;
pub use locator::Locator;
pub use registration::{ConsulSpec, Registration};
