//! OpenID Connect as a relying party: who somebody is, told by a provider of identities. The coordinator asks the provider itself, for
//! the code that a person's browser came back with or for a device flow, so no token of the provider is ever on a person's machine.
//!
//! ```text
//!  Provider ── discovery, keys (kept, asked again when a key is not known)
//!     │ code_url ──► person's browser ──► code ──► redeem ─┐
//!     │ start_device ──► person ──► await_device ──────────┴─► ID token ── verify(keys, expected) ──► Claims
//! ```
//! Signatures are checked with ring, and only asymmetric ones. Nothing in a token says where its key is: it is one of those that the
//! provider's `jwks_uri` lists, or the token is refused.
//!
//! | file | owns |
//! |---|---|
//! | `provider.rs` | [`Provider`]: what is asked of a provider, and how long its answers are kept |
//! | `device.rs` | [`Device`]: waiting for a person who decides elsewhere (RFC 8628) |
//! | `token.rs` | [`verify`]: what an ID token must be; [`Fault`]: why it is not |
//! | `claims.rs` | [`Claims`]: what a verified token says |
//! | `keys.rs` | [`KeySet`]: the provider's public keys |
//! | `wire.rs` | requests with deadlines, and answers of bounded length |
//! | `error.rs` | [`Error`] |

mod claims;
mod device;
mod error;
mod keys;
mod provider;
#[cfg(test)]
mod tests;
mod token;
mod wire;

pub use claims::Claims;
pub use device::{DEVICE_WAIT_MAX, Device};
pub use error::Error;
pub use keys::{Algorithm, KeySet};
pub use provider::{CodeRequest, Provider, Settings};
pub use token::{Expected, Fault, LEEWAY, verify};
pub use wire::check_url;
