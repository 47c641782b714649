//! Log-ins at a provider of identities (OpenID Connect), from where a person is sent to who they are here.
//!
//! ```text
//! aap ── StartLogin ──► handle, nonce ──► URL of the provider ──► person
//! aap ── FinishLogin(handle, code, verifier) ──► provider ──► ID token, verified ──► name `oidc:…`, roles of their groups
//! ```
//! The coordinator asks the provider itself. So the tokens of the provider never leave it, what it believes came over TLS from the provider,
//! and a device flow cannot be brought in from outside where the configuration does not allow it. A log-in that has begun is in the memory
//! of the coordinator where it began, and over with its first end, whatever that is.

mod config;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_access::{Origin, UserName};
use aap_oidc::{Claims, CodeRequest, Device, Error, Provider};
use aap_runtime::Clock;
use aap_transport::OutwardTls;
use aap_types::{ExitCode, Problem, network_of};
use camino::Utf8Path;
use tokio::sync::Semaphore;

use crate::access::External;
use crate::resources::mint_uid;

pub use config::OidcConfig;

/// How long a log-in that has begun is remembered. People are waited for five minutes.
const BEGUN_FOR: Duration = Duration::from_secs(10 * 60);
/// Log-ins under way at once, some hundred bytes each; beyond it the oldest is forgotten.
const BEGUN_MAX: usize = 4_096;
/// Of one address, so that nobody can make others' be forgotten from one place.
const BEGUN_OF_ADDRESS_MAX: usize = 64;
/// Questions to the provider at once.
const ASKING_MAX: usize = 64;
/// People of device flows that are waited for at once: each takes up to minutes, and must not keep browsers waiting.
const DEVICES_MAX: usize = 64;
/// Letters of a name on one line.
const DISPLAY_LETTERS_MAX: usize = 100;
/// Longest code, verifier or redirect that is passed on.
const FIELD_BYTES_MAX: usize = 4_096;

/// The log-ins at one provider. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ExternalLogins {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: OidcConfig,
    provider: Provider,
    clock: Arc<dyn Clock>,
    begun: Mutex<HashMap<String, Begun>>,
    asking: Semaphore,
    waiting: Semaphore,
}

/// A log-in that has begun.
#[derive(Debug)]
struct Begun {
    at: Duration,
    from: IpAddr,
    /// What its ID token must have, and no other.
    nonce: String,
    way: Way,
}

/// How its person comes back.
#[derive(Debug)]
enum Way {
    /// With a code, at this URL.
    Browser(String),
    /// Not at all: the provider tells.
    Device(Device),
}

/// How a browser is to come back.
#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) redirect: String,
    pub(crate) challenge: String,
    pub(crate) state: String,
}

/// Where a person is sent.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) handle: String,
    pub(crate) url: String,
    /// What they compare there; empty where they come by a browser of their own.
    pub(crate) code: String,
    /// How long they have.
    pub(crate) lasts: Duration,
}

