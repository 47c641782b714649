//! `aap ingest`: every row once, however often it is repeated, interrupted or cut off.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Home, Ran};

fn lines(count: usize) -> Vec<u8> {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().into_bytes()
}

fn stored(home: &Home) -> Vec<u8> {
    let state = home.fake.state.lock().unwrap();
    state.runs.values().flat_map(|run| run.bytes.clone()).collect()
}

#[test]
fn a_file_is_taken_once_and_repeating_adds_nothing() {
    let home = Home::running();
    let content = lines(100_000);
    let file = home.file("data.ndjson", &content);
    let path = file.to_str().unwrap();
    let ran = home.aap(&["ingest", "events", path]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let name = file.canonicalize().unwrap();
    assert_eq!(
        ran.out,
        format!("stream\tevents\nname\t{}\nrows\t100000\nrows_total\t100000\nbad_rows\t0\n", name.display())
    );
    assert!(stored(&home) == content);
    let mut again = home.command(&["ingest", "events", "data.ndjson", "-o", "json"]);
    let ran = Ran::of(again.current_dir(home.path()).output().unwrap());
    let last: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (ran.code, &last["type"], &last["rows"], &last["rows_total"]),
        (0, &"done".into(), &0.into(), &100_000.into())
    );
    assert_eq!(last["already_complete"], true);
    let opened = &home.fake.state.lock().unwrap().opened[0].clone();
    assert_eq!((opened.format.as_str(), opened.codec.as_str(), opened.replayable), ("ndjson", "", true));
    assert_eq!(opened.size, content.len() as u64);
}

#[test]
fn changed_content_is_a_conflict_until_it_is_asked_for_again() {
    let home = Home::running();
    let file = home.file("data.ndjson", &lines(10));
    let path = file.to_str().unwrap();
    assert_eq!(home.aap(&["ingest", "events", path]).code, 0);
    let mut other = lines(10);
    other[5] = b'9';
    for content in [other.clone(), lines(11), lines(9), vec![]] {
        std::fs::write(&file, &content).unwrap();
        let ran = home.aap(&["ingest", "events", path]);
        assert_eq!(ran.code, 6, "{ran:?}");
        assert!(ran.err.contains("ingest.content_changed") && ran.err.contains("--again"), "{ran:?}");
    }
    assert!(stored(&home) == lines(10));
    std::fs::write(&file, &other).unwrap();
    assert_eq!(home.aap(&["ingest", "events", path, "--again"]).code, 0);
    assert!(stored(&home) == other);
}

#[test]
fn an_agent_that_answers_and_takes_nothing_is_given_up_as_one_that_is_silent() {
    let home = Home::running();
    let file = home.file("data.ndjson", &lines(1000));
    home.fake.state.lock().unwrap().takes_nothing = true;
    let ran = home.aap(&["ingest", "events", file.to_str().unwrap(), "--timeout", "1s"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.err.contains("ingest.agent_gone"), "{ran:?}");
    assert!(home.fake.state.lock().unwrap().opened.len() > 2);
}

#[test]
fn a_full_buffer_is_told_once_and_waited_for_as_long_as_the_timeout_says() {
    let home = Home::running();
    let file = home.file("data.ndjson", &lines(1000));
    home.fake.state.lock().unwrap().is_full = true;
    let ran = home.aap(&["ingest", "events", file.to_str().unwrap(), "--timeout", "300ms"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert_eq!(ran.err.matches("the agent's buffer is full").count(), 1, "{ran:?}");
    assert!(ran.err.contains("ingest.buffer_full") && ran.err.contains("(retryable)"), "{ran:?}");
    assert!(ran.err.contains("cause: the budget is still used up"), "{ran:?}");
    assert_eq!(home.fake.state.lock().unwrap().opened.len(), 1, "it did not try again");
}

#[test]
fn a_run_that_was_cut_off_goes_on_where_it_is_durable() {
    let home = Home::running();
    let content = lines(200_000);
    let file = home.file("data.ndjson", &content);
    home.fake.state.lock().unwrap().cut_after = Some(1000);
    let ran = home.aap(&["ingest", "events", file.to_str().unwrap(), "--again", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(stored(&home) == content);
    assert!(ran.out.contains("\"type\":\"resumed\""), "{}", ran.out);
    let last: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["rows"], 200_000);
    let again: Vec<bool> = home.fake.state.lock().unwrap().opened.iter().map(|open| open.again).collect();
    assert_eq!(again, [true, false]);
}

#[test]
fn stdin_survives_a_connection_that_is_cut() {
    let home = Home::running();
    let content = lines(200_000);
    home.fake.state.lock().unwrap().cut_after = Some(1000);
    let mut child = home
        .command(&["ingest", "events", "-", "--format", "ndjson", "--name", "feed"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&content).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(stored(&home) == content);
    // The same again under the same name adds nothing; other content is a conflict.
    for (input, code) in [(content.clone(), 0), (lines(3), 6)] {
        let file = home.file("input", &input);
        let mut command = home.command(&["ingest", "events", "-", "--format", "ndjson", "--name", "feed"]);
        let ran = Ran::of(command.stdin(std::fs::File::open(file).unwrap()).output().unwrap());
        assert_eq!(ran.code, code, "{ran:?}");
    }
    assert!(stored(&home) == content);
}

#[test]
fn ctrl_c_leaves_a_run_that_can_go_on() {
    let home = Home::running();
    let mut child = home
        .command(&["ingest", "events", "-", "--format", "ndjson", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"n\":1}\n").unwrap();
    input.flush().unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(events.any(|line| line.unwrap().contains("\"type\":\"progress\"")));
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains("interrupted; 1 rows of this run are durable"), "{ran:?}");
}

#[test]
fn what_cannot_be_taken_says_why() {
    let home = Home::running();
    let odd = home.file("data.bin", b"x");
    let good = home.file("x.ndjson", b"BAD\n{}\n");
    let path = |file: &std::path::Path| file.to_str().unwrap().to_owned();
    for (file, code, word) in [
        ("/does/not/exist.csv".to_owned(), 3, "cannot be read"),
        (path(&odd), 2, "--format"),
        (path(home.path()), 2, "neither a regular file nor a pipe"),
    ] {
        let ran = home
            .aap(&["ingest", "events", &file, "--format", "csv"][..if word == "--format" { 3 } else { 5 }]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(word), "{ran:?}");
    }
    let ran = home.aap(&["ingest", "events", &path(&good)]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.err.contains("1 rows could not be read") && ran.err.contains("from \"events.dead\""),
        "{ran:?}"
    );
    let stopped = Home::empty();
    let ran = stopped.aap(&["ingest", "events", &path(&good)]);
    assert_eq!(ran.code, 7);
    assert!(ran.err.contains("aap up --detach"), "{ran:?}");
}
