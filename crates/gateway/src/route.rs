//! Routes: what comes by a gateway and is passed on to other servers.
//!
//! ```text
//! request ─► RouteTable ─► RouteProxy: head made anew ─► body within limits ─► an upstream whose breaker is closed ─► answer
//!            which route       │ again, where that is safe: another upstream ◄── not reached, late, 5xx ┘
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`RouteSpec`]: the document |
//! | `table.rs` | [`RouteTable`]: which route is meant |
//! | `head.rs` | what of a head is passed on, and what is added |
//! | `rewrite.rs` | paths, headers and JSON as a route wants them |
//! | `body.rs` | limits on bodies, before and after decompression |
//! | `breaker.rs` | [`Breaker`]: whether an upstream is asked |
//! | `upstreams.rs` | which upstream |
//! | `address.rs` | which addresses may be connected to |
//! | `connect.rs` | connecting to them |
//! | `outgoing.rs` | a request as an upstream gets it |
//! | `relay.rs` | WebSockets on their way |
//! | `refusal.rs` | [`Refusal`]: what is told of what is not passed on |
//! | `proxy.rs` | [`RouteProxy`]: the way through all of it |

mod address;
mod body;
mod breaker;
mod connect;
mod head;
mod outgoing;
mod proxy;
mod refusal;
mod relay;
mod rewrite;
mod spec;
mod table;
mod upstreams;

pub use address::Reach;
pub use body::ProxyBody;
pub use breaker::Breaker;
pub use outgoing::Asked;
pub use proxy::RouteProxy;
pub use refusal::Refusal;
pub use spec::{Auth, RouteSpec};
pub use table::RouteTable;
