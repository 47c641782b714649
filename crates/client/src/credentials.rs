//! With what whoever types is known to a platform.
//!
//! ```text
//!  AAP_TOKEN_FILE  >  AAP_TOKEN  >  the stored login  >  run/operator.token of the home
//! ```
//! The first that is there is the one: a token that turns out not to be good is never replaced by the next behind the back of
//! whoever chose it.

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::bearer::Bearer;
use crate::contexts::ContextName;
use crate::environment::{self, Environment};
use crate::stores::Stores;

pub use crate::stores::ChosenStore;

/// What a stored login is, beside its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginFacts {
    /// Who logged in.
    pub user: String,
    /// Whether it is a session, which can be ended, or an API token that was kept.
    pub is_session: bool,
    /// When it is over; 0: never.
    pub expires_us: i64,
    /// How long it lasts without being used; 0: as long as it lasts.
    #[serde(default)]
    pub idle_us: i64,
    /// The certificate authority of the platform, which alone gets to see the token.
    #[serde(default)]
    pub authority: Option<String>,
}

/// A stored login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What is known of it.
    pub facts: LoginFacts,
    /// What is shown to the platform.
    pub token: Secret,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Record {
    token: String,
    #[serde(flatten)]
    facts: LoginFacts,
}

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The file that `AAP_TOKEN_FILE` names.
    TokenFile(Utf8PathBuf),
    /// `AAP_TOKEN` itself.
    Variable,
    /// The stored login.
    Login(LoginFacts),
    /// The operator's token of a home.
    Home(Utf8PathBuf),
}

impl Source {
    /// As `aap auth status` names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TokenFile(_) => environment::TOKEN_FILE,
            Self::Variable => environment::TOKEN,
            Self::Login(_) => "login",
            Self::Home(_) => "home",
        }
    }

    /// What to do where the platform does not accept it. The platform can only guess where it comes from, so its hints go.
    pub fn remedy(&self, problem: Problem) -> Problem {
        let problem = Problem { hints: vec![], ..problem };
        match self {
            Self::TokenFile(path) => {
                problem.hint(format!("it is the token in `{path}`, which AAP_TOKEN_FILE names"))
            }
            Self::Variable => problem.hint("it is the token in AAP_TOKEN; without it a stored login is used"),
            Self::Login(facts) => problem.hint_command("log in again", login_command(Some(&facts.user))),
            Self::Home(path) => problem
                .hint(format!("it is the operator's token in `{path}`; check `--home`"))
                .hint_command("or log in as a user", login_command(None)),
        }
    }
}

/// A token, and where it comes from.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Where it comes from.
    pub source: Source,
    /// What is shown to the platform.
    pub bearer: Bearer,
}

/// What there is for one platform.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Of whoever types; none for programs that act for a home.
    personal: Option<Personal>,
    /// The operator's token, where the platform is one of this machine.
    home_token: Option<Utf8PathBuf>,
}

#[derive(Debug, Clone)]
struct Personal {
    environment: Environment,
    stores: Stores,
    /// What the login is stored under.
    key: String,
    /// Fingerprints of the authority, the newest first; none where it is that of the home.
    authorities: Vec<String>,
}

impl Credentials {
    /// The operator's token of a home, and nothing of whoever types.
    pub(crate) fn of_home(token: Utf8PathBuf) -> Self {
        Self { personal: None, home_token: Some(token) }
    }

    /// What the environment, the store and the home have. `authorities` are the fingerprints of the platform's, the newest first, where it
    /// is not that of the home.
    ///
    /// # Errors
    /// `auth.store_unknown` (2).
    pub(crate) fn new(
        environment: &Environment,
        key: String,
        authorities: Vec<String>,
        home_token: Option<Utf8PathBuf>,
    ) -> Result<Self, Problem> {
        let personal =
            Personal { environment: environment.clone(), stores: Stores::of(environment)?, key, authorities };
        Ok(Self { personal: Some(personal), home_token })
    }

    /// The credential to show.
    ///
    /// # Errors
    /// `auth.login_needed` (4): there is none; `auth.token_unreadable` (4); as those of [`Self::login`].
    pub fn find(&self) -> Result<Credential, Problem> {
        if let Some(personal) = &self.personal {
            if let Some(path) = personal.environment.get(environment::TOKEN_FILE) {
                return of_file(Utf8Path::new(path), Source::TokenFile);
            }
            if let Some(token) = personal.environment.get(environment::TOKEN) {
                let bearer = Bearer::of(&Secret::from(token.to_owned()), environment::TOKEN)?;
                return Ok(Credential { source: Source::Variable, bearer });
            }
            if let Some(login) = self.login()? {
                let bearer = Bearer::of(&login.token, "the stored login")?;
                return Ok(Credential { source: Source::Login(login.facts), bearer });
            }
        }
        match &self.home_token {
            Some(path) => of_file(path, Source::Home).map_err(|problem| {
                problem
                    .hint("the coordinator writes this file when it starts; only its owner can read it")
                    .hint_command("or log in as a user", login_command(None))
            }),
            None => Err(Problem::new("auth.login_needed", ExitCode::LoginNeeded, "nobody is logged in here")
                .hint_command("log in", login_command(None))
                .hint("a program gets a token in a file that AAP_TOKEN_FILE names")),
        }
    }

