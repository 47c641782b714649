//! One connection to a server: where it is, who we are there, how it is encrypted, and how long anything may take.
//!
//! Knows nothing of sinks, so that whatever else keeps its data in PostgreSQL can stand on it.
//!
//! | file | owns |
//! |---|---|
//! | `url.rs` | [`ServerUrl`]: what a URL says, without the password |
//! | `tls.rs` | encryption, and how far the server's certificate is believed |
//! | `session.rs` | [`Access`] and [`Session`]: connecting, transactions, deadlines |
//! | `error.rs` | [`Error`]: what the server or the line said, and what kind of trouble that is |

mod error;
mod session;
mod tls;
mod url;

pub(crate) use error::{Error, Trouble};
pub(crate) use session::{Access, CHUNK_BYTES, Copying, Limits, Session};
pub use url::{ServerUrl, UrlError};
