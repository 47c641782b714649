//! Which store a login is in: the first that works when it is made, and that one from then on.
//!
//! ```text
//!  aap auth login   AAP_CREDENTIAL_STORE, else the first that a record can be put into and taken out of again:
//!                   secret-service  >  keyutils  >  encrypted-file
//!  any command      AAP_CREDENTIAL_STORE, else what logins/KEY says; where it says nothing, nobody is asked
//! ```
//! A store that is known to hold a login and does not give it is an error: another identity never takes its place unasked. Logins of
//! versions before there were records lie in plain files and are read there, until the next log-in.

use std::sync::Arc;

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;

use crate::credential_store::{self, CredentialStore, FileStore};
use crate::encrypted_file_store::EncryptedFileStore;
use crate::environment::{self, Environment};
use crate::files;
use crate::keyutils_store::KeyutilsStore;
use crate::secret_service_store::SecretServiceStore;

/// What a store is tried out with; no context and no home has a key that begins so. Each command has its own: two may try at once.
const PROBE: &str = "probe-";

type Store = Arc<dyn CredentialStore>;

/// The stores of whoever types.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    /// The one that `AAP_CREDENTIAL_STORE` names.
    named: Option<Store>,
    /// In the order in which they are tried.
    chain: [Store; 3],
    /// In clear, only where it is asked for, or of a former version.
    plain: Store,
    has_bus: bool,
    /// With the name of a store in a file per login.
    records: Utf8PathBuf,
}

/// The store for a new login, tried out.
#[derive(Debug)]
pub struct ChosenStore {
    store: Store,
    /// Why those that are better were passed over, where that is worth saying.
    pub passed_over: Vec<Problem>,
}

impl Stores {
    /// Those that there may be here. Asks none of them.
    ///
    /// # Errors
    /// `auth.store_unknown` (2).
    pub(crate) fn of(environment: &Environment) -> Result<Self, Problem> {
        let state = environment.state_folder();
        let secret_service = SecretServiceStore::of(environment);
        let has_bus = secret_service.has_bus();
        let chain: [Store; 3] = [
            Arc::new(secret_service),
            Arc::new(KeyutilsStore),
            Arc::new(EncryptedFileStore::of(environment)),
        ];
        let plain: Store = Arc::new(FileStore::within(&state));
        let mut stores = Self { named: None, chain, plain, has_bus, records: state.join("logins") };
        if let Some(name) = environment.get(environment::CREDENTIAL_STORE) {
            stores.named = Some(stores.by_name(name).ok_or_else(|| {
                Problem::new("auth.store_unknown", ExitCode::Usage, format!("`{name}` is no store of logins"))
                    .hint(format!("AAP_CREDENTIAL_STORE may be {}", stores.names()))
            })?);
        }
        Ok(stores)
    }

    fn all(&self) -> impl Iterator<Item = &Store> {
        self.chain.iter().chain([&self.plain])
    }

    fn by_name(&self, name: &str) -> Option<Store> {
        self.all().find(|store| store.name() == name).cloned()
    }

    fn names(&self) -> String {
        self.all().map(|store| store.name()).collect::<Vec<_>>().join(", ")
    }

