//! What the runner is told of trouble with the store.

use std::error::Error;
use std::io;

use aap_runtime::SecretError;
use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use camino::Utf8Path;

use super::chain::StoreError;
use super::spec::S3Spec;
use crate::s3::DialError;

/// What can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nobody answers, or not in time, or the store is too busy.
    Away,
    /// Who we are, or what we may do.
    Denied,
    NoBucket,
    /// The store, or this machine, has the wrong time.
    Clock,
    /// The certificate.
    Tls,
    /// It would overwrite.
    Overwrites,
    /// The bucket is in another region.
    Region,
    /// Something in the place of our objects that is not ours.
    Foreign,
    /// Anything else that it will not do.
    Refused,
}

/// Turns an error into a failure, with the words for this store.
pub(super) fn failure(spec: &S3Spec, error: &StoreError) -> Failure {
    let url = &spec.url;
    let problem = |code, exit, message: String| Problem::new(code, exit, message).caused_by(error);
    let problem = match trouble(error) {
        Trouble::Away => {
            return Failure::unreachable(format!("the object store does not do its work for `{url}` now"), error);
        }
        Trouble::Denied => {
            problem("sink.denied", ExitCode::Denied, format!("the object store does not let the sink write to `{url}`"))
                .hint("the keys need permission to list the bucket, and to read and create objects under the prefix")
        }
        Trouble::NoBucket => {
            problem("sink.bucket_missing", ExitCode::NotFound, format!("the place `{url}` of the sink is not there"))
                .hint("make it: the sink makes objects, but no buckets and no directories")
        }
        Trouble::Clock => problem(
            "sink.clock_skew",
            ExitCode::Failed,
            format!("the object store takes no request for `{url}`: its clock and the coordinator's are too far apart"),
        )
        .hint("set the clock of the coordinator's machine, or that of the store; a quarter of an hour is too much"),
        Trouble::Tls => {
            problem("sink.tls", ExitCode::Failed, format!("TLS with the object store of `{url}` fails"))
                .hint("if authorities of your own signed its certificate, name their file in `ca`")
        }
        Trouble::Overwrites => problem(
            "sink.no_conditional_create",
            ExitCode::Failed,
            format!("the object store of `{url}` cannot refuse to overwrite an object"),
        )
        .hint("use a store, or a version of it, that knows `If-None-Match: *`")
        .hint("or take rows more than once after crashes, with `allow_duplicates: true`"),
        Trouble::Region => {
            problem("sink.setting", ExitCode::Usage, format!("the bucket of `{url}` is in another region"))
                .hint("set `region`")
        }
        Trouble::Foreign => problem(
            "sink.ledger",
            ExitCode::Failed,
            format!("an object under `{url}` stands where one of the sink's should"),
        )
        .hint("move it away, or give the sink a prefix of its own, with which it begins anew"),
        Trouble::Refused => problem(
            "sink.server_refused",
            ExitCode::Failed,
            format!("the object store does not do for `{url}` what the sink needs"),
        ),
    };
    Failure::new(FailureKind::Refused, problem)
}

fn trouble(error: &StoreError) -> Trouble {
    use object_store::Error as E;
    let error = match error {
        StoreError::Late(_) => return Trouble::Away,
        StoreError::Foreign { .. } => return Trouble::Foreign,
        StoreError::Overwrites { .. } => return Trouble::Overwrites,
        StoreError::Store(error) => error,
    };
    if is_tls(error) {
        return Trouble::Tls;
    }
    let text = text(error);
    match code(&text) {
        Some("RequestTimeTooSkewed" | "RequestExpired") => return Trouble::Clock,
        Some("NoSuchBucket") => return Trouble::NoBucket,
        // Somebody took it away between the look at its name and the one into it.
        Some("NoSuchKey" | "SlowDown" | "RequestTimeout" | "OperationAborted") => return Trouble::Away,
        Some("NotImplemented") => return Trouble::Overwrites,
        Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            return Trouble::Region;
        }
        Some(
            "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied",
        ) => {
            return Trouble::Denied;
        }
        _ => {}
    }
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Trouble::Denied,
        E::NotFound { .. } => Trouble::NoBucket,
        E::NotImplemented { .. } => Trouble::Overwrites,
        // As `object_store` says it; too many requests, and those that came too slowly, pass.
        _ if text.contains("status code: 4")
            && !["status code: 408", "status code: 409", "status code: 429"]
                .iter()
                .any(|s| text.contains(s)) =>
        {
            Trouble::Refused
        }
        _ if text.contains("Received redirect without LOCATION") => Trouble::Region,
        _ => Trouble::Away,
    }
}

