//! Users, and what shows who they are: sessions and API tokens.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{IssuedId, PasswordHash, Principal, PrincipalKind, Role, SecretHash, micros};

/// How long a session lasts at most: a working day.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(8 * 60 * 60);
/// How long a session lasts that nobody uses.
pub const SESSION_IDLE: Duration = Duration::from_secs(60 * 60);
/// How long an API token may live.
pub const API_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How exactly the last use is known: a write for every call would cost more than knowing it better is worth.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);
/// Longest name: an e-mail address of some length.
const USER_NAME_BYTES_MAX: usize = 128;
/// What the names of those begin with whom a provider of identities knows, so that none is that of a user made here.
const EXTERNAL_PREFIX: &str = "oidc:";

/// The name of a user: also an e-mail address, in lower case; behind `oidc:` where a provider of identities gave it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

/// Why a text is no name of a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name of a user: use 1 to {USER_NAME_BYTES_MAX} of a-z, 0-9, `_`, `-`, `.`, `+`, `@`, beginning with a letter or digit"
)]
pub struct UserNameError(String);

impl UserName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of somebody whom a provider of identities calls `name`, in lower case.
    ///
    /// # Errors
    /// [`UserNameError`].
    pub fn external(name: &str) -> Result<Self, UserNameError> {
        format!("{EXTERNAL_PREFIX}{}", name.to_lowercase()).parse()
    }

    /// Whether a provider of identities gave it.
    pub fn is_external(&self) -> bool {
        self.0.starts_with(EXTERNAL_PREFIX)
    }
}

impl FromStr for UserName {
    type Err = UserNameError;
    fn from_str(text: &str) -> Result<Self, UserNameError> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let given = text.strip_prefix(EXTERNAL_PREFIX).unwrap_or(text);
        let begins = given.bytes().next().is_some_and(is_plain);
        let may = |byte: u8| is_plain(byte) || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'@');
        if begins && text.len() <= USER_NAME_BYTES_MAX && given.bytes().all(may) {
            return Ok(Self(text.to_owned()));
        }
        Err(UserNameError(
            text.chars().take(USER_NAME_BYTES_MAX).collect::<String>().escape_default().to_string(),
        ))
    }
}

impl TryFrom<String> for UserName {
    type Error = UserNameError;
    fn try_from(text: String) -> Result<Self, UserNameError> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> String {
        name.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a user comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Made here.
    Local,
    /// Known to a provider of identities, by what it says of them.
    Oidc {
        /// The provider.
        issuer: String,
        /// What it calls the user, for ever.
        subject: String,
    },
}

impl Origin {
    /// What a user is found again by who comes from elsewhere: short, whatever the provider says. Empty for one made here.
    pub fn key(&self) -> String {
        let Self::Oidc { issuer, subject } = self else { return String::new() };
        let mut hasher = blake3::Hasher::new();
        // Its length first, so that no two pairs give the same bytes.
        hasher.update(&(issuer.len() as u64).to_le_bytes());
        hasher.update(issuer.as_bytes());
        hasher.update(subject.as_bytes());
        format!("oidc:{}", hasher.finalize())
    }
}

/// The record of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Their name.
    pub name: UserName,
    /// Given when the record was made: one deleted and made again is somebody else. 32 hexadecimal digits.
    pub uid: String,
    /// What people call them.
    pub display: String,
    /// Where they come from.
    pub origin: Origin,
    /// The hash of their password, if they log in by one.
    pub password: Option<PasswordHash>,
    /// Whether they have to change it before they may do anything else.
    pub must_change_password: bool,
    /// Whether they are shut out.
    pub disabled: bool,
    /// Their roles.
    pub roles: Vec<String>,
    /// 1 when the record was made, one more with every change.
    pub revision: u64,
    /// When it was made.
    pub created_us: i64,
    /// When it was changed last.
    pub updated_us: i64,
}

