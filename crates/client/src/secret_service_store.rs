//! Logins in the keyring of a desktop: the Secret Service of freedesktop.org, on the D-Bus of the session.
//!
//! ```text
//!  Connection ── OpenSession (Diffie-Hellman) ── SearchItems { application: aap, key } ── Unlock ── GetSecret | CreateItem | Delete
//! ```
//! A bus may take a connection and never answer, start a service that hangs, or ask somebody for a password where nobody sits. So each
//! request runs on a thread of its own within one limit; what is late is given up, with the connection, which ends its prompt too.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use camino::Utf8Path;
use secret_service::{EncryptionType, Error, Item, SecretService};
use zeroize::Zeroizing;

use crate::credential_store::CredentialStore;
use crate::environment::{self, Environment};

/// How long a request may take: a keyring that is open answers in a few milliseconds, and whoever typed a command waits for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// By which attributes items of ours are found.
const APPLICATION: (&str, &str) = ("application", "aap");
const KEY: &str = "key";
/// What an item is, for programs that show it.
const CONTENT_TYPE: &str = "text/plain; charset=utf8";

/// The keyring of whoever is logged in at this desktop.
#[derive(Debug)]
pub(crate) struct SecretServiceStore {
    /// Of the session's bus; none: there is no such session.
    bus: Option<String>,
    /// It was too slow once: one command waits for it once.
    given_up: OnceLock<Problem>,
}

/// Why there is no answer.
#[derive(Debug)]
enum Fault {
    /// Nobody offers the service.
    Absent(String),
    /// Somebody was to type a password, and did not.
    Locked,
    /// The limit passed.
    Late,
    /// It cannot do what it was asked for.
    Failed(String),
}

/// One request, and how far it got.
#[derive(Clone)]
struct Request {
    bus: String,
    key: String,
    /// Somebody is asked for a password.
    is_prompting: Arc<AtomicBool>,
}

impl SecretServiceStore {
    /// As it is named.
    pub(crate) const NAME: &str = "secret-service";

    /// That of the session, if there is one.
    pub(crate) fn of(environment: &Environment) -> Self {
        let said = environment.get(environment::SESSION_BUS).map(str::to_owned);
        let usual = || {
            let socket = Utf8Path::new(environment.get(environment::SESSION_FOLDER)?).join("bus");
            socket.exists().then(|| format!("unix:path={socket}"))
        };
        Self { bus: said.or_else(usual), given_up: OnceLock::new() }
    }

    /// Whether there is a bus to ask.
    pub(crate) fn has_bus(&self) -> bool {
        self.bus.is_some()
    }

    fn ask<T, F>(
        &self,
        key: &str,
        what: &str,
        work: impl FnOnce(Request) -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>>,
    {
        if let Some(problem) = self.given_up.get() {
            return Err(problem.clone());
        }
        let no_bus =
            || Fault::Absent("this session has no D-Bus: DBUS_SESSION_BUS_ADDRESS is not set".to_owned());
        let bus = self.bus.clone().ok_or_else(no_bus);
        let asked = bus.and_then(|bus| {
            let request = Request { bus, key: key.to_owned(), is_prompting: Arc::default() };
            within_limit(request, work)
        });
        asked.map_err(|fault| {
            let is_final = matches!(fault, Fault::Late | Fault::Locked);
            let problem = problem(&label(key), what, fault);
            if is_final { self.given_up.get_or_init(|| problem).clone() } else { problem }
        })
    }
}

impl CredentialStore for SecretServiceStore {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn place(&self, key: &str) -> String {
        label(key)
    }

    fn read(&self, key: &str) -> Result<Option<Secret>, Problem> {
        self.ask(key, "read", read)
    }

    fn write(&self, key: &str, record: &Secret) -> Result<(), Problem> {
        let record = record.clone();
        self.ask(key, "written", move |request| write(request, record))
    }