    /// The store that has the login, or would have it.
    ///
    /// # Errors
    /// `auth.store_unknown` (2): a later version wrote down another; `auth.store` (1).
    pub(crate) fn holding(&self, key: &str) -> Result<Store, Problem> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let Some(record) = self.recorded(key)? else { return Ok(self.plain.clone()) };
        self.by_name(&record).ok_or_else(|| {
            let path = self.record(key);
            let message = format!("`{path}` names `{record}`, which is no store of logins here");
            Problem::new("auth.store_unknown", ExitCode::Usage, message)
                .hint_command("log in again, into one that is", "aap auth login")
        })
    }

    fn record(&self, key: &str) -> Utf8PathBuf {
        self.records.join(key)
    }

    fn recorded(&self, key: &str) -> Result<Option<String>, Problem> {
        let record = credential_store::read_private(&self.record(key))?;
        Ok(record.map(|name| name.reveal().trim().to_owned()))
    }

    /// The login, if there is one.
    ///
    /// # Errors
    /// `auth.login_gone` (4): there was one; as those of the store.
    pub(crate) fn read(&self, key: &str) -> Result<Option<Secret>, Problem> {
        let store = self.holding(key)?;
        let found = store.read(key)?;
        if found.is_none() && self.named.is_none() && self.recorded(key)?.is_some() {
            return Err(gone(store.name()));
        }
        Ok(found)
    }

    /// The store for a new login: the one that is named, else the first that works.
    ///
    /// # Errors
    /// As those of the store that is named, else of the last one.
    pub(crate) fn choose(&self) -> Result<ChosenStore, Problem> {
        let mut passed_over = vec![];
        if let Some(store) = &self.named {
            probe(store)?;
            return Ok(ChosenStore { store: store.clone(), passed_over });
        }
        let [others @ .., last] = &self.chain;
        for store in others {
            match probe(store) {
                Ok(()) => return Ok(ChosenStore { store: store.clone(), passed_over }),
                // That a server has no desktop surprises nobody.
                Err(_) if store.name() == SecretServiceStore::NAME && !self.has_bus => {}
                Err(problem) => passed_over.push(problem),
            }
        }
        probe(last)?;
        Ok(ChosenStore { store: last.clone(), passed_over })
    }

    /// Puts a new login into the store that was chosen, and takes the former out of its own. What kept that from being taken out, if
    /// anything did.
    ///
    /// # Errors
    /// As those of the store.
    pub(crate) fn keep(
        &self,
        chosen: &ChosenStore,
        key: &str,
        login: &Secret,
    ) -> Result<Option<Problem>, Problem> {
        let former = self.recorded(key).ok().flatten();
        let name = chosen.store.name();
        chosen.store.write(key, login)?;
        credential_store::write_private(&self.record(key), &format!("{name}\n"))?;
        let former = former.and_then(|former| self.by_name(&former)).unwrap_or_else(|| self.plain.clone());
        if former.name() == name {
            return Ok(None);
        }
        Ok(former.remove(key).err())
    }

    /// Puts what became of a login into the store that it is in.
    ///
    /// # Errors
    /// As those of the store.
    pub(crate) fn update(&self, key: &str, login: &Secret) -> Result<(), Problem> {
        self.holding(key)?.write(key, login)
    }

    /// Removes the login; whether there was one.
    ///
    /// # Errors
    /// As those of the store.
    pub(crate) fn forget(&self, key: &str) -> Result<bool, Problem> {
        let store = self.holding(key)?;
        let removed = store.remove(key)?;
        if self.recorded(key)?.is_some_and(|recorded| recorded == store.name()) {
            let path = self.record(key);
            files::remove(&path).map_err(|error| credential_store::failed(&path, "removed", &error))?;
        }
        Ok(removed)
    }

    /// Takes the login along to another key, within its store.
    ///
    /// # Errors
    /// As those of the store.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Problem> {
        let store = self.holding(from)?;
        if let Some(login) = store.read(from)? {
            self.keep(&ChosenStore { store, passed_over: vec![] }, to, &login)?;
        }
        self.forget(from).map(|_it_was_there| ())
    }
}

/// Whether a login can be put into a store, found there, and taken out again.
fn probe(store: &Store) -> Result<(), Problem> {
    let key = format!("{PROBE}{}", std::process::id());
    store.write(&key, &Secret::from(PROBE.to_owned()))?;
    let found = store.read(&key)?;
    store.remove(&key)?;
    if found.is_some_and(|found| found.reveal() == PROBE) {
        return Ok(());
    }
    let message = format!("`{}` takes logins and does not give them back", store.name());
    Err(Problem::new("auth.store", ExitCode::Failed, message)
        .hint("AAP_CREDENTIAL_STORE=encrypted-file keeps logins in sealed files"))
}

