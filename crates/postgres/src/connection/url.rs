//! Where a server is, as a URL says it.

use std::fmt;
use std::str::FromStr;

use camino::Utf8PathBuf;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

/// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. Holds no password, so it may be shown and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerUrl {
    text: String,
    config: Config,
    trust: Trust,
}

/// How far the certificate of the server is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// No TLS.
    Plain,
    /// Encrypted, to whoever answers.
    Anyone,
    /// Encrypted, to somebody whom an authority vouches for.
    Authority(Roots),
    /// The same, and under the name that we dialled.
    Name(Roots),
}

/// Whose word counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// The authorities of the machine.
    System,
    /// Those in a PEM file.
    File(Utf8PathBuf),
}

/// Why a text is no URL of a server. Never repeats the text: there may be a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Something else.
    #[error("a PostgreSQL server is named as `postgres://user@host:port/database`")]
    NoUrl,
    /// A secret where everybody reads it.
    #[error(
        "the URL contains a password: remove it, and name where it stands in `password: env:NAME` or `password: file:PATH`"
    )]
    Password,
    /// Nowhere to go.
    #[error("the URL names no server: `postgres://user@host:port/database`")]
    NoHost,
    /// Nobody to log in as.
    #[error("the URL names no user: `postgres://user@host:port/database`")]
    NoUser,
    /// No database.
    #[error("the URL names no database: `postgres://user@host:port/database`")]
    NoDatabase,
    /// A mode that libpq does not know, or that promises nothing.
    #[error("`sslmode={0}` is not known: use `disable`, `prefer`, `require`, `verify-ca` or `verify-full`")]
    Mode(String),
    /// Verification without anything to verify against.
    #[error(
        "`sslmode={0}` needs `sslrootcert=PATH`, or `sslrootcert=system` for the authorities of this machine"
    )]
    NoRoots(&'static str),
    /// A parameter that the client does not know.
    #[error("the URL cannot be understood: {0}")]
    Parameter(String),
}

impl ServerUrl {
    /// What to connect with, less the password.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The database, for messages.
    pub(crate) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// The role, for messages.
    pub(crate) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (plain, parameters) = text.split_once('?').unwrap_or((text, ""));
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| plain.strip_prefix(scheme));
        let authority = rest.ok_or(UrlError::NoUrl)?.split('/').next().unwrap_or_default();
        // Before anything that could repeat it. A password may itself hold an `@` that nobody encoded.
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        if user.contains(':') || has_password(parameters) {
            return Err(UrlError::Password);
        }
        let tls = Tls::of(parameters)?;
        let mut config: Config = format!("{plain}{}", tls.others).parse().map_err(unreadable)?;
        // However it was written: the client looks for the `@` further than the check above.
        if config.get_password().is_some() {
            return Err(UrlError::Password);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(UrlError::NoHost);
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(UrlError::NoUser);
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(UrlError::NoDatabase);
        }
        // Of several hosts only the one that takes writes is of use.
        if config.get_hosts().len() > 1 && !parameters.contains("target_session_attrs") {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config.ssl_mode(tls.mode);
        Ok(Self { text: text.to_owned(), config, trust: tls.trust })
    }
}

fn has_password(parameters: &str) -> bool {
    parameters.split('&').any(|pair| pair.split('=').next() == Some("password"))
}

fn unreadable(error: tokio_postgres::Error) -> UrlError {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    UrlError::Parameter(cause.unwrap_or_else(|| error.to_string()))
}

/// What the parameters say about encryption, and the others, with their `?`.
struct Tls {
    mode: SslMode,
    trust: Trust,
    others: String,
}

impl Tls {
    fn of(parameters: &str) -> Result<Self, UrlError> {
        let (mut mode, mut roots, mut others) = (None, None, String::new());
        for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match name {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" if value == "system" => roots = Some(Roots::System),
                "sslrootcert" => roots = Some(Roots::File(value.into_owned().into())),
                _ => {
                    others.push(if others.is_empty() { '?' } else { '&' });
                    others.push_str(pair);
                }
            }
        }
        let (mode, trust) = match (mode.as_deref(), roots) {
            (Some("disable"), _) => (SslMode::Disable, Trust::Plain),
            (None | Some("prefer"), _) => (SslMode::Prefer, Trust::Anyone),
            // As libpq: whoever names an authority wants it asked.
            (Some("require"), Some(roots)) | (Some("verify-ca"), Some(roots)) => {
                (SslMode::Require, Trust::Authority(roots))
            }
            (Some("require"), None) => (SslMode::Require, Trust::Anyone),
            (Some("verify-full"), Some(roots)) => (SslMode::Require, Trust::Name(roots)),
            (Some("verify-ca"), None) => return Err(UrlError::NoRoots("verify-ca")),
            (Some("verify-full"), None) => return Err(UrlError::NoRoots("verify-full")),
            (Some(other), _) => return Err(UrlError::Mode(other.to_owned())),
        };
        Ok(Self { mode, trust, others })
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = UrlError;
    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<ServerUrl> for String {
    fn from(url: ServerUrl) -> String {
        url.text
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Trust, UrlError>) {
        assert_eq!(text.parse::<ServerUrl>().map(|url| url.trust), expected, "{text}");
    }

    #[test]
    fn the_mode_decides_how_far_the_server_is_believed() {
        let file = || Roots::File("/etc/ca bundle.pem".into());
        check("postgres://me@db/x", Ok(Trust::Anyone));
        check("postgres://me@db/x?sslmode=disable", Ok(Trust::Plain));
        check("postgresql://me@db:5433/x?sslmode=require&application_name=y", Ok(Trust::Anyone));
        check(
            "postgres://me@db/x?sslmode=require&sslrootcert=%2Fetc%2Fca%20bundle.pem",
            Ok(Trust::Authority(file())),
        );
        check(
            "postgres://me@db/x?sslrootcert=/etc/ca%20bundle.pem&sslmode=verify-full",
            Ok(Trust::Name(file())),
        );
        check("postgres://me@db/x?sslmode=verify-ca&sslrootcert=system", Ok(Trust::Authority(Roots::System)));
        check("postgres://me@db/x?sslmode=verify-ca", Err(UrlError::NoRoots("verify-ca")));
        check("postgres://me@db/x?sslmode=allow", Err(UrlError::Mode("allow".into())));
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for url in [
            "postgres://me:hunter2@db/x",
            "postgres://me:hun@ter2@db/x",
            "postgres://me@db/x?password=hunter2",
            "postgres://me@db/x?passwor%64=hunter2",
            "postgres://me:hun/ter2@db/x",
            "postgres://me:hun?ter2@db/x",
        ] {
            check(url, Err(UrlError::Password));
        }
        assert!(!UrlError::Password.to_string().contains("hunter"));
    }

    #[test]
    fn what_is_missing_is_named() {
        check("mysql://me@db/x", Err(UrlError::NoUrl));
        check("postgres://db/x", Err(UrlError::NoUser));
        check("postgres://me@/x", Err(UrlError::NoHost));
        check("postgres://me@db", Err(UrlError::NoDatabase));
        check("postgres://me@db/x?colour=red", Err(UrlError::Parameter("unknown option `colour`".into())));
    }
}