    fn remove(&self, key: &str) -> Result<bool, Problem> {
        self.ask(key, "removed", remove)
    }
}

/// What the item is called where people look at their keyring.
fn label(key: &str) -> String {
    format!("aap:{key}")
}

async fn read(request: Request) -> Result<Option<Secret>, Fault> {
    let service = request.service().await?;
    let Some(item) = request.item(&service).await? else { return Ok(None) };
    let bytes = Zeroizing::new(item.get_secret().await?);
    let text = std::str::from_utf8(&bytes).map_err(|_| Fault::Failed("it holds no text".to_owned()))?;
    Ok(Some(Secret::from(text.to_owned())))
}

async fn write(request: Request, record: Secret) -> Result<(), Fault> {
    let service = request.service().await?;
    let keyring = service.get_default_collection().await.map_err(|error| match error {
        Error::NoResult => Fault::Absent("it has no default keyring".to_owned()),
        error => error.into(),
    })?;
    if keyring.is_locked().await? {
        request.is_prompting.store(true, Ordering::Relaxed);
        keyring.unlock().await?;
    }
    let secret = record.reveal().as_bytes();
    keyring.create_item(&label(&request.key), request.attributes(), secret, true, CONTENT_TYPE).await?;
    Ok(())
}

async fn remove(request: Request) -> Result<bool, Fault> {
    let service = request.service().await?;
    let Some(item) = request.item(&service).await? else { return Ok(false) };
    item.delete().await?;
    Ok(true)
}

impl Request {
    /// A session in which secrets are encrypted on the bus.
    async fn service(&self) -> Result<SecretService<'static>, Fault> {
        let absent =
            |error: zbus::Error| Fault::Absent(format!("the bus of the session cannot be reached: {error}"));
        let builder = zbus::connection::Builder::address(self.bus.as_str()).map_err(absent)?;
        let bus = builder.build().await.map_err(absent)?;
        Ok(SecretService::connect_with_existing(EncryptionType::Dh, bus).await?)
    }

    /// The item of this platform, open.
    async fn item<'a>(&self, service: &'a SecretService<'static>) -> Result<Option<Item<'a>>, Fault> {
        let found = service.search_items(self.attributes()).await?;
        if let Some(open) = found.unlocked.into_iter().next() {
            return Ok(Some(open));
        }
        let Some(locked) = found.locked.into_iter().next() else { return Ok(None) };
        self.is_prompting.store(true, Ordering::Relaxed);
        locked.unlock().await?;
        Ok(Some(locked))
    }

    fn attributes(&self) -> HashMap<&str, &str> {
        HashMap::from([APPLICATION, (KEY, self.key.as_str())])
    }
}

/// Works on a thread of its own, so that nothing it does can hold the command for longer.
fn within_limit<T, F>(request: Request, work: impl FnOnce(Request) -> F + Send + 'static) -> Result<T, Fault>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Fault>>,
{
    let is_prompting = Arc::clone(&request.is_prompting);
    // One outcome.
    let (tell, told) = sync_channel(1);
    let failed = |error: std::io::Error| Fault::Failed(error.to_string());
    std::thread::Builder::new()
        .name(SecretServiceStore::NAME.to_owned())
        .spawn(move || {
            // Nobody listens any more where the limit passed in the meantime.
            let _nobody = tell.send(run(work(request)));
        })
        .map_err(failed)?;
    match told.recv_timeout(ANSWER_LIMIT) {
        Ok(Err(Fault::Late)) | Err(_) if is_prompting.load(Ordering::Relaxed) => Err(Fault::Locked),
        Ok(outcome) => outcome,
        Err(_late_or_gone) => Err(Fault::Late),
    }
}

fn run<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::Failed(error.to_string()))?;
    let limited = async { tokio::time::timeout(ANSWER_LIMIT, work).await.unwrap_or(Err(Fault::Late)) };
    let outcome = runtime.block_on(limited);
    // What its threads wait for is not waited for.
    runtime.shutdown_background();
    outcome
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Locked | Error::Prompt | Error::PromptDisconnected => Self::Locked,
            Error::Unavailable => Self::Absent("nobody offers it on this session's D-Bus".to_owned()),
            Error::Zbus(zbus::Error::MethodError(name, text, _)) if is_absence(&name) => {
                Self::Absent(text.unwrap_or_else(|| name.to_string()))
            }
            Error::ZbusFdo(zbus::fdo::Error::ServiceUnknown(text)) => Self::Absent(text),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Whether a bus says by this name that the service is not there and cannot be started.