    /// The stored login, if there is one for this platform.
    ///
    /// # Errors
    /// `auth.store_exposed` (4), `auth.store_sealed` (4), `auth.login_gone` (4); `auth.store_locked` (7), `auth.store_unavailable` (7);
    /// `auth.store` (1).
    pub fn login(&self) -> Result<Option<Login>, Problem> {
        let Some(Personal { stores, key, authorities, .. }) = &self.personal else { return Ok(None) };
        let Some(text) = stores.read(key)? else { return Ok(None) };
        let record: Record = serde_json::from_str(text.reveal()).map_err(|_its_text_is_a_secret| {
            let place = self.store().map(|(_, place)| place).unwrap_or_default();
            Problem::new("auth.store", ExitCode::Failed, format!("`{place}` holds no login"))
                .hint_command("forget it, and log in again", "aap auth logout && aap auth login")
        })?;
        // A context that was made to lead elsewhere does not take the token along.
        let is_of_this_platform = match &record.facts.authority {
            Some(authority) => authorities.contains(authority),
            None => authorities.is_empty(),
        };
        let mut login = Login { facts: record.facts, token: Secret::from(record.token) };
        if !is_of_this_platform {
            return Ok(None);
        }
        if login.facts.authority.as_ref() != authorities.first() {
            // The root is being replaced: once the former one is gone, the login is still known by the new one.
            login.facts.authority = authorities.first().cloned();
            stores.update(key, &text_of(&login))?;
        }
        Ok(Some(login))
    }

    /// The store in which a login could be kept: asked before somebody takes the trouble to log in. `None`: none is kept.
    ///
    /// # Errors
    /// As those of the store that `AAP_CREDENTIAL_STORE` names, else of the last that was tried.
    pub fn choose_store(&self) -> Result<Option<ChosenStore>, Problem> {
        self.personal.as_ref().map(|personal| personal.stores.choose()).transpose()
    }

    /// Stores a login in the place of the former. If that was in another store and cannot be removed there: why.
    ///
    /// # Errors
    /// As those of the store.
    pub fn keep(&self, chosen: &ChosenStore, mut login: Login) -> Result<Option<Problem>, Problem> {
        let Some(Personal { stores, key, authorities, .. }) = &self.personal else { return Ok(None) };
        login.facts.authority = authorities.first().cloned();
        stores.keep(chosen, key, &text_of(&login))
    }

    /// Removes the stored login; whether there was one.
    ///
    /// # Errors
    /// As those of the store.
    pub fn forget(&self) -> Result<bool, Problem> {
        match &self.personal {
            Some(Personal { stores, key, .. }) => stores.forget(key),
            None => Ok(false),
        }
    }

    /// The store by name, and where in it the login of this platform is.
    pub fn store(&self) -> Option<(&'static str, String)> {
        let Personal { stores, key, .. } = self.personal.as_ref()?;
        let store = stores.holding(key).ok()?;
        Some((store.name(), store.place(key)))
    }

    /// Whether the environment decides, whatever is stored.
    pub fn is_from_environment(&self) -> bool {
        let set = |personal: &Personal| {
            [environment::TOKEN_FILE, environment::TOKEN]
                .iter()
                .any(|name| personal.environment.get(name).is_some())
        };
        self.personal.as_ref().is_some_and(set)
    }
}

/// What the login of a context is stored under.
pub(crate) fn context_key(name: &ContextName) -> String {
    format!("context-{name}")
}

/// Takes the login of a context along to its new name.
///
/// # Errors
/// As those of the store that it is in.
pub fn rename_login(environment: &Environment, from: &ContextName, to: &ContextName) -> Result<(), Problem> {
    Stores::of(environment)?.rename(&context_key(from), &context_key(to))
}

/// Forgets the login of a context that is no more; whether there was one.
///
/// # Errors
/// As those of the store that it is in.
pub fn forget_login(environment: &Environment, name: &ContextName) -> Result<bool, Problem> {
    Stores::of(environment)?.forget(&context_key(name))
}

/// A login as it is stored.
fn text_of(login: &Login) -> Secret {
    let record = Record { token: login.token.reveal().to_owned(), facts: login.facts.clone() };
    Secret::from(serde_json::to_string(&record).expect("texts and numbers are JSON"))
}

fn of_file(path: &Utf8Path, source: impl FnOnce(Utf8PathBuf) -> Source) -> Result<Credential, Problem> {
    let token = aap_runtime::SecretRef::File(path.to_owned()).read().map_err(|error| {
        let message = format!("the token in `{path}` cannot be read");
        Problem::new("auth.token_unreadable", ExitCode::LoginNeeded, message).caused_by(&error)
    })?;
    Ok(Credential { source: source(path.to_owned()), bearer: Bearer::of(&token, &format!("`{path}`"))? })
}

