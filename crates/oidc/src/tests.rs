//! An issuer made here, every attack of row A3 of the security table against the verifier, and the provider against a server of the test.

mod issuer;
mod server;

use std::time::Duration;

use issuer::{CLIENT, ISSUER, Issuer, NONCE, NOW_S, hmac_of};
use serde_json::{Value, json};

use crate::device::wait_after;
use crate::token::{Expected, Fault, verify};
use crate::wire::{check_url, form};
use crate::{Claims, Error, KeySet};

fn expected(audiences: &[String]) -> Expected<'_> {
    Expected { issuer: ISSUER, client_id: CLIENT, audiences, nonce: NONCE, now_s: NOW_S }
}

fn verified(issuer: &Issuer, token: &str) -> Result<Claims, Fault> {
    let keys = KeySet::parse(issuer.jwks().to_string().as_bytes()).unwrap();
    verify(token, &keys, &expected(&[CLIENT.to_owned()]))
}

/// The good claims with some in their place; null takes one away.
fn claims(change: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": CLIENT, "azp": CLIENT, "sub": "7c1", "nonce": NONCE, "exp": NOW_S + 300, "iat": NOW_S,
        "preferred_username": "ana", "groups": ["admins", 7, "people"], "realm_access": {"roles": ["r"]},
    });
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

#[test]
fn a_token_of_the_issuer_is_accepted_with_every_kind_of_key_and_says_who_it_is() {
    let issuer = Issuer::new();
    for (algorithm, key) in [
        ("RS256", "rsa"),
        ("PS256", "rsa"),
        ("RS512", "rsa"),
        ("ES256", "ec"),
        ("ES384", "ec384"),
        ("EdDSA", "ed"),
    ] {
        let token = issuer.token(&json!({"alg": algorithm, "kid": key, "typ": "JWT"}), &claims(json!({})));
        let who = verified(&issuer, &token).unwrap_or_else(|fault| panic!("{algorithm}: {fault}"));
        assert_eq!((who.subject(), who.text("preferred_username")), ("7c1", Some("ana")));
        assert_eq!(who.texts("groups"), ["admins", "people"]);
        assert_eq!(who.texts("realm_access.roles"), ["r"]);
        assert_eq!((who.texts("realm_access.nothing"), who.texts("sub")), (vec![], vec!["7c1"]));
    }
    // Without a key id only where one key alone can be meant.
    let token = issuer.token(&json!({"alg": "ES256"}), &claims(json!({})));
    assert!(verified(&issuer, &token).is_ok());
}

#[test]
fn a3_the_algorithm_is_asymmetric_and_that_of_the_key() {
    let issuer = Issuer::new();
    let body = claims(json!({}));
    let refused = |token: &str, fault: Fault| assert_eq!(verified(&issuer, token), Err(fault), "{token}");
    for none in ["none", "None", "nOnE"] {
        let unsigned = issuer.token_with(&json!({"alg": none, "kid": "rsa"}), &body, |_| vec![]);
        refused(&unsigned, Fault::Algorithm(none.to_owned()));
    }
    // The public key as the secret of a code, in each form that a library might take it in.
    for secret in [issuer.rsa_modulus(), issuer.jwks().to_string().into_bytes()] {
        let header = json!({"alg": "HS256", "kid": "rsa"});
        let token = issuer.token_with(&header, &body, |signed| hmac_of(&secret, signed));
        refused(&token, Fault::Algorithm("HS256".to_owned()));
    }
    // Signed one way, and said to be signed another.
    for (said, made) in [("PS256", "RS256"), ("RS256", "PS256"), ("RS512", "RS256")] {
        let token =
            issuer.token_with(&json!({"alg": said, "kid": "rsa"}), &body, |signed| issuer.sign(made, signed));
        refused(&token, Fault::Signature);
    }
    for (said, key) in [("RS256", "ec"), ("ES256", "rsa"), ("EdDSA", "ec"), ("ES384", "ec"), ("RS256", "ed")]
    {
        let token = issuer.token(&json!({"alg": said, "kid": key}), &body);
        refused(&token, Fault::KeyKind);
    }
    // The issuer says that this one is for RS256 alone.
    let token = issuer.token(&json!({"alg": "PS256", "kid": "rsa-only-rs256"}), &body);
    refused(&token, Fault::KeyKind);
}

