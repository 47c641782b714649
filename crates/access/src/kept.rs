//! Secrets that the platform keeps for sinks, sources and catalogs, sealed under a key that does not lie where they do.
//!
//! The name is sealed with the value ([`SealingKey`]): a record under another name does not open. Keys are a text of one key a line, 64 hexadecimal
//! digits each; the first seals, all open. So a key is changed by putting the new one before it.

use std::fmt;

use aap_runtime::Secret;
use aap_types::SecretName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::RandomError;
use crate::sealing::SealingKey;

/// Longest value: a key or a token, not a file that somebody took for one. As of those in files.
pub const SECRET_BYTES_MAX: usize = 64 << 10;
/// What is sealed with every value before its name, so that nothing else sealed with the key passes for one.
const SEALED_AS: &str = "aap kept secret 1 ";

/// A secret as it lies in the metadata.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSecret {
    /// What documents refer to it by.
    pub name: SecretName,
    /// Which key it is sealed under.
    key: String,
    sealed: String,
    /// How often it was set.
    pub revision: u64,
    /// Who set it last.
    pub author: String,
    /// When it was set first.
    pub created_us: i64,
    /// When it was set last.
    pub updated_us: i64,
}

impl KeptSecret {
    /// Which key it is sealed under.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for KeptSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (revision {}, under key {})", self.name, self.revision, self.key)
    }
}

/// Why a kept secret does not open. It never repeats anything of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// None of ours seals it.
    #[error("it is sealed under the key {key}, and this coordinator has {have}")]
    OtherKey {
        /// The key's id.
        key: String,
        /// Ids of those that are here.
        have: String,
    },
    /// Somebody changed the record, or put another in its place.
    #[error("the record was changed after it was sealed, or is that of another secret")]
    Damaged,
}

/// Why a text holds no keys. It never repeats anything of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKeys {
    /// Nothing in it.
    #[error("there is no key in it")]
    Empty,
    /// A line is something else.
    #[error("line {0} is no key: a key is 64 hexadecimal digits")]
    Line(usize),
}

/// The keys that this installation seals with.
pub struct SealingKeys(Vec<SealingKey>);

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl SealingKeys {
    /// Makes the text of a new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn mint() -> Result<Zeroizing<String>, RandomError> {
        SealingKey::mint()
    }

    /// Reads a text of keys.
    ///
    /// # Errors
    /// [`NotKeys`].
    pub fn parse(text: &str) -> Result<Self, NotKeys> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let keys = lines.map(|(at, line)| SealingKey::parse(line).ok_or(NotKeys::Line(at + 1)));
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(NotKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// The id of the key that seals.
    pub fn id(&self) -> &str {
        self.0[0].id()
    }

    /// The ids of all of them.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(SealingKey::id)
    }

    /// The record of a value that is set at `now_us`, in the place of what is kept under the name now.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn seal(
        &self,
        name: &SecretName,
        value: &Secret,
        before: Option<&KeptSecret>,
        (author, now_us): (&str, i64),
    ) -> Result<KeptSecret, RandomError> {
        Ok(KeptSecret {
            name: name.clone(),
            key: self.id().to_owned(),
            sealed: self.0[0].seal(&sealed_as(name), value)?,
            revision: before.map_or(0, |before| before.revision) + 1,
            author: author.to_owned(),
            created_us: before.map_or(now_us, |before| before.created_us),
            updated_us: now_us,
        })
    }

    /// The same secret under the key that seals now; `None` where it is.
    ///
    /// # Errors
    /// It does not open. The inner error: the system gives no random numbers.
    pub fn reseal(&self, kept: &KeptSecret) -> Result<Option<Result<KeptSecret, RandomError>>, NotOpened> {
        if kept.key == self.id() {
            return Ok(None);
        }
        let value = self.open(kept)?;
        let again = |sealed| KeptSecret { key: self.id().to_owned(), sealed, ..kept.clone() };
        Ok(Some(self.0[0].seal(&sealed_as(&kept.name), &value).map(again)))
    }

    /// The value of a record.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn open(&self, kept: &KeptSecret) -> Result<Secret, NotOpened> {
        let key = self.0.iter().find(|key| key.id() == kept.key).ok_or_else(|| NotOpened::OtherKey {
            key: kept.key.clone(),
            have: self.ids().collect::<Vec<_>>().join(", "),
        })?;
        key.open(&sealed_as(&kept.name), &kept.sealed).ok_or(NotOpened::Damaged)
    }
}

fn sealed_as(name: &SecretName) -> String {
    format!("{SEALED_AS}{name}")
}
