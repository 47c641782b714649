//! Why nobody is known by a provider.

use crate::token::Fault;

/// Letters of a provider's own words that are repeated.
const WORDS_MAX: usize = 200;

/// What keeps a log-in from its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A URL that is none, or one to which nothing secret goes.
    #[error("`{url}` is no URL of a provider: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The provider does not answer.
    #[error("`{url}` does not answer: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It answers something else than it should.
    #[error("the answer of `{url}` cannot be used: {reason}")]
    Unusable {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It says no, in its own words.
    #[error("the provider says `{code}`{}", words(.description))]
    Refused {
        /// A word of OAuth, such as `invalid_grant`.
        code: String,
        /// Its own words; may be empty.
        description: String,
    },
    /// Nobody decided in time.
    #[error("nobody allowed the log-in in time")]
    Expired,
    /// The ID token is not good.
    #[error("the ID token is not accepted: {0}")]
    Token(#[from] Fault),
}

impl Error {
    pub(crate) fn unusable(url: &hyper::Uri, reason: impl ToString) -> Self {
        Self::Unusable { url: url.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn refused(code: &str, description: &str) -> Self {
        Self::Refused { code: plain(code), description: plain(description) }
    }
}

/// A provider's words, on one line of bounded length.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(WORDS_MAX).collect()
}

fn words(description: &str) -> String {
    if description.is_empty() { String::new() } else { format!(": {description}") }
}
