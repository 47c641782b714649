//! Users, their passwords, sessions and API tokens: what is done with the records of `aap-access`.
//!
//! Passwords are checked on the blocking pool, few at a time. An attempt is counted before the password is looked at, so that guesses made
//! at once are not free; whether there is such a user shows neither in the answer nor in the time that it takes.

mod credentials;
mod external;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_access::{
    Addresses, IssuedKind, IssuedSecret, Origin, PasswordHash, Passwords, RandomError, SESSION_IDLE,
    SESSION_LIFETIME, Session, User, UserName, Verified, locked_out,
};
use aap_runtime::Secret;
use aap_store::{AccessStore, LoginFailures, PAGE_ROWS_MAX, Record, RowsAfter};
use aap_types::{ExitCode, Problem};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::guard::Guard;
use super::store_failed;
use crate::identities::Identities;

pub(crate) use external::External;
use external::require_local;

/// Passwords that are checked at once, each in [`Passwords::MEMORY_BYTES`]: 38 MiB, and as many as small machines have cores.
const CHECKS_MAX: usize = 2;
/// Log-ins that wait for their turn: a second's worth. More are sent away.
const WAITING_MAX: usize = 32;
/// Letters that a user or token is described by on one line.
const LABEL_LETTERS_MAX: usize = 100;
/// Letters of a made-up password, each one of 32: 100 bits, typed once.
const MADE_UP_LETTERS: usize = 20;

/// The users. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct People {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identities: Identities,
    guard: Guard,
    passwords: Passwords,
    checks: Semaphore,
    waiting: Semaphore,
    addresses: Mutex<Addresses>,
}

/// A session that has just begun.
pub(crate) struct LoggedIn {
    pub(crate) session: Session,
    pub(crate) secret: IssuedSecret,
    pub(crate) must_change_password: bool,
}

/// What is to become of a user.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) display: Option<String>,
    pub(crate) add_roles: Vec<String>,
    pub(crate) remove_roles: Vec<String>,
    pub(crate) disabled: Option<bool>,
    /// A new password, with nothing of it: one is made up.
    pub(crate) password: Option<Option<Secret>>,
}

