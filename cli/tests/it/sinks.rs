//! Sinks and their dead letters.

use aap_client::operations::Id;
use aap_types::{ExitCode, Problem};

use crate::fake::{Home, check_fields};

fn denied() -> Problem {
    Problem::new("sink.denied", ExitCode::Denied, "the server refused the password of sink `orders`")
        .cause("password authentication failed for user \"aap\"")
        .hint_command("try again at once when it is right", "aap sink resume orders")
}

#[test]
fn sinks_are_listed_with_what_is_wrong_and_json_has_the_problem_and_exact_epochs() {
    let home = Home::running();
    let ran = home.aap(&["sink", "ls"]);
    assert_eq!(
        ran.out,
        "sink\tkind\tstate\trows\trows_per_second\twaiting_batches\tdead_letters\twritten\tguarantee\n\
         orders\tpostgres\trunning\t1234\t5.0\t2\t3\t2023-11-14T22:13:20Z\texactly-once\n"
    );
    assert_eq!(ran.err, "");
    let item = home.aap(&["sink", "ls", "-o", "json"]).json()["items"][0].take();
    check_fields(Id::SinkLs, &item);
    assert!(item["problem"].is_null());
    assert_eq!(item["streams"][0]["positions"][0]["epoch"], (1u64 << 60).to_string());

    home.fake.state.lock().unwrap().declared.problem = Some(denied());
    let ran = home.aap(&["sink", "ls"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("note: sink `orders`: the server refused") && ran.err.contains("aap sink show"));
    let item = home.aap(&["sink", "ls", "-o", "json"]).json()["items"][0].take();
    let problem = &item["problem"];
    assert_eq!((&problem["code"], &problem["exit"]), (&"sink.denied".into(), &5.into()));
    assert_eq!(problem["hints"][0]["command"], "aap sink resume orders");
    assert_eq!(item["state"], "refused");
}

#[test]
fn a_sink_shows_its_streams_and_positions_and_its_problem_as_a_failing_command_does() {
    let home = Home::running();
    home.fake.state.lock().unwrap().declared.problem = Some(denied());
    let ran = home.aap(&["sink", "show", "orders", "-o", "table"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    let at = lines.iter().position(|line| line.is_empty()).unwrap();
    assert!(lines[..at].contains(&"target           warehouse/db orders"), "{}", ran.out);
    assert_eq!(
        lines[at + 1..].join("\n"),
        format!(
            "STREAM   ROWS  WAITING\norders  1,234        2\n\n\
             STREAM  NODE    EPOCH                WRITTEN  LANDED\n\
             orders  web-01  1152921504606846976        7       9\n\n{}",
            home.aap(&["sink", "test", "orders"]).err.trim_end()
        )
    );
    let item = home.aap(&["sink", "show", "orders", "-o", "json"]).json()["item"].take();
    check_fields(Id::SinkShow, &item);
    assert_eq!(home.aap(&["sink", "show", "orders"]).out.lines().next().unwrap(), "sink\torders");
}

#[test]
fn a_test_says_what_was_found_or_fails_as_the_server_says() {
    let home = Home::running();
    let ran = home.aap(&["sink", "test", "orders"]);
    assert_eq!(
        ran.out,
        "sink\torders\nguarantee\texactly-once\nPostgreSQL 15.6 at warehouse\ntable `orders`: 10 columns\n"
    );
    check_fields(Id::SinkTest, &home.aap(&["sink", "test", "orders", "-o", "json"]).json()["item"]);
    home.fake.state.lock().unwrap().declared.problem = Some(denied());
    let ran = home.aap(&["sink", "test", "orders"]);
    assert_eq!((ran.code, ran.out.as_str()), (5, ""));
    assert!(ran.err.contains("cause: password authentication failed"), "{ran:?}");
    assert!(ran.err.contains("hint: try again at once when it is right: `aap sink resume orders`"));
    assert!(ran.err.contains("aap help error sink.denied"), "{ran:?}");
}

#[test]
fn a_test_ends_when_its_time_is_over() {
    let home = Home::running();
    home.fake.state.lock().unwrap().declared.test_hangs = true;
    let ran = home.aap(&["sink", "test", "orders", "--timeout", "200ms", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (7, ""));
    assert_eq!(ran.error()["code"], "platform.unreachable");
}

#[test]
fn a_sink_is_paused_and_resumed() {
    let home = Home::running();
    assert_eq!(home.aap(&["sink", "pause", "orders"]).out, "sink\torders\nstate\tpaused\n");
    let ran = home.aap(&["sink", "resume", "orders", "-o", "json"]).json();
    assert_eq!((&ran["kind"], &ran["item"]["state"]), (&"sink.resumed".into(), &"starting".into()));
    assert_eq!(home.fake.state.lock().unwrap().declared.calls, ["pause orders", "resume orders"]);
}

#[test]
fn dead_letters_are_listed_within_the_limit_and_what_is_cut_off_is_announced() {
    let home = Home::running();
    let asked = |home: &Home| home.fake.state.lock().unwrap().declared.last_letters.clone().unwrap().limit;
    let ran = home.aap(&["sink", "dlq", "ls", "orders", "--limit", "2"]);
    assert_eq!((ran.code, asked(&home)), (0, 2));
    assert_eq!(ran.out.lines().next().unwrap(), "at\tstream\tnode\tsequence\trow\treason");
    assert_eq!(ran.out.lines().count(), 3);
    assert!(ran.err.contains("2 of 3 are shown; `--limit 0` shows all"), "{ran:?}");
    let json = home.aap(&["sink", "dlq", "ls", "orders", "--limit", "1", "-o", "json"]).json();
    assert_eq!(json["truncated"], true);
    check_fields(Id::SinkDlqLs, &json["items"][0]);
    assert_eq!(home.aap(&["sink", "dlq", "ls", "orders"]).err, "");
    assert_eq!(asked(&home), 500);
    home.aap(&["sink", "dlq", "ls", "orders", "--limit", "0"]);
    assert_eq!(asked(&home), 0);
}

#[test]
fn dead_letters_show_their_rows_as_json_and_cannot_move_the_cursor() {
    let home = Home::running();
    let item = home.aap(&["sink", "dlq", "show", "orders", "-o", "json"]).json()["items"][1].take();
    check_fields(Id::SinkDlqShow, &item);
    assert_eq!((&item["document"]["id"], &item["row"]), (&1.into(), &1.into()));
    let table = home.aap(&["sink", "dlq", "show", "orders", "--limit", "1", "-o", "table"]);
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 3, "{table:?}");
    assert!(lines[0].starts_with("orders  web-01  epoch 1152921504606846976  seq 7  row 0  "), "{table:?}");
    assert_eq!(lines[1], "  value too long for type character varying(3)");
    assert_eq!(lines[2], "  {\"id\":0,\"text\":\"\\u001b[31mlong\"}");
    assert!(table.err.contains("1 of 3 are shown"), "{table:?}");
}

#[test]
fn dead_letters_are_replayed_and_purged_only_when_confirmed() {
    let home = Home::running();
    let ran = home.aap(&["sink", "dlq", "replay", "orders"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "sink\torders\nrows\t3\n"));
    let ran = home.aap(&["sink", "dlq", "purge", "orders", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (2, &"confirm.needed".into()));
    assert_eq!(ran.error()["hints"][0]["command"], "aap sink dlq purge orders --yes");
    assert_eq!(home.fake.state.lock().unwrap().declared.calls, ["replay orders"]);
    let ran = home.aap(&["sink", "dlq", "purge", "orders", "--yes", "-o", "json"]).json();
    assert_eq!((&ran["kind"], &ran["item"]["rows"]), (&"sink.purged".into(), &3.into()));
}

#[test]
fn a_node_alone_says_that_sinks_need_a_coordinator() {
    let home = Home::running();
    std::fs::remove_file(home.path().join("run/coordinator.json")).unwrap();
    for line in ["get", "sink ls", "sink show orders", "sink dlq ls orders", "delete sink orders --yes"] {
        let ran = home.aap(&[&line.split(' ').collect::<Vec<_>>()[..], &["-o", "json"]].concat());
        assert_eq!(ran.code, 7, "{line}: {ran:?}");
        let error = ran.error();
        assert_eq!(error["code"], "platform.needs_coordinator", "{line}");
        assert!(!error["hints"].as_array().unwrap().is_empty(), "{line}");
    }
}

#[test]
fn a_noun_of_two_words_has_help_completions_and_usage_errors() {
    let home = Home::empty();
    let help = home.aap(&["help", "sink", "dlq"]);
    assert_eq!(help.code, 0, "{help:?}");
    for verb in ["ls", "show", "replay", "purge"] {
        assert!(help.out.lines().any(|line| line.trim_start().starts_with(verb)), "{verb}: {}", help.out);
    }
    assert!(home.aap(&["help", "sink"]).out.lines().any(|line| line.trim_start().starts_with("dlq ")));
    assert!(!home.aap(&["help"]).out.contains("sink dlq"));
    for line in [&["sink", "dlq"][..], &["sink"], &["sink", "dlq", "ls"], &["sink", "frob"]] {
        assert_eq!(home.aap(line).code, 2, "{line:?}");
    }
    assert_eq!(crate::completion::offered(&home, &["aap", "sink", "dlq", "pur"]), ["purge"]);
    let items = home.aap(&["help", "--json"]).json()["items"].take();
    let purge = items.as_array().unwrap().iter().find(|item| item["id"] == "sink-dlq-purge").unwrap();
    assert_eq!((&purge["command"], &purge["noun"]), (&"aap sink dlq purge".into(), &"sink dlq".into()));
}
