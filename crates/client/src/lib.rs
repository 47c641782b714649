//! What an operator's program needs to reach a platform: the registry of operations and the connections.
//!
//! No storage, no engine, no Arrow and no terminal: `aap` and every later front end are rendering over this crate.
//!
//! | file | owns |
//! |---|---|
//! | `operations.rs` | [`operations`]: the one registry of what an operator can do; command line, help and completions derive from it |
//! | `audit.rs` | [`audit`]: the audit log without a coordinator |
//! | `platform.rs` | [`Platform`]: finds a platform by its home or a context and connects to its daemons when first asked |
//! | `target.rs` | [`Target`]: which platform is meant |
//! | `contexts.rs`, `authority.rs` | [`contexts`]: named ways to platforms; [`Authority`]: by which certificates one is known |
//! | `protection.rs` | [`protection`]: what a context protects its platform from |
//! | `credentials.rs` | [`credentials`]: with what whoever types is known |
//! | `credential_store.rs`, `keyutils_store.rs` | where logins are kept: files, or the kernel's keyring |
//! | `bearer.rs` | [`Bearer`]: the token that goes with every call |
//! | `environment.rs` | [`environment`]: variables and folders |
//! | `roots.rs` | a context learns of another root of its platform |
//! | `rules.rs` | [`rules`]: a rule of a role as it is typed |
//! | `problems.rs` | [`problem_of`]: any failed call as an [`aap_types::Problem`] |

pub mod audit;
mod authority;
mod bearer;
pub mod contexts;
mod credential_store;
pub mod credentials;
pub mod environment;
mod files;
mod keyutils_store;
pub mod operations;
mod platform;
mod problems;
pub mod protection;
mod roots;
pub mod rules;
mod target;

pub use aap_proto::{Call, MESSAGE_BYTES_MAX, status_of_problem, v1};
pub use aap_runtime::{Clock, Home, Secret, SecretRef, SystemClock, documents};
pub use authority::Authority;
pub use bearer::Bearer;
pub use platform::{
    AccessApi, AuditApi, CoordinatorEndpoints, NodeApi, OperatorApi, Platform, ResourcesApi, call,
};
pub use problems::{not_running, problem_of};
pub use target::{Named, Target, select};
