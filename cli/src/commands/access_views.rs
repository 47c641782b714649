//! Users, roles, sessions and tokens as objects with the fields of the registry.

use aap_client::rules;
use aap_client::v1::{AccessRule, ApiToken, EnrolmentToken, Role, Session, User, UserReply, WhoAmIReply};
use serde_json::{Value, json};

use super::views::until;
use crate::listing::{Object, object};
use crate::text::rfc3339;

pub(super) fn user(user: &User) -> Object {
    object(json!({
        "user": user.name,
        "display": user.display,
        "roles": user.roles,
        "disabled": user.disabled,
        "must_change_password": user.must_change_password,
        "origin": user.origin,
        "created": rfc3339(user.created_us),
        "updated": rfc3339(user.updated_us),
        "revision": user.revision,
    }))
}

/// With the password that was made up, if one was.
pub(super) fn user_with_password(reply: &UserReply) -> Object {
    let mut item = user(&reply.user.clone().unwrap_or_default());
    let password = Some(&reply.password).filter(|password| !password.is_empty());
    item.insert("password".into(), json!(password));
    item
}

pub(super) fn role(role: &Role) -> Object {
    object(json!({
        "role": role.name,
        "built_in": role.built_in,
        "allow": texts(&role.rules, false),
        "deny": texts(&role.rules, true),
        "users": role.users,
        "rules": role.rules.iter().map(rule).collect::<Vec<_>>(),
    }))
}

/// Rules that allow, or those that deny, as they are typed.
fn texts(rules: &[AccessRule], deny: bool) -> Vec<String> {
    rules.iter().filter(|rule| rule.deny == deny).map(rules::to_text).collect()
}

fn rule(rule: &AccessRule) -> Value {
    json!({
        "deny": rule.deny,
        "resources": rule.resources,
        "verbs": rule.verbs,
        "names": rule.names,
        "labels": rule.labels,
    })
}

pub(super) fn session(session: &Session) -> Object {
    object(json!({
        "id": session.id,
        "user": session.user,
        "from": session.from,
        "created": rfc3339(session.created_us),
        "used": until(session.used_us),
        "expires": until(session.expires_us),
        "current": session.current,
    }))
}

pub(super) fn who(reply: &WhoAmIReply) -> Object {
    object(json!({
        "name": reply.name,
        "kind": reply.kind,
        "roles": reply.roles,
        "expires": until(reply.expires_us),
        "scope": reply.scope.iter().map(rules::to_text).collect::<Vec<_>>(),
        "credential": Some(&reply.credential).filter(|id| !id.is_empty()),
        "must_change_password": reply.must_change_password,
        "coordinator_version": reply.coordinator,
    }))
}

/// A token with which machines become nodes.
pub(super) fn enrolment_token(token: &EnrolmentToken) -> Object {
    object(json!({
        "id": token.id,
        "type": "enrolment",
        "state": token.state,
        "user": null,
        "for": null,
        "site": token.site,
        "node": token.node,
        "uses_left": token.uses_left,
        "expires": rfc3339(token.expires_us),
        "nodes": token.nodes,
        "requires_approval": token.requires_approval,
        "uses": token.uses,
        "labels": token.labels,
        "created": rfc3339(token.created_us),
        "revoked": until(token.revoked_us),
        "author": token.author,
        "used": null,
        "scope": [],
    }))
}

/// A token with which a program acts for a user: what is about machines it has not.
pub(super) fn api_token(token: &ApiToken) -> Object {
    object(json!({
        "id": token.id,
        "type": "api",
        "state": token.state,
        "user": token.user,
        "for": token.label,
        "site": null,
        "node": null,
        "uses_left": null,
        "expires": until(token.expires_us),
        "nodes": [],
        "requires_approval": false,
        "uses": null,
        "labels": {},
        "created": rfc3339(token.created_us),
        "revoked": null,
        "author": null,
        "used": until(token.used_us),
        "scope": token.scope.iter().map(rules::to_text).collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use aap_client::operations::{Id, of};

    use super::*;

    #[test]
    fn objects_have_exactly_the_fields_of_the_registry() {
        let check = |id: Id, object: Object| {
            let mut expected: Vec<&str> = of(id).output.fields().iter().map(|field| field.name).collect();
            expected.sort_unstable();
            let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{id:?}");
        };
        for id in [Id::UserLs, Id::UserShow] {
            check(id, user(&User::default()));
        }
        for id in [Id::UserCreate, Id::UserSet] {
            check(id, user_with_password(&UserReply::default()));
        }
        for id in [Id::RoleLs, Id::RoleShow, Id::RoleCreate] {
            check(id, role(&Role::default()));
        }
        check(Id::AuthSessionLs, session(&Session::default()));
        check(Id::AuthWhoami, who(&WhoAmIReply::default()));
        for id in [Id::TokenLs, Id::TokenRevoke] {
            check(id, enrolment_token(&EnrolmentToken::default()));
            check(id, api_token(&ApiToken::default()));
        }
    }
}
