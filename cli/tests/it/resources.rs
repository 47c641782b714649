//! Declared objects: apply, diff, get, delete.

use std::io::Write;
use std::process::Stdio;

use aap_client::operations::Id;

use crate::fake::{Home, ORDERS, Ran, check_fields};

const SECOND: &str =
    "apiVersion: aap/v1\nkind: Sink\nmetadata: { name: events }\nspec: { streams: [events] }\n";

/// Runs a command with something on stdin.
fn fed(home: &Home, arguments: &[&str], input: &str) -> Ran {
    let mut command = home.command(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn files_directories_and_stdin_are_sent_as_they_are_and_what_changed_is_listed() {
    let home = Home::running();
    std::fs::create_dir(home.path().join("sinks")).unwrap();
    for (name, text) in [
        ("sinks/b.yml", "{\"metadata\": {\"name\": \"b\"}}".replace('"', "")),
        ("sinks/a.yaml", SECOND.to_owned()),
        ("sinks/c.json", "name: c".to_owned()),
        ("sinks/.hidden.yaml", "name: hidden".to_owned()),
        ("sinks/notes.txt", "name: notes".to_owned()),
    ] {
        home.file(name, text.as_bytes());
    }
    let orders = home.file("orders.yaml", ORDERS.as_bytes());
    let folder = home.path().join("sinks");
    let line = ["apply", "-f", orders.to_str().unwrap(), "-f", folder.to_str().unwrap(), "-f", "-"];
    let ran = fed(&home, &line, "name: loose\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.out,
        "kind\tname\taction\trevision\nSink\torders\tunchanged\t3\nSink\tevents\tcreated\t3\nSink\tb\tcreated\t3\n\
         Sink\tc\tcreated\t3\nSink\tloose\tcreated\t3\n"
    );
    assert_eq!(ran.err, "warning: sink `loose`: no stream is called `lose*` yet\n");
    let sent = home.fake.state.lock().unwrap().declared.last_apply.clone().unwrap();
    assert!(!sent.dry_run);
    let paths: Vec<&str> = sent.files.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(paths, ["orders.yaml", "a.yaml", "b.yml", "c.json", "stdin"]);
    assert_eq!(sent.files[0].text, ORDERS);
    assert!(home.fake.state.lock().unwrap().declared.documents.contains_key("loose"));
}

#[test]
fn a_dry_run_says_what_would_change_and_json_has_the_fields_of_the_registry() {
    let home = Home::running();
    let file = home.file("loose.yaml", b"name: loose\n");
    let ran = home.aap(&["apply", "--dry-run", "-f", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let document = ran.json();
    assert_eq!(document["kind"], "resource.changes");
    check_fields(Id::Apply, &document["items"][0]);
    assert_eq!(document["items"][0]["warnings"][0], "no stream is called `lose*` yet");
    assert!(ran.err.contains("nothing was changed"), "{ran:?}");
    let state = home.fake.state.lock().unwrap();
    assert!(state.declared.last_apply.as_ref().unwrap().dry_run);
    assert!(!state.declared.documents.contains_key("loose"));
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_file_line_and_hint() {
    let home = Home::running();
    let file = home.file("wrong.yaml", b"kind: Sink\nmetadata: { nmae: x }\n");
    let path = file.to_str().unwrap();
    for verb in ["apply", "diff"] {
        let ran = home.aap(&[verb, "-f", path]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains(&format!("error[config.invalid]: {path}:2: unknown field")), "{ran:?}");
        assert!(ran.err.contains("hint: did you mean `name`?"), "{ran:?}");
        let ran = home.aap(&[verb, "-o", "json"]);
        assert_eq!((ran.code, &ran.error()["code"]), (2, &"cli.usage".into()));
        let ran = home.aap(&[verb, "-f", "missing.yaml", "-o", "json"]);
        assert_eq!((ran.code, &ran.error()["code"]), (2, &"resource.unreadable".into()));
        std::fs::create_dir_all(home.path().join("empty")).unwrap();
        let ran = home.aap(&[verb, "-f", home.path().join("empty").to_str().unwrap()]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains("has no file that ends in .yaml"), "{ran:?}");
    }
}

#[test]
fn a_diff_ends_with_10_where_something_would_change_and_changes_nothing() {
    let home = Home::running();
    let same = home.file("same.yaml", ORDERS.as_bytes());
    let ran = home.aap(&["diff", "-f", same.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "nothing would change\n"));
    assert_eq!(home.aap(&["diff", "-f", same.to_str().unwrap(), "-o", "json"]).code, 0);

    let other = home.file("other.yaml", ORDERS.replace("table: orders", "table: all_orders").as_bytes());
    let fresh = home.file("fresh.yaml", SECOND.as_bytes());
    let line = ["diff", "-f", other.to_str().unwrap(), "-f", fresh.to_str().unwrap()];
    for format in [&[][..], &["-o", "table"]] {
        let ran = home.aap(&[&line[..], format].concat());
        assert_eq!(ran.code, 10, "{ran:?}");
        assert_eq!(
            ran.out,
            "--- sink/orders\n+++ sink/orders\n@@ -6,4 +6,4 @@\n   streams: [orders]\n   postgres:\n     \
             url: postgres://warehouse/db\n-    table: orders\n+    table: all_orders\n\
             --- /dev/null\n+++ sink/events\n@@ -0,0 +1,4 @@\n+apiVersion: aap/v1\n+kind: Sink\n\
             +metadata: { name: events }\n+spec: { streams: [events] }\n"
        );
    }
    let colored = home.aap(&[&line[..], &["--color", "always"]].concat());
    assert!(colored.out.contains("\x1b[32m+    table: all_orders\x1b[0m"), "{colored:?}");
    let ran = home.aap(&[&line[..], &["-o", "json"]].concat());
    assert_eq!((ran.code, &ran.json()["kind"]), (10, &"resource.diff".into()));
    let item = &ran.json()["items"][0];
    check_fields(Id::Diff, item);
    assert_eq!((&item["action"], &item["before"]), (&"changed".into(), &ORDERS.into()));
    let crlf = home.file("crlf.yaml", ORDERS.replace('\n', "\r\n").as_bytes());
    let ran = home.aap(&["diff", "-f", crlf.to_str().unwrap()]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (10, "--- sink/orders\n+++ sink/orders\n  only line ends differ\n")
    );
    assert!(home.fake.state.lock().unwrap().declared.last_apply.as_ref().unwrap().dry_run);
    assert_eq!(home.fake.state.lock().unwrap().declared.documents["orders"], ORDERS);
}

#[test]
fn objects_are_listed_and_one_prints_as_it_was_applied() {
    let home = Home::running();
    let listed = "kind\tname\trevision\tauthor\tupdated\nSink\torders\t2\toperator\t2023-11-14T22:13:20Z\n";
    for line in [&["get"][..], &["get", "sinks"], &["get", "SINK"]] {
        assert_eq!(home.aap(line).out, listed, "{line:?}");
    }
    for format in ["table", "plain"] {
        assert_eq!(home.aap(&["get", "sink", "orders", "-o", format]).out, ORDERS);
    }
    let item = home.aap(&["get", "sink", "orders", "-o", "json"]).json()["items"][0].take();
    check_fields(Id::Get, &item);
    assert_eq!((&item["document"], &item["revision"]), (&ORDERS.into(), &2.into()));
    let ran = home.aap(&["get", "cellar"]);
    assert!(ran.err.contains("error[resource.unknown_kind]") && ran.err.contains("did you mean `Sink`?"));
    home.fake.state.lock().unwrap().declared.documents.clear();
    let ran = home.aap(&["get", "sinks"]);
    assert_eq!((ran.code, ran.out.lines().count()), (0, 1));
    assert!(ran.err.starts_with("nothing of this kind is declared yet"), "{ran:?}");
    assert!(ran.err.contains("aap apply -f FILE"), "{ran:?}");
}

#[test]
fn deleting_objects_needs_a_confirmation_and_says_what_was_not_there() {
    let home = Home::running();
    let ran = home.aap(&["delete", "sink", "orders", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    let error = ran.error();
    assert_eq!(error["code"], "confirm.needed");
    assert_eq!(error["hints"][0]["command"], "aap delete sink orders --yes");
    assert!(home.fake.state.lock().unwrap().declared.documents.contains_key("orders"));

    let text = format!("{ORDERS}---\nkind: Sink\nmetadata:\n  name: gone\nunheard: of\n");
    let file = home.file("all.yaml", text.as_bytes());
    let path = file.to_str().unwrap();
    assert_eq!(home.aap(&["delete", "-f", path]).code, 2);
    let ran = home.aap(&["delete", "-f", path, "--yes"]);
    assert_eq!((ran.code, ran.out.as_str()), (9, "kind\tname\nSink\torders\n"), "{ran:?}");
    assert_eq!(ran.err, "note: there is no sink `gone`\n");
    let ran = home.aap(&["delete", "-f", path, "--yes"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    assert!(ran.err.starts_with("error[resource.not_found]: there is no sink `orders`"), "{ran:?}");
}

#[test]
fn a_deletion_that_breaks_off_says_what_is_gone() {
    let home = Home::running();
    {
        let declared = &mut home.fake.state.lock().unwrap().declared;
        declared.documents.insert("events".into(), SECOND.into());
        declared.keeps = Some("events".into());
    }
    let file = home.file("both.yaml", format!("{ORDERS}---\n{SECOND}").as_bytes());
    let ran = home.aap(&["delete", "-f", file.to_str().unwrap(), "--yes", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (6, &"resource.conflict".into()));
    let items = ran.json()["items"].take();
    assert_eq!((items.as_array().unwrap().len(), &items[0]["name"]), (1, &"orders".into()));
}

#[test]
fn a_deletion_is_of_one_name_or_of_files() {
    let home = Home::running();
    let file = home.file("orders.yaml", ORDERS.as_bytes());
    let path = file.to_str().unwrap();
    for line in [&["delete"][..], &["delete", "sink"], &["delete", "sink", "orders", "-f", path]] {
        let ran = home.aap(&[line, &["--yes", "-o", "json"]].concat());
        assert_eq!((ran.code, &ran.error()["code"]), (2, &"cli.usage".into()), "{line:?}");
    }
    let nameless = home.file("nameless.yaml", b"kind: Sink\nmetadata: {}\n");
    let ran = home.aap(&["delete", "-f", nameless.to_str().unwrap(), "--yes"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("nameless.yaml:2: "), "{ran:?}");
    assert!(home.fake.state.lock().unwrap().declared.documents.contains_key("orders"));
    let ran = home.aap(&["delete", "-f", path, "-y", "-o", "json"]).json();
    check_fields(Id::Delete, &ran["items"][0]);
}
