//! What the runner is told of trouble with the server.

use std::error::Error;
use std::io;
use std::time::Duration;

use aap_runtime::SecretError;
use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use mongodb::error::{ErrorKind, WriteFailure};

use crate::spec::MongoDbSpec;

/// The server has such a key already.
pub(crate) const DUPLICATE_KEY: i32 = 11_000;
/// What the server says of a user who may not do something, or is none.
const DENIED: [i32; 2] = [13, 18];
/// What passes: nodes that stop, start, elect, lose each other, or take too long; two writers at one document.
const PASSING: [i32; 24] = [
    6, 7, 24, 43, 46, 50, 64, 79, 89, 91, 112, 133, 134, 136, 175, 189, 202, 262, 9001, 10_107, 11_600,
    11_602, 13_435, 13_436,
];
/// How TLS calls a certificate that it does not believe.
const NOT_BELIEVED: &str = "invalid peer certificate";

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MongoError {
    /// The driver, or the line. What its own text says besides is mostly empty.
    #[error("{}", .0.kind)]
    Driver(Box<mongodb::error::Error>),
    /// The server, about one thing of several that it was asked for.
    #[error("{message} (code {code})")]
    Server {
        /// What kind of thing it is.
        code: i32,
        /// In its words.
        message: String,
    },
    /// Nobody answered.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
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

impl From<mongodb::error::Error> for MongoError {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Driver(Box::new(error))
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

impl MongoError {
    /// What kind of thing the server calls it.
    pub(crate) fn code(&self) -> Option<i32> {
        match self {
            Self::Driver(error) => match error.kind.as_ref() {
                ErrorKind::Command(error) => Some(error.code),
                _ => None,
            },
            Self::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    fn trouble(&self) -> Trouble {
        match self {
            Self::Driver(error) => of_driver(&error.kind),
            Self::Server { code, .. } => of_code(*code),
            Self::Late(_) => Trouble::Away,
            Self::Answer(_) => Trouble::Refused,
            Self::Secret(_) | Self::Tls(_) => Trouble::Setting,
        }
    }
}

fn of_driver(kind: &ErrorKind) -> Trouble {
    match kind {
        ErrorKind::Authentication { .. } => Trouble::Denied,
        ErrorKind::Command(error) => of_code(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => of_code(error.code),
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => Trouble::Setting,
        ErrorKind::IncompatibleServer { .. } => Trouble::Refused,
        // The driver tells of every node that it tried, and why not, in words only.
        ErrorKind::ServerSelection { message, .. } if message.contains(NOT_BELIEVED) => Trouble::Certificate,
        _ => Trouble::Away,
    }
}

fn of_code(code: i32) -> Trouble {
    match code {
        _ if passes(code) => Trouble::Away,
        _ if DENIED.contains(&code) => Trouble::Denied,
        _ => Trouble::Refused,
    }
}

/// Whether it is the state of the server that the code is about, and no document.
pub(crate) fn passes(code: i32) -> bool {
    PASSING.contains(&code)
}

/// Turns an error into a failure, with the words for this server.
pub(crate) fn failure(spec: &MongoDbSpec, error: &MongoError) -> Failure {
    let place = spec.place();
    match error.trouble() {
        Trouble::Away => Failure::unreachable(format!("MongoDB does not do its work for {place} now"), error),
        Trouble::Denied => {
            let user = spec.username.as_deref().unwrap_or("nobody");
            let message = format!("MongoDB does not let `{user}` write to {place}");
            let failure = refused("sink.denied", ExitCode::Denied, message, error);
            match spec.username {
                Some(_) => failure,
                None => hinted(failure, "the sink has no `username`: give one, with a `password`"),
            }
        }
        Trouble::Setting => {
            let message = "a setting of the MongoDB sink is not usable".to_owned();
            refused("sink.setting", ExitCode::Usage, message, error)
        }
        Trouble::Certificate => {
            refused("sink.tls", ExitCode::Failed, format!("the certificate of {place} is not trusted"), error)
        }
        Trouble::Refused => {
            let message = format!("MongoDB does not do at {place} what the sink needs");
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

/// A setting that cannot be used.
pub(crate) fn setting(why: String) -> Failure {
    let problem =
        Problem::new("sink.setting", ExitCode::Usage, "a setting of the MongoDB sink is not usable");
    Failure::new(FailureKind::Refused, problem.cause(why))
}

/// The collection would take a row twice, or not at all.
pub(crate) fn unfit(collection: &str, why: &str) -> Failure {
    let message = format!("rows cannot be delivered to `{collection}`");
    let problem = Problem::new("sink.server_refused", ExitCode::Failed, message)
        .cause(format!("it is {why}"))
        .hint("name another `collection`: one that is not there is made");
    Failure::new(FailureKind::Refused, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_somebody_has_to_change() {
        let trouble = |code| MongoError::Server { code, message: String::new() }.trouble();
        assert_eq!(trouble(10_107), Trouble::Away, "no primary");
        assert_eq!(trouble(64), Trouble::Away, "no majority");
        assert_eq!(trouble(13), Trouble::Denied);
        assert_eq!(trouble(166), Trouble::Refused, "a view");
        assert!(!passes(DUPLICATE_KEY) && !passes(121), "documents");
    }
}
