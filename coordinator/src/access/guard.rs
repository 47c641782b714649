//! Who calls, and whether they may: between the operators' port and the services.
//!
//! ```text
//! bearer token ──► the home's token | session | API token ──► Principal ──► rule of the call ──► service, with its Caller
//!                        kept for a few seconds, with the roles            one object at least     each object
//! ```
//! What is kept is forgotten at once where this process changes it. What others change counts after [`KEPT`] at the latest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_access::{
    ApiToken, Credential, IssuedId, IssuedKind, IssuedSecret, Kind, Labels, NodeFacts, NodeIdentity, Object,
    Permission, Policy, Principal, PrincipalKind, Reach, Refusal, Role, SecretHash, Session, User, Verb,
};
use aap_proto::Call;
use aap_runtime::documents::Document;
use aap_store::{Record, ResourceRecord, ResourceStore};
use aap_types::{ExitCode, NodeId, Problem};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tonic::Request;
use zeroize::Zeroizing;

use super::rules::{Rule, rule};
use super::{ROLE, store_failed};
use crate::identities::Identities;

/// How long is kept who a token is, and what roles there are. With the look at answers under way ([`LOOK_EVERY`]) it makes less than the five
/// seconds within which a change of rights must count.
const KEPT: Duration = Duration::from_secs(2);
/// How often an answer that goes on for long is asked whether it still may.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long such looks may fail because nobody can say who they are. A server that is started anew is back by then, and whoever was locked
/// meanwhile must not read on for ever.
const UNCHECKED_MAX: Duration = Duration::from_secs(60);
/// Tokens that are kept at once: more than operators have, and a bound for whoever shows a new one with every call. Wrong ones are not kept.
const KEPT_MAX: usize = 4_096;
/// Longest text that is looked at as a token: ours have some 60 letters.
const TOKEN_BYTES_MAX: usize = 256;

/// Tells who calls. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of the home: whoever reads the file operates this machine.
    operator_token: Zeroizing<String>,
    identities: Identities,
    resources: Arc<dyn ResourceStore>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    principals: HashMap<SecretHash, (Duration, Arc<Principal>)>,
    policy: Option<(Duration, Arc<Policy>)>,
    /// Counts [`Guard::forget`], so that what was looked up before it is not kept after it.
    forgotten: u64,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// What a call was about, as far as it was looked at: for whoever records it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched(Arc<Mutex<Objects>>);

#[derive(Debug, Default)]
struct Objects {
    named: Vec<(Kind, String)>,
    /// What else is worth knowing later.
    told: Vec<(&'static str, String)>,
    denied: bool,
}

impl Touched {
    /// More objects than anybody reads in one record.
    const MAX: usize = 8;

    /// Notes an object.
    pub(crate) fn note(&self, kind: Kind, name: &str) {
        let mut objects = self.objects_mut();
        let is_known = objects.named.iter().any(|(known, named)| *known == kind && named == name);
        if !is_known && objects.named.len() < Self::MAX {
            objects.named.push((kind, name.to_owned()));
        }
    }

    /// Notes something that is no object, and no secret.
    pub(crate) fn tell(&self, what: &'static str, text: &str) {
        self.objects_mut().told.push((what, text.to_owned()));
    }

    /// What was noted so.
    pub(crate) fn told(&self) -> Vec<(&'static str, String)> {
        self.objects_mut().told.clone()
    }

    /// Notes that it may not be done, whatever the caller is told: of what they may not see, that it is not there.
    fn note_denial(&self) {
        self.objects_mut().denied = true;
    }

    /// Whether something of it may not be done.
    pub(crate) fn was_denied(&self) -> bool {
        self.objects_mut().denied
    }

    fn objects_mut(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kinds and names.
    pub(crate) fn objects(&self) -> Vec<(Kind, String)> {
        self.objects_mut().named.clone()
    }

    /// The user that it was about, if it was.
    pub(crate) fn user(&self) -> String {
        let user = self.objects().into_iter().find(|(kind, _)| *kind == Kind::User);
        user.map(|(_, name)| name).unwrap_or_default()
    }
}

/// Why a call does not get to its service.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) problem: Problem,
    /// Who made it, if that is known.
    pub(crate) caller: Option<Caller>,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, caller: None }
    }
}

