//! What is asked of a provider: where it is asked, with which keys it signs, and who somebody is.
//!
//! What a provider says of itself is kept for an hour, and longer while it does not answer. A token with a key that is not known is a
//! reason to look at the keys again, but not more often than every half a minute: anybody can name a key that is not there.
//! One asks at a time. Meanwhile, and for a while after it was of no use, whoever else comes is answered with what is known, be it a failure:
//! a provider that is away costs one of them the wait, not each of them one after the other. Whoever asks and goes away before it answers leaves
//! behind how long that was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_runtime::Clock;
use hyper::Uri;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex as Turns;

use crate::claims::Claims;
use crate::error::Error;
use crate::keys::KeySet;
use crate::token::{Expected, Fault, verify};
use crate::wire::{Answer, Wire, check_url, form};

/// How long is kept what a provider says of itself. Keys that it withdrew count no longer than that.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// How often keys are asked for at most.
const KEYS_ASKED_EVERY: Duration = Duration::from_secs(30);
/// How long a failure counts before it is tried again: a person who logs in once more a moment later finds a provider that is back.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// How long a provider may think until it counts as one that does not answer, should whoever asks not wait any longer: half of what is waited for
/// an answer, so that nobody who comes and goes keeps others from one that is slow.
const THINKS: Duration = Duration::from_secs(5);

/// Which provider, and as whom we are known to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The provider's own name, a URL.
    pub issuer: String,
    /// As whom we are known.
    pub client_id: String,
    /// Whom tokens may be meant for; one of these.
    pub audiences: Vec<String>,
    /// What is asked for; `openid` among it.
    pub scopes: Vec<String>,
}

/// How a browser comes back from the provider.
#[derive(Debug, Clone, Copy)]
pub struct CodeRequest<'a> {
    /// Where to.
    pub redirect: &'a str,
    /// S256 of a secret of whoever waits there (RFC 7636).
    pub challenge: &'a str,
    /// By which whoever waits there knows that it is the answer.
    pub state: &'a str,
    /// By which the token is known as that of this log-in.
    pub nonce: &'a str,
}

/// A provider of identities.
#[derive(Debug)]
pub struct Provider {
    settings: Settings,
    wire: Wire,
    clock: Arc<dyn Clock>,
    metadata: Asked<Metadata>,
    keys: Asked<KeySet>,
}

/// Something that is asked of a provider.
#[derive(Debug)]
struct Asked<T> {
    /// Whoever asks holds it meanwhile.
    turn: Turns<()>,
    known: Mutex<Known<T>>,
}

/// What is known of it.
#[derive(Debug)]
struct Known<T> {
    kept: Option<Kept<T>>,
    /// When asking was last of no use, if it was since the last answer, and why.
    failed: Option<(Duration, Error)>,
}

/// An answer, and when it was asked for.
#[derive(Debug)]
struct Kept<T> {
    asked: Duration,
    value: Arc<T>,
}

/// Where a provider is asked.
#[derive(Debug)]
pub(crate) struct Metadata {
    authorization_endpoint: Uri,
    token_endpoint: Uri,
    pub(crate) device_endpoint: Option<Uri>,
    jwks: Uri,
}

impl Provider {
    /// Nothing is asked yet.
    pub fn new(settings: Settings, tls: Arc<rustls::ClientConfig>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, wire: Wire::new(tls), clock, metadata: Asked::default(), keys: Asked::default() }
    }

    /// Which provider it is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Where a person goes who has a browser.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn code_url(&self, request: &CodeRequest<'_>) -> Result<String, Error> {
        let endpoint = self.metadata().await?.authorization_endpoint.to_string();
        let fields = form(&[
            ("response_type", "code"),
            ("client_id", &self.settings.client_id),
            ("redirect_uri", request.redirect),
            ("scope", &self.settings.scopes.join(" ")),
            ("state", request.state),
            ("nonce", request.nonce),
            ("code_challenge", request.challenge),
            ("code_challenge_method", "S256"),
        ]);
        let behind = if endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{endpoint}{behind}{fields}"))
    }

    /// Who it is, for the code that their browser came back with.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Refused`] where the code is not good, or the verifier is another's.
    pub async fn redeem(
        &self,
        (code, verifier): (&str, &str),
        redirect: &str,
        nonce: &str,
    ) -> Result<Claims, Error> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("client_id", &self.settings.client_id),
            ("code_verifier", verifier),
        ];
        let token = self.ask_for_token(&fields).await?;
        self.claims(&token, nonce).await
    }

    /// The ID token that the provider gives for something.
    pub(crate) async fn ask_for_token(&self, fields: &[(&str, &str)]) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Reply {
            // What else is in it gives access to others, and is thrown away.
            id_token: Option<String>,
        }
        let metadata = self.metadata().await?;
        let endpoint = &metadata.token_endpoint;
        let reply: Reply = answered(endpoint, &self.wire.post(endpoint, fields).await?)?;
        reply.id_token.ok_or_else(|| Error::unusable(endpoint, "there is no ID token in it"))
    }

    /// What a token says, if it is good.
    pub(crate) async fn claims(&self, token: &str, nonce: &str) -> Result<Claims, Error> {
        let expected = Expected {
            issuer: &self.settings.issuer,
            client_id: &self.settings.client_id,
            audiences: &self.settings.audiences,
            nonce,
            now_s: self.clock.unix_us() / 1_000_000,
        };
        match verify(token, self.keys(KEPT).await?.as_ref(), &expected) {
            Err(Fault::UnknownKey) => {
                Ok(verify(token, self.keys(KEYS_ASKED_EVERY).await?.as_ref(), &expected)?)
            }
            other => Ok(other?),
        }
    }

    pub(crate) async fn metadata(&self) -> Result<Arc<Metadata>, Error> {
        let ask = Box::pin(async {
            let url =
                format!("{}/.well-known/openid-configuration", self.settings.issuer.trim_end_matches('/'));
            let url = check_url(&url)?;
            Metadata::of(&self.settings.issuer, &url, &self.wire.get(&url).await?)
        });
        self.metadata.get(self, KEPT, ask).await
    }

    async fn keys(&self, not_older: Duration) -> Result<Arc<KeySet>, Error> {
        let metadata = self.metadata().await?;
        let ask = Box::pin(async {
            let answer = self.wire.get(&metadata.jwks).await?;
            if !answer.is_success {
                return Err(Error::unusable(&metadata.jwks, format!("its status is {}", answer.status)));
            }
            KeySet::parse(&answer.body).map_err(|reason| Error::unusable(&metadata.jwks, reason))
        });
        self.keys.get(self, not_older, ask).await
    }
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { turn: Turns::default(), known: Mutex::new(Known { kept: None, failed: None }) }
    }
}

