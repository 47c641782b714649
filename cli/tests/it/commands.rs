//! Every listing, in text and JSON, and every way it can end.

use aap_client::operations::{self, Effect, Format};
use aap_client::v1::StatusReply;

use crate::fake::{Home, TOKEN};

/// Commands that ask the coordinator, with the exit code each has on the fake platform.
const ASKING: &[(&str, i32)] = &[
    ("status", 0),
    ("node ls", 0),
    ("node show web-01", 0),
    ("node show nobody", 3),
    ("node ls --site lyon", 0),
    ("site ls", 0),
    ("site show default", 0),
    ("site show nowhere", 3),
    ("ca show", 0),
    ("ca rotate", 0),
    ("ca rotate --finish", 0),
    ("stream ls", 0),
    ("stream show logs", 0),
    ("stream show nothing", 3),
    ("stream files logs", 0),
    ("stream files nothing", 3),
    ("stream tail logs", 0),
    ("stream tail nothing", 3),
    ("stream delete logs --yes", 0),
    ("stream delete nothing --yes", 3),
    ("query ls", 0),
    ("query cancel q-1", 0),
    ("query cancel q-0", 3),
    ("query rows", 0),
    ("query oops", 2),
    ("get", 0),
    ("get sinks", 0),
    ("get Sink nothing", 3),
    ("get cellar", 2),
    ("delete sink nothing --yes", 3),
    ("user ls", 0),
    ("user show ana", 0),
    ("user show nobody", 3),
    ("user delete ana --yes", 0),
    ("role ls", 0),
    ("role show viewer", 0),
    ("token ls", 0),
    ("token revoke gone", 3),
    ("secret ls", 0),
    ("secret rm pg --yes", 6),
    ("secret rm pg --force --yes", 0),
    ("secret rm nothing --yes", 3),
    ("auth whoami", 0),
    ("auth session ls", 0),
    ("auth session end gone", 3),
    ("can-i query logs", 0),
    ("who-can query logs", 0),
    ("sink ls", 0),
    ("sink show nothing", 3),
    ("sink test nothing", 3),
    ("sink pause nothing", 3),
    ("sink resume nothing", 3),
    ("sink dlq ls nothing", 3),
    ("sink dlq show nothing", 3),
    ("sink dlq replay nothing", 3),
    ("sink dlq purge nothing --yes", 3),
    ("sink show orders", 0),
    ("sink test orders", 0),
    ("sink pause orders", 0),
    ("sink resume orders", 0),
    ("sink dlq ls orders", 0),
    ("sink dlq show orders", 0),
    ("sink dlq replay orders", 0),
    ("sink dlq purge orders --yes", 0),
];

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn every_command_ends_as_promised_in_text_and_json_with_data_and_words_apart() {
    let home = Home::running();
    for (line, code) in ASKING {
        let text = home.aap(&words(line));
        assert_eq!(text.code, *code, "{line}: {text:?}");
        assert!(!text.out.contains('\x1b') && !text.err.contains('\x1b'), "{line}: {text:?}");
        if *code != 0 {
            assert_eq!(text.out, "", "{line}");
            assert!(text.err.starts_with("error[") && text.err.contains("hint:"), "{line}: {text:?}");
        }
        let json = home.aap(&[&words(line)[..], &["-o", "json"]].concat());
        assert_eq!(json.code, *code, "{line}: {json:?}");
        if *code == 0 {
            let document = json.json();
            assert_eq!(document["format_version"], "1.0", "{line}");
            assert!(document["kind"].is_string(), "{line}");
            assert!(document["items"].is_array() || document["item"].is_object(), "{line}: {document}");
        } else {
            assert_eq!(json.out, "", "{line}");
            let error = json.error();
            assert_eq!(error["exit"], *code, "{line}: {error}");
            assert!(!error["hints"].as_array().unwrap().is_empty(), "{line}: {error}");
        }
    }
}