fn login_command(user: Option<&str>) -> String {
    match user.filter(|user| !user.is_empty()) {
        Some(user) => format!("aap auth login {user}"),
        None => "aap auth login".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, text: &str) -> Utf8PathBuf {
            let path = Utf8Path::from_path(self.0.path()).unwrap().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn credentials(
            &self,
            more: &[(&'static str, &str)],
            authority: Option<&str>,
            home: Option<&Utf8Path>,
        ) -> Credentials {
            let folder = ("AAP_STATE_DIR", self.0.path().to_str().unwrap().to_owned());
            let more = more.iter().map(|(name, text)| (*name, (*text).to_owned()));
            // What else keeps secrets on the machine that runs the tests is not meant.
            let store = (environment::CREDENTIAL_STORE, "file".to_owned());
            let environment = Environment::with([folder, store].into_iter().chain(more));
            let authorities = authority.into_iter().flat_map(|text| text.split(' ')).map(str::to_owned);
            let home = home.map(Utf8Path::to_owned);
            Credentials::new(&environment, "context-a".into(), authorities.collect(), home).unwrap()
        }
    }

    fn keep(credentials: &Credentials) {
        let chosen = credentials.choose_store().unwrap().unwrap();
        assert_eq!(credentials.keep(&chosen, login()).unwrap(), None);
    }

    fn login() -> Login {
        let facts =
            LoginFacts { user: "ana".into(), is_session: true, expires_us: 7, idle_us: 3, authority: None };
        Login { facts, token: Secret::from("aaps_x".to_owned()) }
    }

    /// The header that a credential puts on calls.
    fn shown(credential: Credential) -> String {
        use tonic::service::Interceptor;
        let mut bearer = credential.bearer;
        let request = bearer.call(tonic::Request::new(())).unwrap();
        request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_first_that_is_there_is_shown_and_none_takes_the_place_of_a_bad_one() {
        let machine = Machine::new();
        let home = machine.file("operator.token", "of-home\n");
        let file = machine.file("token", "of-file\n");
        let of_file = [("AAP_TOKEN_FILE", file.as_str()), ("AAP_TOKEN", "of-variable")];
        let find =
            |more: &[(&'static str, &str)]| machine.credentials(more, None, Some(&home)).find().unwrap();
        assert_eq!(
            (find(&[]).source, shown(find(&[]))),
            (Source::Home(home.clone()), "Bearer of-home".into())
        );
        keep(&machine.credentials(&[], None, None));
        assert_eq!(
            (find(&[]).source, shown(find(&[]))),
            (Source::Login(login().facts), "Bearer aaps_x".into())
        );
        assert_eq!(shown(find(&of_file[1..])), "Bearer of-variable");
        assert_eq!(
            (find(&of_file).source.name(), shown(find(&of_file))),
            ("AAP_TOKEN_FILE", "Bearer of-file".into())
        );
        for bad in ["/nowhere", machine.file("empty", "\n").as_str()] {
            let problem =
                machine.credentials(&[("AAP_TOKEN_FILE", bad)], None, Some(&home)).find().unwrap_err();
            assert_eq!(
                (problem.code.as_str(), problem.exit),
                ("auth.token_unreadable", ExitCode::LoginNeeded),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_login_is_kept_until_it_is_forgotten_and_shown_to_its_platform_alone() {
        let machine = Machine::new();
        let ours = machine.credentials(&[], Some("ours"), None);
        assert_eq!(ours.find().unwrap_err().code, "auth.login_needed");
        keep(&ours);
        let kept = ours.login().unwrap().unwrap();
        assert_eq!((kept.token.reveal(), kept.facts.authority.as_deref()), ("aaps_x", Some("ours")));
        let problem = machine.credentials(&[], Some("another"), None).find().unwrap_err();
        assert_eq!(problem.hints[0].command.as_deref(), Some("aap auth login"));
        assert!(ours.forget().unwrap() && !ours.forget().unwrap());
    }

    #[test]
    fn a_login_moves_along_while_the_root_of_its_platform_is_replaced() {
        let machine = Machine::new();
        keep(&machine.credentials(&[], Some("former"), None));
        // Nobody used it in between: it is of another platform now, for all that is known.
        assert!(machine.credentials(&[], Some("new"), None).login().unwrap().is_none());
        let during = machine.credentials(&[], Some("new former"), None);
        assert_eq!(during.login().unwrap().unwrap().token.reveal(), "aaps_x");
        assert!(machine.credentials(&[], Some("new"), None).login().unwrap().is_some());
        assert!(machine.credentials(&[], None, None).login().unwrap().is_none());
    }

    #[test]
    fn nothing_of_a_secret_is_in_what_is_printed_for_debugging() {
        let machine = Machine::new();
        let credentials = machine.credentials(&[("AAP_TOKEN", "of-variable")], None, None);
        let text = format!("{credentials:?} {:?} {:?}", credentials.find().unwrap(), login());
        assert!(!text.contains("of-variable") && !text.contains("aaps_x"), "{text}");
        assert!(credentials.is_from_environment());
        let home = Credentials::of_home(machine.file("operator.token", "of-home"));
        assert_eq!((home.find().unwrap().source.name(), home.store()), ("home", None));
    }
}
