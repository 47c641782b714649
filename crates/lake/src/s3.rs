//! Stores that speak S3, and directories in their place: what documents say about one, and the client of it.
//!
//! | file | owns |
//! |---|---|
//! | `access.rs` | what every document about a store says: where it is, who we are; what cannot be |
//! | `open.rs` | the client |
//! | `wire.rs` | HTTP and TLS under it |

mod access;
mod open;
mod wire;

pub(crate) use access::{Access, Location};
pub(crate) use open::{OpenError, Opened, open};
pub(crate) use wire::DialError;
