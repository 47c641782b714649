//! What operators are told. Nothing of a secret, a token or a secret id is ever in it.

use std::time::Duration;

use aap_runtime::{SecretPlace, VaultPlace};
use aap_services::ServiceUrl;
use aap_types::{ExitCode, Problem};
use hyper::StatusCode;
use serde_json::Value;

/// Letters of what Vault says: its reasons are short.
const REASON_LETTERS_MAX: usize = 300;

fn away(url: &ServiceUrl) -> Problem {
    Problem::new(
        "secret.vault_unreachable",
        ExitCode::Unavailable,
        format!("Vault at `{url}` does not answer"),
    )
    .hint_command("see whether it is there and unsealed", format!("curl {url}/v1/sys/health"))
}

pub(crate) fn unreachable(url: &ServiceUrl, error: &(dyn std::error::Error + 'static)) -> Problem {
    away(url).caused_by(error)
}

pub(crate) fn late(url: &ServiceUrl, deadline: Duration) -> Problem {
    away(url).cause(format!("the secret was not there within {} s", deadline.as_secs()))
}

/// It is sealed, elects a leader, or has too much to do.
pub(crate) fn not_ready(url: &ServiceUrl, status: StatusCode, answer: &Value) -> Problem {
    away(url).cause(format!("it says {status}{}", reason(answer)))
}

pub(crate) fn denied(place: &VaultPlace, answer: &Value) -> Problem {
    let message = format!("Vault does not let this coordinator read `vault:{place}`");
    Problem::new("secret.vault_denied", ExitCode::Denied, message)
        .cause(format!("it says 403 Forbidden{}", reason(answer)))
        .hint(format!("give its role a policy with `read` on `{}/data/{}`", place.mount, place.path))
}

pub(crate) fn login_refused(url: &ServiceUrl, answer: &Value) -> Problem {
    let message = format!("Vault at `{url}` refuses the log-in of this coordinator");
    Problem::new("secret.vault_denied", ExitCode::Denied, message)
        .cause(format!("it does not take what `vault.auth` names{}", reason(answer)))
        .hint("a secret id or a token may be over, or its uses gone: issue a new one where `vault.auth` refers to")
}

pub(crate) fn not_found(place: &VaultPlace, why: &str) -> Problem {
    let message = format!("there is nothing at `vault:{place}`");
    let (mount, path, field) = (&place.mount, &place.path, &place.field);
    Problem::new("secret.not_found", ExitCode::NotFound, message)
        .cause(why)
        .hint_command("see what is there", format!("vault kv metadata get -mount={mount} {path}"))
        .hint_command("or set it", format!("vault kv patch -mount={mount} {path} {field}=-"))
}

pub(crate) fn unexpected(url: &ServiceUrl, status: StatusCode, answer: &Value) -> Problem {
    Problem::new(
        "secret.vault_answer",
        ExitCode::Failed,
        format!("Vault at `{url}` answers what is not understood"),
    )
    .cause(format!("it says {status}{}", reason(answer)))
    .hint("see that `vault.address` is that of Vault, and that references name a mount of KV version 2")
}

pub(crate) fn unreadable(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("secret.vault_login", ExitCode::Usage, "what this coordinator shows to Vault cannot be read")
        .caused_by(error)
        .hint("see that what `vault.auth` refers to is there, and that this coordinator may read it")
}

pub(crate) fn token_form() -> Problem {
    Problem::new("secret.vault_login", ExitCode::Usage, "what this coordinator shows to Vault is no token")
        .cause("it has letters that no token has")
        .hint("put the token alone where `vault.auth` refers to, in one line")
}

/// Only a configuration that was not checked comes to this.
pub(crate) fn no_login() -> Problem {
    Problem::new("secret.vault_login", ExitCode::Usage, "`vault.auth` names neither `app_role` nor `token`")
}

pub(crate) fn not_ours(place: &SecretPlace) -> Problem {
    Problem::new("platform.bug", ExitCode::Bug, format!("Vault was asked for `{place}`"))
}

/// What Vault gives as its reasons.
fn reason(answer: &Value) -> String {
    let errors = answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words = errors.collect::<Vec<_>>().join("; ");
    let words: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.chars().take(REASON_LETTERS_MAX).collect::<String>().escape_default()),
    }
}