impl ExternalLogins {
    /// # Errors
    /// What keeps the authority of the provider's certificate from being read.
    pub(crate) fn new(
        config: &OidcConfig,
        home: &Utf8Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, aap_transport::Error> {
        let ca = config.ca.as_ref().map(|path| home.join(path));
        let tls = OutwardTls { ca, identity: None }.client(&[])?;
        let provider = Provider::new(config.settings(), tls, clock.clone());
        let (begun, asking, waiting) =
            (Mutex::default(), Semaphore::new(ASKING_MAX), Semaphore::new(DEVICES_MAX));
        Ok(Self {
            inner: Arc::new(Inner { config: config.clone(), provider, clock, begun, asking, waiting }),
        })
    }

    pub(crate) fn config(&self) -> &OidcConfig {
        &self.inner.config
    }

    /// Begins a log-in: by a browser, or by a device flow.
    ///
    /// # Errors
    /// `auth.device_off` (5), `auth.bad_login` (2), `auth.provider`, `auth.busy` (7).
    pub(crate) async fn start(&self, browser: Option<Browser>, from: IpAddr) -> Result<Started, Problem> {
        let inner = &self.inner;
        let _asking = inner.asking.try_acquire().map_err(|_| busy())?;
        let (handle, nonce) = (mint_uid()?, mint_uid()?);
        let (way, started) = match browser {
            Some(browser) => {
                check_browser(&browser)?;
                let Browser { redirect, challenge, state } = &browser;
                let request = CodeRequest { redirect, challenge, state, nonce: &nonce };
                let url = inner.provider.code_url(&request).await.map_err(|error| problem_of(&error))?;
                let started = Started { handle, url, code: String::new(), lasts: BEGUN_FOR };
                (Way::Browser(browser.redirect), started)
            }
            None if !inner.config.device => return Err(device_off()),
            None => {
                let device = inner
                    .provider
                    .start_device(&nonce, mint_uid()? + &mint_uid()?)
                    .await
                    .map_err(|error| problem_of(&error))?;
                let (url, code) = (device.url.clone(), device.code.clone());
                let started = Started { handle, url, code, lasts: device.lasts };
                (Way::Device(device), started)
            }
        };
        let from = network_of(from);
        self.remember(started.handle.clone(), Begun { at: inner.clock.monotonic(), from, nonce, way });
        Ok(started)
    }

    /// Whether it is a log-in that a person decides on another device, which takes them minutes.
    pub(crate) fn is_device(&self, handle: &str) -> bool {
        matches!(self.begun().get(handle), Some(Begun { way: Way::Device(_), .. }))
    }

    /// Who it is, by the provider. Of a device flow it answers when they have decided.
    ///
    /// # Errors
    /// `auth.login_over`, `auth.login_refused` (4), `auth.provider`, `auth.busy` (7).
    pub(crate) async fn finish(&self, handle: &str, code: &str, verifier: &str) -> Result<Claims, Problem> {
        let inner = &self.inner;
        if code.len().max(verifier.len()) > FIELD_BYTES_MAX {
            return Err(bad_login("a code or verifier of that length is none"));
        }
        let room = if self.is_device(handle) { &inner.waiting } else { &inner.asking };
        // Before the log-in is taken out: who is told to come again must find it.
        let _room = room.try_acquire().map_err(|_| busy())?;
        let Begun { nonce, way, .. } = self.take(handle).ok_or_else(login_over)?;
        let told = match &way {
            Way::Browser(redirect) => inner.provider.redeem((code, verifier), redirect, &nonce).await,
            Way::Device(device) => inner.provider.await_device(device, &nonce).await,
        };
        told.map_err(|error| problem_of(&error))
    }

    /// What somebody is called here.
    ///
    /// # Errors
    /// `auth.login_refused` (4) where the provider's name is none here.
    pub(crate) fn name(&self, claims: &Claims) -> Result<UserName, Problem> {
        self.inner.config.name_of(claims)
    }

    /// What somebody of that name is here.
    ///
    /// # Errors
    /// `auth.no_role` (5).
    pub(crate) fn external(&self, name: UserName, claims: &Claims) -> Result<External, Problem> {
        let config = &self.inner.config;
        let roles = config.roles_of(claims);
        if roles.is_empty() {
            let message = format!("no group of `{name}` at the provider has a role here");
            return Err(Problem::new("auth.no_role", ExitCode::Denied, message)
                .cause(format!("the provider names {}", groups(&claims.texts(&config.groups_claim))))
                .hint("ask whoever manages groups there, or the section `oidc.roles` of the coordinator's configuration"));
        }
        let display = claims.text("name").unwrap_or_default();
        let display =
            display.chars().filter(|letter| !letter.is_control()).take(DISPLAY_LETTERS_MAX).collect();
        let origin = Origin::Oidc { issuer: config.issuer.clone(), subject: claims.subject().to_owned() };
        Ok(External { origin, name, display, roles })
    }

    fn remember(&self, handle: String, log_in: Begun) {
        let mut begun = self.begun();
        let now = log_in.at;
        begun.retain(|_, known| now.saturating_sub(known.at) < BEGUN_FOR);
        let of_address = begun.values().filter(|known| known.from == log_in.from).count();
        let is_older = |known: &&Begun| of_address < BEGUN_OF_ADDRESS_MAX || known.from == log_in.from;
        if of_address >= BEGUN_OF_ADDRESS_MAX || begun.len() >= BEGUN_MAX {
            let all = begun.iter().filter(|(_, known)| is_older(known));
            let oldest = all.min_by_key(|(_, known)| known.at).map(|(handle, _)| handle.clone());
            oldest.map(|oldest| begun.remove(&oldest));
        }
        begun.insert(handle, log_in);
    }

    /// Once.
    fn take(&self, handle: &str) -> Option<Begun> {
        let begun = self.begun().remove(handle)?;
        let age = self.inner.clock.monotonic().saturating_sub(begun.at);
        (age < BEGUN_FOR).then_some(begun)
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<String, Begun>> {
        self.inner.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A browser comes back to the machine that it left from, and to no other; what comes with it has the letters and the length of RFC 7636.
fn check_browser(browser: &Browser) -> Result<(), Problem> {
    let Browser { redirect, challenge, state } = browser;
    let is_here = redirect.parse::<axum::http::Uri>().is_ok_and(|url| {
        let is_loopback = url.host() == Some(&Ipv4Addr::LOCALHOST.to_string());
        url.scheme_str() == Some("http") && is_loopback && url.port_u16().is_some_and(|port| port > 0)
    });
    if !is_here || redirect.len() > FIELD_BYTES_MAX {
        return Err(bad_login("the browser must come back to http://127.0.0.1:PORT/…"));
    }
    let is_plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if challenge.len() != 43 || !is_plain(challenge) {
        return Err(bad_login("the challenge is no SHA-256 in base64url"));
    }
    if !(22..=128).contains(&state.len()) || !is_plain(state) {
        return Err(bad_login("the state must have 22 to 128 letters of base64url"));
    }
    Ok(())
}

fn groups(names: &[&str]) -> String {
    match names {
        [] => "no group".to_owned(),
        names => format!(
            "the groups {}",
            names
                .iter()
                .take(20)
                .map(|name| name.escape_default().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// Of whoever logs in; who the token is, only its signature tells.
fn problem_of(error: &Error) -> Problem {
    match error {
        Error::Url { .. } | Error::Unreachable { .. } | Error::Unusable { .. } => {
            tracing::warn!(%error, "the provider of identities cannot be asked");
            Problem::new("auth.provider", ExitCode::Unavailable, "the provider of identities cannot be asked")
                .cause(error.to_string())
                .hint("try again in a moment; users of the platform itself log in by name: `aap auth login NAME`")
                .retry_after_ms(5_000)
        }
        Error::Expired => login_over(),
        Error::Refused { .. } | Error::Token(_) => {
            tracing::info!(%error, "a log-in at the provider of identities was refused");
            Problem::new(
                "auth.login_refused",
                ExitCode::LoginNeeded,
                "the provider's answer does not let you in",
            )
            .cause(error.to_string())
            .hint_command("begin anew", "aap auth login")
        }
    }
}

fn busy() -> Problem {
    Problem::new("auth.busy", ExitCode::Unavailable, "too many log-ins at once")
        .hint("try again in a moment")
        .retry_after_ms(1000)
}

fn bad_login(message: &str) -> Problem {
    Problem::new("auth.bad_login", ExitCode::Usage, message)
}

fn login_over() -> Problem {
    let message = "the log-in is over: nobody came back in time, or it has ended already";
    Problem::new("auth.login_over", ExitCode::LoginNeeded, message)
        .hint_command("begin anew", "aap auth login")
}

fn device_off() -> Problem {
    let message = "this platform does not allow logging in by a code that is typed elsewhere";
    Problem::new("auth.device_off", ExitCode::Denied, message)
        .hint_command(
            "log in by a browser, also one of another machine with its port forwarded",
            "aap auth login --no-browser",
        )
        .hint("whoever runs the coordinator may allow it by `oidc.device`")
}

/// `auth.oidc_off`.
pub(crate) fn oidc_off() -> Problem {
    Problem::new("auth.oidc_off", ExitCode::Usage, "this platform knows no provider of identities")
        .hint_command("log in by name and password", "aap auth login NAME")
}