/// The record of a session: it is ended by deleting it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What it is known by.
    pub id: IssuedId,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// Whose it is.
    pub user: UserName,
    /// The user's uid.
    pub user_uid: String,
    /// The address that they logged in from.
    pub from: String,
    /// When it began.
    pub created_us: i64,
    /// When it ends, however busy it is.
    pub expires_us: i64,
    /// How long it lasts without use.
    pub idle_us: i64,
    /// When it was used last, to a minute.
    pub used_us: i64,
}

/// The record of an API token: it is revoked by deleting it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// What it is known by.
    pub id: IssuedId,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// Whose it is.
    pub user: UserName,
    /// The user's uid.
    pub user_uid: String,
    /// What it is for, as its owner calls it.
    pub label: String,
    /// What it is limited to, beside what its owner may at the time; `None`: to that.
    pub scope: Option<Role>,
    /// When it was issued.
    pub created_us: i64,
    /// When it ends.
    pub expires_us: i64,
    /// When it was used last, to a minute; 0: never.
    pub used_us: i64,
}

/// Why a session or API token is not accepted. Whoever showed it is told no more than that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none, or the secret is another, or its user is gone.
    #[error("there is no such session or token")]
    Unknown,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Nobody used it for too long.
    #[error("it was not used for too long")]
    Idle,
    /// Its user is shut out.
    #[error("the user is disabled")]
    Disabled,
}

/// What shows who somebody is.
pub trait Credential {
    /// Whose it is.
    fn user(&self) -> &UserName;

    /// Who shows it, if it may be shown; an API token shows its owner, within its scope.
    ///
    /// # Errors
    /// [`Refusal`].
    fn admits(&self, presented: &SecretHash, user: &User, now_us: i64) -> Result<Principal, Refusal>;

    /// Notes that it was used, unless that is known already. Whether it has to be written.
    fn note_use(&mut self, now_us: i64) -> bool;
}

impl Credential for Session {
    fn user(&self) -> &UserName {
        &self.user
    }

    fn admits(&self, presented: &SecretHash, user: &User, now_us: i64) -> Result<Principal, Refusal> {
        check(self.hash == *presented, &self.user_uid, self.expires_us, user, now_us)?;
        if now_us.saturating_sub(self.used_us) >= self.idle_us {
            return Err(Refusal::Idle);
        }
        let must_change_password = user.must_change_password;
        let principal = Principal::of_user(PrincipalKind::User, user.name.as_str(), &user.roles, &self.id);
        Ok(Principal { must_change_password, ..principal })
    }

    fn note_use(&mut self, now_us: i64) -> bool {
        note_use(&mut self.used_us, now_us)
    }
}

impl Credential for ApiToken {
    fn user(&self) -> &UserName {
        &self.user
    }

    fn admits(&self, presented: &SecretHash, user: &User, now_us: i64) -> Result<Principal, Refusal> {
        check(self.hash == *presented, &self.user_uid, self.expires_us, user, now_us)?;
        let scope = self.scope.clone();
        let principal =
            Principal::of_user(PrincipalKind::ApiToken, user.name.as_str(), &user.roles, &self.id);
        Ok(Principal { scope, ..principal })
    }

    fn note_use(&mut self, now_us: i64) -> bool {
        note_use(&mut self.used_us, now_us)
    }
}

fn check(is_right: bool, uid: &str, expires_us: i64, user: &User, now_us: i64) -> Result<(), Refusal> {
    if !is_right || user.uid != uid {
        return Err(Refusal::Unknown);
    }
    if user.disabled {
        return Err(Refusal::Disabled);
    }
    if now_us >= expires_us { Err(Refusal::Expired) } else { Ok(()) }
}

fn note_use(used_us: &mut i64, now_us: i64) -> bool {
    // Also where the clock was set back: a time that lies ahead would stay for ever.
    let is_due = now_us.abs_diff(*used_us) >= micros(USE_NOTED_EVERY).unsigned_abs();
    if is_due {
        *used_us = now_us;
    }
    is_due
}
