//! The section `vault` of a coordinator's configuration.
//!
//! ```yaml
//! vault:
//!   address: https://vault.example:8200
//!   auth: { app_role: { role_id: aap, secret_id: file:/etc/aap/vault-secret-id } }
//! ```

use aap_runtime::SecretRef;
use aap_services::ServiceUrl;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// Where Vault is, and as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSpec {
    /// `https://HOST:PORT`; without TLS only on loopback.
    pub address: String,
    /// A PEM file with the authorities to believe. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
    /// The namespace, where Vault has some. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// As whom.
    pub auth: VaultAuth,
}

/// What is shown to Vault: one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultAuth {
    /// A role of the method AppRole: a token is got for it, renewed, and got anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_role: Option<AppRole>,
    /// A token that somebody else looks after, as an agent of Vault's does. It is renewed where it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretRef>,
}

/// A role of AppRole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRole {
    /// Which: no secret.
    pub role_id: String,
    /// Where its secret id stands: `env:NAME` or `file:PATH`.
    pub secret_id: SecretRef,
    /// Where the method is mounted. Default: `approle`.
    #[serde(default = "mount")]
    pub mount: String,
}

fn mount() -> String {
    "approle".to_owned()
}

impl VaultSpec {
    /// Every secret that is shown to Vault.
    pub fn secrets(&self) -> Vec<SecretRef> {
        let role = self.auth.app_role.iter().map(|role| &role.secret_id);
        role.chain(&self.auth.token).cloned().collect()
    }

    /// Whether it makes sense, as far as that can be told without Vault.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        let url: ServiceUrl = self.address.parse().map_err(|why: String| format!("vault.address: {why}"))?;
        if !url.is_tls() && !url.is_loopback() {
            return Err(format!("vault.address is `{url}`: without TLS secrets go over loopback only"));
        }
        if self
            .namespace
            .as_ref()
            .is_some_and(|name| name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err("vault.namespace is no name of a namespace".to_owned());
        }
        let reference = match (&self.auth.app_role, &self.auth.token) {
            (Some(role), None) => {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
                if role.mount.is_empty() || !role.mount.bytes().all(is_plain) || role.mount.contains("..") {
                    return Err("vault.auth.app_role.mount is no path of a method".to_owned());
                }
                &role.secret_id
            }
            (None, Some(token)) => token,
            _ => return Err("vault.auth needs `app_role` or `token`, one of them".to_owned()),
        };
        match reference.place() {
            None => Ok(()),
            Some(place) => Err(format!(
                "vault.auth refers to `{place}`: what is shown to Vault stands in `env:NAME` or `file:PATH`"
            )),
        }
    }
}