impl<T> Asked<T> {
    /// What is kept, or asks for it anew; while that fails, what was kept still counts.
    async fn get(
        &self,
        of: &Provider,
        not_older: Duration,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Result<Arc<T>, Error> {
        let clock = &of.clock;
        if let Some(known) = self.with(|known| known.at(clock.monotonic(), not_older)) {
            return known;
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                // Whoever looks for something newer than that needs the answer.
                let kept = self.with(|known| known.kept.as_ref().map(|kept| kept.value.clone()));
                if let Some(kept) = kept.filter(|_| not_older >= KEPT) {
                    return Ok(kept);
                }
                let turn = self.turn.lock().await;
                if let Some(known) = self.with(|known| known.at(clock.monotonic(), not_older)) {
                    return known;
                }
                turn
            }
        };
        let mut asking = Asking { asked: self, of, since: Some(clock.monotonic()) };
        let answer = ask.await;
        asking.since = None;
        let now = clock.monotonic();
        self.with(|known| known.learn(now, answer))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Known<T>) -> R) -> R {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// While somebody asks. Dropped where they do not wait for the answer.
struct Asking<'a, T> {
    asked: &'a Asked<T>,
    of: &'a Provider,
    /// None: it answered.
    since: Option<Duration>,
}

impl<T> Drop for Asking<'_, T> {
    fn drop(&mut self) {
        let Some(since) = self.since else { return };
        let now = self.of.clock.monotonic();
        let waited = now.saturating_sub(since);
        if waited >= THINKS {
            let url = self.of.settings.issuer.clone();
            let error = Error::Unreachable { url, reason: format!("nothing came in {waited:.1?}") };
            self.asked.with(|known| known.failed = Some((now, error)));
        }
    }
}

impl<T> Known<T> {
    /// What is answered without asking.
    fn at(&self, now: Duration, not_older: Duration) -> Option<Result<Arc<T>, Error>> {
        let is_within = |since: Duration, limit| now.saturating_sub(since) < limit;
        let kept = self.kept.as_ref();
        if let Some(kept) = kept.filter(|kept| is_within(kept.asked, not_older)) {
            return Some(Ok(kept.value.clone()));
        }
        let (_, error) = self.failed.as_ref().filter(|(since, _)| is_within(*since, FAILURE_KEPT))?;
        Some(kept.map_or_else(|| Err(error.clone()), |kept| Ok(kept.value.clone())))
    }

    fn learn(&mut self, now: Duration, answer: Result<T, Error>) -> Result<Arc<T>, Error> {
        match answer {
            Ok(value) => {
                let value = Arc::new(value);
                self.failed = None;
                self.kept = Some(Kept { asked: now, value: value.clone() });
                Ok(value)
            }
            Err(error) => {
                self.failed = Some((now, error.clone()));
                let Some(kept) = &self.kept else { return Err(error) };
                tracing::warn!(%error, "the provider of identities does not answer; what it said before counts");
                Ok(kept.value.clone())
            }
        }
    }
}

impl Metadata {
    /// What discovery says.
    fn of(issuer: &str, url: &Uri, answer: &Answer) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            authorization_endpoint: String,
            token_endpoint: String,
            device_authorization_endpoint: Option<String>,
            jwks_uri: String,
        }
        let document: Document = answered(url, answer)?;
        if document.issuer != issuer {
            return Err(Error::unusable(
                url,
                format!("it is of the issuer `{}`, not `{issuer}`", document.issuer),
            ));
        }
        Ok(Self {
            authorization_endpoint: check_url(&document.authorization_endpoint)?,
            token_endpoint: check_url(&document.token_endpoint)?,
            device_endpoint: document.device_authorization_endpoint.as_deref().map(check_url).transpose()?,
            jwks: check_url(&document.jwks_uri)?,
        })
    }
}

/// What an answer says, or how the provider refuses.
pub(crate) fn answered<T: DeserializeOwned>(url: &Uri, answer: &Answer) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    if answer.is_success {
        return serde_json::from_slice(&answer.body).map_err(|error| Error::unusable(url, error));
    }
    let status = format!("its status is {}", answer.status);
    if answer.status >= 500 {
        // Its own trouble, which it may be over in a moment.
        return Err(Error::Unreachable { url: url.to_string(), reason: status });
    }
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) => Err(Error::refused(&refusal.error, &refusal.error_description)),
        Err(_) => Err(Error::unusable(url, status)),
    }
}
