//! The transport over real sockets on loopback.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests are tests too")]

mod conformance;
mod identity;
mod support;
