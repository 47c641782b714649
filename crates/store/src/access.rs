//! Users, sessions, tokens, enrolment tokens, node identities and kept secrets: [`AccessStore`] keeps records, [`Record`] says which there are.
//!
//! ```text
//!  find ──► a record and its text ──► a method of `aap-access` decides what becomes of it ──► swap, if the text still stands there
//!    ▲                                                                                            │ no: somebody was faster
//!    └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! A store knows rows and one rule: a row takes the place of the text that was read, or of none. Everything that must not happen
//! twice (the last use of a token, a generation of a certificate, a free guess) rests on that rule, in whatever store.

use std::fmt::Debug;
use std::time::Duration;

use aap_access::{
    ApiToken, EnrolmentToken, EnrolmentUse, IssuedId, KeptSecret, Lockout, NodeIdentity, Origin, SecretHash,
    Session, Taken, User, UserName,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Most rows of one page, whatever is asked for.
pub const PAGE_ROWS_MAX: usize = 1_000;

/// What a row is the record of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessKind {
    /// A [`User`].
    User,
    /// An [`ApiToken`].
    ApiToken,
    /// A [`Session`].
    Session,
    /// An [`EnrolmentToken`].
    EnrolmentToken,
    /// A [`NodeIdentity`].
    Node,
    /// [`LoginFailures`].
    Login,
    /// A [`KeptSecret`].
    Secret,
}

impl AccessKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::User,
        Self::ApiToken,
        Self::Session,
        Self::EnrolmentToken,
        Self::Node,
        Self::Login,
        Self::Secret,
    ];

    /// As it stands in a table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ApiToken => "api-token",
            Self::Session => "session",
            Self::EnrolmentToken => "enrolment-token",
            Self::Node => "node",
            Self::Login => "login",
            Self::Secret => "secret",
        }
    }
}

/// One record as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRow {
    /// What it is found by, within its kind.
    pub key: String,
    /// Whose it is; empty: nobody's. Rows are listed and deleted by it.
    pub owner: String,
    /// From when on it may be forgotten, if ever.
    pub expires_us: Option<i64>,
    /// The record, as JSON.
    pub record: String,
}

/// Which rows to list.
#[derive(Debug, Clone, Copy)]
pub struct RowsAfter<'a> {
    /// Only those of this owner.
    pub owner: Option<&'a str>,
    /// Only those whose key is greater, by its bytes; empty: from the first.
    pub after: &'a str,
    /// How many, up to [`PAGE_ROWS_MAX`].
    pub limit: usize,
}

impl RowsAfter<'_> {
    /// How many rows at most.
    pub fn limit(&self) -> usize {
        self.limit.min(PAGE_ROWS_MAX)
    }
}

/// Where records of access are kept. Implementations: those of [`crate::ResourceStore`]. What they are and how they change is
/// written once, in the methods of `dyn AccessStore`.
///
/// Every method is one transaction and durable when it returns.
pub trait AccessStore: Debug + Send + Sync + 'static {
    /// A row.
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error>;
    /// Rows of a kind, by key.
    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error>;
    /// Puts a row in the place of the one with its key whose record is `before`, or, with `None`, where there is none. Whether it
    /// stood so; if not, nothing is changed.
    fn swap_access_row(&self, kind: AccessKind, before: Option<&str>, row: &AccessRow)
    -> Result<bool, Error>;
    /// Deletes a row. Whether it was there.
    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error>;
    /// Deletes what an owner has of a kind. Returns how many rows.
    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error>;
    /// Deletes, of all kinds, what may be forgotten at `now_us`. Returns how many rows.
    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error>;
}

/// The failed log-ins of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginFailures {
    /// The user's uid.
    pub user_uid: String,
    /// How many, and until when to wait.
    pub lockout: Lockout,
}

/// A record that a row can hold.
pub trait Record: Serialize + DeserializeOwned {
    /// Its kind.
    const KIND: AccessKind;
    /// What it is found by.
    fn key(&self) -> &str;
    /// Whose it is.
    fn owner(&self) -> String {
        String::new()
    }
    /// From when on it may be forgotten.
    fn expires_us(&self) -> Option<i64> {
        None
    }
}

