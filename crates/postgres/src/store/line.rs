//! A connection of a store, what drives it, and why a transaction on it failed.

use aap_store::Error;
use tokio::runtime::Runtime;

use crate::connection::{Error as ServerError, Session, Trouble};

/// A connection and what drives it.
#[derive(Debug)]
pub(super) struct Line {
    /// Taken only by drop.
    runtime: Option<Runtime>,
    session: Option<Session>,
    /// A commit was not answered: it may still become visible.
    in_doubt: bool,
}

impl Line {
    pub(super) fn new() -> Result<Self, Error> {
        let cannot =
            |source: std::io::Error| Error::Server { doing: "begin a runtime", source: Box::new(source) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        Ok(Self { runtime: Some(runtime), session: None, in_doubt: false })
    }

    /// Its parts: what drives it, the connection, and whether a commit on it was not answered.
    pub(super) fn parts(&mut self) -> Result<(&Runtime, &mut Option<Session>, &mut bool), Error> {
        let Self { runtime, session, in_doubt } = self;
        match runtime.as_ref() {
            Some(runtime) => Ok((runtime, session, in_doubt)),
            None => Err(Error::Unreadable("a store that was closed".to_owned())),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.session = None;
        // Waiting for it is not allowed where futures run, and there is nothing to wait for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Either the server failed, or the change was refused for a reason of ours.
#[derive(Debug)]
pub(super) enum Failure {
    Server(ServerError),
    Refused(Error),
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

impl Failure {
    pub(super) fn during(self, doing: &'static str) -> Error {
        match self {
            Self::Server(error) => Error::Server { doing, source: Box::new(error) },
            Self::Refused(error) => error,
        }
    }

    pub(super) fn is_lost_line(&self) -> bool {
        matches!(self, Self::Server(error) if error.trouble() == Trouble::Away)
    }
}
