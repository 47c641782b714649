//! What an operator's program needs to reach a platform: the registry of operations and the connections.
//!
//! No storage, no engine, no Arrow and no terminal: `aap` and every later front end are rendering over this crate.
//!
//! | file | owns |
//! |---|---|
//! | `operations.rs` | [`operations`]: the one registry of what an operator can do; command line, help and completions derive from it |
//! | `audit.rs` | [`audit`]: the audit log without a coordinator |
//! | `platform.rs` | [`Platform`]: finds a platform by its home and connects to its daemons when first asked |
//! | `problems.rs` | [`problem_of`]: any failed call as an [`aap_types::Problem`] |

pub mod audit;
pub mod operations;
mod platform;
mod problems;

pub use aap_proto::{Call, MESSAGE_BYTES_MAX, status_of_problem, v1};
pub use aap_runtime::{Clock, Home, SystemClock, documents};
pub use platform::{
    AccessApi, AuditApi, Bearer, CoordinatorEndpoints, NodeApi, OperatorApi, Platform, ResourcesApi, call,
};
pub use problems::{not_running, problem_of};
