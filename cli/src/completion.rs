//! What the shell offers at a press of the key: words by clap's engine, names by asking the platform.
//!
//! ```text
//!  shell ── AAP_COMPLETE=bash aap -- WORDS ──► engine: commands, options, files
//!                                                └─ a name ──► kept, younger than FRESH ──► offered
//!                                                                  │ older, or none          ▲
//!                                                                  └──► asks, for BUDGET ────┘   nobody answers: the older ones, or none
//! ```
//! Whoever pressed a key waits, and has a half-typed line before them: nothing is printed on failure, nothing is ever asked back.

use std::ffi::{OsStr, OsString};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use aap_client::contexts::Contexts;
use aap_client::environment::Environment;
use aap_client::names::{self, KeptNames};
use aap_client::operations::Value;
use aap_client::{Clock, Named, Platform, SystemClock, select};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use crate::arguments::command;

/// Names the shell that asks.
const VARIABLE: &str = "AAP_COMPLETE";
/// How long somebody may wait for names: what is slower feels like a hang.
const BUDGET: Duration = Duration::from_millis(150);
/// Names this young are not asked for again: several presses of the key make one command.
const FRESH: Duration = Duration::from_secs(10);
/// Older names are offered where the platform does not answer; yesterday's are no help.
const STALE_MAX: Duration = Duration::from_secs(3600);
/// What can be declared.
const KINDS: [&str; 4] = ["catalog", "role", "sink", "source"];

/// Answers a shell, if it is one that asks.
pub(crate) fn answered() -> bool {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return false;
    }
    let folder = std::env::current_dir().ok();
    let engine = CompleteEnv::with_factory(command).var(VARIABLE).bin("aap").completer("aap");
    let _nothing_to_offer = engine.try_complete(std::env::args_os(), folder.as_deref());
    true
}

/// What a shell reads once, so that it asks.
///
/// # Errors
/// `cli.usage` (2): there is no such shell.
pub(crate) fn script(shell: &str) -> Result<Vec<u8>, Problem> {
    let shells = Shells::builtins();
    let mut script = Vec::new();
    let written = shells
        .completer(shell)
        .map(|shell| shell.write_registration(VARIABLE, "aap", "aap", "aap", &mut script));
    if shell == "zsh" {
        // As a file of a folder of completions it is run as a function of its own at the first press of the key, and has to answer that, too.
        script.extend_from_slice(
            b"if [[ \"$funcstack[1]\" == _aap ]]; then _clap_dynamic_completer_aap \"$@\"; fi\n",
        );
    }
    match written {
        Some(Ok(())) => Ok(script),
        _ => {
            let message = format!("`{shell}` is no shell that this program knows");
            Err(Problem::new("cli.usage", ExitCode::Usage, message)
                .hint_command("see which there are", "aap help completion"))
        }
    }
}

/// What completes a value by its names, if it has any.
pub(crate) fn completer(value: Value) -> Option<ArgValueCompleter> {
    let has_names = matches!(
        value,
        Value::Stream
            | Value::Node
            | Value::Context
            | Value::Sink
            | Value::User
            | Value::Role
            | Value::Declared
            | Value::DeclaredName
    );
    has_names.then(|| ArgValueCompleter::new(move |begun: &OsStr| candidates(value, begun)))
}

fn candidates(value: Value, begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return vec![] };
    let words = words(std::env::args_os());
    let names = match value {
        Value::Declared => KINDS.map(str::to_owned).to_vec(),
        Value::Context => contexts(),
        Value::Node => of_platform(words, names::Named::Nodes),
        Value::Stream => of_platform(words, names::Named::Streams),
        Value::Sink => of_platform(words, names::Named::Sinks),
        Value::User => of_platform(words, names::Named::Users),
        Value::Role => of_platform(words, names::Named::Roles),
        Value::DeclaredName => {
            let kind = kind_before(&words).unwrap_or_default();
            of_platform(words, names::Named::Declared(kind))
        }
        _ => vec![],
    };
    names.into_iter().filter(|name| name.starts_with(begun)).map(CompletionCandidate::new).collect()
}

