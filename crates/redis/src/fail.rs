//! What the runner is told of trouble with the server.

use std::error::Error;
use std::io;
use std::time::Duration;

use aap_runtime::SecretError;
use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use redis::{ErrorKind, RedisError};

use crate::spec::RedisSpec;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The server, or the line to it. Its own source says the same once more.
    #[error("{0}")]
    Redis(RedisError),
    /// No line.
    #[error("connect to `{node}`")]
    Connect {
        /// To whom.
        node: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody answered.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The nodes of a cluster send us from one to another.
    #[error("the cluster's nodes do not agree where `{0}` is")]
    Astray(String),
    /// The answer has another form than the question asks for.
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
    /// Nobody knows the password.
    #[error(transparent)]
    Secret(SecretError),
    /// The authorities cannot be read.
    #[error(transparent)]
    Tls(io::Error),
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// What can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Away,
    Denied,
    Setting,
    Certificate,
    Refused,
}

impl LinkError {
    /// Whether it passes, as far as can be told.
    pub(crate) fn is_away(&self) -> bool {
        self.trouble() == Trouble::Away
    }

    fn trouble(&self) -> Trouble {
        match self {
            Self::Redis(error) => of_redis(error),
            Self::Connect { source, .. }
                if source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) =>
            {
                Trouble::Certificate
            }
            Self::Connect { .. } | Self::Late(_) | Self::Astray(_) => Trouble::Away,
            Self::Answer(_) => Trouble::Refused,
            Self::Secret(_) | Self::Tls(_) => Trouble::Setting,
        }
    }
}

fn of_redis(error: &RedisError) -> Trouble {
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => return Trouble::Denied,
        // Starting, busy with a script, following another node, losing its cluster: all of it passes.
        Some(
            "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "READONLY" | "NOREPLICAS"
            | "MOVED" | "ASK",
        ) => {
            return Trouble::Away;
        }
        Some(_) => return Trouble::Refused,
        None => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => Trouble::Denied,
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => Trouble::Refused,
        _ => Trouble::Away,
    }
}

/// Turns an error into a failure, with the words for this server.
pub(crate) fn failure(spec: &RedisSpec, error: &LinkError) -> Failure {
    let place = spec.place();
    match error.trouble() {
        Trouble::Away => Failure::unreachable(format!("Redis does not do its work for {place} now"), error),
        Trouble::Denied => {
            let user = spec.username.as_deref().unwrap_or("default");
            let message = format!("Redis does not let `{user}` write to {place}");
            let failure = refused("sink.denied", ExitCode::Denied, message, error);
            match spec.password {
                Some(_) => failure,
                None => hinted(failure, "the sink has no `password`: give one"),
            }
        }
        Trouble::Setting => setting_of(error),
        Trouble::Certificate => {
            refused("sink.tls", ExitCode::Failed, format!("the certificate of {place} is not trusted"), error)
        }
        Trouble::Refused => {
            let message = format!("Redis does not do at {place} what the sink needs");
            refused("sink.server_refused", ExitCode::Failed, message, error)
        }
    }
}

fn refused(code: &str, exit: ExitCode, message: String, error: &(dyn Error + 'static)) -> Failure {
    Failure::new(FailureKind::Refused, Problem::new(code, exit, message).caused_by(error))
}

fn hinted(mut failure: Failure, hint: &str) -> Failure {
    failure.problem = Box::new(failure.problem.as_ref().clone().hint(hint));
    failure
}

fn setting_of(error: &LinkError) -> Failure {
    refused("sink.setting", ExitCode::Usage, "a setting of the Redis sink is not usable".to_owned(), error)
}

/// A setting that cannot be used.
pub(crate) fn setting(why: String) -> Failure {
    let problem = Problem::new("sink.setting", ExitCode::Usage, "a setting of the Redis sink is not usable");
    Failure::new(FailureKind::Refused, problem.cause(why))
}

/// The server may throw away the ledger.
pub(crate) fn forgetful(spec: &RedisSpec, policy: &str) -> Failure {
    let message = format!("Redis may throw away the sink's position at {}", spec.place());
    let problem = Problem::new("sink.server_refused", ExitCode::Failed, message)
        .cause(format!(
            "its `maxmemory-policy` is `{policy}`: when memory is short, it deletes keys of any kind"
        ))
        .hint("set `maxmemory-policy` to `noeviction` or to one of the `volatile-` policies");
    Failure::new(FailureKind::Refused, problem)
}
