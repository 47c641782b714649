//! Secrets of HashiCorp Vault: its engine KV, version 2, read as an AppRole or with a token.
//!
//! ```text
//!  resolve ──▶ token ── none, or over ──▶ log in ──▶ read MOUNT/data/PATH ── 403 ──▶ is the token still good?
//!                ▲                                                                      │ no: log in anew, read again
//!  keep ─────────┘ renewed at two thirds of its life, or logged in anew                 └ yes: the policy says no
//! ```
//! Nothing is kept of what was read. Every request has a deadline, and so has every answer to `resolve`.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`VaultSpec`]: the section `vault` of the configuration |
//! | `token.rs` | what is shown to Vault, and how long that holds |
//! | `problem.rs` | what operators are told |

mod problem;
mod spec;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, Resolving, Secret, SecretPlace, SecretSource, Shutdown, VaultPlace};
use aap_services::{Ask, AskError, Service};
use aap_types::Problem;
use bytes::Bytes;
use camino::Utf8Path;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};
use tracing::{info, warn};

pub use spec::{AppRole, VaultAuth, VaultSpec};
use token::Token;

/// Longest time for one request. Vault answers within milliseconds; one that elects a leader takes seconds.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Longest time until a secret is there, with a log-in and a second one.
const RESOLVE_MAX: Duration = Duration::from_secs(15);
/// Between two attempts to renew a token at a Vault that is away.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Vault, as this coordinator sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: VaultSpec,
    service: Service,
    clock: Arc<dyn Clock>,
    /// Held while somebody logs in, so that one does.
    token: Mutex<Option<Token>>,
    /// There is another token.
    changed: Notify,
}

