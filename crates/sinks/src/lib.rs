//! The seam between the platform and every system it delivers to.
//!
//! A sink is a consumer with a cursor, and the cursor lies in the system it writes to: rows and position become durable
//! there together, so what was written is known after any crash of either side. The coordinator asks the sink where it
//! stands ([`Sink::resume_point`]), reads the rows after that, and writes them group by group ([`Sink::write`]).
//!
//! ```text
//!  landing ∪ lake ──rows after the positions──► Group ──write──► rows + positions, in one commit of the server
//!                          ▲                                             │
//!                          └───────────────resume_point──────────────────┘  at the start, and after any doubt
//! ```
//!
//! # Promises of an implementation
//! - A group is committed whole or not at all, and its positions with it. What a server cannot commit together it makes
//!   idempotent by keys derived from row ids; [`Guarantee`] says which of the two holds.
//! - A slice whose `after` is not where the server's ledger stands is never written: [`FailureKind::Moved`].
//! - Whoever called `resume_point` last owns the place. An earlier instance gets [`FailureKind::Moved`] from then on, even if it
//!   slept through the change: a slice is written only while the ledger stands where the writer believes it.
//! - After any failure the outcome may be unknown; `resume_point` tells. It may be called again on the same instance.
//! - Every await has a deadline; dropping a future at any point loses nothing that was committed.
//!
//! Every implementation runs the suite in `conformance.rs` against its real server.
//!
//! | file | owns |
//! |---|---|
//! | `group.rs` | [`Slice`], [`Group`], [`Positions`]: what is written and how far |
//! | `failure.rs` | [`Failure`]: what went wrong, and what the runner should do |
//! | `book.rs` | [`Book`], [`Ledger`]: where a sink stands whose server has no place for that |
//! | `target.rs` | [`Target`]: whose rows these are; names with `{stream}` in them |
//! | `tls.rs` | whom drivers believe on an encrypted line |
//! | `conformance.rs` | the suite (feature `conformance`) |

mod book;
#[cfg(feature = "conformance")]
pub mod conformance;
mod failure;
mod group;
mod target;
pub mod tls;

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;

pub use book::{Book, Entry, Ledger, MemoryLedger, Range};
pub use failure::{BadRow, Failure, FailureKind};
pub use group::{Group, Positions, Slice};
pub use target::{Target, Template, TemplateError};

/// What a sink promises for every row that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Each row stands there once, and was visible once: rows and positions are one commit of the server, or a row that is
    /// there is not written again.
    ExactlyOnce,
    /// Each row has a key of its own, and writing it again changes nothing: it stands there once, though a reader may have
    /// been told of it twice.
    Idempotent,
    /// A row may be delivered again after a crash; it carries its id, so that the reader can tell.
    AtLeastOnce,
}

impl Guarantee {
    /// As `aap sink show` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::Idempotent => "idempotent",
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

/// How much a sink wants at a time. A group is written when the first of these is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Rows.
    pub rows: usize,
    /// Bytes of the columns in memory.
    pub bytes: usize,
    /// How long the oldest row may wait for company. Zero: what is there is written at once.
    pub linger: Duration,
}

/// A place that rows are delivered to.
///
/// One instance is used by one task at a time. Not cancel-safe in the sense that a dropped call leaves the outcome unknown;
/// call [`Self::resume_point`] before the next write then.
pub trait Sink: Debug + Send {
    /// What is promised.
    fn guarantee(&self) -> Guarantee;

    /// How much it wants at a time.
    fn limits(&self) -> GroupLimits;

    /// Connects if need be, takes the place over from whoever wrote before, and says how far each key stands in the server's
    /// own ledger. Keys that are not in it were never written.
    ///
    /// # Errors
    /// [`FailureKind::Retry`] when the server does not answer, [`FailureKind::Refused`] when it will not have us.
    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>>;

    /// What must be written next, as one group of exactly these ranges, before anything else: it was on its way when the place was
    /// taken over, and its server knows it by a name that is made of the ranges. Asked for after [`Self::resume_point`]; nothing
    /// where the server keeps the positions.
    fn intended(&self) -> Vec<Range> {
        vec![]
    }

    /// Writes a group and its positions. They are as durable as the server's own acknowledgement when this returns.
    ///
    /// # Errors
    /// [`FailureKind::Rows`] and [`FailureKind::Group`] say that nothing of the group was written; after all others the outcome
    /// is unknown.
    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>>;

    /// Looks whether it could write, changing nothing: what was found, a line each.
    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>>;
}
