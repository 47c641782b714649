//! What an operator's program needs to reach a platform: the registry of operations and the connections.
//!
//! No storage, no engine, no Arrow and no terminal: `aap` and every later front end are rendering over this crate.
//!
//! | file | owns |
//! |---|---|
//! | `operations.rs` | [`operations`]: the one registry of what an operator can do; command line, help and completions derive from it |
//! | `audit.rs` | [`audit`]: the audit log without a coordinator |
//! | `platform.rs` | [`Platform`]: finds a platform by its home or a context and connects to its daemons when first asked |
//! | `found.rs` | where coordinators are that are looked for |
//! | `target.rs` | [`Target`]: which platform is meant |
//! | `contexts.rs`, `authority.rs` | [`contexts`]: named ways to platforms; [`Authority`]: by which certificates one is known |
//! | `certificate.rs` | [`CertificateFacts`]: by what a coordinator shows who it is |
//! | `protection.rs` | [`protection`]: what a context protects its platform from |
//! | `credentials.rs` | [`credentials`]: with what whoever types is known |
//! | `stores.rs` | in which store a login is kept |
//! | `credential_store.rs` | what a store is; logins in files in clear |
//! | `secret_service_store.rs`, `keyutils_store.rs`, `encrypted_file_store.rs` | logins in the keyring of a desktop, of the kernel, in sealed files |
//! | `bearer.rs` | [`Bearer`]: the token that goes with every call |
//! | `loopback.rs` | [`Loopback`]: a log-in by a browser that comes back to this machine |
//! | `environment.rs` | [`environment`]: variables and folders |
//! | `names.rs` | [`names`]: names of objects, for completion |
//! | `roots.rs` | a context learns of another root of its platform |
//! | `rules.rs` | [`rules`]: a rule of a role as it is typed |
//! | `problems.rs` | [`problem_of`]: any failed call as an [`aap_types::Problem`] |

pub mod audit;
mod authority;
mod bearer;
mod certificate;
pub mod contexts;
mod credential_store;
pub mod credentials;
mod encrypted_file_store;
pub mod environment;
mod files;
mod found;
mod keyutils_store;
mod loopback;
pub mod names;
pub mod operations;
mod platform;
mod problems;
pub mod protection;
mod roots;
pub mod rules;
mod secret_service_store;
mod stores;
mod target;

pub use aap_proto::{Call, MESSAGE_BYTES_MAX, status_of_problem, v1};
pub use aap_runtime::{Clock, Home, Secret, SecretRef, SystemClock, documents};
pub use authority::Authority;
pub use bearer::Bearer;
pub use certificate::CertificateFacts;
pub use loopback::Loopback;
pub use platform::{
    AccessApi, AuditApi, CoordinatorEndpoints, NodeApi, OperatorApi, Platform, ResourcesApi, SecretsApi, call,
};
pub use problems::{not_running, problem_of};
pub use target::{Named, Target, select};
