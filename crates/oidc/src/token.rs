//! What an ID token must be: three parts, a signature by a key of the provider, and claims that are meant for us, now, and for this log-in.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::claims::Claims;
use crate::keys::{Algorithm, Found, KeySet};

/// How far the clocks of two machines may be apart.
pub const LEEWAY: Duration = Duration::from_secs(60);
/// Longest token that is looked at: hundreds of groups fit in.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// As OpenID Connect has it.
const SUBJECT_BYTES_MAX: usize = 255;

/// What a token is held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The provider, letter by letter.
    pub issuer: &'a str,
    /// As whom we are known to it.
    pub client_id: &'a str,
    /// Whom tokens may be meant for; one of these.
    pub audiences: &'a [String],
    /// What was given to this log-in and to no other.
    pub nonce: &'a str,
    /// Now, in seconds since 1970.
    pub now_s: i64,
}

/// Why a token is not accepted. Never repeats the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not three parts of base64url with JSON in them.
    #[error("it is no signed token")]
    Form,
    /// `none`, one with a shared secret, or one that is not known.
    #[error("it is signed with `{0}`, and only RS, PS, ES and EdDSA are accepted")]
    Algorithm(String),
    /// It has an extension that must be understood.
    #[error("it demands extensions that are not known")]
    Critical,
    /// The provider does not list such a key.
    #[error("it names a key that the provider does not list")]
    UnknownKey,
    /// The key is of a kind that does not sign so.
    #[error("its key does not sign with the algorithm that it names")]
    KeyKind,
    /// Another key signed it, or it was changed.
    #[error("its signature is wrong")]
    Signature,
    /// From somebody else.
    #[error("its issuer is another")]
    Issuer,
    /// For somebody else.
    #[error("it is meant for somebody else")]
    Audience,
    /// For several, and asked for by somebody else.
    #[error("another client asked for it")]
    AuthorizedParty,
    /// Too old.
    #[error("it has expired")]
    Expired,
    /// Not good yet.
    #[error("it is not valid yet")]
    NotYet,
    /// It was made later than now.
    #[error("it was issued in the future")]
    IssuedLater,
    /// It was given for another log-in, or is shown again.
    #[error("it belongs to another log-in")]
    Nonce,
    /// It does not say whom.
    #[error("it names no subject")]
    Subject,
    /// A claim that must be there is missing, or of another type.
    #[error("its claim `{0}` is missing or of another type")]
    Claim(&'static str),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
    // `jku`, `x5u`, `x5c` and `jwk` would be keys of the token's own choice: they are not read.
}

/// What a token says, if it is one of the provider's, for us, for this log-in, and good now.
///
/// # Errors
/// [`Fault`]; [`Fault::UnknownKey`] is worth another look at the provider's keys.
pub fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<Claims, Fault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Fault::Form);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Fault::Form)?;
    let (header, payload) = signed.split_once('.').ok_or(Fault::Form)?;
    let header: Header = serde_json::from_slice(&part(header)?).map_err(|_| Fault::Form)?;
    let unknown =
        || Fault::Algorithm(header.alg.chars().take(16).collect::<String>().escape_default().to_string());
    let algorithm = Algorithm::named(&header.alg).ok_or_else(unknown)?;
    if header.crit.is_some() {
        return Err(Fault::Critical);
    }
    let key = match keys.find(header.kid.as_deref(), algorithm) {
        Found::Key(key) => key,
        Found::Unknown => return Err(Fault::UnknownKey),
        Found::OfAnotherKind => return Err(Fault::KeyKind),
    };
    if !key.signed(algorithm, signed.as_bytes(), &part(signature)?) {
        return Err(Fault::Signature);
    }
    let all: Map<String, Value> = serde_json::from_slice(&part(payload)?).map_err(|_| Fault::Form)?;
    check(all, expected)
}

/// One part. Padding, line ends and anything else that is not base64url is refused.
fn part(text: &str) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Fault::Form)
}

fn check(all: Map<String, Value>, expected: &Expected<'_>) -> Result<Claims, Fault> {
    let text = |claim: &'static str| all.get(claim).and_then(Value::as_str).ok_or(Fault::Claim(claim));
    if text("iss")? != expected.issuer {
        return Err(Fault::Issuer);
    }
    check_audience(&all, expected)?;
    check_times(&all, expected.now_s)?;
    if !is_same(text("nonce").map_err(|_| Fault::Nonce)?, expected.nonce) {
        return Err(Fault::Nonce);
    }
    let subject = text("sub")?.to_owned();
    if !(1..=SUBJECT_BYTES_MAX).contains(&subject.len()) || subject.chars().any(char::is_control) {
        return Err(Fault::Subject);
    }
    Ok(Claims { subject, all })
}

fn check_audience(all: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), Fault> {
    let audiences: Vec<&str> = match all.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => return Err(Fault::Claim("aud")),
    };
    if !audiences.iter().any(|audience| expected.audiences.iter().any(|ours| ours == audience)) {
        return Err(Fault::Audience);
    }
    match all.get("azp") {
        None if audiences.len() == 1 => Ok(()),
        Some(Value::String(party)) if party == expected.client_id => Ok(()),
        _ => Err(Fault::AuthorizedParty),
    }
}

fn check_times(all: &Map<String, Value>, now_s: i64) -> Result<(), Fault> {
    let leeway = LEEWAY.as_secs_f64();
    // Providers may write fractions of seconds.
    let now = now_s as f64;
    let time = |claim: &'static str| match all.get(claim) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Fault::Claim(claim)),
    };
    if now >= time("exp")?.ok_or(Fault::Claim("exp"))? + leeway {
        return Err(Fault::Expired);
    }
    if time("nbf")?.is_some_and(|from| now < from - leeway) {
        return Err(Fault::NotYet);
    }
    if now < time("iat")?.ok_or(Fault::Claim("iat"))? - leeway {
        return Err(Fault::IssuedLater);
    }
    Ok(())
}

/// Compares in a time that does not depend on where they differ.
fn is_same(a: &str, b: &str) -> bool {
    let differs = a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    a.len() == b.len() && differs == 0
}