impl People {
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new(identities: Identities, guard: Guard) -> Result<Self, RandomError> {
        let passwords = Passwords::new()?;
        let (checks, waiting) = (Semaphore::new(CHECKS_MAX), Semaphore::new(CHECKS_MAX + WAITING_MAX));
        let addresses = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { identities, guard, passwords, checks, waiting, addresses }) })
    }

    fn now_us(&self) -> i64 {
        self.inner.identities.clock().unix_us()
    }

    /// Blocking work of the store.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn AccessStore) -> Result<T, aap_store::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = self.inner.identities.store().clone();
        let worked = spawn_blocking(move || work(store.as_ref())).await;
        worked.map_err(|panic| store_failed(&panic))?.map_err(|error| match error {
            aap_store::Error::Revision { .. } => changed_meanwhile(),
            error => store_failed(&error),
        })
    }

    /// All records of a kind: those of one owner, or of everybody.
    async fn all<R: Record + Send + 'static>(&self, owner: Option<String>) -> Result<Vec<R>, Problem> {
        self.with_store(move |store| {
            let (mut all, mut after): (Vec<R>, String) = (vec![], String::new());
            loop {
                let page = RowsAfter { owner: owner.as_deref(), after: &after, limit: PAGE_ROWS_MAX };
                let rows: Vec<R> = store.list(page)?;
                let is_last = rows.len() < PAGE_ROWS_MAX;
                after = rows.last().map(|row| row.key().to_owned()).unwrap_or_default();
                all.extend(rows);
                if is_last {
                    return Ok(all);
                }
            }
        })
        .await
    }

    /// Heavy work with passwords, a few at a time.
    async fn with_passwords<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Passwords) -> Result<T, RandomError> + Send + 'static,
    ) -> Result<T, Problem> {
        let _waiting = self.inner.waiting.try_acquire().map_err(|_| busy())?;
        // Never closed.
        let _turn = self.inner.checks.acquire().await.map_err(|_| busy())?;
        let inner = self.inner.clone();
        let worked = spawn_blocking(move || work(&inner.passwords)).await;
        worked.map_err(|panic| store_failed(&panic))?.map_err(|error| no_random(&error))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// `auth.login_refused` (4), `auth.locked_out` (7), `auth.busy` (7), `access.store` (7).
    pub(crate) async fn log_in(
        &self,
        name: &str,
        password: Secret,
        from: IpAddr,
    ) -> Result<LoggedIn, Problem> {
        let now_us = self.now_us();
        self.attempt_from(from, now_us)?;
        let wanted = name.to_owned();
        let user = self.with_store(move |store| store.find::<User>(&wanted)).await?;
        let user = self.checked(user, password, now_us).await?.ok_or_else(login_refused)?;
        self.addresses().forgive(from);
        self.begin(&user, from).await
    }

    /// Begins a session of a user who may have one.
    async fn begin(&self, user: &User, from: IpAddr) -> Result<LoggedIn, Problem> {
        let now_us = self.now_us();
        let secret = IssuedSecret::mint(IssuedKind::Session).map_err(|error| no_random(&error))?;
        let session = Session {
            id: secret.id().clone(),
            hash: self.inner.identities.key().hash(&secret),
            user: user.name.clone(),
            user_uid: user.uid.clone(),
            from: from.to_string(),
            created_us: now_us,
            expires_us: now_us.saturating_add(micros(SESSION_LIFETIME)),
            idle_us: micros(SESSION_IDLE),
            used_us: now_us,
        };
        let record = session.clone();
        self.with_store(move |store| store.add(&record)).await?;
        Ok(LoggedIn { session, secret, must_change_password: user.must_change_password })
    }

    /// The user, if the password is theirs and they may log in.
    async fn checked(
        &self,
        user: Option<User>,
        password: Secret,
        now_us: i64,
    ) -> Result<Option<User>, Problem> {
        if let Some(user) = &user {
            let uid = user.uid.clone();
            let counted = self.with_store(move |store| store.attempt_login(&uid, now_us)).await?;
            counted.map_err(locked_out)?;
        }
        let kept: Option<PasswordHash> = user.as_ref().and_then(|user| user.password.clone());
        let verified =
            self.with_passwords(move |passwords| passwords.verify(&password, kept.as_ref())).await?;
        let (Some(user), Verified::Right(newer)) = (user, verified) else { return Ok(None) };
        if user.disabled {
            return Ok(None);
        }
        let (uid, name) = (user.uid.clone(), user.name.clone());
        self.with_store(move |store| {
            store.remove::<LoginFailures>(&uid)?;
            if let Some(newer) = newer {
                let is_same = |user: &User| user.uid == uid;
                store.change(name.as_str(), |user: &mut User| {
                    if is_same(user) {
                        user.password = Some(newer.clone());
                    }
                })?;
            }
            Ok(())
        })
        .await?;
        Ok(Some(user))
    }

    fn attempt_from(&self, from: IpAddr, now_us: i64) -> Result<(), Problem> {
        self.addresses().attempt(from, now_us).map_err(locked_out)
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.inner.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user by name.
    ///
    /// # Errors
    /// `user.unknown` (3).
    pub(crate) async fn user(&self, name: &str) -> Result<User, Problem> {
        let wanted = name.to_owned();
        let found = self.with_store(move |store| store.find::<User>(&wanted)).await?;
        found.ok_or_else(|| unknown_user(name))
    }

    /// All users, by name.
    pub(crate) async fn users(&self) -> Result<Vec<User>, Problem> {
        self.all(None).await
    }

    /// Makes a user. With no password one is made up, which they have to change; it is returned.
    ///
    /// # Errors
    /// `user.bad_name`, `auth.password_refused` (2), `role.unknown` (3), `user.exists` (6).
    pub(crate) async fn create(
        &self,
        name: &str,
        display: &str,
        roles: Vec<String>,
        password: Option<Secret>,
    ) -> Result<(User, Option<Secret>), Problem> {
        let name: UserName = name
            .parse()
            .map_err(|error: aap_access::UserNameError| usage("user.bad_name", error.to_string()))?;
        if name.is_external() {
            let message = format!("`{name}` is a name of somebody whom a provider of identities knows");
            return Err(usage("user.bad_name", message).hint("they are there from their first log-in on"));
        }
        self.require_roles(&roles).await?;
        let (hash, made_up) = self.hashed(&name, password).await?;
        let now_us = self.now_us();
        let user = User {
            name,
            uid: crate::resources::mint_uid()?,
            display: line(display),
            origin: Origin::Local,
            password: Some(hash),
            must_change_password: made_up.is_some(),
            disabled: false,
            roles: united(vec![], roles, &[]),
            revision: 1,
            created_us: now_us,
            updated_us: now_us,
        };
        let record = user.clone();
        let added = self.with_store(move |store| store.add(&record)).await?;
        if !added {
            let message = format!("there is a user `{}` already", user.name);
            let problem = Problem::new("user.exists", ExitCode::Conflict, message);
            return Err(problem.hint_command("see them", format!("aap user show {}", user.name)));
        }
        Ok((user, made_up))
    }

    /// Changes a user; a new password and a lock end their sessions. Returns a password that was made up.
    ///
    /// # Errors
    /// `user.unknown`, `role.unknown` (3), `auth.password_refused` (2), `user.changed_meanwhile` (6).
    pub(crate) async fn change(&self, name: &str, change: Change) -> Result<(User, Option<Secret>), Problem> {
        let Change { display, add_roles, remove_roles, disabled, password } = change;
        let mut user = self.user(name).await?;
        if password.is_some() {
            require_local(&user, "their password")?;
        }
        if !add_roles.is_empty() || !remove_roles.is_empty() {
            require_local(&user, "their roles")?;
        }
        self.require_roles(&add_roles).await?;
        // Whoever is let in again begins anew, also where their sessions could not be ended when they were locked.
        let ends_sessions = password.is_some() || disabled.is_some_and(|disabled| disabled || user.disabled);
        let locks = disabled == Some(true);
        let mut made_up = None;
        if let Some(password) = password {
            let (hash, new) = self.hashed(&user.name, password).await?;
            user.must_change_password = new.is_some();
            user.password = Some(hash);
            made_up = new;
        }
        if ends_sessions && !locks {
            // Where sessions cannot be ended now, nothing is changed; and none ends for a password that is refused.
            self.end_sessions_of(&user.uid).await?;
        }
        user.display = display.map_or(user.display, |display| line(&display));
        user.disabled = disabled.unwrap_or(user.disabled);
        user.roles = united(user.roles, add_roles, &remove_roles);
        let user = self.put(user).await?;
        if ends_sessions {
            let uid = user.uid.clone();
            self.with_store(move |store| store.remove::<LoginFailures>(&uid)).await?;
            match self.end_sessions_of(&user.uid).await {
                Err(problem) if locks || made_up.is_some() => {
                    // They are refused all the same where their user is locked; else those of before are gone, and the new password must not be.
                    tracing::warn!(%problem, user = %user.name, "sessions of a user who was changed cannot be removed");
                }
                ended => ended?,
            }
        }
        Ok((user, made_up))
    }

    async fn end_sessions_of(&self, uid: &str) -> Result<(), Problem> {
        let uid = uid.to_owned();
        self.with_store(move |store| store.remove_all_of::<Session>(&uid)).await?;
        self.inner.guard.forget();
        Ok(())
    }

    /// Changes a user's own password, and ends their sessions but `keep`. Returns how many ended.
    ///
    /// # Errors
    /// `auth.login_refused` (4) where the one before is wrong, `auth.password_refused` (2).
    pub(crate) async fn change_password(
        &self,
        name: &str,
        keep: Option<&str>,
        (before, after): (Secret, Secret),
    ) -> Result<u64, Problem> {
        let user = self.user(name).await?;
        require_local(&user, "their password")?;
        let is_same = before.reveal() == after.reveal();
        let checked = self.checked(Some(user), before, self.now_us()).await?;
        let mut user = checked.ok_or_else(|| {
            Problem::new(
                "auth.login_refused",
                ExitCode::LoginNeeded,
                "the password that you have now is another",
            )
            .hint("type the one that you logged in with")
        })?;
        if is_same {
            let message = "the new password is the one before";
            return Err(usage("auth.password_refused", message).hint("choose another"));
        }
        let (hash, _) = self.hashed(&user.name, Some(after)).await?;
        user.password = Some(hash);
        user.must_change_password = false;
        // Where sessions cannot be ended now, nothing is changed.
        self.sessions(Some(user.uid.clone())).await?;
        let user = self.put(user).await?;
        let keep = keep.unwrap_or_default().to_owned();
        let mut ended = 0;
        for session in self.sessions(Some(user.uid)).await? {
            if session.id.as_str() != keep && self.end_session(session.id.as_str()).await? {
                ended += 1;
            }
        }
        self.inner.guard.forget();
        Ok(ended)
    }

    /// Deletes a user with everything of theirs: how many sessions ended, and tokens.
    ///
    /// # Errors
    /// `user.unknown` (3).
    pub(crate) async fn delete(&self, name: &str) -> Result<(u64, u64), Problem> {
        let user = self.user(name).await?;
        let sessions = self.sessions(Some(user.uid.clone())).await?.len() as u64;
        let tokens = self.tokens(Some(user.uid)).await?.len() as u64;
        self.with_store(move |store| store.delete_user(&user.name)).await?;
        self.inner.guard.forget();
        Ok((sessions, tokens))
    }

    /// Writes a user who was changed.
    async fn put(&self, mut user: User) -> Result<User, Problem> {
        user.revision += 1;
        user.updated_us = self.now_us();
        let record = user.clone();
        self.with_store(move |store| store.put_user(&record)).await?;
        self.inner.guard.forget();
        Ok(user)
    }

    /// The hash of a password that a user may have, or of one that is made up.
    async fn hashed(
        &self,
        name: &UserName,
        password: Option<Secret>,
    ) -> Result<(PasswordHash, Option<Secret>), Problem> {
        let (password, made_up) = match password {
            Some(password) => {
                Passwords::check(&password, name).map_err(aap_access::PasswordFault::problem)?;
                (password, None)
            }
            None => {
                let made_up = made_up()?;
                (made_up.clone(), Some(made_up))
            }
        };
        let hash = self.with_passwords(move |passwords| passwords.hash(&password)).await?;
        Ok((hash, made_up))
    }

    /// Refuses roles that are not there.
    async fn require_roles(&self, roles: &[String]) -> Result<(), Problem> {
        let policy = self.inner.guard.policy().await?;
        match roles.iter().find(|role| !policy.roles().contains_key(*role)) {
            None => Ok(()),
            Some(role) => Err(unknown_role(role, policy.roles().keys())),
        }
    }

    /// Refuses to take away a role that somebody has: whoever has a role that is missing may do nothing.
    ///
    /// # Errors
    /// `role.in_use` (6).
    pub(crate) async fn require_unused(&self, role: &str) -> Result<(), Problem> {
        let users = self.users().await?;
        let having: Vec<&str> = users
            .iter()
            .filter(|user| user.roles.iter().any(|known| known == role))
            .map(|user| user.name.as_str())
            .collect();
        let Some(first) = having.first() else { return Ok(()) };
        let message = format!("the role `{role}` is that of {} users: {}", having.len(), having.join(", "));
        Err(Problem::new("role.in_use", ExitCode::Conflict, message)
            .hint_command("take it from them first", format!("aap user set {first} --remove-role {role}")))
    }
}

/// Roles with some more and without others, each once.
fn united(known: Vec<String>, add: Vec<String>, remove: &[String]) -> Vec<String> {
    let mut all: Vec<String> = known.into_iter().chain(add).collect();
    all.sort();
    all.dedup();
    all.retain(|role| !remove.contains(role));
    all
}

/// A text that stands on one line.
fn line(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(LABEL_LETTERS_MAX).collect()
}

/// A password of letters that are not taken for one another.
fn made_up() -> Result<Secret, Problem> {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789-";
    let mut bytes = zeroize::Zeroizing::new([0_u8; MADE_UP_LETTERS]);
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .map_err(|error| no_random(&error))?;
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    Ok(Secret::from(letters.collect::<String>()))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn usage(code: &str, message: impl Into<String>) -> Problem {
    Problem::new(code, ExitCode::Usage, message)
}

fn no_random(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("platform.random", ExitCode::Failed, "the system gives no random numbers").caused_by(error)
}

fn busy() -> Problem {
    Problem::new("auth.busy", ExitCode::Unavailable, "too many log-ins at once")
        .hint("try again in a moment")
        .retry_after_ms(1000)
}

/// The same for a wrong password, a user who is not there and one who is shut out.
fn login_refused() -> Problem {
    Problem::new("auth.login_refused", ExitCode::LoginNeeded, "user or password is wrong")
        .hint("whoever manages users sets a new password: aap user set NAME --reset-password")
}

fn changed_meanwhile() -> Problem {
    Problem::new("user.changed_meanwhile", ExitCode::Conflict, "somebody changed the user at the same time")
        .hint("look at them, and try again")
        .retry_after_ms(0)
}

/// `user.unknown`.
pub(super) fn unknown_user(name: &str) -> Problem {
    let message = format!("there is no user `{}`", name.escape_default());
    Problem::new("user.unknown", ExitCode::NotFound, message).hint_command("list them", "aap user ls")
}

/// `role.unknown`.
pub(super) fn unknown_role<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Problem {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let message = format!("there is no role `{}`", name.escape_default());
    let problem = Problem::new("role.unknown", ExitCode::NotFound, message);
    let problem = match aap_types::nearest(name, &known).first() {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem,
    };
    problem.hint_command("list them", "aap role ls")
}
