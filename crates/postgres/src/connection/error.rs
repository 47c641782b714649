//! What went wrong on a connection, and what kind of trouble that is.

use std::io;
use std::time::Duration;

use aap_runtime::SecretError;
use tokio_postgres::error::{DbError, SqlState};

/// Why the server could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The client or the server says no.
    #[error("{doing}")]
    Server {
        /// What was being attempted.
        doing: &'static str,
        /// What was said.
        #[source]
        source: Said,
    },
    /// The server did not answer in time.
    #[error("{doing}: no answer within {} s", limit.as_secs())]
    Late {
        /// What was being attempted.
        doing: &'static str,
        /// How long it might take.
        limit: Duration,
    },
    /// The password cannot be had.
    #[error("read the password")]
    Password(#[source] SecretError),
    /// The file of authorities cannot be used.
    #[error("prepare TLS")]
    Roots(#[source] io::Error),
}

/// An error of the client, with the server's words where it has some: by itself it says no more than `db error`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Said {
    /// Words of the server.
    #[error("{}", words(.0))]
    Server(Box<DbError>),
    /// Words of the client.
    #[error(transparent)]
    Client(tokio_postgres::Error),
}

/// Kinds of trouble that a caller tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It does not answer, broke off, is starting, stopping, full, or was too busy: later may help.
    Away,
    /// It is a standby, or was told to take no writes.
    ReadOnly,
    /// It does not let us in, or not do that.
    Denied,
    /// TLS cannot be agreed on, or the certificate is not believed.
    Tls,
    /// Files of ours, named in the configuration.
    Setting,
    /// There is no such database.
    NoDatabase,
    /// What was sent is not what the table takes.
    Data,
    /// It does not do what it was asked.
    Statement,
}

impl Error {
    pub(super) fn server(doing: &'static str, error: tokio_postgres::Error) -> Self {
        let source = match error.as_db_error() {
            Some(said) => Said::Server(Box::new(said.clone())),
            None => Said::Client(error),
        };
        Self::Server { doing, source }
    }

    /// The code of the server, where it spoke.
    pub(crate) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Server { source: Said::Server(said), .. } => Some(said.code()),
            _ => None,
        }
    }

    /// Whether the statement took longer than it may.
    pub(crate) fn is_too_slow(&self) -> bool {
        matches!(self, Self::Late { .. }) || self.state() == Some(&SqlState::QUERY_CANCELED)
    }

    /// The kind.
    pub(crate) fn trouble(&self) -> Trouble {
        match self {
            Self::Server { source: Said::Server(said), .. } => of_state(said.code()),
            Self::Server { source: Said::Client(error), .. } => of_client(error),
            Self::Late { .. } => Trouble::Away,
            Self::Password(_) | Self::Roots(_) => Trouble::Setting,
        }
    }
}

fn of_state(state: &SqlState) -> Trouble {
    match state.code() {
        "25006" => Trouble::ReadOnly,
        "42501" => Trouble::Denied,
        "3D000" => Trouble::NoDatabase,
        // Deadlock victims and waits that were cut off; a table, or its type, that somebody makes at the same moment.
        "55P03" | "55006" | "57014" | "42P07" | "42P06" | "42710" => Trouble::Away,
        code => match code.get(..2).unwrap_or_default() {
            "28" => Trouble::Denied,
            // Also 54: a value that no row of PostgreSQL can hold. P0: a trigger refuses.
            "22" | "23" | "54" | "P0" | "44" => Trouble::Data,
            // Connection, transaction state, rollback (serialisation, deadlock), resources, operator, system, internal.
            "08" | "25" | "40" | "53" | "57" | "58" | "XX" => Trouble::Away,
            _ => Trouble::Statement,
        },
    }
}

/// The client says what it means only in text.
fn of_client(error: &tokio_postgres::Error) -> Trouble {
    match error.to_string().as_str() {
        // A password is asked for and there is none, or the server asks for it in a way that the client does not know.
        "invalid configuration" | "authentication error" => Trouble::Denied,
        "error performing TLS handshake" if !is_line(error) => Trouble::Tls,
        _ => Trouble::Away,
    }
}

/// Whether a handshake ended because the line broke, and not by a decision of either side.
fn is_line(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other))
}

fn words(said: &DbError) -> String {
    let mut words = format!("{} (SQLSTATE {})", said.message(), said.code().code());
    if let Some(detail) = said.detail() {
        words.push_str(": ");
        words.push_str(detail);
    }
    if let Some(place) = said.where_() {
        words.push_str(", ");
        words.push_str(place.lines().next().unwrap_or_default());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_server_are_told_apart() {
        let check = |codes: &[&str], expected: Trouble| {
            for code in codes {
                assert_eq!(of_state(&SqlState::from_code(code)), expected, "{code}");
            }
        };
        check(
            &[
                "57P01", "57P03", "53300", "53100", "40001", "40P01", "55P03", "57014", "25P03", "08006",
                "42710",
            ],
            Trouble::Away,
        );
        check(&["25006"], Trouble::ReadOnly);
        check(&["28P01", "28000", "42501"], Trouble::Denied);
        check(&["3D000"], Trouble::NoDatabase);
        check(&["22021", "22P02", "23505", "23502", "23514", "54000", "P0001"], Trouble::Data);
        check(&["42P01", "42703", "3F000", "0A000"], Trouble::Statement);
    }
}