impl Record for User {
    const KIND: AccessKind = AccessKind::User;
    fn key(&self) -> &str {
        self.name.as_str()
    }
    /// By what a provider of identities calls them, they are found again.
    fn owner(&self) -> String {
        self.origin.key()
    }
}

impl Record for ApiToken {
    const KIND: AccessKind = AccessKind::ApiToken;
    fn key(&self) -> &str {
        self.id.as_str()
    }
    fn owner(&self) -> String {
        self.user_uid.clone()
    }
    fn expires_us(&self) -> Option<i64> {
        Some(self.expires_us)
    }
}

impl Record for Session {
    const KIND: AccessKind = AccessKind::Session;
    fn key(&self) -> &str {
        self.id.as_str()
    }
    fn owner(&self) -> String {
        self.user_uid.clone()
    }
    /// Also one that nobody uses: its idle time is counted from the use that is on record.
    fn expires_us(&self) -> Option<i64> {
        Some(self.expires_us.min(self.used_us.saturating_add(self.idle_us)))
    }
}

impl Record for EnrolmentToken {
    const KIND: AccessKind = AccessKind::EnrolmentToken;
    fn key(&self) -> &str {
        self.id.as_str()
    }
    fn expires_us(&self) -> Option<i64> {
        Some(self.kept_until_us())
    }
}

impl Record for NodeIdentity {
    const KIND: AccessKind = AccessKind::Node;
    fn key(&self) -> &str {
        self.node.as_str()
    }
    fn owner(&self) -> String {
        self.site.to_string()
    }
}

impl Record for KeptSecret {
    const KIND: AccessKind = AccessKind::Secret;
    fn key(&self) -> &str {
        self.name.as_str()
    }
}

impl Record for LoginFailures {
    const KIND: AccessKind = AccessKind::Login;
    fn key(&self) -> &str {
        &self.user_uid
    }
    fn expires_us(&self) -> Option<i64> {
        Some(self.lockout.forgotten_at_us())
    }
}

fn row<R: Record>(record: &R) -> AccessRow {
    AccessRow {
        key: record.key().to_owned(),
        owner: record.owner(),
        expires_us: record.expires_us(),
        record: serde_json::to_string(record).expect("names, numbers and hashes are JSON"),
    }
}

/// The error names the record and never repeats it: it holds hashes.
fn record<R: Record>(row: &AccessRow) -> Result<R, Error> {
    let unreadable = |_| Error::Unreadable(format!("the {} {}", R::KIND.as_str(), row.key));
    serde_json::from_str(&row.record).map_err(unreadable)
}