#[test]
fn a3_keys_come_from_the_issuer_and_from_nowhere_else() {
    let (issuer, thief) = (Issuer::new(), Issuer::another());
    let body = claims(json!({}));
    let refused = |token: &str, fault: Fault| assert_eq!(verified(&issuer, token), Err(fault), "{token}");
    for id in [
        "../../etc/passwd",
        "/dev/null",
        "x' OR '1'='1",
        "rsa'; DROP TABLE user;--",
        "http://thief.example/k",
        "",
    ] {
        let token = thief
            .token_with(&json!({"alg": "ES256", "kid": id}), &body, |signed| thief.sign("ES256", signed));
        refused(&token, Fault::UnknownKey);
    }
    // Keys that the token brings along, or says where they are.
    for carried in [
        json!({"alg": "ES256", "kid": "ec", "jwk": thief.jwk("ec")}),
        json!({"alg": "ES256", "kid": "ec", "jku": "https://thief.example/jwks"}),
        json!({"alg": "ES256", "kid": "ec", "x5u": "https://thief.example/x5u", "x5c": ["AAAA"]}),
    ] {
        refused(&thief.token(&carried, &body), Fault::Signature);
    }
    // The other way round: what a header carries beside the id of a good key changes nothing.
    let header =
        json!({"alg": "ES256", "kid": "ec", "jku": "https://thief.example/jwks", "jwk": thief.jwk("ec")});
    assert!(verified(&issuer, &issuer.token(&header, &body)).is_ok());
    refused(&issuer.token(&json!({"alg": "ES256", "kid": "ec", "crit": ["b64"]}), &body), Fault::Critical);
    // A key that can only encrypt, and one with a shared secret, are no keys here.
    refused(&issuer.token(&json!({"alg": "RS256", "kid": "rsa-enc"}), &body), Fault::UnknownKey);
    refused(&issuer.token(&json!({"alg": "RS256", "kid": "oct"}), &body), Fault::UnknownKey);
    // RSA keys are several: which, a token must say.
    refused(&issuer.token(&json!({"alg": "RS256"}), &body), Fault::UnknownKey);
}

