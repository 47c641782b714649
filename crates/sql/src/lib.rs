//! How a daemon runs SQL without linking an engine: it spawns `aap-engine`, one process per query, and talks to it.
//!
//! The child is unprivileged, has no network, a memory cap and a deadline; whatever it does, the daemon loses one
//! query and nothing else. The dialog:
//!
//! ```text
//! daemon ── Request (JSON line) ─────────────▶ engine     the statement, format, limits, an empty scratch folder
//! daemon ◀─ Needs (frame) ──────────────────── engine     the tables the one SELECT names, with their time ranges
//! daemon ── Manifest (JSON line) ────────────▶ engine     which bytes of which files those tables are, pinned
//! daemon ◀─ Columns, Data*, End | Problem ──── engine     read only as fast as the consumer takes it
//! ```
//!
//! A frame is `length: u32 little-endian | kind: u8 | length bytes`. The engine ends itself when its stdin closes.
//!
//! | file | owns |
//! |---|---|
//! | `dialog.rs` | the messages both sides share |
//! | `wire.rs` | the frames |
//! | `catalog.rs` | [`Catalog`]: the seam to whoever knows the tables |
//! | `coverage.rs` | which nodes an answer covers that is made of several |
//! | `engine.rs` | [`Engine`]: spawning, limits, concurrency |
//! | `stream.rs` | [`QueryStream`]: the answer, deadline, cancel, death |
//! | `problem.rs` | what can go wrong with a query, as the operator sees it |
//! | `fragment.rs` | [`Planned`]: a statement split for many nodes |
//! | `serving.rs` | [`Serving`]: the queries of one daemon, listed, cancelled, on their way to clients |
//! | `tail.rs` | the newest rows of a stream, and what comes |

mod catalog;
mod coverage;
mod dialog;
mod engine;
mod fragment;
pub mod problem;
pub mod serving;
mod stream;
mod tail;
pub mod wire;

pub use aap_buffer::SegmentRef;
pub use catalog::{Catalog, ResolvedTables};
pub use dialog::{
    Column, EngineQuery, Format, Limits, Manifest, Needs, QueryEnd, Request, TableManifest, TableNeed,
};
pub use engine::{Engine, EngineConfig};
pub use fragment::{PlanRequest, Planned};
pub use serving::{Serving, ServingLimits};
pub use stream::{QueryEvent, QueryStream};
pub use tail::{TailTables, tail, unknown_stream};