/// What records are and how they change.
impl dyn AccessStore + '_ {
    /// A record by its key.
    pub fn find<R: Record>(&self, key: &str) -> Result<Option<R>, Error> {
        self.access_row(R::KIND, key)?.as_ref().map(record).transpose()
    }

    /// Records of a kind, by key: those of one user by the user's uid, nodes of one site by its name.
    pub fn list<R: Record>(&self, which: RowsAfter<'_>) -> Result<Vec<R>, Error> {
        self.access_rows(R::KIND, which)?.iter().map(record).collect()
    }

    /// Adds a record. Whether there was none with its key; if not, nothing is changed.
    pub fn add<R: Record>(&self, record: &R) -> Result<bool, Error> {
        self.swap_access_row(R::KIND, None, &row(record))
    }

    /// Changes a record, as `change` decides by what stands there. It is called again where somebody else was faster. Returns the
    /// record as it stands now, and what `change` returned; `None` where there is no such record.
    pub fn change<R: Record, T>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut R) -> T,
    ) -> Result<Option<(R, T)>, Error> {
        loop {
            let Some(before) = self.access_row(R::KIND, key)? else { return Ok(None) };
            let mut changed = record::<R>(&before)?;
            let value = change(&mut changed);
            let after = row(&changed);
            // Who was faster went on, so this ends.
            if after == before || self.swap_access_row(R::KIND, Some(&before.record), &after)? {
                return Ok(Some((changed, value)));
            }
        }
    }

    /// Deletes a record: a session or API token ends with that. Whether it was there.
    pub fn remove<R: Record>(&self, key: &str) -> Result<bool, Error> {
        self.delete_access_row(R::KIND, key)
    }

    /// Deletes all records of a kind that a user has, by the user's uid. Returns how many.
    pub fn remove_all_of<R: Record>(&self, owner: &str) -> Result<u64, Error> {
        self.delete_access_rows(R::KIND, owner)
    }

    /// Makes a user, or changes one who stands at the revision before.
    ///
    /// # Errors
    /// [`Error::Revision`] when somebody changed them in between.
    pub fn put_user(&self, user: &User) -> Result<(), Error> {
        let expected = user.revision.saturating_sub(1);
        loop {
            let before = self.access_row(AccessKind::User, user.name.as_str())?;
            let found = before.as_ref().map(record::<User>).transpose()?;
            let found = match &found {
                // Somebody else by now, who has the name.
                Some(found) if user.revision > 1 && found.uid != user.uid => 0,
                found => found.as_ref().map_or(0, |found| found.revision),
            };
            if found != expected {
                let (kind, name) = ("User".to_owned(), user.name.to_string());
                return Err(Error::Revision { kind, name, expected, found });
            }
            let before = before.as_ref().map(|row| row.record.as_str());
            if self.swap_access_row(AccessKind::User, before, &row(user))? {
                return Ok(());
            }
        }
    }

    /// The user who comes from there, of those that a provider of identities knows. Two who log in for the first time at once are
    /// one, as long as their name follows from what the provider says: the second finds the name taken.
    pub fn user_of(&self, origin: &Origin) -> Result<Option<User>, Error> {
        let key = origin.key();
        let first = RowsAfter { owner: Some(&key), after: "", limit: 1 };
        if key.is_empty() { Ok(None) } else { Ok(self.list(first)?.pop()) }
    }

    /// Deletes a user with sessions, API tokens and failures. Whether there was one. Whatever is left when it is interrupted, or
    /// comes in between, is of a uid that nobody has any more.
    pub fn delete_user(&self, name: &UserName) -> Result<bool, Error> {
        let Some(user) = self.find::<User>(name.as_str())? else { return Ok(false) };
        let deleted = self.remove::<User>(name.as_str())?;
        self.remove_all_of::<Session>(&user.uid)?;
        self.remove_all_of::<ApiToken>(&user.uid)?;
        self.remove::<LoginFailures>(&user.uid)?;
        Ok(deleted)
    }

    /// Counts an attempt to log in before the password is looked at: [`Lockout::attempt`]. The inner error is how long to wait. Where
    /// the password was right, [`LoginFailures`] are removed.
    pub fn attempt_login(&self, user_uid: &str, now_us: i64) -> Result<Result<(), Duration>, Error> {
        loop {
            let counted = self.change(user_uid, |known: &mut LoginFailures| known.lockout.attempt(now_us))?;
            if let Some((_, waiting)) = counted {
                return Ok(waiting);
            }
            let none = LoginFailures { user_uid: user_uid.to_owned(), lockout: Lockout::default() };
            self.add(&none)?;
        }
    }

    /// Uses an enrolment token: [`EnrolmentToken::take`]. The record is there unless it is [`Taken::Unknown`].
    pub fn take_enrolment_token(
        &self,
        id: &IssuedId,
        presented: &SecretHash,
        by: &EnrolmentUse,
    ) -> Result<(Taken, Option<EnrolmentToken>), Error> {
        let taken = self.change(id.as_str(), |token: &mut EnrolmentToken| token.take(presented, by))?;
        Ok(match taken {
            Some((token, taken)) if taken != Taken::Unknown => (taken, Some(token)),
            _ => (Taken::Unknown, None),
        })
    }
}
