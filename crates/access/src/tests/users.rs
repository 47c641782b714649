//! Users, sessions, API tokens, and what a token may do.

use serde_json::json;

use crate::{
    ApiToken, Because, Credential, HashKey, IssuedKind, IssuedSecret, Kind, Object, Origin, Policy,
    PrincipalKind, Refusal, SecretHash, Session, User, UserName, Verb,
};

fn user() -> User {
    User {
        name: "ana@example.com".parse().unwrap(),
        uid: "1".to_owned(),
        display: String::new(),
        origin: Origin::Local,
        password: None,
        must_change_password: false,
        disabled: false,
        roles: vec!["operator".to_owned()],
        revision: 1,
        created_us: 0,
        updated_us: 0,
    }
}

fn issued(kind: IssuedKind) -> (IssuedSecret, SecretHash) {
    let secret = IssuedSecret::mint(kind).unwrap();
    let hash = HashKey::derive(&[1; 32]).hash(&secret);
    (secret, hash)
}

fn session() -> Session {
    let (secret, hash) = issued(IssuedKind::Session);
    Session {
        id: secret.id().clone(),
        hash,
        user: user().name,
        user_uid: user().uid,
        from: String::new(),
        created_us: 0,
        expires_us: 1_000,
        idle_us: 100,
        used_us: 850,
    }
}

fn api_token() -> ApiToken {
    let (secret, hash) = issued(IssuedKind::ApiToken);
    let scope = json!({ "allow": [
        { "resources": ["stream"], "verbs": ["read", "write"], "names": ["web.*"] },
        { "resources": ["user"], "verbs": ["*"] },
    ] });
    ApiToken {
        id: secret.id().clone(),
        hash,
        user: user().name,
        user_uid: user().uid,
        label: "ci".to_owned(),
        scope: Some(serde_json::from_value(scope).unwrap()),
        created_us: 0,
        expires_us: 1_000,
        used_us: 0,
    }
}

#[test]
fn a_session_is_its_user_until_it_is_over() {
    let session = session();
    let who = session.admits(&session.hash, &user(), 949).unwrap();
    assert_eq!((who.kind, who.name.as_str()), (PrincipalKind::User, "ana@example.com"));
    assert_eq!((who.roles, who.scope, who.credential), (user().roles, None, Some(session.id.clone())));
    let fresh = User { must_change_password: true, ..user() };
    assert!(session.admits(&session.hash, &fresh, 949).unwrap().must_change_password);

    let (_, wrong) = issued(IssuedKind::Session);
    let namesake = User { uid: "2".to_owned(), ..user() };
    let disabled = User { disabled: true, ..user() };
    for (hash, user, now_us, expected) in [
        (&wrong, user(), 900, Refusal::Unknown),
        (&session.hash, namesake, 900, Refusal::Unknown),
        (&session.hash, disabled, 900, Refusal::Disabled),
        (&session.hash, user(), 950, Refusal::Idle),
        (&session.hash, user(), 1_000, Refusal::Expired),
    ] {
        assert_eq!(session.admits(hash, &user, now_us).unwrap_err(), expected);
    }
}

#[test]
fn a_token_may_what_both_its_owner_and_its_scope_may_at_the_time() {
    let (token, policy) = (api_token(), Policy::new([]));
    let decide = |roles: &[&str], verb, kind, name| {
        let owner = User { roles: roles.iter().map(|role| (*role).to_owned()).collect(), ..user() };
        let who = token.admits(&token.hash, &owner, 5).unwrap();
        policy.decide(&who, verb, &Object::named(kind, name)).because
    };
    let allowed = |because| matches!(because, Because::Allows { .. });
    assert!(allowed(decide(&["operator"], Verb::Write, Kind::Stream, "web.logs")));
    assert_eq!(decide(&["operator"], Verb::Write, Kind::Stream, "logs"), Because::BeyondScope);
    assert_eq!(decide(&["operator"], Verb::Query, Kind::Stream, "web.logs"), Because::BeyondScope);
    // The scope gives nothing that its owner has not, and takes nothing back that its owner lost.
    assert_eq!(decide(&["operator"], Verb::Read, Kind::User, "bea"), Because::NothingAllows);
    assert!(allowed(decide(&["admin"], Verb::Read, Kind::User, "bea")));
    assert_eq!(decide(&["viewer"], Verb::Write, Kind::Stream, "web.logs"), Because::NothingAllows);
    assert_eq!(decide(&[], Verb::Read, Kind::Stream, "web.logs"), Because::NothingAllows);

    let whole = ApiToken { scope: None, ..token.clone() };
    let who = whole.admits(&whole.hash, &user(), 5).unwrap();
    assert_eq!((who.kind, who.credential.clone()), (PrincipalKind::ApiToken, Some(whole.id.clone())));
    assert!(policy.decide(&who, Verb::Write, &Object::named(Kind::Stream, "logs")).allowed);
    let (_, wrong) = issued(IssuedKind::ApiToken);
    assert_eq!(token.admits(&wrong, &user(), 5).unwrap_err(), Refusal::Unknown);
    assert_eq!(token.admits(&token.hash, &user(), 1_000).unwrap_err(), Refusal::Expired);
}

#[test]
fn a_use_is_noted_once_a_minute() {
    let (mut token, minute) = (api_token(), 60_000_000);
    assert!(!token.note_use(minute - 1));
    assert!(token.note_use(minute));
    assert!(!token.note_use(minute * 2 - 1));
    assert!(token.note_use(minute * 9));
    assert!(token.note_use(minute * 2), "the clock was set back");
    assert_eq!(token.used_us, minute * 2);
}

#[test]
fn names_of_users_hold_no_tricks() {
    for good in ["a", "ana", "ana.b+c@example.com", "7"] {
        assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
    }
    for bad in ["", "Ana", "ana b", "ana\n", "-a", "@a", "añ", "a/b", "a\u{202e}", &"a".repeat(129)] {
        assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
    }
    let external = UserName::external("Ana@Example.org").unwrap();
    assert_eq!((external.as_str(), external.is_external()), ("oidc:ana@example.org", true));
    assert_eq!("oidc:ana@example.org".parse(), Ok(external));
    assert!(!"oidc.ana".parse::<UserName>().unwrap().is_external());
    for bad in ["", ":a", "oidc:a", "a b", "é", &"a".repeat(128)] {
        assert!(UserName::external(bad).is_err(), "{bad:?}");
    }
    let shown = "a\u{1b}[31m".parse::<UserName>().unwrap_err().to_string();
    assert!(!shown.contains('\u{1b}'), "{shown}");
}
