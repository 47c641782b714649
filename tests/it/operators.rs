//! What operators are protected from, and what they cannot do unseen: rows A7 to A10 of the security table, and `aap doctor`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aap_tests::{Platform, Ran, Settings, SmallDisk, eventually};
use serde_json::Value;

use super::access::{Desk, hub};
use super::node_tables::post;

/// Room for the log and the file system; small, so that it is full soon.
const AUDIT_DISK_MIB: u64 = 16;
/// Everything that must not reach a terminal: an end of line and a forged one, colours, the clipboard, the direction of text, the end of a
/// JSON string.
const HOSTILE: &str = "x\n2026-01-01T00:00:00.000000Z  INFO forged: line\r\x1b[31mred\x1b]52;c;Zm9v\x07\u{202e}cba\u{9b}2J\",\"forged\":\"";

/// A figure of the coordinator's.
fn figure(platform: &Platform, name: &str) -> u64 {
    let text = coordinator_http(platform, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// What the coordinator answers to whoever monitors it on this machine.
fn coordinator_http(platform: &Platform, path: &str) -> String {
    let text = std::fs::read_to_string(platform.home().join("run/coordinator.json")).unwrap();
    let endpoints: Value = serde_json::from_str(&text).unwrap();
    let http = aap_tests::Http::new(endpoints["operator"].as_str().unwrap(), "");
    http.get(path).unwrap().body.as_str().unwrap().to_owned()
}

fn is_unsafe(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    assert!(!text.chars().any(is_unsafe), "{what}: {text:?}");
    let is_forged = |line: &str| line.starts_with("2026-01-01T00:00:00.000000Z");
    assert!(!text.lines().any(is_forged), "{what}: {text:?}");
}

#[test]
fn a7_where_nothing_can_be_recorded_nothing_privileged_is_done_and_data_goes_on() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let folder = platform.home().join("coordinator/audit");
    let Some(disk) = SmallDisk::mount(&platform.beside("audit.img"), &folder, AUDIT_DISK_MIB) else { return };
    {
        let (_coordinator, _agent) = platform.start_both();
        post(&platform, "logs", 0..10, |_| String::new());
        platform.aap(&["user", "create", "ana", "--role", "viewer", "-o", "json"]).ok();
        assert_eq!(figure(&platform, "aap_audit_unwritten_total"), 0);

        disk.fill();
        let refused = eventually("an action that cannot be recorded", || {
            let ran = platform.aap(&["user", "set", "ana", "--disable", "-o", "json"]);
            (ran.code != 0).then_some(ran)
        });
        refused.refused(7, "audit.unavailable");
        platform.aap(&["user", "create", "ben", "-o", "json"]).refused(7, "audit.unavailable");
        platform.aap(&["user", "show", "ben", "-o", "json"]).refused(3, "user.unknown");
        assert!(figure(&platform, "aap_audit_unwritten_total") >= 2);
        let lines = figure(&platform, "aap_audit_lines");

        // Data goes on, and is there; whose rows somebody saw could not be recorded, so that no answer is whole.
        post(&platform, "logs", 10..20, |_| String::new());
        eventually("rows that land all the while", || {
            (figure(&platform, "aap_landing_rows_total") >= 20).then_some(())
        });
        platform.aap(&["query", "-o", "json", "select id from logs"]).code(7);
        platform.aap(&["node", "ls"]).ok();

        disk.free();
        eventually("an action that can be recorded again", || {
            (platform.aap(&["user", "create", "ben", "-o", "json"]).code == 0).then_some(())
        });
        assert!(figure(&platform, "aap_audit_lines") > lines);
        assert_eq!(platform.count("select count(*) from logs"), 20);
        platform.aap(&["audit", "verify"]).ok();
    }
    drop(disk);
}

#[test]
fn a8_what_strangers_write_reaches_no_terminal_and_no_log_as_a_command() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    let send = |key: &str, row: Value| {
        let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", key)];
        platform.http().post("logs", &headers, format!("{row}\n").as_bytes()).unwrap()
    };
    let answer = send("body", serde_json::json!({ "id": 1, "body": HOSTILE }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(platform.count("select count(*) from logs"), 1);
    // The name of a column may be refused; whoever takes it has to show it.
    send("column", serde_json::json!({ "id": 2, "c\n\u{1b}[2J\u{202e}": 7 }));

    // Data: in tables and in cells, and exact in JSON.
    for format in ["table", "plain"] {
        for arguments in [
            &["query", "select * from logs"][..],
            &["stream", "tail", "logs"],
            &["stream", "show", "logs"],
            &["query", "describe logs"],
        ] {
            let ran = platform.aap(&[arguments, &["-o", format]].concat());
            assert_harmless(&format!("{arguments:?} as {format}"), &(ran.out + &ran.err));
        }
    }
    let rows = platform.aap(&["query", "-o", "json", "select body from logs where id = 1"]).ok().json();
    assert_eq!(rows["items"][0]["body"], HOSTILE, "JSON has it as it is");

    // Names and statements, in errors for people and for programs.
    let long = format!("select '{HOSTILE}' from");
    for arguments in [
        vec!["query", long.as_str()],
        vec!["node", "show", HOSTILE],
        vec!["stream", "show", HOSTILE],
        vec!["sink", "show", HOSTILE],
        vec!["get", HOSTILE],
        vec!["user", "show", HOSTILE],
        vec!["user", "create", HOSTILE],
        vec!["token", "revoke", HOSTILE],
        vec!["auth", "session", "end", HOSTILE],
        vec!["help", "error", HOSTILE],
        vec![HOSTILE],
    ] {
        let ran = platform.aap(&arguments);
        assert_ne!(ran.code, 0, "{arguments:?}");
        assert_harmless(&format!("{arguments:?}"), &(ran.out + &ran.err));
        let ran = platform.aap(&[&["-o", "json"][..], &arguments].concat());
        let problem = ran.problem();
        assert!(problem["message"].is_string() && problem.get("forged").is_none(), "{problem}");
    }

    // What strangers show without being known, and names in paths: in the logs of both daemons.
    let operator = Desk::of_operator(&platform);
    operator.log_in(HOSTILE, HOSTILE).unwrap_err();
    for path in ["v1/%1b%5b31m%0aforged", "%1b%5b2J"] {
        platform.http().post(path, &[], b"x").ok();
    }
    for name in ["coordinator", "agent"] {
        assert_harmless(&format!("log of the {name}"), &platform.log(name));
    }
    // And in the audit log, every line of which is JSON.
    platform.aap(&["audit", "verify"]).ok();
    let found = platform.aap(&["audit", "search", "--outcome", "denied", "-o", "table"]).ok();
    assert_harmless("the audit log as a table", &found.out);
}

/// Records that a search finds, the newest first.
fn recorded(platform: &Platform, arguments: &[&str]) -> Vec<Value> {
    let all = [&["audit", "search", "-o", "json"], arguments].concat();
    platform.aap(&all).ok().json()["items"].as_array().unwrap().clone()
}

#[test]
fn who_was_answered_which_rows_and_why_something_was_done_is_recorded() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    post(&platform, "logs", 0..10, |_| String::new());
    assert_eq!(platform.count("select count(*) from logs"), 10);
    let sql = format!("select id, '{}' as filling from logs where id < 3", "x".repeat(400));
    platform.aap(&["query", &sql]).ok();
    platform.aap(&["query", "select nothing from logs"]).code(2);
    platform.aap(&["stream", "tail", "logs", "-n", "4"]).ok();

    let queries = recorded(&platform, &["--action", "query run", "--outcome", "done"]);
    let long = &queries[0];
    assert_eq!((&long["object"], &long["actor"]), (&"stream/logs".into(), &"operator".into()), "{long}");
    assert_eq!(long["details"]["rows"], "3", "{long}");
    let cut = long["details"]["sql"].as_str().unwrap();
    assert!(cut.starts_with("select id, 'xxx") && cut.len() <= 256 && cut.ends_with('…'), "{long}");
    assert_eq!(long["details"]["sql_blake3"].as_str().unwrap().len(), 32, "{long}");
    let failed = recorded(&platform, &["--action", "query run", "--outcome", "failed"]);
    assert!(failed[0]["problem"].as_str().unwrap().starts_with("query."), "{failed:?}");
    let tails = recorded(&platform, &["--action", "stream tail"]);
    assert_eq!(
        (tails.len(), &tails[0]["details"]["rows"]),
        (1, &"4".into()),
        "one record a statement: {tails:?}"
    );

    // Why a context was unlocked stands in the record of what was done through it.
    let home = platform.home();
    let reason = "réparation du nœud 7";
    platform
        .aap(&["context", "add", "here", "--home", home.to_str().unwrap(), "--protection", "unlock"])
        .ok();
    let through = |arguments: &[&str]| {
        let mut command = platform.command("aap");
        command.env_remove("AAP_HOME").args(["-c", "here"]).args(arguments);
        Ran::of(command.output().unwrap())
    };
    through(&["user", "create", "ben"]).code(5);
    platform.aap(&["context", "unlock", "here", "--for", "5m", "--reason", reason]).ok();
    through(&["user", "create", "ben"]).ok();
    let made = recorded(&platform, &["--action", "user create"]);
    assert_eq!(made.len(), 2, "begun and done: {made:?}");
    assert!(made.iter().all(|record| record["details"]["reason"] == reason), "{made:?}");

    // How many there are is said of all of them, not of those that were asked for.
    let total = recorded(&platform, &["--limit", "0", "--action", "query"]).len();
    let two = platform.aap(&["audit", "search", "--action", "query", "--limit", "2"]).ok();
    assert!(two.err.contains(&format!("2 of {total} are shown")), "{total}: {}", two.err);
}

/// Every file below a folder, with what stands in it.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files_below(&entry.path())),
            kind if kind.is_file() => {
                found.push((entry.path(), std::fs::read(entry.path()).unwrap_or_default()))
            }
            _ => {}
        }
    }
    found
}

