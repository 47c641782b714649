//! The vocabulary every other crate shares: names, identities, positions, sizes and the operator's error form.
//!
//! Nothing here does I/O. A value of one of these types is already valid: it was parsed once, at the edge.
//!
//! | file | owns |
//! |---|---|
//! | `name.rs` | [`NodeId`], [`StreamName`], [`SiteName`], [`SecretName`]: the one strict alphabet for everything that becomes a path or a label |
//! | `identity.rs` | [`Epoch`], [`Sequence`], [`StreamKey`], [`BatchId`], [`Digest`] |
//! | `position.rs` | [`SourcePosition`]: how far a source was read, committed with the rows it covers |
//! | `size.rs` | [`ByteCount`] and its text form |
//! | `column_type.rs` | [`ColumnType`]: the one type of a column that has two |
//! | `network.rs` | [`network_of`]: whose an address is, where something is counted by address |
//! | `near.rs` | [`nearest`]: what somebody may have meant who wrote a name that does not exist |
//! | `problem.rs` | [`Problem`], [`ExitCode`]: what an operator or a script sees when something fails |

mod column_type;
mod identity;
mod name;
mod near;
mod network;
mod position;
mod problem;
mod size;

pub use column_type::{ColumnType, unite_columns};
pub use identity::{BatchId, Digest, Epoch, Sequence, StreamKey};
pub use name::{CoordinatorName, NameError, NodeId, SecretName, SiteName, StreamName};
pub use near::nearest;
pub use network::{NETWORK_BITS, network_of};
pub use position::{SourceKind, SourcePosition};
pub use problem::{ExitCode, Hint, Problem};
pub use size::{ByteCount, ByteCountError};

/// The columns every stream has, which identify a row and order the rows of one source as they were read.
pub const SYSTEM_COLUMNS: [&str; 4] = ["_node", "_epoch", "_seq", "_row"];
