//! The transport over real sockets on loopback.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests are tests too")]

mod authority;
mod conformance;
mod fallback;
mod hostile;
mod identity;
mod live;
mod peers;
mod requests;
mod rotation;
mod support;