/// The line so far: the shell puts it behind `--`.
fn words(arguments: impl Iterator<Item = OsString>) -> Vec<String> {
    let line = arguments.skip_while(|word| word != "--").skip(1);
    line.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// KIND of `aap get KIND NAME`, as it was typed.
fn kind_before(words: &[String]) -> Option<String> {
    let behind = words.iter().skip_while(|word| !matches!(word.as_str(), "get" | "delete")).skip(1);
    let is_kind = |word: &&String| {
        let word = word.to_lowercase();
        KINDS.contains(&word.as_str()) || word.strip_suffix('s').is_some_and(|word| KINDS.contains(&word))
    };
    behind.filter(is_kind).map(String::to_owned).next()
}

fn contexts() -> Vec<String> {
    let contexts = Contexts::read(&Environment::of_process().config_folder());
    contexts.map(|contexts| contexts.names().into_iter().map(str::to_owned).collect()).unwrap_or_default()
}

/// Names that a platform says or said, whatever there is within [`BUDGET`]. What hangs is left behind: the process ends.
fn of_platform(words: Vec<String>, named: names::Named) -> Vec<String> {
    // Names of before, and newer ones.
    let (sender, receiver) = sync_channel(2);
    std::thread::spawn(move || look(&words, &named, &sender));
    let clock = SystemClock::default();
    let end = clock.monotonic() + BUDGET;
    let mut found = vec![];
    while let Ok(newer) = receiver.recv_timeout(end.saturating_sub(clock.monotonic())) {
        found = newer;
    }
    found
}

fn look(words: &[String], named: &names::Named, sender: &SyncSender<Vec<String>>) -> Option<()> {
    let environment = Environment::of_process();
    let contexts = || Contexts::read(&environment.config_folder());
    let target = select(on_line(words), in_environment(), contexts).ok()?;
    let platform = Platform::find(target, &environment).ok()?;
    let kept = KeptNames::within(&environment.state_folder());
    let before = kept.get(&platform, named, SystemClock::default().unix_us());
    if let Some((names, age)) = before.filter(|(_, age)| *age < STALE_MAX) {
        sender.send(names).ok()?;
        if age < FRESH {
            return None;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let names = runtime.block_on(names::ask(&platform, named)).ok()?;
    // Where they cannot be kept they are asked for again.
    let _not_kept = kept.keep(&platform, named, &names);
    sender.send(names).ok()
}

/// The platform that the line names so far.
fn on_line(words: &[String]) -> Named {
    let mut named = Named::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        match option {
            "--home" => named.home = value.or_else(|| words.next().cloned()).map(Utf8PathBuf::from),
            "-c" | "--context" => named.context = value.or_else(|| words.next().cloned()),
            _ => {}
        }
    }
    named
}

fn in_environment() -> Named {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Named { home: variable("AAP_HOME").map(Utf8PathBuf::from), context: variable("AAP_CONTEXT") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<String> {
        words(text.split(' ').map(OsString::from))
    }

    #[test]
    fn what_the_line_says_so_far_decides_which_platform_is_asked_and_for_what() {
        assert_eq!(line("aap -- aap node"), ["aap", "node"]);
        for (text, home, context) in [
            ("aap -- aap -c prod node show", None, Some("prod")),
            ("aap -- aap node show --context=prod x", None, Some("prod")),
            ("aap -- aap --home /srv/aap node", Some("/srv/aap"), None),
            ("aap -- aap node -c", None, None),
        ] {
            let named = on_line(&line(text));
            assert_eq!(named.home.as_deref().map(|home| home.as_str()), home, "{text}");
            assert_eq!(named.context.as_deref(), context, "{text}");
        }
        assert_eq!(kind_before(&line("aap -- aap get -o json Sinks or")).as_deref(), Some("Sinks"));
        assert_eq!(kind_before(&line("aap -- aap delete sink or")).as_deref(), Some("sink"));
    }

    #[test]
    fn every_shell_has_a_script_that_asks_us() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = String::from_utf8(script(shell).unwrap()).unwrap();
            assert!(script.contains(VARIABLE) && script.contains("aap"), "{shell}");
        }
        assert_eq!(script("tcsh").unwrap_err().code, "cli.usage");
    }
}