#[test]
fn a3_a_token_is_for_us_for_now_and_for_one_log_in() {
    let issuer = Issuer::new();
    let check = |change: Value, wanted: Result<(), Fault>| {
        let token = issuer.token(&json!({"alg": "ES256", "kid": "ec"}), &claims(change.clone()));
        assert_eq!(verified(&issuer, &token).map(|_| ()), wanted, "{change}");
    };
    check(json!({"iss": "https://thief.example"}), Err(Fault::Issuer));
    check(json!({"iss": format!("{ISSUER}/")}), Err(Fault::Issuer));
    check(json!({"iss": null}), Err(Fault::Claim("iss")));
    check(json!({"aud": "another"}), Err(Fault::Audience));
    check(json!({"aud": ["another"]}), Err(Fault::Audience));
    check(json!({"aud": []}), Err(Fault::Audience));
    check(json!({"aud": null}), Err(Fault::Claim("aud")));
    check(json!({"aud": {"a": CLIENT}}), Err(Fault::Claim("aud")));
    check(json!({"aud": [CLIENT, "another"]}), Ok(()));
    check(json!({"aud": [CLIENT, "another"], "azp": null}), Err(Fault::AuthorizedParty));
    check(json!({"azp": "another"}), Err(Fault::AuthorizedParty));
    check(json!({"azp": null}), Ok(()));
    check(json!({"exp": NOW_S - 61}), Err(Fault::Expired));
    check(json!({"exp": NOW_S - 60}), Err(Fault::Expired));
    check(json!({"exp": NOW_S - 59}), Ok(()));
    check(json!({"exp": null}), Err(Fault::Claim("exp")));
    check(json!({"exp": "9999999999"}), Err(Fault::Claim("exp")));
    check(json!({"nbf": NOW_S + 61}), Err(Fault::NotYet));
    check(json!({"nbf": NOW_S + 60}), Ok(()));
    check(json!({"nbf": true}), Err(Fault::Claim("nbf")));
    check(json!({"iat": NOW_S + 61}), Err(Fault::IssuedLater));
    check(json!({"iat": NOW_S as f64 + 0.5}), Ok(()));
    check(json!({"iat": null}), Err(Fault::Claim("iat")));
    check(json!({"nonce": "of another log-in"}), Err(Fault::Nonce));
    check(json!({"nonce": ""}), Err(Fault::Nonce));
    check(json!({"nonce": null}), Err(Fault::Nonce));
    check(json!({"sub": ""}), Err(Fault::Subject));
    check(json!({"sub": "a\nb"}), Err(Fault::Subject));
    check(json!({"sub": "x".repeat(256)}), Err(Fault::Subject));
    check(json!({"sub": null}), Err(Fault::Claim("sub")));
}

#[test]
fn a_text_that_was_changed_cut_or_is_no_token_at_all_is_refused() {
    let issuer = Issuer::new();
    let token = issuer.token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims(json!({})));
    assert!(verified(&issuer, &token).is_ok());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verified(&issuer, &changed).is_err(), "letter {at}");
        assert!(verified(&issuer, &token[..at]).is_err(), "cut at {at}");
    }
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "e30.e30.",
        &format!("{token}="),
        &format!("{token}.x"),
        &format!(" {token}"),
    ] {
        assert!(verified(&issuer, bad).is_err(), "{bad}");
    }
    assert_eq!(verified(&issuer, &"a".repeat(65 << 10)), Err(Fault::Form));
    for bad in ["", "{}", "{\"keys\": 1}", "[]"] {
        assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let many: Vec<Value> = (0..65).map(|_| issuer.jwk("ec")).collect();
    assert!(KeySet::parse(json!({ "keys": many }).to_string().as_bytes()).is_err());
    assert_eq!(KeySet::parse(br#"{"keys": [{}, {"kty": "RSA"}, 7]}"#), Ok(KeySet::default()));
}

#[test]
fn urls_lead_to_tls_or_to_this_machine_and_forms_carry_any_text() {
    for good in
        ["https://id.example/realms/a", "http://127.0.0.1:8080", "http://localhost/x", "http://[::1]:1/"]
    {
        assert!(check_url(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "id.example",
        "http://id.example",
        "ftp://127.0.0.1",
        "https://",
        "https://user@id.example/",
        "/path",
    ] {
        assert!(matches!(check_url(bad), Err(Error::Url { .. })), "{bad}");
    }
    assert_eq!(form(&[("a b", "c&d=é"), ("e", "~-._")]), "a%20b=c%26d%3D%C3%A9&e=~-._");
}

#[test]
fn a_device_flow_waits_longer_when_told_and_ends_with_what_is_an_answer() {
    let second = Duration::from_secs(1);
    let said = |code: &str| wait_after(&Err(Error::refused(code, "")), second);
    assert_eq!(said("authorization_pending"), Some(second));
    assert_eq!(said("slow_down"), Some(6 * second));
    assert_eq!((said("access_denied"), said("expired_token"), said("invalid_grant")), (None, None, None));
    let away = Error::Unreachable { url: String::new(), reason: String::new() };
    assert_eq!(wait_after(&Err(away), second), Some(2 * second));
    assert_eq!(wait_after(&Ok(String::new()), second), None);
}