/// Who calls, and what they may: in the extensions of every request that a service sees.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Arc<Principal>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) from: IpAddr,
    touched: Touched,
    guard: Guard,
    /// What was shown, to be looked at again.
    shown: Arc<Zeroizing<String>>,
}

impl Guard {
    pub(crate) fn new(
        operator_token: String,
        identities: Identities,
        resources: Arc<dyn ResourceStore>,
    ) -> Self {
        let (operator_token, kept) = (Zeroizing::new(operator_token), Mutex::default());
        Self { inner: Arc::new(Inner { operator_token, identities, resources, kept }) }
    }

    /// Something that decides who may what was changed here.
    pub(crate) fn forget(&self) {
        let mut kept = self.kept();
        kept.principals.clear();
        kept.policy = None;
        kept.forgotten += 1;
    }

    /// Whether a service may see a call, and who makes it. Nobody for a call that needs nothing.
    ///
    /// # Errors
    /// `auth.token_missing`, `auth.token_refused`, `auth.session_over` (4), `auth.denied` (5), `access.store` (7).
    pub(crate) async fn admit(
        &self,
        call: Call,
        shown: Option<&str>,
        from: IpAddr,
        touched: &Touched,
    ) -> Result<Option<Caller>, Refused> {
        let permissions = match rule(call) {
            Rule::Open => return Ok(None),
            Rule::Known => vec![],
            Rule::Needs(permission) => vec![permission],
            Rule::AnyOf(permissions) => permissions.to_vec(),
        };
        let caller = Caller { touched: touched.clone(), ..self.caller(shown, from).await? };
        let may = |permission: &Permission| match permission.kind {
            Some(kind) => caller.reaches(kind, permission.verb),
            None => super::DECLARED.iter().any(|kind| caller.reaches(*kind, permission.verb)),
        };
        match permissions.is_empty() || permissions.iter().any(may) {
            true => Ok(Some(caller)),
            false => Err(Refused { problem: caller.denied_all(&permissions), caller: Some(caller) }),
        }
    }

    /// Who shows a bearer token.
    ///
    /// # Errors
    /// As [`Self::admit`], but for `auth.denied`.
    pub(crate) async fn caller(&self, shown: Option<&str>, from: IpAddr) -> Result<Caller, Problem> {
        let shown = shown.ok_or_else(token_missing)?;
        let principal = self.principal(shown).await?;
        let policy = self.policy().await?;
        let (guard, shown) = (self.clone(), Arc::new(Zeroizing::new(shown.to_owned())));
        Ok(Caller { principal, policy, from, touched: Touched::default(), guard, shown })
    }

    async fn principal(&self, shown: &str) -> Result<Arc<Principal>, Problem> {
        if is_same(shown.as_bytes(), self.inner.operator_token.as_bytes()) {
            return Ok(Arc::new(Principal::operator()));
        }
        let secret = secret_of(shown).ok_or_else(token_refused)?;
        let hash = self.inner.identities.key().hash(&secret);
        let now = self.inner.identities.clock().monotonic();
        let forgotten = {
            let kept = self.kept();
            match kept.principals.get(&hash) {
                Some((at, principal)) if now.saturating_sub(*at) < KEPT => return Ok(principal.clone()),
                _ => kept.forgotten,
            }
        };
        let (inner, wanted) = (self.inner.clone(), hash);
        let found = spawn_blocking(move || inner.look_up(&secret, &wanted)).await;
        let principal = Arc::new(found.map_err(|panic| store_failed(&panic))??);
        let mut kept = self.kept();
        if kept.forgotten == forgotten {
            if kept.principals.len() >= KEPT_MAX {
                kept.principals.clear();
            }
            kept.principals.insert(hash, (now, principal.clone()));
        }
        Ok(principal)
    }

