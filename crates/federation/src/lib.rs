//! The seam between a query and tables that lie in other systems.
//!
//! The engine never opens a socket. It says what a statement needs of a table elsewhere ([`Scan`]); the coordinator has the
//! system's driver ([`Remote`]) fetch that into a file ([`Spool`]), and the engine reads the file. What was asked of the system
//! is only ever a hint: the engine applies the whole statement again, so a system may answer with more rows than asked for and
//! never with fewer. Two things are no hints, and only taken over where every condition was applied exactly: a limit, and an
//! aggregation.
//!
//! | file | owns |
//! |---|---|
//! | `scan.rs` | [`Scan`], [`Aggregate`]: what a statement needs of a table |
//! | `predicate.rs` | [`Predicate`], [`Literal`]: conditions that other systems understand too |
//! | `spool.rs` | [`Spool`]: rows on their way to the engine, counted and bounded |
//! | `problem.rs` | what goes wrong there, as operators see it |
//! | `report.rs` | [`Report`]: what ran where, what moved, and what was not pushed |

mod predicate;
pub mod problem;
mod report;
mod scan;
mod spool;

use std::fmt::Debug;

use aap_types::Problem;
use futures::future::BoxFuture;

pub use predicate::{Comparison, Literal, Predicate};
pub use report::{Kept, Part, Report};
pub use scan::{Aggregate, Call, Function, Scan};
pub use spool::{Budget, Spool, TYPE_KEY};

/// A system whose tables can be read.
///
/// Reading changes nothing there. Instances are shared by queries; each scan has a connection of its own or one of a pool.
pub trait Remote: Debug + Send + Sync {
    /// What kind of system it is, such as `postgres`.
    fn kind(&self) -> &'static str;

    /// Where it is, without secrets.
    fn place(&self) -> String;

    /// Fetches what a statement needs of a table into `spool`, whose schema it sets even where there are no rows.
    ///
    /// Dropping the future ends the work, on the server too where it has a way to say so.
    ///
    /// # Errors
    /// `query.remote_unreachable`, `query.remote_refused`, `query.remote_table` with the near names, and what `spool` says.
    fn scan<'a>(&'a self, scan: &'a Scan, spool: &'a mut Spool) -> BoxFuture<'a, Result<Report, Problem>>;
}