/// The error, and what caused it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// All of it as text.
fn text(error: &(dyn Error + 'static)) -> String {
    chain(error).map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

/// The code that a store of this kind gives its errors.
fn code(text: &str) -> Option<&str> {
    text.split_once("<Code>")?.1.split_once("</Code>").map(|(code, _)| code)
}

/// Whether rustls has something against the other side; a line that broke off is no refusal.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        let Some(DialError::Tls(_, error)) = error.downcast_ref::<DialError>() else { return false };
        error.kind() == io::ErrorKind::InvalidData
            || error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

/// A setting that cannot be used.
pub(super) fn setting(why: impl Into<String>) -> Failure {
    let problem = Problem::new("sink.setting", ExitCode::Usage, "a setting of the S3 sink is not usable");
    Failure::new(FailureKind::Refused, problem.cause(why))
}

/// A key is not where the document says.
pub(super) fn unreadable(error: &SecretError) -> Failure {
    let problem = Problem::new("sink.setting", ExitCode::Usage, "a key of the S3 sink cannot be read");
    Failure::new(FailureKind::Refused, problem.caused_by(error))
}

/// The directory is not there, or not ours.
pub(super) fn no_directory(directory: &Utf8Path, error: &object_store::Error) -> Failure {
    let message = format!("the directory `{directory}` of the sink cannot be used");
    let problem = Problem::new("sink.bucket_missing", ExitCode::NotFound, message).caused_by(error);
    Failure::new(
        FailureKind::Refused,
        problem.hint("make it, or mount it, so that the coordinator may write there"),
    )
}

/// Rows that Arrow or Parquet does not take.
pub(super) fn group(stream: &aap_types::StreamName, error: &crate::Error) -> Failure {
    let message = format!("the rows of stream `{stream}` have no form in Parquet");
    let problem = Problem::new("sink.group_refused", ExitCode::Failed, message).caused_by(error);
    Failure::new(FailureKind::Group, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &str, expected: Trouble) {
        let error = object_store::Error::Generic { store: "S3", source: answer.to_owned().into() };
        assert_eq!(trouble(&StoreError::Store(error)), expected, "{answer}");
    }

    #[test]
    fn answers_of_stores_are_told_apart() {
        let answer = |status: &str, code: &str| {
            format!("Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>")
        };
        check(&answer("403 Forbidden", "RequestTimeTooSkewed"), Trouble::Clock);
        check(&answer("403 Forbidden", "SignatureDoesNotMatch"), Trouble::Denied);
        check(&answer("400 Bad Request", "ExpiredToken"), Trouble::Denied);
        check(&answer("404 Not Found", "NoSuchBucket"), Trouble::NoBucket);
        check(&answer("400 Bad Request", "AuthorizationHeaderMalformed"), Trouble::Region);
        check(&answer("501 Not Implemented", "NotImplemented"), Trouble::Overwrites);
        check(&answer("503 Service Unavailable", "SlowDown"), Trouble::Away);
        check(&answer("400 Bad Request", "EntityTooLarge"), Trouble::Refused);
        check("Server returned non-2xx status code: 429 Too Many Requests: ", Trouble::Away);
        check("Server returned non-2xx status code: 500 Internal Server Error: ", Trouble::Away);
        check("HTTP error: client error (Connect)", Trouble::Away);
    }
}
