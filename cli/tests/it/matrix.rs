//! Every operation of the registry against what it promises: in JSON and as text, with something and with nothing, denied, unreachable,
//! without a login, in a pipe and on a terminal.
//!
//! | where | what must hold |
//! |---|---|
//! | JSON | stdout is one document of the registry's kind and fields, or empty and stderr one line with the error |
//! | pipe | no escape character in stdout or stderr |
//! | terminal | no escape sequence but colours, and none at all with `NO_COLOR` or `TERM=dumb` |

use std::process::Command;

use aap_client::operations::{self, Id, Operation, Output};
use aap_client::v1::StatusReply;
use serde_json::Value;

use crate::fake::{DENIED, Home, ORDERS, Ran, check_fields};

/// One line for each operation that asks a platform, where `@orders` is a file that declares a sink, and `@value` one with a secret.
const LINES: &[&str] = &[
    "status",
    "doctor --only coordinator",
    "apply -f @orders",
    "diff -f @orders",
    "get",
    "delete sink nothing --yes",
    "query run rows",
    "query explain rows",
    "query ls",
    "query cancel q-1",
    "stream ls",
    "stream show logs",
    "stream tail logs",
    "stream files logs",
    "stream delete logs --yes",
    "node ls",
    "node show web-01",
    "node approve web-01",
    "node cordon web-01",
    "node ban web-01 --yes",
    "node label web-01 line=7",
    "node drain web-01",
    "node resume web-01",
    "site ls",
    "site show lyon",
    "ca show",
    "ca rotate",
    "ca export",
    "secret set pg --value-file @value",
    "secret ls",
    "secret rm pg --force --yes",
    "token create",
    "token ls",
    "token revoke gone",
    "audit tail",
    "audit search",
    "audit verify",
    "audit export",
    "user ls",
    "user show ana",
    "user create ben",
    "user set ana --disable",
    "user delete ana --yes",
    "role ls",
    "role show viewer",
    "role create reader --allow node:read",
    "role delete reader --yes",
    "can-i query logs",
    "who-can query logs",
    "auth whoami",
    "auth session ls",
    "auth session end gone",
    "sink ls",
    "sink show orders",
    "sink test orders",
    "sink pause orders",
    "sink resume orders",
    "sink dlq ls orders",
    "sink dlq show orders",
    "sink dlq replay orders",
    "sink dlq purge orders --yes",
    "cluster status",
    "cluster config",
];

/// Operations that ask no coordinator, or whose tests are their own: of files and processes of this machine, of a login, of an agent.
const ELSEWHERE: &[Id] = &[
    Id::Init,
    Id::Up,
    Id::Down,
    Id::Backup,
    Id::Restore,
    Id::Logs,
    Id::Version,
    Id::Completion,
    Id::Help,
    Id::Man,
    Id::Ingest,
    Id::NodeRecover,
    Id::AuthLogin,
    Id::AuthLogout,
    Id::AuthStatus,
    Id::AuthPassword,
    Id::ContextAdd,
    Id::ContextLs,
    Id::ContextShow,
    Id::ContextUse,
    Id::ContextRename,
    Id::ContextRm,
    Id::ContextExport,
    Id::ContextUnlock,
    Id::ContextLock,
    Id::SourceTypes,
    Id::SourceTest,
    Id::ClusterMigrate,
    Id::BufferLs,
    Id::BufferShow,
    Id::BufferVerify,
    Id::BufferSalvage,
    Id::BufferExport,
    Id::BufferReplay,
];

/// Says what it found, whatever it found: nobody there is a finding, and not an error.
const FINDS: &[Id] = &[Id::Doctor];

/// The operation of a line: the one with the most words of it.
fn operation_of(line: &str) -> &'static Operation {
    let names = |operation: &&Operation| {
        let words = operation.words();
        line == words || line.strip_prefix(&words).is_some_and(|rest| rest.starts_with(' '))
    };
    operations::all().filter(names).max_by_key(|operation| operation.words().len()).unwrap()
}

