//! What operators are told. No value and no key is ever in it.

use aap_access::NotOpened;
use aap_runtime::SecretPlace;
use aap_types::{ExitCode, Problem, SecretName, nearest};
use camino::Utf8Path;

pub(crate) fn not_found(name: &SecretName, known: &[&str]) -> Problem {
    let problem = Problem::new("secret.not_found", ExitCode::NotFound, format!("no secret `{name}` is kept"));
    match nearest(name.as_str(), known).first() {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem
            .hint_command("keep one under this name", format!("aap secret set {name}"))
            .hint_command("or see which there are", "aap secret ls"),
    }
}

pub(crate) fn bad_name(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("secret.bad_name", ExitCode::Usage, "a secret cannot be kept under this name")
        .caused_by(error)
        .hint_command("such as this", "aap secret set warehouse-password")
}

pub(crate) fn bad_value(why: &str) -> Problem {
    Problem::new("secret.bad_value", ExitCode::Usage, "this value cannot be kept")
        .cause(why)
        .hint("a password, a token or a key, on stdin")
}

pub(crate) fn in_use(name: &SecretName, by: &[String], others: usize) -> Problem {
    let problem = Problem::new("secret.in_use", ExitCode::Conflict, format!("the secret `{name}` is in use"));
    let seen = by.iter().fold(problem, |problem, user| problem.cause(format!("{user} refers to it")));
    let all = if others > 0 { seen.cause(format!("{others} that you do not see refer to it")) } else { seen };
    all.hint_command(
        "change or delete what refers to it first; or, to remove it nevertheless",
        format!("aap secret rm {name} --force"),
    )
}

pub(crate) fn no_vault(place: &SecretPlace) -> Problem {
    let message = format!("`{place}` is of Vault, and this coordinator has none");
    Problem::new("secret.no_vault", ExitCode::Usage, message)
        .hint("name it in the coordinator's configuration: `vault: { address, auth }`, and restart")
        .hint_command("then check it", "aap-coordinator --config FILE validate")
}

pub(crate) fn not_opened(name: &SecretName, file: &Utf8Path, error: &NotOpened) -> Problem {
    let (code, message) = match error {
        NotOpened::OtherKey { .. } => {
            ("secret.other_key", format!("the secret `{name}` is sealed under another key"))
        }
        NotOpened::Damaged => ("secret.damaged", format!("the secret `{name}` does not open")),
    };
    let problem = Problem::new(code, ExitCode::Failed, message).caused_by(error);
    let problem = match error {
        NotOpened::OtherKey { .. } => problem
            .hint(format!("put that key into `{file}`, one a line, from the other coordinator or a backup")),
        NotOpened::Damaged => problem,
    };
    problem.hint_command("or set it again", format!("aap secret set {name}"))
}

fn no_key(file: &Utf8Path, message: String) -> Problem {
    Problem::new("secret.key_unusable", ExitCode::Failed, message)
        .hint_command("see whether it is there, and who can read it", format!("ls -l {file}"))
}

/// What is kept is sealed under the key `id`.
pub(crate) fn key_missing(file: &Utf8Path, id: &str) -> Problem {
    Problem::new("secret.other_key", ExitCode::Failed, "kept secrets are sealed, and their key is not here")
        .cause(format!("`{file}` is not there; the key is {id}"))
        .hint(format!("copy `{file}` from the coordinator that set them, or from a backup: mode 0600"))
}

/// Nobody makes a key where another place was named.
pub(crate) fn named_key_missing(file: &Utf8Path) -> Problem {
    no_key(file, format!("the file of keys `{file}` is not there"))
        .hint_command("make one", format!("(umask 077; openssl rand -hex 32 > {file})"))
}

pub(crate) fn key_unreadable(file: &Utf8Path, error: &(dyn std::error::Error + 'static)) -> Problem {
    no_key(file, format!("the file of keys `{file}` cannot be used")).caused_by(error)
}

pub(crate) fn key_exposed(file: &Utf8Path, mode: u32) -> Problem {
    Problem::new(
        "secret.key_unusable",
        ExitCode::Failed,
        format!("others can read the file of keys `{file}`"),
    )
    .cause(format!("its mode is {mode:03o}"))
    .hint_command("take it from them, and change the key if somebody had it", format!("chmod 600 {file}"))
}

pub(crate) fn no_random(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("platform.random", ExitCode::Failed, "the system gives no random numbers").caused_by(error)
}
