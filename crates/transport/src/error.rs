//! What can go wrong between two ends of a session.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;

/// The source of an error, shared so that every half of a session can report the same end.
type Source = Arc<dyn std::error::Error + Send + Sync>;

/// A failure of the authority, of a connection, or of a session.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A file of the authority or an identity.
    #[error("{doing} `{path}`")]
    File {
        doing: &'static str,
        path: Utf8PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// A private key that others can read.
    #[error("others can read the private key `{path}` (mode {mode:03o}); run `chmod 600 {path}`")]
    KeyExposed { path: Utf8PathBuf, mode: u32 },
    /// The root certificate without its key, or with another.
    #[error("`{path}` does not belong to the root certificate beside it")]
    RootMismatch { path: Utf8PathBuf },
    /// The key of the root is away, and is needed.
    #[error("the key of the root is away, and only it can issue what is needed here")]
    RootOffline { path: Utf8PathBuf },
    /// A second rotation before the end of the first.
    #[error("a rotation of the certificate authority is under way already")]
    RotationUnderWay,
    /// The end of a rotation that nobody began.
    #[error("no rotation of the certificate authority is under way")]
    NoRotation,
    /// Text that is no certificate or key.
    #[error("read certificate or key in `{path}`: {reason}")]
    Unreadable { path: Utf8PathBuf, reason: String },
    /// A name no certificate can carry.
    #[error("`{name}` is neither a DNS name nor an address")]
    BadName { name: String },
    /// Making a key or certificate failed.
    #[error("make certificate for `{subject}`")]
    Issue {
        subject: String,
        #[source]
        source: Source,
    },
    /// A request for a certificate that is not taken.
    #[error("this is no request for a certificate that can be answered: {reason}")]
    BadRequest { reason: String },
    /// The TLS library refused the configuration.
    #[error("set up TLS")]
    Tls(#[source] Source),
    /// A certificate that names no node of ours.
    #[error("certificate of the peer names no node: {reason}")]
    NoNode { reason: String },
    /// The listener could not be opened.
    #[error("listen for agents on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: Arc<io::Error>,
    },
    /// The address of the coordinator means nothing.
    #[error("`{address}` is not an address of the form HOST:PORT")]
    BadAddress { address: String },
    /// No session could be opened.
    #[error("connect to coordinator at {address} over {carrier}")]
    Connect {
        address: String,
        carrier: &'static str,
        #[source]
        source: Source,
    },
    /// No session within the deadline.
    #[error("coordinator at {address} did not answer over {carrier} within {} ms", deadline.as_millis())]
    ConnectTimeout { address: String, carrier: &'static str, deadline: Duration },
    /// The message is larger than a session carries. The session goes on.
    #[error("message of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// A batch names a schema that was never given to this sender. The session goes on.
    #[error("schema {fingerprint:016x} of a batch of `{stream}` was not sent before it")]
    UnknownSchema { stream: String, fingerprint: u64 },
    /// The peer sent what the protocol does not allow.
    #[error("peer broke the protocol: {reason}")]
    Protocol { reason: String },
    /// The session ended: the network failed, or the peer went away without saying so.
    #[error("session broke")]
    Broken(#[source] Source),
    /// The session is over.
    #[error("session is closed")]
    Closed,
    /// Nothing moved for too long.
    #[error("session stood still for {} s", deadline.as_secs())]
    Stalled { deadline: Duration },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: impl Into<Utf8PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source: Arc::new(source) }
    }

    pub(crate) fn tls(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Tls(Arc::new(source))
    }

    pub(crate) fn broken(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Broken(Arc::new(source))
    }

    /// Whether the session this came from can still be used.
    pub fn session_goes_on(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::UnknownSchema { .. })
    }

    /// The error as an operator meets it.
    pub fn problem(&self) -> Problem {
        let (code, exit) = match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } => {
                ("transport.unreachable", ExitCode::Unavailable)
            }
            Self::Broken(_) | Self::Closed | Self::Stalled { .. } => {
                ("transport.broken", ExitCode::Unavailable)
            }
            Self::KeyExposed { .. } => ("transport.key_exposed", ExitCode::Denied),
            Self::RootMismatch { .. } | Self::Unreadable { .. } => {
                ("transport.bad_certificate", ExitCode::Failed)
            }
            Self::RootOffline { .. } => ("ca.root_offline", ExitCode::Conflict),
            Self::RotationUnderWay => ("ca.rotation_under_way", ExitCode::Conflict),
            Self::NoRotation => ("ca.no_rotation", ExitCode::Conflict),
            Self::NoNode { .. } => ("transport.no_node", ExitCode::Denied),
            Self::BadRequest { .. } => ("enrolment.bad_request", ExitCode::Usage),
            Self::BadAddress { .. } | Self::BadName { .. } => ("transport.bad_address", ExitCode::Usage),
            Self::Bind { .. } => ("transport.listen", ExitCode::Conflict),
            Self::TooLarge { .. } => ("transport.message_too_large", ExitCode::Failed),
            Self::File { .. } | Self::Issue { .. } | Self::Tls(_) => ("transport.tls", ExitCode::Failed),
            Self::UnknownSchema { .. } | Self::Protocol { .. } => ("transport.protocol", ExitCode::Failed),
        };
        let mut problem = Problem::new(code, exit, self.to_string());
        if let Some(source) = std::error::Error::source(self) {
            problem = problem.caused_by(source);
        }
        match self {
            Self::KeyExposed { path, .. } => {
                problem.hint_command("let only the owner read it", format!("chmod 600 {path}"))
            }
            Self::RootOffline { path } => {
                problem.hint(format!("put it back for a moment, as `{path}`, mode 0600; then try again"))
            }
            Self::RotationUnderWay => problem
                .hint_command("see how far it is", "aap ca show")
                .hint_command("end it", "aap ca rotate --finish"),
            Self::NoRotation => problem.hint_command("begin one", "aap ca rotate"),
            _ => problem,
        }
    }
}
