//! The section `oidc` of the configuration: which provider of identities, and what it makes of whom.

use std::collections::BTreeMap;

use aap_access::UserName;
use aap_oidc::{Claims, Settings, check_url};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// Without it a provider gives no ID token.
const OPENID: &str = "openid";

/// A provider of identities, by OpenID Connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The provider's own name for itself, a URL with https, as it stands in its tokens.
    pub issuer: String,
    /// As whom the platform is registered there: a public client, with the code flow and PKCE.
    pub client_id: String,
    /// Whom ID tokens may be meant for, one of these. Default: `client_id`.
    #[serde(default)]
    pub audience: Vec<String>,
    /// Authority of the provider's certificate, PEM, from the home on. Default: those of the machine.
    #[serde(default)]
    pub ca: Option<Utf8PathBuf>,
    /// What is asked for. Default: `openid`, `profile`, `email`; `openid` must be among them.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that names the user. Default: `preferred_username`.
    #[serde(default = "user_claim")]
    pub user_claim: String,
    /// The claim that lists their groups; dots lead into it, as in `realm_access.roles`. Default: `groups`.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// The roles of each group. Whoever is in none of them is not let in.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Whether people may log in by a code that they type elsewhere. Default: false, because they can be talked into it by others.
    #[serde(default)]
    pub device: bool,
}

fn scopes() -> Vec<String> {
    [OPENID, "profile", "email"].map(str::to_owned).to_vec()
}

fn user_claim() -> String {
    "preferred_username".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

impl OidcConfig {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_url(&self.issuer).map_err(|error| format!("issuer: {error}"))?;
        if self.issuer.contains(['?', '#']) {
            return Err("issuer: a provider's name has neither `?` nor `#` in it".to_owned());
        }
        for (field, text) in [
            ("client_id", &self.client_id),
            ("user_claim", &self.user_claim),
            ("groups_claim", &self.groups_claim),
        ] {
            if text.is_empty() {
                return Err(format!("{field} is empty"));
            }
        }
        if !self.scopes.iter().any(|scope| scope == OPENID) {
            return Err(format!("scopes must have `{OPENID}` among them"));
        }
        if self.roles.is_empty() {
            return Err("roles gives no group a role, so nobody could log in".to_owned());
        }
        match self.roles.iter().find(|(_, roles)| roles.is_empty()) {
            Some((group, _)) => Err(format!("roles gives the group `{group}` none")),
            None => Ok(()),
        }
    }

    /// What the provider is asked with.
    pub(crate) fn settings(&self) -> Settings {
        let audiences = match self.audience.is_empty() {
            true => vec![self.client_id.clone()],
            false => self.audience.clone(),
        };
        Settings {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            audiences,
            scopes: self.scopes.clone(),
        }
    }

    /// What somebody is called here.
    pub(super) fn name_of(&self, claims: &Claims) -> Result<UserName, Problem> {
        let refused = |cause: String| {
            Problem::new(
                "auth.login_refused",
                ExitCode::LoginNeeded,
                "the provider's name for you is none here",
            )
            .cause(cause)
            .hint("whoever runs the coordinator chooses another claim by `oidc.user_claim`")
        };
        let claim = &self.user_claim;
        let name = claims
            .text(claim)
            .ok_or_else(|| refused(format!("there is no claim `{claim}`, or it is no text")))?;
        UserName::external(name).map_err(|error| refused(format!("the claim `{claim}`: {error}")))
    }

    /// The roles of their groups, each once.
    pub(super) fn roles_of(&self, claims: &Claims) -> Vec<String> {
        let groups = claims.texts(&self.groups_claim);
        let given = groups.iter().filter_map(|group| self.roles.get(*group)).flatten();
        let roles: std::collections::BTreeSet<String> = given.cloned().collect();
        roles.into_iter().collect()
    }
}
