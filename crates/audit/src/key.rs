//! The key that signs checkpoints, and the one that checks them.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::str::FromStr;

use aap_runtime::write_durably;
use camino::{Utf8Path, Utf8PathBuf};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::{hex, mutant};

/// Bytes of a signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;
/// Only the owner may read the key.
const MODE: u32 = 0o600;
/// Longest key file that is read; the key itself has 83 bytes.
const KEY_BYTES_MAX: u64 = 4 << 10;
/// What the text of a public key begins with.
const PREFIX: &str = "ed25519:";

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Somebody beside its owner can read it, so checkpoints prove nothing.
    #[error("others can read the private key `{path}` (mode {mode:04o}); run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: Utf8PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What stands in the file is no key.
    #[error("`{path}` holds no Ed25519 key")]
    NotAKey {
        /// The file.
        path: Utf8PathBuf,
    },
    /// It can be neither read nor made.
    #[error("{attempt} `{path}`")]
    Io {
        /// What was being attempted.
        attempt: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// The private key of an audit log. Never prints.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl SigningKey {
    /// Reads the key at `path`; makes one, with mode 0600, where there is none. Its directory must exist. Blocking.
    ///
    /// # Errors
    /// [`KeyError::Exposed`] for a file that others can read, [`KeyError::NotAKey`], [`KeyError::Io`], [`KeyError::NoRandom`].
    pub fn open_or_create(path: &Utf8Path) -> Result<Self, KeyError> {
        match Self::open(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    fn open(path: &Utf8Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { attempt: "read the private key", path: path.to_owned(), source };
        // A link could lead to a key that somebody else chose, or knows.
        let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file =
            std::fs::OpenOptions::new().read(true).custom_flags(no_links).open(path).map_err(failed)?;
        // Asked of the open file, so that it is the one that is read.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(KEY_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let key = Ed25519KeyPair::from_pkcs8(&bytes);
        key.map(Self).map_err(|_| KeyError::NotAKey { path: path.to_owned() })
    }

    fn create(path: &Utf8Path) -> Result<Self, KeyError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::NoRandom)?;
        let failed =
            |source| KeyError::Io { attempt: "write the private key", path: path.to_owned(), source };
        write_durably(path, document.as_ref(), MODE).map_err(failed)?;
        Self::open(path)
    }

    /// What checks its signatures; to be kept where whoever may change the log cannot change it.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        bytes
    }
}

/// The public key of an audit log: `ed25519:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        mutant::is("nosignature")
            || UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(&self.0))
    }
}

/// A text that is no public key of an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key of an audit log is `{PREFIX}` and 64 hexadecimal digits")]
pub struct NotAKey;

impl FromStr for PublicKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(NotAKey)?;
        hex::decode(digits.as_bytes()).map(Self).ok_or(NotAKey)
    }
}
