//! What all sources share that answer requests: who may send, how much, how fast, and an answer only after the rows are durable.
//!
//! | file | owns |
//! |---|---|
//! | `requests/listener.rs` | [`Listener`]: connections, with TLS where that is configured |
//! | `requests/bearer.rs` | [`Bearer`]: the token in a file |
//! | `requests/body.rs` | reading, decompressing, limits: of size, of memory, of patience |
//! | `requests/intake.rs` | [`Intake`]: from a request's body to rows that are durable |
//! | `requests/refused.rs` | [`Refused`]: why a request was not taken |

mod bearer;
pub(super) mod body;
mod intake;
mod listener;
mod refused;

use std::time::Duration;

pub(super) use bearer::Bearer;
pub(super) use intake::Intake;
pub(super) use listener::{Listener, security};
pub(super) use refused::{Refused, not_stored};

/// Requests that are taken at once: the content and the rows of each may have several times 16 MiB in memory.
pub(super) const REQUESTS_MAX: usize = 8;
/// How long a body waits for its turn.
pub(super) const TURN_WITHIN: Duration = Duration::from_secs(5);
/// How long requests under way may take at the end.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// How long a request waits for its rows to be durable. Appending takes milliseconds; a request that came just before the
/// buffer was full waits until the coordinator takes data.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
