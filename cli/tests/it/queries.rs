//! Queries: formats, limits, cancelling, coverage, and a reader that goes away.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Home, Ran};

#[test]
fn a_query_prints_in_every_format() {
    let home = Home::running();
    let run = |format: &str| home.aap(&["query", "-o", format, "rows 2"]).out;
    assert_eq!(home.aap(&["query", "rows 2"]).out, "n\tbody\n0\trow 0\n1\trow 1\n");
    assert_eq!(run("table"), "n  body\n─  ─────\n0  row 0\n1  row 1\n");
    assert_eq!(run("csv"), "n,body\n0,row 0\n1,row 1\n");
    assert_eq!(home.aap(&["query", "-o", "csv", "--no-headers", "rows 2"]).out, "0,row 0\n1,row 1\n");
    assert_eq!(run("ndjson"), "{\"n\":0,\"body\":\"row 0\"}\n{\"n\":1,\"body\":\"row 1\"}\n");
    let document: serde_json::Value = serde_json::from_str(&run("json")).unwrap();
    assert_eq!(document["items"][1]["body"], "row 1");
    assert_eq!(document["columns"][0]["type"], "BIGINT");
    assert_eq!((&document["kind"], &document["truncated"]), (&"query".into(), &false.into()));
    assert_eq!(document["as_of"], "2023-11-14T22:13:20Z");
    let bytes = home.command(&["query", "-o", "parquet", "rows 1"]).output().unwrap().stdout;
    assert_eq!(bytes, b"\0PAR1");
}

#[test]
fn an_answer_without_rows_is_whole_in_every_format() {
    let home = Home::running();
    assert_eq!(home.aap(&["query", "rows 0"]).out, "n\tbody\n");
    assert_eq!(home.aap(&["query", "-o", "table", "rows 0"]).out, "n  body\n─  ────\n");
    assert_eq!(home.aap(&["query", "-o", "json", "rows 0"]).json()["items"].as_array().unwrap().len(), 0);
    assert_eq!(home.aap(&["query", "-o", "ndjson", "rows 0"]).out, "");
}

#[test]
fn rows_are_limited_to_500_and_what_is_cut_is_announced() {
    let home = Home::running();
    let ran = home.aap(&["query", "rows 2500"]);
    assert_eq!((ran.code, ran.out.lines().count()), (0, 501));
    assert!(ran.err.contains("only the first 500 rows are shown; `--limit 0` shows all"), "{}", ran.err);
    let ran = home.aap(&["query", "-o", "json", "--limit", "3", "rows 2500"]);
    assert_eq!((ran.json()["items"].as_array().unwrap().len(), &ran.json()["truncated"]), (3, &true.into()));
    let ran = home.aap(&["query", "--limit", "0", "rows 2500"]);
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (2501, ""));
}

#[test]
fn the_statement_comes_from_the_line_a_file_or_stdin_and_options_reach_the_server() {
    let home = Home::running();
    let file = home.file("q.sql", b"rows 1\n");
    assert_eq!(home.aap(&["query", "-f", file.to_str().unwrap(), "--no-headers"]).out, "0\trow 0\n");
    let mut command = home.command(&[
        "query",
        "-",
        "--no-headers",
        "--wait-for-ingest",
        "--node",
        "a",
        "--node",
        "b",
        "--timeout",
        "2s",
    ]);
    command.stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(Ran::of(command.output().unwrap()).out, "0\trow 0\n");
    let asked = home.fake.state.lock().unwrap().last_query.clone().unwrap();
    assert_eq!((asked.wait_for_ingest, asked.nodes.len(), asked.all_nodes), (true, 2, false));
    assert_eq!(asked.limits.unwrap().deadline_ms, 2000);
    assert!(asked.id.starts_with("q-"));
    home.aap(&["query", "--nodes", "all", "rows 1"]);
    assert!(home.fake.state.lock().unwrap().last_query.clone().unwrap().all_nodes);
    assert_eq!(home.aap(&["query", "-f", "/does/not/exist"]).code, 3);
}

