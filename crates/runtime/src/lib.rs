//! What every daemon needs and no daemon should write twice: clock, shutdown, tasks, logs, paths, readiness.
//!
//! | file | owns |
//! |---|---|
//! | `clock.rs` | [`Clock`]: the only way to the time; [`SystemClock`] and a [`ManualClock`] for tests |
//! | `shutdown.rs` | [`Shutdown`]: the request to stop, and who made it |
//! | `supervisor.rs` | [`Supervisor`]: every task has a [`TaskKind`], an owner and a policy |
//! | `home.rs` | [`Home`]: where state, run files and configuration lie |
//! | `exposure.rs` | [`refuse_exposed`]: a home that others could change is not used |
//! | `logging.rs` | [`init_logging`] |
//! | `documents.rs` | [`documents`]: resources as YAML documents, each error with its line |
//! | `durable_file.rs` | [`write_durably`]: the one way to replace a small file |
//! | `limits.rs` | [`raise_open_file_limit`] |
//! | `notify.rs` | sd_notify |
//! | `memory.rs` | heaps that do not multiply, start-up code let go |
//! | `owner.rs` | [`become_owner`]: root works in a home as the user whom it belongs to |
//! | `secret.rs` | [`SecretRef`]: where a secret stands; [`Secret`], which never prints; [`SecretSource`]: who is asked for it; [`exposed_mode`]: whether others can read it |
//! | `failpoint.rs` | [`failpoint::hit`]: numbered places where tests kill a process |

mod clock;
pub mod documents;
mod durable_file;
mod exposure;
pub mod failpoint;
mod home;
mod limits;
mod logging;
pub mod memory;
mod notify;
mod owner;
mod secret;
mod shutdown;
mod supervisor;

pub use clock::{Clock, ManualClock, SystemClock};
pub use durable_file::write_durably;
pub use exposure::refuse_exposed;
pub use home::{Home, RESTORED};
pub use limits::raise_open_file_limit;
pub use logging::{LogFormat, init_logging};
pub use notify::notify_ready;
pub use owner::become_owner;
pub use secret::{
    ResolvedSecret, Resolving, Secret, SecretError, SecretPlace, SecretRef, SecretSource, VaultPlace,
    exposed_mode, resolve_secrets,
};
pub use shutdown::Shutdown;
pub use supervisor::{OnFailure, Supervisor, TaskKind};
