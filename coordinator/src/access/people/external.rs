//! Users whom a provider of identities knows: their record is made at their first log-in, and has the roles of the last.

use std::net::IpAddr;

use aap_access::{Origin, User, UserName};
use aap_types::{ExitCode, Problem};

use super::{LoggedIn, People};

/// Somebody whom a provider of identities knows.
#[derive(Debug, Clone)]
pub(crate) struct External {
    pub(crate) origin: Origin,
    pub(crate) name: UserName,
    pub(crate) display: String,
    pub(crate) roles: Vec<String>,
}

impl People {
    /// Begins a session of somebody whom the provider has just vouched for.
    ///
    /// # Errors
    /// `auth.user_disabled` (5), `auth.name_taken` (6), `access.store` (7).
    pub(crate) async fn log_in_external(
        &self,
        external: External,
        from: IpAddr,
    ) -> Result<LoggedIn, Problem> {
        let name = external.name.clone();
        let user = self.known(external).await?.ok_or_else(|| name_taken(&name))?;
        // Their roles may be others than at their last log-in.
        self.inner.guard.forget();
        if user.disabled {
            let message = format!("`{}` is shut out here, whatever the provider says", user.name);
            return Err(Problem::new("auth.user_disabled", ExitCode::Denied, message).hint(format!(
                "whoever manages users lets them in again: `aap user set {} --enable`",
                user.name
            )));
        }
        self.begin(&user, from).await
    }

    /// The record, with what the provider says now; `None`: somebody else has the name. By what the provider calls somebody for ever they
    /// are found again, and keep the name that they had first.
    async fn known(&self, external: External) -> Result<Option<User>, Problem> {
        let (now_us, uid) = (self.now_us(), crate::resources::mint_uid()?);
        self.with_store(move |store| {
            let External { origin, name, display, roles } = external;
            loop {
                if let Some(known) = store.user_of(&origin)? {
                    let update = |user: &mut User| {
                        let is_them = user.uid == known.uid;
                        if is_them && !user.disabled && (user.roles != roles || user.display != display) {
                            (user.roles, user.display) = (roles.clone(), display.clone());
                            (user.revision, user.updated_us) = (user.revision + 1, now_us);
                        }
                        is_them
                    };
                    match store.change(known.name.as_str(), update)? {
                        Some((user, true)) => return Ok(Some(user)),
                        // Deleted since: there is one less to find.
                        _ => continue,
                    }
                }
                let user = User {
                    name: name.clone(),
                    uid: uid.clone(),
                    display: display.clone(),
                    origin: origin.clone(),
                    password: None,
                    must_change_password: false,
                    disabled: false,
                    roles: roles.clone(),
                    revision: 1,
                    created_us: now_us,
                    updated_us: now_us,
                };
                if store.add(&user)? {
                    return Ok(Some(user));
                }
                // By somebody else; or by themselves, who log in for the first time twice at once.
                if store.user_of(&origin)?.is_none() {
                    return Ok(None);
                }
            }
        })
        .await
    }
}

fn name_taken(name: &UserName) -> Problem {
    let message = format!("`{name}` is somebody else here, by another provider or under another subject");
    Problem::new("auth.name_taken", ExitCode::Conflict, message)
        .hint_command("whoever manages users looks who that is", format!("aap user show {name}"))
        .hint(format!("and where it is nobody any more, deletes the record: `aap user delete {name}`"))
}

/// What can only be changed where they are known.
pub(super) fn require_local(user: &User, what: &str) -> Result<(), Problem> {
    let Origin::Oidc { issuer, .. } = &user.origin else { return Ok(()) };
    let message = format!("`{}` comes from `{issuer}`, and {what} cannot be changed here", user.name);
    Err(Problem::new("user.external", ExitCode::Conflict, message)
        .hint("change groups there; what a group may, the section `oidc.roles` of the coordinator's configuration says")
        .hint_command("or shut them out", format!("aap user set {} --disable", user.name)))
}