/// What Vault says about a token.
#[derive(Deserialize)]
struct Auth {
    client_token: String,
    /// 0: it does not end.
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Vault {
    /// Asks nothing yet. Paths of the configuration start at `folder`.
    ///
    /// # Errors
    /// The configuration does not make sense, as [`VaultSpec::check`] tells.
    pub fn new(spec: VaultSpec, folder: &Utf8Path, clock: Arc<dyn Clock>) -> Result<Self, String> {
        spec.check()?;
        let ca = spec.ca.as_ref().map(|ca| folder.join(ca));
        let service = Service::new(spec.address.parse()?, ca, ASK_MAX);
        let (token, changed) = Default::default();
        Ok(Self { inner: Arc::new(Inner { spec, service, clock, token, changed }) })
    }

    /// Keeps the token alive until `shutdown`.
    ///
    /// # Errors
    /// None.
    pub async fn keep(self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        while !shutdown.is_requested() {
            let renewal = self.inner.token.lock().await.as_ref().and_then(Token::renew_at);
            let wait = async {
                match renewal {
                    Some(at) => tokio::time::sleep(at.saturating_sub(self.inner.clock.monotonic())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => self.inner.renew().await,
                () = self.inner.changed.notified() => {}
                () = shutdown.requested() => break,
            }
        }
        Ok(())
    }
}

impl SecretSource for Vault {
    fn resolve<'a>(&'a self, place: &'a SecretPlace) -> Resolving<'a> {
        Box::pin(async move {
            let SecretPlace::Vault(place) = place else { return Err(problem::not_ours(place)) };
            let resolved = tokio::time::timeout(RESOLVE_MAX, self.inner.resolve(place)).await;
            resolved.unwrap_or_else(|_| Err(problem::late(self.inner.service.url(), RESOLVE_MAX)))
        })
    }
}

impl Inner {
    async fn resolve(&self, place: &VaultPlace) -> Result<Secret, Problem> {
        let token = self.current().await?;
        let path = format!("/v1/{}/data/{}", place.mount, place.path);
        let (mut status, mut answer) = self.ask(Method::GET, &path, Some(&token), Value::Null).await?;
        if status == StatusCode::FORBIDDEN && !self.is_good(&token).await? {
            info!(vault = %self.service.url(), "the token for Vault is over; logging in anew");
            let token = self.another_than(&token).await?;
            (status, answer) = self.ask(Method::GET, &path, Some(&token), Value::Null).await?;
        }
        match status {
            StatusCode::OK => field(&answer, place),
            StatusCode::FORBIDDEN => Err(problem::denied(place, &answer)),
            // Also where its newest version was deleted.
            StatusCode::NOT_FOUND => {
                Err(problem::not_found(place, "there is no such secret, or it was deleted"))
            }
            status => Err(problem::unexpected(self.service.url(), status, &answer)),
        }
    }

    /// A token that holds, as far as we know.
    async fn current(&self) -> Result<Secret, Problem> {
        let mut token = self.token.lock().await;
        match token.as_ref().filter(|token| token.holds_at(self.clock.monotonic())) {
            Some(token) => Ok(token.value().clone()),
            None => self.log_in(&mut token).await,
        }
    }

    /// Another one, where nobody has got one meanwhile.
    async fn another_than(&self, over: &Secret) -> Result<Secret, Problem> {
        let mut token = self.token.lock().await;
        match token.as_ref().filter(|token| token.value() != over) {
            Some(token) => Ok(token.value().clone()),
            None => self.log_in(&mut token).await,
        }
    }

    async fn log_in(&self, token: &mut Option<Token>) -> Result<Secret, Problem> {
        *token = None;
        let auth = match (&self.spec.auth.app_role, &self.spec.auth.token) {
            (Some(role), _) => self.log_in_as(role).await?,
            (None, Some(reference)) => {
                let value = read(reference.clone()).await?;
                self.look_up(value).await?
            }
            (None, None) => return Err(problem::no_login()),
        };
        let fresh = Token::new(
            Secret::from(auth.client_token),
            auth.lease_duration,
            auth.renewable,
            self.clock.monotonic(),
        );
        let value = fresh.value().clone();
        *token = Some(fresh);
        self.changed.notify_one();
        Ok(value)
    }

    async fn log_in_as(&self, role: &AppRole) -> Result<Auth, Problem> {
        let secret_id = read(role.secret_id.clone()).await?;
        let body = json!({ "role_id": role.role_id, "secret_id": secret_id.reveal() });
        let (status, answer) =
            self.ask(Method::POST, &format!("/v1/auth/{}/login", role.mount), None, body).await?;
        match status {
            StatusCode::OK => self.auth_of(&answer),
            StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND => Err(problem::login_refused(self.service.url(), &answer)),
            status => Err(problem::unexpected(self.service.url(), status, &answer)),
        }
    }

    /// How long a token of the configuration holds.
    async fn look_up(&self, value: Secret) -> Result<Auth, Problem> {
        let (status, answer) = self.ask(Method::GET, LOOK_UP, Some(&value), Value::Null).await?;
        match status {
            StatusCode::OK => Ok(Auth {
                client_token: value.reveal().to_owned(),
                lease_duration: answer["data"]["ttl"].as_u64().unwrap_or(0),
                renewable: answer["data"]["renewable"].as_bool().unwrap_or(false),
            }),
            StatusCode::FORBIDDEN => Err(problem::login_refused(self.service.url(), &answer)),
            status => Err(problem::unexpected(self.service.url(), status, &answer)),
        }
    }

    /// Whether Vault still knows a token.
    async fn is_good(&self, token: &Secret) -> Result<bool, Problem> {
        let (status, _) = self.ask(Method::GET, LOOK_UP, Some(token), Value::Null).await?;
        Ok(status == StatusCode::OK)
    }

    /// Renews the token, or gets another. What fails is tried again while the token holds, and by the next who needs it.
    async fn renew(&self) {
        let mut token = self.token.lock().await;
        let Some(before) = token.as_mut() else { return };
        let now = self.clock.monotonic();
        let renewed = match before.is_renewable() {
            true => {
                self.ask(Method::POST, "/v1/auth/token/renew-self", Some(before.value()), json!({})).await
            }
            false => Ok((StatusCode::FORBIDDEN, Value::Null)),
        };
        match renewed {
            Ok((StatusCode::OK, answer)) => match self.auth_of(&answer) {
                Ok(auth) if before.renewed(auth.lease_duration, now) => return,
                // Its last renewal: it cannot live longer than its role says.
                Ok(_) => {}
                Err(problem) => warn!(code = problem.code, "{problem}"),
            },
            Ok((status, _)) if status.is_client_error() => {}
            Ok((status, _)) => {
                warn!(vault = %self.service.url(), %status, "the token for Vault cannot be renewed now");
                return before.try_again_at(now + RENEW_AGAIN);
            }
            Err(problem) => {
                warn!(vault = %self.service.url(), causes = ?problem.causes, "the token for Vault cannot be renewed now");
                return before.try_again_at(now + RENEW_AGAIN);
            }
        }
        if let Err(problem) = self.log_in(&mut token).await {
            warn!(code = problem.code, causes = ?problem.causes, "{problem}");
        }
    }

    fn auth_of(&self, answer: &Value) -> Result<Auth, Problem> {
        Auth::deserialize(&answer["auth"])
            .map_err(|_nothing_to_show| problem::unexpected(self.service.url(), StatusCode::OK, &Value::Null))
    }

    /// Status and JSON of an answer. A Vault that is sealed, or no leader yet, counts as away.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Value,
    ) -> Result<(StatusCode, Value), Problem> {
        let mut headers = vec![];
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.reveal()).map_err(|_| problem::token_form())?;
            value.set_sensitive(true);
            headers.push(("x-vault-token", value));
        }
        if let Some(namespace) =
            self.spec.namespace.as_ref().and_then(|name| HeaderValue::from_str(name).ok())
        {
            headers.push(("x-vault-namespace", namespace));
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let asked = self.service.ask(Ask { method, path, headers, body }).await;
        let (status, answer) =
            asked.map_err(|error: AskError| problem::unreachable(self.service.url(), &error))?;
        let answer = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            true => Err(problem::not_ready(self.service.url(), status, &answer)),
            false => Ok((status, answer)),
        }
    }
}

/// Where Vault says what it knows of the token that is shown.
const LOOK_UP: &str = "/v1/auth/token/lookup-self";

async fn read(reference: aap_runtime::SecretRef) -> Result<Secret, Problem> {
    let read = tokio::task::spawn_blocking(move || reference.read()).await;
    match read {
        Ok(read) => read.map_err(|error| problem::unreadable(&error)),
        Err(panic) => Err(problem::unreadable(&panic)),
    }
}

fn field(answer: &Value, place: &VaultPlace) -> Result<Secret, Problem> {
    match &answer["data"]["data"][&place.field] {
        Value::String(value) => Ok(Secret::from(value.clone())),
        Value::Null => Err(problem::not_found(place, "the secret has no such field")),
        _ => Err(problem::not_found(place, "the field is no text")),
    }
}