fn words(home: &Home, line: &str) -> Vec<String> {
    let word = |word: &str| match word {
        "@orders" => home.file("orders.yaml", ORDERS.as_bytes()).display().to_string(),
        "@value" => home.file("value", b"kept in confidence\n").display().to_string(),
        word => word.to_owned(),
    };
    line.split(' ').map(word).collect()
}

fn run(home: &Home, line: &str, more: &[&str]) -> Ran {
    let words = words(home, line);
    let arguments: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    home.aap(&arguments)
}

fn show_token(home: &Home, token: &str) {
    std::fs::write(home.path().join("run/operator.token"), token).unwrap();
}

/// A document that keeps what the registry promises of it.
#[track_caller]
fn assert_document(operation: &Operation, line: &str, document: &Value) {
    assert_eq!(document["format_version"], "1.0", "{line}: {document}");
    assert_eq!(document["kind"], operation.output.kind(), "{line}: {document}");
    match operation.output {
        Output::Item { .. } => check_fields(operation.id, &document["item"]),
        Output::List { .. } => {
            let items = document["items"].as_array().unwrap_or_else(|| panic!("{line}: {document}"));
            items.iter().for_each(|item| check_fields(operation.id, item));
            assert!(document["truncated"].is_boolean(), "{line}: {document}");
        }
        _ => assert!(document["items"].is_array(), "{line}: {document}"),
    }
}

/// An error that keeps what the contract promises of it.
#[track_caller]
fn assert_error(line: &str, ran: &Ran, exit: i32, code: &str) {
    assert_eq!((ran.code, ran.out.as_str()), (exit, ""), "{line}: {ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{line}: {ran:?}");
    let error = ran.error();
    assert_eq!((&error["exit"], &error["code"]), (&exit.into(), &code.into()), "{line}: {error}");
    assert!(!error["hints"].as_array().unwrap().is_empty(), "{line}: {error}");
}

#[test]
fn every_operation_of_the_registry_stands_in_the_matrix_or_says_why_not() {
    for operation in operations::all() {
        let stands = LINES.iter().any(|line| operation_of(line).id == operation.id);
        let elsewhere = ELSEWHERE.contains(&operation.id);
        assert!(stands != elsewhere, "{}", operation.command());
    }
}

#[test]
fn every_operation_prints_what_the_registry_promises_or_an_error_and_nothing_else() {
    for line in LINES {
        let (home, operation) = (Home::running(), operation_of(line));
        let json = run(&home, line, &["-o", "json"]);
        let is_known = operation.exits.iter().any(|exit| i32::from(exit.number()) == json.code);
        assert!(is_known, "{line}: exit {} is none of the registry's: {json:?}", json.code);
        if matches!(operation.output, Output::Text) {
            assert!(!json.out.is_empty() || json.code != 0, "{line}: {json:?}");
        } else if json.out.is_empty() {
            let code = json.error()["code"].as_str().unwrap().to_owned();
            assert_error(line, &json, json.code, &code);
        } else {
            assert_document(operation, line, &json.json());
        }
        let home = Home::running();
        let text = run(&home, line, &[]);
        assert_eq!(text.code, json.code, "{line}: {text:?}");
        assert!(!text.out.contains('\x1b') && !text.err.contains('\x1b'), "{line}: {text:?}");
        let has_failed = json.out.is_empty();
        assert_eq!(text.out.is_empty() && has_failed, has_failed, "{line}: {text:?}");
    }
}

#[test]
fn every_operation_says_the_same_when_it_is_denied_unreachable_or_nobody_is_logged_in() {
    let (denied, stopped, stranger) = (Home::running(), Home::empty(), Home::running());
    show_token(&denied, DENIED);
    show_token(&stranger, "not-a-token-of-this-platform");
    for line in LINES {
        if FINDS.contains(&operation_of(line).id) {
            assert_eq!(run(&stopped, line, &["-o", "json"]).code, 11, "{line}");
            continue;
        }
        assert_error(line, &run(&denied, line, &["-o", "json"]), 5, "auth.denied");
        assert_error(line, &run(&stopped, line, &["-o", "json"]), 7, "platform.not_running");
        let ran = run(&stranger, line, &["-o", "json"]);
        assert_eq!((ran.code, ran.out.as_str(), &ran.error()["exit"]), (4, "", &4.into()), "{line}: {ran:?}");
        for home in [&denied, &stopped, &stranger] {
            let text = run(home, line, &[]);
            assert!(text.out.is_empty() && text.err.starts_with("error["), "{line}: {text:?}");
            assert!(text.err.contains("hint:") && !text.err.contains('\x1b'), "{line}: {text:?}");
        }
    }
}

