//! The device flow (RFC 8628): a person decides at another machine, and the provider is asked again and again until they have.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::claims::Claims;
use crate::error::Error;
use crate::provider::{Provider, answered};

/// How long is waited for a person, whatever the provider would allow: what is shown to them must not lie about for long.
pub const DEVICE_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// Between two questions, where the provider does not say (RFC 8628, 3.2), and what is added when it says `slow_down` (3.5).
const INTERVAL_S: u64 = 5;
/// No provider is asked more often.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The name of the flow at the token endpoint.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A device flow that waits for a person.
#[derive(Clone)]
pub struct Device {
    secret: String,
    /// Where the person goes.
    pub url: String,
    /// What they compare, or type there.
    pub code: String,
    /// How long they have.
    pub lasts: Duration,
    interval: Duration,
    verifier: String,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Provider {
    /// Begins a device flow. `verifier` has 43 letters or more that nobody can guess: providers that want PKCE want it here, too.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Unusable`] where the provider has none.
    pub async fn start_device(&self, nonce: &str, verifier: String) -> Result<Device, Error> {
        #[derive(Deserialize)]
        struct Reply {
            device_code: String,
            user_code: String,
            verification_uri: String,
            verification_uri_complete: Option<String>,
            expires_in: u64,
            interval: Option<u64>,
        }
        let metadata = self.metadata().await?;
        let endpoint = metadata.device_endpoint.as_ref().ok_or_else(|| Error::Unusable {
            url: self.settings().issuer.clone(),
            reason: "it has no `device_authorization_endpoint`".to_owned(),
        })?;
        let scope = self.settings().scopes.join(" ");
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        let fields = [
            ("client_id", self.settings().client_id.as_str()),
            ("scope", &scope),
            ("nonce", nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let answer = self.wire().post(endpoint, &fields).await?;
        let reply: Reply = answered(endpoint, &answer)?;
        let url = reply.verification_uri_complete.unwrap_or(reply.verification_uri);
        crate::check_url(&url)?;
        Ok(Device {
            secret: reply.device_code,
            url,
            code: reply.user_code,
            lasts: Duration::from_secs(reply.expires_in).min(DEVICE_WAIT_MAX),
            interval: Duration::from_secs(reply.interval.unwrap_or(INTERVAL_S)).max(INTERVAL_MIN),
            verifier,
        })
    }

    /// Waits until the person has decided.
    ///
    /// # Errors
    /// [`Error::Refused`] where they said no; [`Error::Expired`] where they said nothing.
    pub async fn await_device(&self, device: &Device, nonce: &str) -> Result<Claims, Error> {
        match tokio::time::timeout(device.lasts, self.poll(device)).await {
            Ok(token) => self.claims(&token?, nonce).await,
            Err(_) => Err(Error::Expired),
        }
    }

    async fn poll(&self, device: &Device) -> Result<String, Error> {
        let mut interval = device.interval;
        loop {
            tokio::time::sleep(interval).await;
            let fields = [
                ("grant_type", GRANT),
                ("device_code", &device.secret),
                ("client_id", &self.settings().client_id),
                ("code_verifier", &device.verifier),
            ];
            let answer = self.ask_for_token(&fields).await;
            match (wait_after(&answer, interval), answer) {
                (Some(longer), _) => interval = longer,
                (None, Err(Error::Refused { code, .. })) if code == "expired_token" => {
                    return Err(Error::Expired);
                }
                (None, answer) => return answer,
            }
        }
    }
}

/// How long to wait after an answer before the next question; `None`: there is no next.
pub(crate) fn wait_after(answer: &Result<String, Error>, interval: Duration) -> Option<Duration> {
    match answer {
        Err(Error::Refused { code, .. }) if code == "authorization_pending" => Some(interval),
        Err(Error::Refused { code, .. }) if code == "slow_down" => {
            Some(interval + Duration::from_secs(INTERVAL_S))
        }
        // It may come back while the person still decides; less often (RFC 8628, 3.5).
        Err(Error::Unreachable { .. }) => Some(interval.saturating_mul(2)),
        _ => None,
    }
}
