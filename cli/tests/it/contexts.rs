//! Contexts: which platform a command goes to, and what protects it.

use std::process::Command;

use aap_client::operations::Id;

use crate::fake::{Home, Ran, check_fields};

const AUTHORITY: &str = include_str!("../../../crates/client/src/authority/test.pem");

/// A command of somebody who has the contexts of `home`, and whom no variable tells which platform is meant.
fn command(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(arguments);
    command.env_remove("AAP_HOME");
    command
}

fn aap(home: &Home, arguments: &[&str]) -> Ran {
    Ran::of(command(home, arguments).output().unwrap())
}

/// A context of this home.
fn add(home: &Home, name: &str, protection: &str) {
    let path = home.path().to_str().unwrap();
    let ran = aap(home, &["context", "add", name, "--home", path, "--protection", protection, "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    check_fields(Id::ContextAdd, &ran.json()["item"]);
}

fn deleted(home: &Home) -> usize {
    home.fake.state.lock().unwrap().deleted.len()
}

#[test]
fn a_context_is_where_commands_go_until_something_stronger_is_named() {
    let (home, stopped) = (Home::running(), Home::empty());
    add(&home, "here", "open");
    assert_eq!(aap(&home, &["stream", "ls"]).code, 0, "the first is current");
    add(&home, "there", "open");
    let stopped_path = stopped.path().to_str().unwrap();
    assert_eq!(aap(&home, &["stream", "ls", "--home", stopped_path]).code, 7, "the line wins");
    let of_variable = |name: &str, value: &str, more: &[&str]| {
        Ran::of(
            command(&home, &[&["stream", "ls", "-o", "json"], more].concat())
                .env(name, value)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(of_variable("AAP_HOME", stopped_path, &[]).code, 7, "so does the environment");
    assert_eq!(of_variable("AAP_HOME", stopped_path, &["-c", "there"]).code, 0);
    assert_eq!(of_variable("AAP_CONTEXT", "nowhere", &[]).error()["code"], "context.not_found");
    assert_eq!(aap(&home, &["-c", "here", "--home", stopped_path, "stream", "ls"]).code, 2, "which of them?");
    assert_eq!(of_variable("AAP_CONTEXT", "nowhere", &["--home", stopped_path]).code, 7);
}

#[test]
fn contexts_are_listed_renamed_and_removed_and_hold_no_secret() {
    let home = Home::running();
    let ca = home.file("root.pem", AUTHORITY.as_bytes());
    let line = [
        "context",
        "add",
        "prod",
        "--endpoint",
        "coord.example",
        "--ca",
        ca.to_str().unwrap(),
        "--user",
        "ana",
        "-o",
        "json",
    ];
    let ran = aap(&home, &line);
    let item = &ran.json()["item"];
    check_fields(Id::ContextAdd, item);
    assert_eq!((&item["endpoint"], &item["protection"]), (&"coord.example:7401".into(), &"open".into()));
    assert_eq!(item["fingerprint"].as_str().unwrap().len(), 64);
    assert!(
        ran.err.contains("compare the fingerprint") && ran.err.contains("aap -c prod auth login"),
        "{ran:?}"
    );
    assert_eq!(aap(&home, &[&line[..], &["--user", "ben"]].concat()).code, 2);
    assert_eq!(aap(&home, &line).error()["code"], "context.exists");
    add(&home, "here", "unlock");

    let items = aap(&home, &["context", "ls", "-o", "json"]).json()["items"].take();
    check_fields(Id::ContextLs, &items[0]);
    assert_eq!((&items[0]["context"], &items[0]["current"]), (&"prod".into(), &true.into()));
    let exported = aap(&home, &["context", "export", "prod"]).out;
    assert!(exported.contains("BEGIN CERTIFICATE") && !exported.contains("ca ="), "{exported}");
    let file = home.file("prod.toml", exported.as_bytes());
    let ran = aap(&home, &["context", "add", "again", "--from", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(
        (&ran.json()["item"]["user"], &ran.json()["item"]["fingerprint"]),
        (&"ana".into(), &item["fingerprint"]),
        "{ran:?}"
    );

    assert_eq!(aap(&home, &["context", "rename", "prod", "eu"]).code, 0);
    assert_eq!(aap(&home, &["context", "show", "-o", "json"]).json()["item"]["context"], "eu");
    check_fields(Id::ContextRm, &aap(&home, &["context", "rm", "eu", "-o", "json"]).json()["item"]);
    assert_eq!(aap(&home, &["context", "use", "eu", "-o", "json"]).error()["code"], "context.not_found");
    assert_eq!(aap(&home, &["context", "use", "here"]).code, 0);
    let none = aap(&home, &["context", "use", "--none", "-o", "json"]).json();
    check_fields(Id::ContextUse, &none["item"]);
    assert_eq!(none["item"]["context"], serde_json::Value::Null);
    for wrong in [
        &["use"][..],
        &["add", "x"],
        &["add", "x", "--endpoint", "h"],
        &["add", "X", "--home", "/h"],
        &["unlock", "here"],
    ] {
        let ran = aap(&home, &[&["context"], wrong, &["-o", "json"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{wrong:?}: {ran:?}");
    }
}

#[test]
fn a_broken_file_of_contexts_stops_commands_but_not_those_that_set_it_right() {
    let home = Home::running();
    std::fs::create_dir_all(home.path().join("operator-config")).unwrap();
    home.file("operator-config/contexts.toml", b"current = 'gone'\n[contexts.here]\n");
    let ran = aap(&home, &["stream", "ls", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (3, &"context.not_found".into()));
    for line in [
        &["help"][..],
        &["version"],
        &["completion", "bash"],
        &["context", "ls"],
        &["context", "use", "here"],
    ] {
        assert_eq!(aap(&home, line).code, 0, "{line:?}");
    }
}

#[test]
fn each_protection_stands_before_every_change_and_before_no_look() {
    let home = Home::running();
    let delete =
        |more: &[&str]| aap(&home, &[&["stream", "delete", "logs", "--yes", "-o", "json"], more].concat());
    for protection in ["open", "confirm", "read-only", "unlock"] {
        add(&home, protection, protection);
        assert_eq!(aap(&home, &["-c", protection, "stream", "ls"]).code, 0, "{protection}: a look");
        assert_eq!(
            aap(&home, &["-c", protection, "auth", "session", "end", "x"]).code,
            0,
            "{protection}: one's own"
        );
    }
    assert_eq!((delete(&["-c", "open"]).code, deleted(&home)), (0, 1));

    let ran = delete(&["-c", "confirm"]);
    assert_eq!(
        (ran.code, &ran.error()["code"], deleted(&home)),
        (2, &"confirm.needed".into(), 1),
        "--yes does not do"
    );
    assert!(ran.error()["hints"][0]["command"].as_str().unwrap().ends_with("--confirm confirm"), "{ran:?}");
    assert_eq!(
        (delete(&["-c", "confirm", "--confirm", "open"]).code, deleted(&home)),
        (2, 1),
        "another context"
    );
    assert_eq!((delete(&["-c", "confirm", "--confirm", "confirm"]).code, deleted(&home)), (0, 2));

    let ran = delete(&["-c", "read-only", "--confirm", "read-only"]);
    assert_eq!((ran.code, &ran.error()["code"], deleted(&home)), (5, &"context.read_only".into(), 2));
    let file = home.file("loose.yaml", b"name: loose\n");
    let dry = ["-c", "read-only", "apply", "-f", file.to_str().unwrap(), "--dry-run"];
    assert_eq!(aap(&home, &dry).code, 0, "nothing is changed by it");
    assert_eq!(aap(&home, &dry[..5]).code, 5);
    assert_eq!(aap(&home, &["-c", "read-only", "down"]).code, 5);

    let unlock = |more: &[&str]| aap(&home, &[&["context", "unlock", "unlock", "-o", "json"], more].concat());
    let ran = delete(&["-c", "unlock"]);
    assert_eq!((ran.code, &ran.error()["code"]), (5, &"context.locked".into()));
    for wrong in
        [&[][..], &["--reason", " "], &["--reason", "x", "--for", "13h"], &["--reason", "x", "--for", "0"]]
    {
        assert_eq!(unlock(wrong).code, 2, "{wrong:?}");
    }
    let unlocked = unlock(&["--for", "15m", "--reason", "a test"]).json()["item"].take();
    check_fields(Id::ContextUnlock, &unlocked);
    assert_eq!(
        (&unlocked["unlock_reason"], unlocked["unlocked_until"].is_string()),
        (&"a test".into(), true)
    );
    assert_eq!((delete(&["-c", "unlock"]).code, deleted(&home)), (0, 3));
    assert_eq!(aap(&home, &["context", "lock", "unlock"]).code, 0);
    assert_eq!((delete(&["-c", "unlock"]).code, deleted(&home)), (5, 3));
    assert_eq!(
        aap(&home, &["context", "unlock", "open", "--reason", "x", "-o", "json"]).error()["code"],
        "context.no_lock"
    );
}

#[test]
fn a_context_that_leads_elsewhere_needs_a_login_and_has_no_files_here() {
    let home = Home::running();
    let ca = home.file("root.pem", AUTHORITY.as_bytes());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    aap(&home, &["context", "add", "far", "--endpoint", &nobody.to_string(), "--ca", ca.to_str().unwrap()]);
    let ran = aap(&home, &["stream", "ls", "-o", "json"]);
    assert_eq!(
        (ran.code, &ran.error()["code"]),
        (4, &"auth.login_needed".into()),
        "not the token of a home here"
    );
    for line in ["logs", "down", "ingest logs -", "cluster migrate", "init --endpoint h:1", "backup x"] {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = aap(&home, &[&words[..], &["-o", "json"]].concat());
        assert_eq!((ran.code, &ran.error()["code"]), (2, &"context.no_home".into()), "{line:?}: {ran:?}");
    }
    let ran =
        Ran::of(command(&home, &["stream", "ls", "-o", "json"]).env("AAP_TOKEN", "x").output().unwrap());
    assert_eq!((ran.code, &ran.error()["code"]), (7, &"platform.unreachable".into()), "{ran:?}");
    assert_eq!(ran.error()["hints"][0]["command"], "aap context show far");
    let ran =
        Ran::of(home.command(&["stream", "ls", "-o", "json"]).env("AAP_ENDPOINT", "h:x").output().unwrap());
    assert_eq!(ran.error()["code"], "context.bad_endpoint");
    std::fs::remove_file(home.path().join("operator-config/ca/far.pem")).unwrap();
    assert_eq!(aap(&home, &["stream", "ls", "-o", "json"]).error()["code"], "context.bad_authority");
}
