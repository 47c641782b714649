//! Secrets that somebody has to be asked for: the platform's own store, or Vault.
//!
//! ```text
//!  document ─▶ SecretRef ── clones ──▶ driver ── read() ──▶ what was resolved last
//!                  └── Arc ◀── resolve() ── SecretSource: before each start of the sink, source or scan
//! ```
//! Drivers read secrets where they connect, and do not wait for anybody there. So whoever starts a driver resolves the references of
//! its document first; every copy of a reference sees what was resolved.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use aap_types::{Problem, SecretName};

use super::{Secret, SecretRef};

/// Where a secret stands that somebody has to be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretPlace {
    /// `secret:NAME`: kept by the platform.
    Kept(SecretName),
    /// `vault:MOUNT/PATH#FIELD`: kept by Vault.
    Vault(VaultPlace),
}

/// A field of a secret of Vault's engine KV, version 2.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VaultPlace {
    /// Where the engine is mounted.
    pub mount: String,
    /// The secret, below it.
    pub path: String,
    /// Which of its fields.
    pub field: String,
}

impl FromStr for VaultPlace {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (path, field) = text.split_once('#').ok_or(())?;
        let (mount, path) = path.split_once('/').ok_or(())?;
        // What needs no escape in a URL, and leads nowhere else in it.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~@+=:".contains(&byte);
        let is_segment = |text: &str| !text.is_empty() && text.bytes().all(is_plain);
        let leads_on = |text: &str| is_segment(text) && text.bytes().any(|byte| byte != b'.');
        match leads_on(mount) && path.split('/').all(leads_on) && is_segment(field) {
            true => Ok(Self { mount: mount.to_owned(), path: path.to_owned(), field: field.to_owned() }),
            false => Err(()),
        }
    }
}

impl fmt::Display for VaultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.mount, self.path, self.field)
    }
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(name) => write!(f, "secret:{name}"),
            Self::Vault(place) => write!(f, "vault:{place}"),
        }
    }
}

/// The answer of a [`SecretSource`], on its way.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Secret, Problem>> + Send + 'a>>;

/// Who is asked for secrets. Every answer has a deadline.
pub trait SecretSource: fmt::Debug + Send + Sync + 'static {
    /// The secret at a place, as it is now.
    ///
    /// # Errors
    /// Problems with codes `secret.…`, which never repeat the secret. One that says that trying again may help is an outage.
    fn resolve<'a>(&'a self, place: &'a SecretPlace) -> Resolving<'a>;
}

/// A place, and what was found there last. Copies share what was found.
#[derive(Clone)]
pub struct ResolvedSecret {
    place: SecretPlace,
    found: Arc<Mutex<Option<Secret>>>,
}

impl ResolvedSecret {
    pub(super) fn new(place: SecretPlace) -> Self {
        Self { place, found: Arc::default() }
    }

    /// Where it stands.
    pub fn place(&self) -> &SecretPlace {
        &self.place
    }

    pub(super) fn found(&self) -> Option<Secret> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn resolve(&self, source: &dyn SecretSource) -> Result<(), Problem> {
        let resolved = source.resolve(&self.place).await;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match resolved {
            Ok(secret) => *found = Some(secret),
            // What held a moment ago most likely still does, and an outage of Vault must not become one of everything else.
            Err(problem) if problem.is_retryable() && found.is_some() => {
                tracing::warn!(secret = %self.place, code = problem.code, causes = ?problem.causes,
                    "{problem}; what was read before is used");
            }
            Err(problem) => {
                *found = None;
                return Err(problem);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ResolvedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)
    }
}

impl PartialEq for ResolvedSecret {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for ResolvedSecret {}

impl Hash for ResolvedSecret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place.hash(state);
    }
}

/// Resolves what of these has to be asked for. Every copy of them, such as a driver's, reads what was found.
///
/// # Errors
/// The first that cannot be had. One that was read before stays where its keeper is only away.
pub async fn resolve_secrets(references: &[SecretRef], source: &dyn SecretSource) -> Result<(), Problem> {
    for reference in references {
        if let SecretRef::Elsewhere(secret) = reference {
            secret.resolve(source).await?;
        }
    }
    Ok(())
}