#[test]
fn every_command_says_when_nothing_runs_and_when_the_token_is_refused() {
    let stopped = Home::empty();
    let refused = Home::running();
    std::fs::write(refused.path().join("run/operator.token"), "wrong").unwrap();
    for (line, _) in ASKING {
        let ran = stopped.aap(&[&words(line)[..], &["-o", "json"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (7, ""), "{line}: {ran:?}");
        let error = ran.error();
        assert_eq!(
            (&error["code"], &error["retryable"]),
            (&"platform.not_running".into(), &true.into()),
            "{line}"
        );
        assert_eq!(error["hints"][0]["command"], "aap up --detach", "{line}");
        let ran = refused.aap(&words(line));
        assert_eq!((ran.code, ran.out.as_str()), (4, ""), "{line}: {ran:?}");
        assert!(!ran.err.contains(TOKEN) && ran.err.contains("error[auth."), "{line}: {ran:?}");
    }
}

#[test]
fn an_empty_platform_is_an_empty_list_and_not_an_error() {
    let home = Home::running();
    home.fake.state.lock().unwrap().status = StatusReply { as_of_us: 1, ..StatusReply::default() };
    for line in ["node ls", "stream ls"] {
        let ran = home.aap(&[&words(line)[..], &["-o", "json"]].concat());
        assert_eq!((ran.code, ran.json()["items"].as_array().unwrap().len()), (0, 0), "{line}");
        assert_eq!(home.aap(&[&words(line)[..], &["-o", "ndjson"]].concat()).out, "", "{line}");
    }
    let ran = home.aap(&["status"]);
    assert_eq!(ran.code, 11, "no node: {ran:?}");
}

#[test]
fn status_is_unhealthy_when_a_node_left_or_what_waits_does_not_move() {
    let home = Home::running();
    assert_eq!(home.aap(&["status", "-o", "json"]).json()["item"]["healthy"], true);
    home.fake.state.lock().unwrap().status.nodes[0].connected = false;
    let ran = home.aap(&["status", "-o", "json"]);
    assert_eq!((ran.code, &ran.json()["item"]["healthy"]), (11, &false.into()));
    {
        let node = &mut home.fake.state.lock().unwrap().status.nodes[0];
        (node.connected, node.waiting_batches) = (true, 3);
    }
    let ran = home.aap(&["status"]);
    assert_eq!(ran.code, 11);
    assert!(ran.out.contains("3 batches wait and none lands"), "{ran:?}");
    home.fake.state.lock().unwrap().status.nodes[0].rows_per_second = 5.0;
    assert_eq!(home.aap(&["status"]).code, 0);
}

#[test]
fn status_says_each_problem_once() {
    let home = Home::running();
    {
        let status = &mut home.fake.state.lock().unwrap().status;
        status.problems = vec!["the lake is full".into()];
        status.nodes[0].problems = vec!["its clock differs".into(), "its disk is full".into()];
    }
    let ran = home.aap(&["status"]);
    assert_eq!(ran.code, 0, "problems do not stop data");
    let said = ran.out + &ran.err;
    for problem in ["the lake is full", "its clock differs", "its disk is full"] {
        assert_eq!(said.matches(problem).count(), 1, "{problem}: {said}");
    }
}

#[test]
fn formats_of_a_listing_hold_the_same_values() {
    let home = Home::running();
    let plain = home.aap(&["stream", "files", "logs"]).out;
    assert_eq!(plain.lines().next().unwrap(), "path\trows\tbytes\toldest\tnewest");
    assert_eq!(
        plain.lines().nth(2).unwrap(),
        "/lake/logs/2.parquet\t2\t10\t1970-01-01T00:00:00.000001Z\t1970-01-01T00:00:00.000002Z"
    );
    let csv = home.aap(&["stream", "files", "logs", "-o", "csv", "--no-headers"]).out;
    assert_eq!(csv.lines().count(), 3);
    let table = home.aap(&["stream", "files", "logs", "-o", "table"]).out;
    assert_eq!(
        table.lines().next().unwrap(),
        "PATH                  ROWS  BYTES  OLDEST ROW   NEWEST ROW",
        "{table}"
    );
    let items = home.aap(&["stream", "files", "logs", "-o", "ndjson"]).out;
    let first: serde_json::Value = serde_json::from_str(items.lines().next().unwrap()).unwrap();
    assert_eq!(first["path"], "/lake/logs/1.parquet");
}

#[test]
fn a_long_listing_is_cut_and_says_so() {
    let home = Home::running();
    let ran = home.aap(&["stream", "files", "logs", "--limit", "2", "-o", "json"]);
    assert_eq!(ran.json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(ran.json()["truncated"], true);
    assert!(ran.err.contains("2 of 3 are shown"), "{ran:?}");
    assert_eq!(
        home.aap(&["stream", "files", "logs", "--limit", "0", "-o", "json"]).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let quiet = home.command(&["stream", "files", "logs", "-q"]).env("AAP_LIMIT", "1").output().unwrap();
    assert_eq!((quiet.stdout.iter().filter(|b| **b == b'\n').count(), quiet.stderr.len()), (2, 0));
}

#[test]
fn deleting_needs_a_confirmation() {
    let home = Home::running();
    let ran = home.aap(&["stream", "delete", "logs"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--yes"), "{ran:?}");
    assert!(home.fake.state.lock().unwrap().deleted.is_empty());
    assert_eq!(home.aap(&["stream", "delete", "logs", "-y"]).code, 0);
    assert_eq!(home.fake.state.lock().unwrap().deleted, ["logs"]);
}

#[test]
fn a_wrong_command_line_is_2_and_json_where_json_was_asked_for() {
    let home = Home::empty();
    for line in [
        "frobnicate",
        "stream",
        "stream show",
        "query",
        "status --bogus",
        "stream show ../etc",
        "query -o pdf x",
    ] {
        let ran = home.aap(&words(line));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {ran:?}");
        let ran = home.aap(&[&["-o", "json"][..], &words(line)].concat());
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
        assert_eq!(ran.error()["exit"], 2, "{line}");
    }
    assert_eq!(home.aap(&["stream", "ls", "-o", "parquet"]).code, 2);
}

#[test]
fn help_is_machine_readable_and_covers_every_operation() {
    let home = Home::empty();
    let document = home.aap(&["help", "--json"]).json();
    let items = document["items"].as_array().unwrap();
    assert_eq!(items.len(), operations::all().count());
    for operation in operations::all() {
        let words: Vec<String> = operation.command().split(' ').skip(1).map(str::to_owned).collect();
        let mut line: Vec<&str> = vec!["help"];
        line.extend(words.iter().map(String::as_str));
        let ran = home.aap(&line);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains(operation.examples[0].command), "{}", ran.out);
        assert!(operation.effect != Effect::Destructive || home.aap(&line).out.contains("--yes"));
        assert!(operation.formats.contains(&Format::Plain) || operation.formats.contains(&Format::Table));
    }
    let codes = home.aap(&["help", "exit-codes"]).out;
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 70, 130, 143] {
        assert!(
            codes.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))),
            "{code}: {codes}"
        );
    }
    assert_eq!(home.aap(&["help", "nonsense"]).code, 3);
}

#[test]
fn version_and_completions_need_no_platform() {
    let home = Home::empty();
    assert!(home.aap(&["--version"]).out.starts_with("aap 0."));
    assert_eq!(home.aap(&["version", "-o", "json"]).json()["item"]["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.aap(&["completion", shell]).out.contains("AAP_COMPLETE"), "{shell}");
    }
    assert_eq!(home.aap(&["logs"]).code, 3);
}

#[test]
fn logs_show_the_last_lines_of_one_or_all() {
    let home = Home::empty();
    std::fs::create_dir(home.path().join("log")).unwrap();
    home.file("log/agent.log", b"one\ntwo\nthree\n");
    home.file("log/coordinator.log", b"c\n");
    assert_eq!(home.aap(&["logs", "agent", "-n", "2"]).out, "two\nthree\n");
    assert_eq!(
        home.aap(&["logs"]).out,
        "coordinator | c\nagent       | one\nagent       | two\nagent       | three\n"
    );
}

#[test]
fn every_error_has_a_page_with_cause_and_remedy() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = vec![root.join("cli/src"), root.join("crates/client/src")];
    let mut codes = 0;
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let program = text.split("#[cfg(test)]").next().unwrap();
        for code in
            program.split("Problem::new(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'))
        {
            let code = code.split('"').next().unwrap();
            let page =
                std::fs::read_to_string(root.join(format!("docs/errors/{code}.md"))).unwrap_or_default();
            assert!(
                page.contains("**Cause.**") && page.contains("**Remedy.**"),
                "{code} of {}",
                path.display()
            );
            codes += 1;
        }
    }
    assert!(codes > 40, "{codes}: the sources were not found");
}

#[test]
fn the_page_of_an_error_is_at_hand_and_near_codes_are_named() {
    let home = Home::empty();
    let page = home.aap(&["help", "error", "query.memory"]);
    assert_eq!(page.code, 0);
    assert!(page.out.starts_with("query.memory\n\n"), "{page:?}");
    assert!(page.out.contains("Cause. ") && page.out.contains("Remedy. "), "{page:?}");
    assert!(!page.out.contains("```") && !page.out.contains("**"), "{page:?}");
    let json = home.aap(&["help", "error", "query.memory", "-o", "json"]).json();
    assert_eq!((&json["kind"], &json["item"]["code"]), (&"help.error".into(), &"query.memory".into()));

    let codes = home.aap(&["help", "errors"]).out;
    assert!(codes.lines().any(|line| line.starts_with("query.memory ")), "{codes}");
    let items = home.aap(&["help", "errors", "--json"]).json()["items"].take();
    assert_eq!(items.as_array().unwrap().len(), codes.lines().count());

    let ran = home.aap(&["help", "error", "query.memry"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    assert!(ran.err.contains("did you mean `query.memory`"), "{ran:?}");
    let ran = home.aap(&["status"]);
    assert!(ran.err.ends_with("exit 7 (retryable) · aap help error platform.not_running\n"), "{ran:?}");
}
