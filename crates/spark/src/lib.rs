//! Apache Spark over Spark Connect: a session that makes views of Parquet files and answers statements over them.
//!
//! Spark reads the files itself, from where they lie; only the statement goes there, and only the answer comes back.
//!
//! ```text
//!  Session::open ──► Config        UTC, quoted names, no files by name in statements
//!  create_view   ──► ExecutePlan   command: a temporary view over files
//!  query         ──► ExecutePlan   ( statement ); answer: Arrow IPC streams, one a message
//!  release       ──► ReleaseSession   ends what runs, forgets the views
//! ```
//! The protocol is that of Spark 3.5 and 4. Its messages are written down in `messages.rs`, as far as they are needed; fields that
//! are not there are passed over.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`SparkSpec`]: what an operator says about the cluster |
//! | `line.rs` | the connection, its deadline, TLS, the token |
//! | `session.rs` | [`Session`]: the steps above; [`Answer`]: batches as they come |
//! | `messages.rs` | the messages |
//! | `fail.rs` | what the operator is told of trouble |

mod fail;
mod line;
mod messages;
mod session;
mod spec;

pub use session::{Answer, Session};
pub use spec::SparkSpec;
