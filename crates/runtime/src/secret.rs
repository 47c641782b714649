//! Secrets: referred to in configuration, read when they are needed, never printed.
//!
//! | file | owns |
//! |---|---|
//! | `secret/place.rs` | [`SecretPlace`], [`SecretSource`]: secrets that somebody has to be asked for |

mod place;

use std::fmt;
use std::io;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use place::{ResolvedSecret, Resolving, SecretPlace, SecretSource, VaultPlace, resolve_secrets};

/// Longest secret that is read from a file: a key or a token, not a log file somebody named by mistake.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Where a secret stands: `env:NAME`, `file:PATH`, `secret:NAME` or `vault:MOUNT/PATH#FIELD`. Prints and is stored as that text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// An environment variable of the daemon.
    Env(String),
    /// A file that the daemon can read; one line end at its end is not part of the secret.
    File(Utf8PathBuf),
    /// Where somebody has to be asked. Read it after [`resolve_secrets`].
    Elsewhere(ResolvedSecret),
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The reference has another form. It is not repeated: it may be the secret itself.
    #[error(
        "a secret is referred to as `env:NAME`, `file:PATH`, `secret:NAME` or `vault:MOUNT/PATH#FIELD`, and never written down here"
    )]
    NoReference,
    /// The variable is not there.
    #[error("the environment variable `{0}` is not set")]
    NotSet(String),
    /// The file cannot be read.
    #[error("read the secret in `{path}`")]
    Unreadable {
        /// Which.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody was asked for it yet, or it could not be had.
    #[error("`{0}` is not here: it was not resolved")]
    NotResolved(SecretPlace),
}

impl SecretRef {
    /// Reads it. Blocks, for a small file.
    ///
    /// # Errors
    /// [`SecretError::NotSet`], [`SecretError::Unreadable`], [`SecretError::NotResolved`].
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => {
                std::env::var(name).map(Secret::from).map_err(|_unset| SecretError::NotSet(name.clone()))
            }
            Self::File(path) => read_file(path)
                .map(Secret::from)
                .map_err(|source| SecretError::Unreadable { path: path.clone(), source }),
            Self::Elsewhere(secret) => {
                secret.found().ok_or_else(|| SecretError::NotResolved(secret.place().clone()))
            }
        }
    }

    /// Where it stands, if somebody has to be asked for it.
    pub fn place(&self) -> Option<&SecretPlace> {
        match self {
            Self::Elsewhere(secret) => Some(secret.place()),
            Self::Env(_) | Self::File(_) => None,
        }
    }
}

/// The mode of a file with a secret that others than its owner can read; `None` where nobody else can. A credential of systemd
/// is protected by its folder: where it has a list of who may read it, the mode shows that as a right of its group.
///
/// # Errors
/// The file cannot be looked at.
pub fn exposed_mode(path: &Utf8Path) -> io::Result<Option<u32>> {
    let credentials = std::env::var("CREDENTIALS_DIRECTORY").ok().filter(|folder| !folder.is_empty());
    exposed_mode_beside(path, credentials.as_deref().map(Utf8Path::new))
}

fn exposed_mode_beside(path: &Utf8Path, credentials: Option<&Utf8Path>) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    let is_credential = credentials.is_some_and(|folder| path.starts_with(folder));
    Ok((mode & 0o077 != 0 && !is_credential).then_some(mode))
}

fn read_file(path: &Utf8PathBuf) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 KiB"));
    }
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

impl FromStr for SecretRef {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let elsewhere = |place| Self::Elsewhere(ResolvedSecret::new(place));
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("secret", name)) => match name.parse() {
                Ok(name) => Ok(elsewhere(SecretPlace::Kept(name))),
                Err(_name) => Err(SecretError::NoReference),
            },
            Some(("vault", place)) => match place.parse() {
                Ok(place) => Ok(elsewhere(SecretPlace::Vault(place))),
                Err(()) => Err(SecretError::NoReference),
            },
            _ => Err(SecretError::NoReference),
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        text.parse()
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> String {
        reference.to_string()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Elsewhere(secret) => write!(f, "{}", secret.place()),
        }
    }
}

/// A secret. Prints as `***`, whoever prints it, and is wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Secret {
    /// The secret itself, to be handed to whoever checks it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests;
