//! What is wrong with a piece of JSON, small enough to return from the hot path.

use crate::decoded::RowError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Syntax(&'static str),
    NotAnObject,
    TooDeep,
    TooManyColumns,
    NameTooLong,
}

/// A cause and the byte of the input it was met at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) cause: Cause,
}

impl Fault {
    #[cold]
    pub(crate) fn syntax(at: usize, what: &'static str) -> Self {
        Self { at, cause: Cause::Syntax(what) }
    }

    /// The error of a record that begins at `start`.
    pub(crate) fn into_error(self, start: usize) -> RowError {
        match self.cause {
            Cause::Syntax(what) => RowError::Json { what, at: self.at.saturating_sub(start) as u64 },
            Cause::NotAnObject => RowError::NotAnObject,
            Cause::TooDeep => RowError::TooDeep,
            Cause::TooManyColumns => RowError::TooManyColumns,
            Cause::NameTooLong => RowError::NameTooLong,
        }
    }
}