    /// All roles.
    pub(crate) async fn policy(&self) -> Result<Arc<Policy>, Problem> {
        let now = self.inner.identities.clock().monotonic();
        let forgotten = {
            let kept = self.kept();
            match &kept.policy {
                Some((at, policy)) if now.saturating_sub(*at) < KEPT => return Ok(policy.clone()),
                _ => kept.forgotten,
            }
        };
        let resources = self.inner.resources.clone();
        let declared = spawn_blocking(move || resources.resources()).await;
        let declared =
            declared.map_err(|panic| store_failed(&panic))?.map_err(|error| store_failed(&error))?;
        let policy = Arc::new(Policy::new(declared.iter().filter_map(role_of)));
        let mut kept = self.kept();
        if kept.forgotten == forgotten {
            kept.policy = Some((now, policy.clone()));
        }
        Ok(policy)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Blocking.
    fn look_up(&self, secret: &IssuedSecret, hash: &SecretHash) -> Result<Principal, Problem> {
        let now_us = self.identities.clock().unix_us();
        let admitted = match secret.kind() {
            IssuedKind::Session => self.admitted::<Session>(secret.id(), hash, now_us),
            _ => self.admitted::<ApiToken>(secret.id(), hash, now_us),
        };
        admitted?.map_err(session_over)
    }

    fn admitted<R: Record + Credential + Clone>(
        &self,
        id: &IssuedId,
        hash: &SecretHash,
        now_us: i64,
    ) -> Result<Result<Principal, Refusal>, Problem> {
        let failed = |error: aap_store::Error| store_failed(&error);
        let store = self.identities.store();
        let Some(found) = store.find::<R>(id.as_str()).map_err(failed)? else {
            return Ok(Err(Refusal::Unknown));
        };
        let Some(owner) = store.find::<User>(found.user().as_str()).map_err(failed)? else {
            return Ok(Err(Refusal::Unknown));
        };
        let admitted = found.admits(hash, &owner, now_us);
        if admitted.is_ok() && found.clone().note_use(now_us) {
            store.change(id.as_str(), |kept: &mut R| kept.note_use(now_us)).map_err(failed)?;
        }
        Ok(admitted)
    }
}

impl Caller {
    /// Who makes a call.
    ///
    /// # Errors
    /// `platform.bug`, where the call did not come by way of [`Guard::admit`].
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Problem> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Problem::new("platform.bug", ExitCode::Bug, "a call came past the guard"))
    }

    /// Their name, for whoever writes down who did it.
    pub(crate) fn name(&self) -> &str {
        &self.principal.name
    }

    /// What is noted of their call.
    pub(crate) fn touched(&self) -> &Touched {
        &self.touched
    }

    /// Whether they may do something to an object.
    pub(crate) fn may<'a>(&self, verb: Verb, object: impl Into<Object<'a>>) -> bool {
        self.policy.decide(&self.principal, verb, &object.into()).allowed
    }

    /// Lets on whoever may.
    ///
    /// # Errors
    /// `auth.denied`.
    pub(crate) fn require<'a>(&self, verb: Verb, object: impl Into<Object<'a>>) -> Result<(), Problem> {
        let object = object.into();
        self.touched.note(object.kind, object.name);
        let made = self.policy.decide(&self.principal, verb, &object);
        if made.allowed {
            return Ok(());
        }
        self.touched.note_denial();
        Err(made.problem(&self.principal, verb, &object))
    }

    /// The same of an object that is there or not: whoever may not even see it is told that it is not.
    ///
    /// # Errors
    /// `auth.denied`, or what `unknown` says.
    pub(crate) fn require_of<'a>(
        &self,
        verb: Verb,
        object: impl Into<Object<'a>>,
        unknown: impl FnOnce() -> Problem,
    ) -> Result<(), Problem> {
        let object = object.into();
        let required = self.require(verb, object);
        if required.is_err() && !self.may(Verb::Read, object) { Err(unknown()) } else { required }
    }

    /// Whether they have the rights that somebody had: the same roles, which say the same.
    pub(crate) fn has_rights_of(&self, before: &Self) -> bool {
        let says = |caller: &Self| {
            let role = |name: &String| caller.policy.roles().get(name).cloned();
            caller.principal.roles.iter().map(role).collect::<Vec<_>>()
        };
        let of = |caller: &Self| (caller.principal.roles.clone(), caller.principal.scope.clone());
        of(self) == of(before) && says(self) == says(before)
    }

    /// Which objects of a kind they may do something to.
    pub(crate) fn reach(&self, kind: Kind, verb: Verb) -> Reach {
        self.policy.reach(&self.principal, kind, verb)
    }

    fn reaches(&self, kind: Kind, verb: Verb) -> bool {
        self.reach(kind, verb) != Reach::None
    }

    /// Lets on who is there in person: an API token must not give itself more than it was made for.
    ///
    /// # Errors
    /// `auth.needs_session`.
    pub(crate) fn require_in_person(&self) -> Result<(), Problem> {
        match self.principal.kind {
            PrincipalKind::User | PrincipalKind::Operator => Ok(()),
            _ => {
                let message = "an API token cannot do this: it needs a session";
                let problem = Problem::new("auth.needs_session", ExitCode::Denied, message);
                Err(problem.hint_command("log in", "aap auth login"))
            }
        }
    }

    /// Ends when they are not let on any more: their session ended, or `may` says no of what they may by now.
    pub(crate) async fn until_refused(self, may: impl Fn(&Self) -> bool + Send) -> Problem {
        let mut checked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.guard.caller(Some(&self.shown), self.from).await {
                Ok(now) if may(&now) => checked = Instant::now(),
                Ok(_) => {
                    let message = format!("what {} may see has changed", self.principal);
                    return Problem::new("auth.denied", ExitCode::Denied, message)
                        .hint("ask again; whoever manages roles knows what has changed");
                }
                // The store is away for a moment: who was let on is not sent away for that.
                Err(problem)
                    if problem.exit == ExitCode::Unavailable && checked.elapsed() < UNCHECKED_MAX => {}
                Err(problem) => return problem,
            }
        }
    }

    /// Why they may do none of these.
    fn denied_all(&self, permissions: &[Permission]) -> Problem {
        if self.principal.must_change_password {
            return Problem::new(
                "auth.password_change_needed",
                ExitCode::Denied,
                "the password has to be changed first",
            )
            .hint_command("change it", "aap auth password");
        }
        let words: Vec<String> = permissions.iter().map(|permission| format!("`{permission}`")).collect();
        let message = format!("{} has no role that allows {}", self.principal, words.join(" or "));
        Problem::new("auth.denied", ExitCode::Denied, message)
            .hint("ask whoever manages roles for one that allows it")
            .hint_command("see who you are here", "aap auth whoami")
    }
}