#[test]
fn nodes_that_did_not_answer_are_named_and_the_exit_is_9() {
    let home = Home::running();
    let ran = home.aap(&["query", "partial"]);
    assert_eq!(ran.code, 9);
    assert!(ran.err.contains("1 of 3 nodes answered; late: b; failed: c"), "{ran:?}");
    assert!(ran.err.contains("detail: `b`: its coordinator is silent"), "{ran:?}");
    assert!(ran.err.contains("detail: `c`: its disk is full"), "{ran:?}");
    let coverage = home.aap(&["query", "-o", "json", "partial"]).json()["coverage"].take();
    assert_eq!((&coverage["late"][0], &coverage["reasons"][0]), (&"b".into(), &"its disk is full".into()));
}

#[test]
fn nothing_is_said_of_nodes_where_all_answered_but_json_names_them() {
    let home = Home::running();
    let ran = home.aap(&["query", "whole"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(home.aap(&["query", "whole", "--verbose"]).err.contains("3 of 3 nodes answered"));
    let coverage = home.aap(&["query", "-o", "json", "whole"]).json()["coverage"].take();
    assert_eq!(coverage["answered"].as_array().unwrap().len(), 3);
}

#[test]
fn nothing_in_the_data_acts_on_the_terminal() {
    let home = Home::running();
    let table = home.aap(&["query", "-o", "table", "nasty"]).out;
    assert!(table.contains("red\\tx\\ny") && !table.contains('\x1b'), "{table:?}");
    assert!(table.lines().last().unwrap().contains("NULL"), "{table}");
    let plain = home.aap(&["query", "nasty"]).out;
    assert_eq!(plain.lines().nth(1).unwrap(), "1\t\\x1b[31mred\\x1b[0m\\tx\\ny");
}

#[test]
fn an_answer_that_breaks_off_leaves_stdout_valid() {
    let home = Home::running();
    let ran = home.aap(&["query", "-o", "json", "die"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["error"]["code"], "query.engine_died");
    assert_eq!(ran.error()["code"], "query.engine_died");
    let ran = home.aap(&["query", "die"]);
    assert!(
        ran.err.starts_with("error[query.engine_died]: the engine was killed\n  hint: try again\n  exit 1"),
        "{ran:?}"
    );
}

#[test]
fn ctrl_c_cancels_on_the_server_and_ends_with_130() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let home = Home::running();
        let mut child =
            home.command(&["query", "hang"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "n\tbody\n");
        kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let cancelled = home.fake.state.lock().unwrap().cancelled.clone();
        assert_eq!(cancelled, [home.fake.state.lock().unwrap().last_query.clone().unwrap().id]);
    }
}

#[test]
fn rows_show_while_the_query_goes_on() {
    let home = Home::running();
    let mut child = home
        .command(&["stream", "tail", "logs", "-f", "-o", "table"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let lines: Vec<String> = (0..5)
        .map(|_| {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line
        })
        .collect();
    assert_eq!(lines[4], "2  row 2\n");
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_tail_asks_for_none_some_or_all_of_the_newest_rows() {
    let home = Home::running();
    for (options, rows) in
        [(&[][..], 20), (&["-n", "0"], 0), (&["-n", "2"], 2), (&["--limit", "0"], u64::MAX)]
    {
        let ran = home.aap(&[&["stream", "tail", "logs"], options].concat());
        assert_eq!((ran.code, ran.out.lines().count()), (0, 1 + rows.min(3) as usize), "{options:?}");
        assert_eq!(home.fake.state.lock().unwrap().last_tail.clone().unwrap().rows, rows, "{options:?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_query_quietly() {
    let home = Home::running();
    let mut child = home
        .command(&["query", "--limit", "0", "rows 2000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 10];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let deadline = std::time::Duration::from_secs(5);
    let cancelled = || home.fake.state.lock().unwrap().cancelled.len() == 1;
    assert!(wait_for(deadline, cancelled), "the server was not told");
}

/// Waits for a condition.
pub(crate) fn wait_for(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let clock = aap_client::SystemClock::default();
    let end = aap_client::Clock::monotonic(&clock) + limit;
    while aap_client::Clock::monotonic(&clock) < end {
        if condition() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}