fn gone(store: &str) -> Problem {
    let why = match store {
        KeyutilsStore::NAME => {
            "it is kept until the machine restarts or the session on it ends, and one of both happened"
        }
        _ => "somebody removed it there",
    };
    Problem::new(
        "auth.login_gone",
        ExitCode::LoginNeeded,
        format!("the login that was kept in `{store}` is gone"),
    )
    .cause(why)
    .hint_command("log in again", "aap auth login")
    .hint_command("or go on without a login", "aap auth logout")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A store that works, or one that takes no logins.
    #[derive(Debug)]
    struct Double {
        name: &'static str,
        files: Option<FileStore>,
    }

    impl Double {
        fn files(&self) -> Result<&FileStore, Problem> {
            let broken = || Problem::new("auth.store", ExitCode::Failed, format!("{} is broken", self.name));
            self.files.as_ref().ok_or_else(broken)
        }
    }

    impl CredentialStore for Double {
        fn name(&self) -> &'static str {
            self.name
        }
        fn place(&self, key: &str) -> String {
            key.to_owned()
        }
        fn read(&self, key: &str) -> Result<Option<Secret>, Problem> {
            self.files()?.read(key)
        }
        fn write(&self, key: &str, record: &Secret) -> Result<(), Problem> {
            self.files()?.write(key, record)
        }
        fn remove(&self, key: &str) -> Result<bool, Problem> {
            self.files()?.remove(key)
        }
    }

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> Utf8PathBuf {
            Utf8PathBuf::from(self.0.path().to_str().unwrap()).join(name)
        }

        /// With the stores of the chain that work here.
        fn stores(&self, works: [bool; 3]) -> Stores {
            let environment = Environment::with([("AAP_STATE_DIR", self.path("state").to_string())]);
            let names = [SecretServiceStore::NAME, KeyutilsStore::NAME, EncryptedFileStore::NAME];
            let double = |at: usize| -> Store {
                let files = works[at].then(|| FileStore::within(&self.path(names[at])));
                Arc::new(Double { name: names[at], files })
            };
            Stores { chain: [0, 1, 2].map(double), ..Stores::of(&environment).unwrap() }
        }
    }

    fn login(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    fn log_in(stores: &Stores, text: &str) -> ChosenStore {
        let chosen = stores.choose().unwrap();
        assert_eq!(stores.keep(&chosen, "context-a", &login(text)).unwrap(), None);
        chosen
    }

    fn found(stores: &Stores) -> Option<String> {
        stores.read("context-a").unwrap().map(|login| login.reveal().to_owned())
    }

    #[test]
    fn the_first_store_that_works_takes_a_login_and_is_remembered() {
        let check = |works: [bool; 3], store: &str, passed_over: usize| {
            let machine = Machine::new();
            let mut stores = machine.stores(works);
            stores.has_bus = true;
            let chosen = log_in(&stores, "first");
            assert_eq!((chosen.store.name(), chosen.passed_over.len()), (store, passed_over));
            // All of them work later on: the login is where it was put.
            let later = machine.stores([true; 3]);
            assert_eq!(
                (later.holding("context-a").unwrap().name(), found(&later)),
                (store, Some("first".into()))
            );
            assert!(later.forget("context-a").unwrap());
            assert_eq!(found(&later), None);
            assert!(!machine.path("state/logins/context-a").exists());
        };
        check([true, true, true], "secret-service", 0);
        check([false, true, true], "keyutils", 1);
        check([false, false, true], "encrypted-file", 2);
        let nothing = Machine::new().stores([false; 3]);
        assert_eq!(nothing.choose().unwrap_err().message, "encrypted-file is broken");
        let server = Machine::new().stores([false, true, true]);
        assert!(server.choose().unwrap().passed_over.is_empty(), "no desktop is no surprise");
    }

    #[test]
    fn a_new_login_takes_the_place_of_one_in_another_store_and_of_one_in_clear() {
        let machine = Machine::new();
        FileStore::within(&machine.path("state")).write("context-a", &login("in clear")).unwrap();
        let server = machine.stores([false, false, true]);
        assert_eq!(found(&server), Some("in clear".into()));
        log_in(&server, "sealed");
        assert!(!machine.path("state/credentials/context-a").exists());
        let desktop = machine.stores([true; 3]);
        assert_eq!(found(&desktop), Some("sealed".into()));
        log_in(&desktop, "in the keyring");
        assert_eq!(found(&desktop), Some("in the keyring".into()));
        assert!(!machine.path("encrypted-file/credentials/context-a").exists());
        // The keyring is out of reach: the next login goes elsewhere, and what stays behind is said.
        let away = machine.stores([false, true, true]);
        let stayed = away.keep(&away.choose().unwrap(), "context-a", &login("elsewhere")).unwrap().unwrap();
        assert_eq!(
            (stayed.message.as_str(), found(&away)),
            ("secret-service is broken", Some("elsewhere".into()))
        );
    }

    #[test]
    fn a_login_that_its_store_lost_is_missed_until_it_is_forgotten() {
        let machine = Machine::new();
        let stores = machine.stores([true; 3]);
        log_in(&stores, "first");
        std::fs::remove_dir_all(machine.path("secret-service")).unwrap();
        let problem = stores.read("context-a").unwrap_err();
        assert_eq!((problem.code.as_str(), problem.exit), ("auth.login_gone", ExitCode::LoginNeeded));
        assert!(!stores.forget("context-a").unwrap());
        assert_eq!(found(&stores), None);
        let unreachable = machine.stores([false; 3]);
        log_in(&machine.stores([true; 3]), "second");
        assert!(unreachable.read("context-a").is_err() && unreachable.forget("context-a").is_err());
        assert_eq!(found(&stores), Some("second".into()), "nothing was forgotten");
    }

    #[test]
    fn a_login_goes_along_with_its_context_within_its_store() {
        let machine = Machine::new();
        log_in(&machine.stores([false, true, true]), "first");
        let stores = machine.stores([true; 3]);
        stores.rename("context-a", "context-b").unwrap();
        assert_eq!(found(&stores), None);
        assert_eq!(stores.holding("context-b").unwrap().name(), "keyutils");
        assert_eq!(stores.read("context-b").unwrap(), Some(login("first")));
        stores.rename("context-x", "context-y").unwrap();
        assert_eq!(stores.read("context-y").unwrap(), None);
    }

    #[test]
    fn without_a_login_no_bus_is_asked() {
        let machine = Machine::new();
        let bus = machine.path("bus");
        let listens = UnixListener::bind(&bus).unwrap();
        listens.set_nonblocking(true).unwrap();
        let state = ("AAP_STATE_DIR", machine.path("state").to_string());
        let environment = Environment::with([state, (environment::SESSION_BUS, format!("unix:path={bus}"))]);
        let stores = Stores::of(&environment).unwrap();
        assert_eq!((found(&stores), stores.forget("context-a").unwrap()), (None, false));
        assert_eq!(listens.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_store_that_is_none_is_named() {
        let environment = Environment::with([(environment::CREDENTIAL_STORE, "cloud".to_owned())]);
        assert_eq!(Stores::of(&environment).unwrap_err().code, "auth.store_unknown");
        let machine = Machine::new();
        credential_store::write_private(&machine.path("state/logins/context-a"), "cloud\n").unwrap();
        assert_eq!(machine.stores([true; 3]).read("context-a").unwrap_err().code, "auth.store_unknown");
    }
}