fn is_absence(name: &str) -> bool {
    const PREFIX: &str = "org.freedesktop.DBus.Error.";
    let of_bus = name.strip_prefix(PREFIX).unwrap_or_default();
    matches!(of_bus, "ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "TimedOut")
        || of_bus.starts_with("Spawn.")
}

fn problem(label: &str, what: &str, fault: Fault) -> Problem {
    let message = format!("the login in the Secret Service, `{label}`, cannot be {what}");
    let of = |code, exit| Problem::new(code, exit, message);
    let problem = match fault {
        Fault::Locked => of("auth.store_locked", ExitCode::Unavailable)
            .cause("the keyring is locked, and its password was not typed within 3 s")
            .hint("unlock it at the desktop, with its program for passwords and keys, and type the command again"),
        Fault::Late => of("auth.store_unavailable", ExitCode::Unavailable)
            .cause("it did not answer within 3 s")
            .hint_command("see whether it runs", "busctl --user status org.freedesktop.secrets"),
        Fault::Absent(cause) => of("auth.store_unavailable", ExitCode::Unavailable)
            .cause(cause)
            .hint("it comes with a desktop: GNOME Keyring, KWallet, KeePassXC"),
        Fault::Failed(cause) => of("auth.store", ExitCode::Failed).cause(cause),
    };
    problem.hint_command(
        "or log in anew, into another store",
        "AAP_CREDENTIAL_STORE=encrypted-file aap auth login",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;

    fn store(bus: &str) -> SecretServiceStore {
        SecretServiceStore::of(&Environment::with([(environment::SESSION_BUS, bus.to_owned())]))
    }

    fn code(problem: Problem) -> (String, ExitCode) {
        assert!(!problem.hints.is_empty() && !problem.causes.is_empty(), "{problem:?}");
        (problem.code.to_string(), problem.exit)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is the time of the machine that must not pass")]
    fn a_bus_that_takes_a_connection_and_never_answers_is_given_up_after_three_seconds_and_asked_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let _listens = UnixListener::bind(&path).unwrap();
        let store = store(&format!("unix:path={}", path.to_str().unwrap()));
        let begun = Instant::now();
        let unavailable = ("auth.store_unavailable".to_owned(), ExitCode::Unavailable);
        assert_eq!(code(store.read("k").unwrap_err()), unavailable);
        let waited = begun.elapsed();
        assert!(waited >= ANSWER_LIMIT && waited < ANSWER_LIMIT + Duration::from_secs(2), "{waited:?}");
        let begun = Instant::now();
        assert_eq!(code(store.remove("k").unwrap_err()), unavailable);
        assert!(begun.elapsed() < ANSWER_LIMIT / 2);
    }

    #[test]
    fn where_no_bus_is_there_it_is_said_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let unavailable = ("auth.store_unavailable".to_owned(), ExitCode::Unavailable);
        let gone = store(&format!("unix:path={}/bus", folder.path().to_str().unwrap()));
        for store in [gone, store("no address"), SecretServiceStore::of(&Environment::default())] {
            assert_eq!(code(store.read("k").unwrap_err()), unavailable);
            assert_eq!(code(store.write("k", &Secret::from("x".to_owned())).unwrap_err()), unavailable);
        }
    }

    #[test]
    fn the_bus_is_the_one_that_is_named_else_that_in_the_folder_of_the_session() {
        let folder = tempfile::tempdir().unwrap();
        let session = folder.path().to_str().unwrap().to_owned();
        let of = |more: &[(&'static str, &str)]| {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            SecretServiceStore::of(&Environment::with(more)).bus
        };
        let in_session = (environment::SESSION_FOLDER, session.as_str());
        assert_eq!(of(&[in_session]), None);
        let _listens = UnixListener::bind(folder.path().join("bus")).unwrap();
        assert_eq!(of(&[in_session]), Some(format!("unix:path={session}/bus")));
        assert_eq!(
            of(&[in_session, (environment::SESSION_BUS, "unix:path=/x")]),
            Some("unix:path=/x".to_owned())
        );
    }
}
