//! Roles, users, sessions and tokens on the wire.

use std::collections::BTreeMap;

use aap_access::{ApiToken, IssuedId, OneOrAll, Origin, Role, Rule, Session, User};
use aap_proto::v1;
use aap_types::Problem;
use serde_json::json;

use super::usage;

/// Between the values of a label.
const AND: char = ',';

fn words<T: ToString>(list: &[OneOrAll<T>]) -> Vec<String> {
    let word = |of: &OneOrAll<T>| match of {
        OneOrAll::All => "*".to_owned(),
        OneOrAll::One(word) => word.to_string(),
    };
    list.iter().map(word).collect()
}

fn rule(rule: &Rule, deny: bool) -> v1::AccessRule {
    let labels = rule.labels.iter().flatten();
    v1::AccessRule {
        deny,
        resources: words(&rule.resources),
        verbs: words(&rule.verbs),
        names: rule.names.iter().flatten().map(ToString::to_string).collect(),
        labels: labels.map(|(key, values)| (key.clone(), values.join(&AND.to_string()))).collect(),
    }
}

/// The rules of a role.
pub(super) fn rules(role: &Role) -> Vec<v1::AccessRule> {
    let allow = role.allow.iter().map(|of| rule(of, false));
    allow.chain(role.deny.iter().map(|of| rule(of, true))).collect()
}

/// What a token is to be limited to; no rules: to nothing beside its owner.
///
/// # Errors
/// `token.bad_scope` (2).
pub(super) fn scope(rules: Vec<v1::AccessRule>) -> Result<Option<Role>, Problem> {
    if rules.is_empty() {
        return Ok(None);
    }
    let (mut allow, mut deny) = (vec![], vec![]);
    for rule in rules {
        let into = if rule.deny { &mut deny } else { &mut allow };
        let mut written = json!({ "resources": rule.resources, "verbs": rule.verbs });
        if !rule.names.is_empty() {
            written["names"] = json!(rule.names);
        }
        if !rule.labels.is_empty() {
            let values = |text: &str| text.split(AND).map(str::to_owned).collect::<Vec<_>>();
            let labels: BTreeMap<_, _> = rule.labels.iter().map(|(key, text)| (key, values(text))).collect();
            written["labels"] = json!(labels);
        }
        into.push(written);
    }
    let bad = |message: String| usage("token.bad_scope", message);
    let role: Role = serde_json::from_value(json!({ "allow": allow, "deny": deny }))
        .map_err(|error| bad(format!("the token cannot be limited like that: {error}")))?;
    role.check().map_err(|(key, message)| bad(format!("{key}: {message}")))?;
    Ok(Some(role))
}

/// A user as operators see them.
pub(super) fn user(user: &User) -> v1::User {
    v1::User {
        name: user.name.to_string(),
        display: user.display.clone(),
        origin: match &user.origin {
            Origin::Local => "local".to_owned(),
            Origin::Oidc { issuer, .. } => issuer.clone(),
        },
        roles: user.roles.clone(),
        disabled: user.disabled,
        must_change_password: user.must_change_password,
        created_us: user.created_us,
        updated_us: user.updated_us,
        revision: user.revision,
    }
}

/// A session as operators see it; `current` is the one they show.
pub(super) fn session(session: &Session, current: Option<&IssuedId>) -> v1::Session {
    v1::Session {
        id: session.id.to_string(),
        user: session.user.to_string(),
        from: session.from.clone(),
        created_us: session.created_us,
        used_us: session.used_us,
        expires_us: session.expires_us,
        current: Some(&session.id) == current,
    }
}

/// An API token as operators see it.
pub(super) fn token(token: &ApiToken, now_us: i64) -> v1::ApiToken {
    v1::ApiToken {
        id: token.id.to_string(),
        user: token.user.to_string(),
        label: token.label.clone(),
        scope: token.scope.as_ref().map(rules).unwrap_or_default(),
        created_us: token.created_us,
        expires_us: token.expires_us,
        used_us: token.used_us,
        state: if token.expires_us > now_us { "valid" } else { "expired" }.to_owned(),
    }
}