/// A node whose record may be missing: then it has neither site nor labels.
pub(crate) fn facts_of<'a>(node: &'a NodeId, known: Option<&'a NodeIdentity>) -> NodeFacts<'a> {
    static NONE: Labels = Labels::new();
    NodeFacts {
        node,
        site: known.map(|known| &known.site),
        labels: known.map_or(&NONE, |known| &known.labels),
    }
}

/// The role that a record declares. One that cannot be read is missing, and whoever has it may do nothing.
pub(super) fn role_of(record: &ResourceRecord) -> Option<(String, Role)> {
    if record.kind != ROLE {
        return None;
    }
    match Role::read(&Document::of_record(&record.name, &record.document), &record.name) {
        Ok(role) => Some((record.name.clone(), role)),
        Err(error) => {
            tracing::warn!(role = record.name, %error, "a role cannot be read; whoever has it may do nothing");
            None
        }
    }
}

/// What a text is that was shown as a bearer token, if it is one of ours.
fn secret_of(shown: &str) -> Option<IssuedSecret> {
    if shown.len() > TOKEN_BYTES_MAX {
        return None;
    }
    [IssuedKind::Session, IssuedKind::ApiToken]
        .into_iter()
        .find_map(|kind| IssuedSecret::parse(kind, shown).ok())
}

fn token_missing() -> Problem {
    refused("auth.token_missing", "no token was shown")
}

fn token_refused() -> Problem {
    refused("auth.token_refused", "the token that was shown is not one of this platform")
}

fn refused(code: &str, message: &str) -> Problem {
    Problem::new(code, ExitCode::LoginNeeded, message).hint_command("log in", "aap auth login").hint(
        "on the coordinator's machine `run/operator.token` of the platform's home is used; check AAP_HOME",
    )
}

/// Whoever shows a token is not told more than that it is not good: the log says why.
fn session_over(refusal: Refusal) -> Problem {
    tracing::info!(%refusal, "a session or API token was refused");
    Problem::new(
        "auth.session_over",
        ExitCode::LoginNeeded,
        "the session or API token is not good any more, or never was",
    )
    .hint_command("log in again", "aap auth login")
}

/// Compares in a time that does not depend on where they differ.
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