#[test]
fn a_listing_of_nothing_is_an_empty_list_and_no_line() {
    let home = Home::running();
    {
        let mut state = home.fake.state.lock().unwrap();
        state.status = StatusReply { as_of_us: 1, ..StatusReply::default() };
        state.keeps_nothing = true;
    }
    for line in ["node ls", "site ls", "stream ls", "secret ls", "audit search --outcome denied"] {
        let operation = operation_of(line);
        let document = run(&home, line, &["-o", "json"]).json();
        assert_document(operation, line, &document);
        assert_eq!(document["items"].as_array().map(Vec::len), Some(0), "{line}: {document}");
        let ndjson = run(&home, line, &["-o", "ndjson"]);
        assert_eq!((ndjson.code, ndjson.out.as_str()), (0, ""), "{line}: {ndjson:?}");
    }
}

/// What a command writes to a terminal, both streams together.
fn on_terminal(home: &Home, line: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new("script");
    let program = format!("{} {}", env!("CARGO_BIN_EXE_aap"), words(home, line).join(" "));
    command.args(["-q", "-e", "-c", &program, "/dev/null"]).stdin(std::process::Stdio::null());
    for (name, value) in home.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// Whether a text has escape sequences other than those that set colours.
fn moves_the_cursor(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        rest = &rest[at + 1..];
        let colour = rest.strip_prefix('[').and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            rest[end..].starts_with('m').then_some(&rest[end + 1..])
        });
        match colour {
            Some(behind) => rest = behind,
            None => return true,
        }
    }
    false
}

#[test]
fn on_a_terminal_there_are_colours_at_most_and_none_where_none_are_wanted() {
    if Command::new("script").arg("--version").output().is_err() {
        return;
    }
    let home = Home::running();
    for line in LINES.iter().filter(|line| operation_of(line).effect == operations::Effect::Read) {
        let shown = on_terminal(&home, line, &[]);
        assert!(!shown.is_empty() && !moves_the_cursor(&shown), "{line}: {shown:?}");
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let shown = on_terminal(&home, line, &[variable]);
            assert!(!shown.is_empty() && !shown.contains('\x1b'), "{line} {variable:?}: {shown:?}");
        }
    }
    assert!(moves_the_cursor("a\x1b[2Jb") && moves_the_cursor("\x1b]52;c;x\x07"), "the test can fail");
    assert!(!moves_the_cursor("\x1b[31;1mred\x1b[0m"));
}

#[test]
fn a8_a_hostile_platform_writes_nothing_but_text_to_a_terminal() {
    const HOSTILE: &str = "x\n\u{1b}[2J\u{1b}]52;c;Zm9v\u{7}\u{202e}\u{9b}31m\",\"forged\":\"";
    let home = Home::running();
    {
        let status = &mut home.fake.state.lock().unwrap().status;
        status.problems = vec![HOSTILE.into()];
        status.coordinator_version = HOSTILE.into();
        status.nodes[0].node = HOSTILE.into();
        status.nodes[0].problems = vec![HOSTILE.into()];
        status.nodes[0].agent_version = HOSTILE.into();
        status.streams[0].stream = HOSTILE.into();
    }
    let is_harmless = |text: &str| {
        !text
            .chars()
            .any(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || ('\u{202a}'..='\u{202e}').contains(&c))
    };
    for line in ["status", "node ls", "stream ls", "doctor --only coordinator --only programs --only nodes"] {
        for format in ["table", "plain"] {
            let ran = run(&home, line, &["-o", format]);
            assert!(is_harmless(&ran.out) && is_harmless(&ran.err), "{line} as {format}: {ran:?}");
        }
        let json = run(&home, line, &["-o", "json"]).json();
        assert!(json.get("forged").is_none() && json["item"].get("forged").is_none(), "{line}: {json}");
    }
}