#[track_caller]
fn assert_free_of(canaries: &[&str], what: &str, bytes: &[u8]) {
    for canary in canaries {
        let is_there = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!is_there, "{what} holds {canary}: {}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a9_no_secret_is_in_anything_that_is_printed_logged_measured_or_bundled() {
    const PASSWORD: &str = "canary-password-4711-tram";
    const SINK: &str = "canary-sink-secret-4712";
    const SOURCE: &str = "canary-source-secret-4713";
    let mut platform = Platform::new();
    platform.set_env("AAP_TEST_SINK_PASSWORD", SINK);
    platform.prepare("n1", &Settings::default());
    let config = platform.home().join("config/agent.yaml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&format!("# password: {SOURCE}\n# postgres://ana:{SOURCE}@db.example/x\n"));
    std::fs::write(&config, text).unwrap();
    let (_coordinator, _agent) = platform.start_both();
    let sink = "apiVersion: aap/v1\nkind: Sink\nmetadata: { name: pg }\nspec: { type: postgres, streams: [logs], \
        host: 127.0.0.1, port: 9, database: x, user: x, password: 'env:AAP_TEST_SINK_PASSWORD' }\n";
    let applied = platform.aap_with_input(&["apply", "-f", "-"], sink.as_bytes());
    let password = platform.beside("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let password = password.to_str().unwrap();
    platform.aap(&["user", "create", "ana", "--role", "admin", "--password-file", password]).ok();
    let token = platform.token();
    let logged_in = platform.aap(&["auth", "login", "ana", "--password-file", password]);
    let api = platform.aap(&["token", "create", "--api", "--for", "nightly", "-o", "json"]);
    let api = if api.code == 0 {
        api.json()["item"]["token"].as_str().unwrap().to_owned()
    } else {
        "canary-none".into()
    };
    let stored = files_below(&platform.beside("operator-state"));
    let stored = stored.iter().find(|(path, _)| path.to_str().unwrap().contains("credentials"));
    let stored: Option<Value> = stored.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap());
    let session =
        stored.map_or("canary-none".to_owned(), |login| login["token"].as_str().unwrap().to_owned());
    assert!(logged_in.code == 0 && session != "canary-none", "{logged_in:?}");
    let canaries = [PASSWORD, SINK, SOURCE, token.as_str(), api.as_str(), session.as_str()];

    let bundle = platform.beside("bundle.tar");
    let bundled = platform.aap(&["doctor", "--bundle", bundle.to_str().unwrap(), "-o", "json"]);
    assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    assert_free_of(&canaries, "the bundle", &std::fs::read(&bundle).unwrap());
    let said = [applied, logged_in, bundled].into_iter().chain(
        [
            &["context", "show"][..],
            &["context", "show", "-o", "json"],
            &["auth", "status", "-o", "json"],
            &["auth", "whoami", "-o", "json"],
            &["auth", "session", "ls", "-o", "json"],
            &["token", "ls", "-o", "json"],
            &["user", "show", "ana", "-o", "json"],
            &["get", "-o", "json"],
            &["sink", "show", "pg", "-o", "json"],
            &["sink", "test", "pg", "-o", "json"],
            &["status", "-o", "json"],
            &["audit", "search", "--limit", "0", "-o", "json"],
            &["help", "environment"],
            &["logs", "-n", "10000"],
            &["doctor"],
        ]
        .map(|arguments| platform.aap(arguments)),
    );
    for Ran { out, err, .. } in said {
        assert_free_of(&canaries, "a command", (out + &err).as_bytes());
    }
    assert_free_of(&canaries, "figures", coordinator_http(&platform, "/metrics").as_bytes());
    let figures = platform.http().get("/metrics").unwrap().body;
    assert_free_of(&canaries, "figures of the agent", figures.as_str().unwrap().as_bytes());
    for (path, bytes) in files_below(&platform.home().join("log")) {
        assert_free_of(&canaries, path.to_str().unwrap(), &bytes);
    }
    for (path, bytes) in files_below(&platform.home().join("coordinator/audit")) {
        assert_free_of(&canaries, path.to_str().unwrap(), &bytes);
    }
    for name in ["coordinator", "agent"] {
        let line = std::fs::read(format!("/proc/{}/cmdline", platform.pid(name).unwrap())).unwrap();
        assert_free_of(&canaries, "a command line", &line);
    }
}

/// A daemon that does not start, and says what puts that right.
#[track_caller]
fn assert_refuses(platform: &Platform, name: &str, fix: &str) {
    let mut daemon = platform.start(name);
    let status = eventually("a daemon that does not start", || daemon.ended());
    assert!(status.code().is_some_and(|code| code != 0), "{name}: {status}");
    let log = platform.log(name);
    assert!(log.contains(fix), "{name} does not say `{fix}`: {log}");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a10_what_others_could_read_or_change_is_not_used_and_the_remedy_is_said() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let home = platform.home();
    drop(platform.start_both());

    // Keys and tokens.
    for (name, file) in [
        ("coordinator", "run/operator.token"),
        ("coordinator", "tls/installation.key"),
        ("coordinator", "coordinator/audit.key"),
        ("agent", "tls/nodes/n1.key"),
    ] {
        let path = home.join(file);
        set_mode(&path, 0o644);
        if name == "coordinator" {
            assert_refuses(&platform, name, &format!("chmod 600 {}", path.display()));
        } else {
            // It goes on taking data, and says why it does not deliver it.
            let _agent = platform.start(name);
            let fix = format!("chmod 600 {}", path.display());
            eventually("an agent that says what is wrong with its key", || {
                platform.log(name).contains(&fix).then_some(())
            });
        }
        set_mode(&path, 0o600);
    }

    // Folders that others can write to, and links in their place.
    for name in ["coordinator", "agent"] {
        for folder in ["", "run"] {
            let path = home.join(folder);
            let path = if folder.is_empty() { home.clone() } else { path };
            set_mode(&path, 0o777);
            assert_refuses(&platform, name, &format!("chmod go-w {}", path.display()));
            set_mode(&path, 0o700);
        }
        let (folder, moved) = (home.join(name), platform.beside("moved"));
        std::fs::rename(&folder, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &folder).unwrap();
        assert_refuses(&platform, name, &format!("mv --no-target-directory {}", moved.display()));
        std::fs::remove_file(&folder).unwrap();
        std::fs::rename(&moved, &folder).unwrap();
    }

    // A socket that everybody may call.
    let socket = home.join("run/agent.sock");
    std::fs::remove_file(&socket).ok();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    set_mode(&socket, 0o666);
    assert_refuses(&platform, "agent", &format!("rm {}", socket.display()));
    std::fs::remove_file(&socket).unwrap();

    // And with everything put right it runs.
    let _both = platform.start_both();
}

#[test]
fn doctor_finds_what_is_wrong_and_puts_right_only_what_is_without_doubt() {
    let (hub, daemon) = hub();
    let result = |ran: &Ran, check: &str| {
        let items = ran.json()["items"].as_array().unwrap().clone();
        let of_check = |item: &&Value| item["check"] == check;
        let found: Vec<String> =
            items.iter().filter(of_check).map(|item| item["result"].as_str().unwrap().to_owned()).collect();
        assert!(!found.is_empty(), "{check}: {items:?}");
        found
    };
    let well = hub.aap(&["doctor", "-o", "json"]).ok();
    for check in [
        "contexts",
        "credentials",
        "home",
        "programs",
        "ports",
        "coordinator",
        "tls",
        "clock",
        "nodes",
        "audit",
    ] {
        assert!(result(&well, check).iter().all(|result| result == "ok"), "{check}: {}", well.out);
    }
    assert_eq!(result(&well, "agent"), ["skipped"]);

    // What others could read is found, put right, and well afterwards.
    let key = hub.home().join("tls/installation.key");
    set_mode(&key, 0o644);
    std::fs::remove_dir_all(hub.home().join("tmp")).unwrap();
    let found = hub.aap(&["doctor", "--only", "home", "-o", "json"]).code(11);
    let mut results = result(&found, "home");
    results.sort();
    assert_eq!(results, ["fail", "warn"]);
    assert!(found.out.contains(&format!("chmod 0600 {}", key.display())), "{}", found.out);
    let fixed = hub.aap(&["doctor", "--only", "home", "--fix"]).ok();
    assert!(fixed.err.contains("fixed home:"), "{}", fixed.err);
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(hub.home().join("tmp").is_dir());
    hub.aap(&["doctor", "--only", "home"]).ok();

    // A bundle never takes the place of another file.
    let file = hub.beside("bundle.tar");
    hub.aap(&["doctor", "--only", "home", "--bundle", file.to_str().unwrap()]).ok();
    let again = hub.aap(&["doctor", "--only", "home", "--bundle", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!((again.code, again.problem()["code"].as_str()), (6, Some("doctor.bundle_exists")));

    // Nobody answers: that is what is said, and the rest is not guessed.
    drop(daemon);
    let alone = hub.aap(&["doctor", "-o", "json"]).code(11);
    assert_eq!(result(&alone, "coordinator"), ["fail"]);
    for check in ["clock", "nodes", "sinks", "audit"] {
        assert_eq!(result(&alone, check), ["skipped"], "{check}");
    }
}
