//! What real shells offer at a press of the key: with a platform, with one that is away, with one that hangs.

#![expect(clippy::disallowed_methods, reason = "a shell answers in real time")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::fake::Home;

/// Completion may take 150 ms for names; the rest is for processes of a machine that does other things.
const NO_HANG: Duration = Duration::from_secs(3);

/// What bash offers after these words, the last of which is not complete.
pub(crate) fn offered(home: &Home, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(aap completion bash) && COMP_WORDS=({}) && COMP_CWORD={} && COMP_TYPE=9 && \
         _clap_complete_aap aap '{}' '' && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1,
        words.last().unwrap(),
    );
    said(home, "bash", &["--norc", "--noprofile", "-c", &script])
}

/// The lines that a shell prints, and nothing on stderr.
fn said(home: &Home, shell: &str, arguments: &[&str]) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_aap"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(shell);
    command.args(arguments).env("PATH", path);
    for (name, value) in home.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let began = Instant::now();
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(began.elapsed() < NO_HANG, "{arguments:?}: {:?}", began.elapsed());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(|line| line.trim_end().to_owned()).collect()
}

/// Whether a shell is on this machine.
fn is_there(shell: &str) -> bool {
    Command::new(shell).arg("--version").output().is_ok()
}

fn kept_files(home: &Home) -> Vec<std::path::PathBuf> {
    let folder = home.path().join("operator-state/names");
    std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn names_of_the_platform_are_offered_and_kept_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::running();
    assert_eq!(offered(&home, &["aap", "node", "show", "w"]), ["web-01"]);
    assert_eq!(offered(&home, &["aap", "stream", "tail", "lo"]), ["logs"]);
    assert_eq!(offered(&home, &["aap", "sink", "show", "or"]), ["orders"]);
    assert_eq!(offered(&home, &["aap", "user", "show", "an"]), ["ana"]);
    assert_eq!(offered(&home, &["aap", "get", "si"]), ["sink"]);
    assert_eq!(offered(&home, &["aap", "query", "--node", "we"]), ["web-01"]);
    let kept = kept_files(&home);
    assert_eq!(kept.len(), 4, "{kept:?}");
    for file in kept {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    // What was offered a moment ago is offered again, whatever has become of it.
    home.fake.state.lock().unwrap().status.nodes.clear();
    assert_eq!(offered(&home, &["aap", "node", "show", "w"]), ["web-01"]);
}

#[test]
fn commands_are_offered_where_nobody_answers_and_nothing_is_said() {
    let home = Home::empty();
    assert_eq!(offered(&home, &["aap", "buffer", "sal"]), ["salvage"]);
    assert!(offered(&home, &["aap", "status", "--wat"]).contains(&"--watch".to_owned()));
    assert!(offered(&home, &["aap", "node", "show", "w"]).is_empty());
    assert!(kept_files(&home).is_empty());
}

#[test]
fn a_platform_that_hangs_or_lies_does_not_reach_the_line() {
    // It accepts connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::empty();
    std::fs::create_dir_all(home.path().join("run")).unwrap();
    home.file("run/operator.token", b"token");
    let address = silent.local_addr().unwrap();
    let file = format!("{{\"operator\":\"{address}\",\"agents\":\"127.0.0.1:1\"}}");
    home.file("run/coordinator.json", file.as_bytes());
    assert!(offered(&home, &["aap", "node", "show", "w"]).is_empty());

    let home = Home::running();
    home.fake.state.lock().unwrap().status.nodes[0].node = "web$(touch pwned)".into();
    assert!(offered(&home, &["aap", "node", "show", "w"]).is_empty());
}

#[test]
fn fish_and_zsh_offer_the_same_where_they_are_installed() {
    let home = Home::running();
    if is_there("fish") {
        let script = "aap completion fish | source; complete -C 'aap node show w'";
        let lines = said(&home, "fish", &["--no-config", "-c", script]);
        assert!(lines.iter().any(|line| line.split('\t').next() == Some("web-01")), "{lines:?}");
    }
    if is_there("zsh") {
        // The completion system itself needs a terminal: what it would show is printed in its place.
        let script = "compdef() { : }; _describe() { print -l -- ${(P)argv[-1]} }; source <(aap completion zsh); \
            words=(aap node show w); CURRENT=4; _clap_dynamic_completer_aap";
        assert_eq!(said(&home, "zsh", &["-f", "-c", script]), ["web-01"]);
    }
}
