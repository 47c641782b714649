//! `aap ingest`: every format and codec, once however often it is repeated, whoever is killed meanwhile.

use std::path::PathBuf;

use aap_tests::{Platform, Ran, Signal};
use serde_json::{Value, json};

/// Lines of JSON with the ids of `range`.
fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|id| format!("{{\"id\":{id},\"name\":\"row {id}\"}}\n")).collect()
}

fn write(platform: &Platform, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = platform.beside(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// What the last event of `-o json` counts.
#[track_caller]
fn done(ran: &Ran) -> Value {
    let event: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!((ran.code, event["type"].as_str()), (0, Some("done")), "{ran:?}");
    event
}

#[track_caller]
fn counts(ran: &Ran, rows: u64, rows_total: u64, bad_rows: u64) {
    let event = done(ran);
    let found = (&event["rows"], &event["rows_total"], &event["bad_rows"]);
    assert_eq!(found, (&json!(rows), &json!(rows_total), &json!(bad_rows)), "{event}");
}

#[test]
fn every_format_and_codec_is_known_by_name_and_by_flag() {
    let platform = Platform::started(&[]);
    let sql = "select range as id, 'row ' || range as name from range(3000)";
    for format in ["ndjson", "csv", "parquet", "arrow"] {
        let output =
            platform.command("aap").args(["query", "--limit", "0", "-o", format, sql]).output().unwrap();
        let path = write(&platform, &format!("rows.{format}"), &output.stdout);
        let renamed = write(&platform, &format!("renamed-{format}"), &output.stdout);
        let ingest =
            |arguments: &[&str]| platform.aap(&[&["ingest", format, "-o", "json"], arguments].concat());
        counts(&ingest(&[path.to_str().unwrap()]), 3000, 3000, 0);
        ingest(&[renamed.to_str().unwrap()]).refused(2, "ingest.format_unknown");
        counts(&ingest(&[renamed.to_str().unwrap(), "--format", format]), 3000, 3000, 0);
        let piped = ["ingest", format, "-", "--format", format, "--name", "piped", "-o", "json"];
        counts(&platform.aap_with_input(&piped, &output.stdout), 3000, 3000, 0);
        counts(&platform.aap_with_input(&piped, &output.stdout), 0, 3000, 0);
        let mut copies = 3;
        if ["ndjson", "csv"].contains(&format) {
            for (program, ending) in [("gzip", "gz"), ("zstd", "zst")] {
                let packed =
                    std::process::Command::new(program).arg("-c").arg(&path).output().unwrap().stdout;
                let by_name = write(&platform, &format!("rows.{format}.{ending}"), &packed);
                counts(&ingest(&[by_name.to_str().unwrap()]), 3000, 3000, 0);
                let by_flag = write(&platform, &format!("{format}-{program}"), &packed);
                let flags = ["--format", format, "--codec", program];
                counts(&ingest(&[&[by_flag.to_str().unwrap()], &flags[..]].concat()), 3000, 3000, 0);
                copies += 2;
            }
        }
        let found =
            platform.rows(&format!("select count(*) n, count(distinct id) d, min(name) low from {format}"));
        assert_eq!(found, vec![json!({"n": 3000 * copies, "d": 3000, "low": "row 0"})], "{format}");
    }
    let text = write(&platform, "a.txt", "one\r\n\nthree");
    counts(&platform.aap(&["ingest", "text", text.to_str().unwrap(), "-o", "json"]), 3, 3, 0);
    let bodies = platform.rows("select body from text order by _epoch, _seq, _row");
    assert_eq!(bodies, vec![json!({"body": "one"}), json!({"body": ""}), json!({"body": "three"})]);
}

#[test]
fn the_same_content_adds_nothing_and_other_content_is_refused_until_again() {
    let platform = Platform::started(&[]);
    let path = write(&platform, "a.ndjson", lines(0..1000));
    let ingest = |more: &[&str]| {
        platform.aap(&[&["ingest", "events", path.to_str().unwrap(), "-o", "json"], more].concat())
    };
    counts(&ingest(&[]), 1000, 1000, 0);
    let repeated = ingest(&[]);
    counts(&repeated, 0, 1000, 0);
    assert_eq!(done(&repeated)["already_complete"], true);
    let cut_in_a_line = lines(0..1000).trim_end_matches("}\n").to_owned();
    for other in [lines(1..1001), lines(0..10), lines(5000..9000), cut_in_a_line] {
        std::fs::write(&path, other).unwrap();
        let problem = ingest(&[]).refused(6, "ingest.content_changed");
        assert!(problem["hints"].to_string().contains("--again"), "{problem}");
    }
    std::fs::write(&path, lines(0..1000)).unwrap();
    counts(&ingest(&[]), 0, 1000, 0);
    assert_eq!(platform.count("select count(*) from events"), 1000);
    counts(&ingest(&["--again"]), 1000, 1000, 0);
    counts(&ingest(&[]), 0, 1000, 0);
    counts(&ingest(&["--name", "another"]), 1000, 1000, 0);
    counts(&ingest(&["--name", "another"]), 0, 1000, 0);
    // The key is the absolute path, however it is written.
    let folder = platform.beside("");
    let mut relative = platform.command("aap");
    relative.current_dir(folder).args(["ingest", "events", "./a.ndjson", "-o", "json"]);
    counts(&Ran::of(relative.output().unwrap()), 0, 1000, 0);
    // Another stream is another run.
    counts(&platform.aap(&["ingest", "events2", path.to_str().unwrap(), "-o", "json"]), 1000, 1000, 0);
    assert_eq!(platform.count("select count(*) from events"), 3000);
    platform.down().ok();
    platform.up(&[]).ok();
    counts(&ingest(&[]), 0, 1000, 0);
}

#[test]
fn a_file_that_only_grew_gives_its_new_rows_also_after_a_restart() {
    let platform = Platform::started(&[]);
    let path = write(&platform, "a.ndjson", lines(0..3000));
    let ingest = || platform.aap(&["ingest", "events", path.to_str().unwrap(), "-o", "json"]);
    counts(&ingest(), 3000, 3000, 0);
    write(&platform, "a.ndjson", lines(0..3500));
    counts(&ingest(), 500, 3500, 0);
    let repeated = ingest();
    counts(&repeated, 0, 3500, 0);
    assert_eq!(done(&repeated)["already_complete"], true);
    platform.kill_and_wait("agent");
    // Its last line has no end now; ended later, it is no other line.
    let unended = lines(0..3600).trim_end().to_owned();
    write(&platform, "a.ndjson", &unended);
    counts(&ingest(), 100, 3600, 0);
    write(&platform, "a.ndjson", lines(0..3700));
    counts(&ingest(), 100, 3700, 0);
    write(&platform, "a.ndjson", lines(0..3700).trim_end());
    ingest().refused(6, "ingest.content_changed");
    // Stdin under a name grows as a file does.
    let piped = ["ingest", "events", "-", "--format", "ndjson", "--name", "piped", "-o", "json"];
    counts(&platform.aap_with_input(&piped, lines(0..3000).as_bytes()), 3000, 3000, 0);
    counts(&platform.aap_with_input(&piped, lines(0..3200).as_bytes()), 200, 3200, 0);
    counts(&platform.aap_with_input(&piped, lines(0..3200).as_bytes()), 0, 3200, 0);
    let found = platform.rows("select count(*) n, count(distinct id) d from events");
    assert_eq!(found, vec![json!({"n": 3700 + 3200, "d": 3700})]);
}

#[test]
fn a_pipe_is_taken_as_stdin_is() {
    let platform = Platform::started(&[]);
    let path = write(&platform, "a.ndjson", lines(0..1000));
    let (path, pipe) = (path.to_str().unwrap(), platform.beside("pipe"));
    let shell = |command: &str| {
        let mut bash = std::process::Command::new("bash");
        bash.env("AAP_HOME", platform.home()).env("aap", aap_tests::program("aap")).args(["-c", command]);
        Ran::of(bash.stdin(std::process::Stdio::null()).output().unwrap())
    };
    let substituted = format!("timeout 60 \"$aap\" ingest events <(cat {path}) --format ndjson -o json");
    counts(&shell(&substituted), 1000, 1000, 0);
    counts(&shell(&substituted), 1000, 1000, 0);
    let named = substituted.replace("--format", "--name cat --format");
    counts(&shell(&named), 1000, 1000, 0);
    counts(&shell(&named), 0, 1000, 0);
    let stdin = format!("cat {path} | timeout 60 \"$aap\" ingest events /dev/stdin --format ndjson -o json");
    counts(&shell(&stdin), 1000, 1000, 0);
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.to_str().unwrap();
    let fifo = format!(
        "cat {path} > {pipe} & timeout 60 \"$aap\" ingest events {pipe} --format ndjson -o json; code=$?; wait; exit $code"
    );
    counts(&shell(&fifo), 1000, 1000, 0);
    // Its name is its path.
    counts(&shell(&fifo), 0, 1000, 0);
    assert_eq!(platform.count("select count(*) from events"), 5000);
}

#[test]
fn a_full_buffer_is_told_and_waited_for_until_the_timeout_or_ctrl_c() {
    let platform = Platform::new();
    // Nobody takes anything from it.
    let (_agent, _) = platform.agent_alone("{ buffer: { budget: 8MiB, segment_bytes: 1MiB, retain: 0 } }");
    let word = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 7).wrapping_mul(0xd129_0a4e_5f1b_33c7);
    let noise: String =
        (0..1_000_000).map(|n| format!("{:016x}{:016x}\n", word(n), word(n + 1_000_000))).collect();
    let path = write(&platform, "noise.txt", noise);
    let arguments = ["ingest", "noise", path.to_str().unwrap()];
    let ran = platform.aap(&[&arguments[..], &["-o", "json", "--timeout", "2s"]].concat());
    let problem = ran.problem();
    assert_eq!((problem["code"].as_str(), ran.code), (Some("ingest.buffer_full"), 7), "{ran:?}");
    assert_eq!(
        (&problem["retryable"], ran.err.matches("buffer is full").count()),
        (&json!(true), 1),
        "{ran:?}"
    );
    assert!(problem["causes"].to_string().contains("no coordinator"), "{problem}");
    // Without a deadline it waits; the former command's part is still on its way, so this is another run.
    let mut run = platform.begin(&[&arguments[..], &["--name", "other", "-o", "json"]].concat());
    run.line_with("waiting");
    run.signal(Signal::INT);
    let ran = run.end();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains("buffer is full"), "{ran:?}");
}

#[test]
fn after_a_deletion_the_same_file_is_taken_again_also_by_a_node_that_was_away() {
    let platform = Platform::started(&[]);
    let path = write(&platform, "a.ndjson", lines(0..1000));
    let ingest = || platform.aap(&["ingest", "events", path.to_str().unwrap(), "-o", "json"]);
    let delete = || platform.aap(&["stream", "delete", "events", "--yes"]).ok();
    let landed = |rows: u64| {
        assert_eq!(platform.count("select count(*) from events"), rows);
    };
    counts(&ingest(), 1000, 1000, 0);
    landed(1000);
    delete();
    counts(&ingest(), 1000, 1000, 0);
    counts(&ingest(), 0, 1000, 0);
    landed(1000);
    // What was taken after the deletion is still there, also for an agent that hears of it again.
    platform.kill_and_wait("agent");
    counts(&ingest(), 0, 1000, 0);
    // The agent cannot hear when the stream is deleted; it hears when it is back.
    platform.signal("agent", Signal::STOP);
    delete();
    platform.kill_and_wait("agent");
    counts(&ingest(), 1000, 1000, 0);
    counts(&ingest(), 0, 1000, 0);
    landed(1000);
}

#[test]
fn a_client_that_is_killed_half_way_continues_where_it_stopped() {
    let platform = Platform::started(&[]);
    let rows = 1_500_000;
    let path = write(&platform, "large.ndjson", lines(0..rows));
    let arguments = ["ingest", "large", path.to_str().unwrap(), "-o", "json"];
    let mut interrupted = 0;
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let mut run = platform.begin(&arguments);
        // The agent may still be busy with what the killed client left behind; then it says so first.
        run.line_with("opened");
        let before = platform.metric("aap_agent_rows_durable_total{stream=\"large\"}");
        aap_tests::wait_until(aap_tests::PATIENCE, || {
            platform.metric("aap_agent_rows_durable_total{stream=\"large\"}") > before
                || before as u64 >= rows
        });
        run.signal(signal);
        let code = run.end().code;
        interrupted += u64::from(code != 0);
        assert!([0, 128 + signal.as_raw()].contains(&code), "{signal:?}: {code}");
    }
    assert!(interrupted > 0, "the machine was too fast for this test");
    let event = done(&platform.aap(&arguments));
    assert_eq!((&event["rows_total"], &event["bad_rows"]), (&json!(rows), &json!(0)));
    assert!(event["rows"].as_u64().unwrap() < rows, "it continued: {event}");
    let found = platform.rows("select count(*) n, count(distinct id) d, max(id) high from large");
    assert_eq!(found, vec![json!({"n": rows, "d": rows, "high": rows - 1})]);
    let unordered = "select count(*) from (select id, lag(id) over (order by _epoch, _seq, _row) l from large) where id < l";
    assert_eq!(platform.count(unordered), 0, "rows stand in the order of the file");
}

#[test]
fn a_large_file_is_taken_with_progress_and_flat_memory() {
    let platform = Platform::started(&[]);
    let rows = 800_000_u64;
    let filler = "x".repeat(230);
    let text: String = (0..rows).map(|id| format!("{{\"id\":{id},\"filler\":\"{filler}\"}}\n")).collect();
    assert!(text.len() > 200_000_000);
    let path = write(&platform, "large.ndjson", text);
    let ran = platform.aap(&["ingest", "large", path.to_str().unwrap(), "-o", "json"]);
    counts(&ran, rows, rows, 0);
    let events: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["type"], "opened");
    assert!(events[0]["format_version"].is_string(), "the first line names its version: {}", events[0]);
    let found = platform.rows("select count(*) n, count(distinct id) d from large");
    assert_eq!(found, vec![json!({"n": rows, "d": rows})]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", platform.pid("agent").unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 400 << 10, "the agent had {kib} KiB resident");
}

#[test]
fn rows_that_cannot_be_read_are_kept_with_their_text_and_reason() {
    let platform = Platform::started(&[]);
    let content =
        b"{\"id\":1}\nnot json\n{\"id\":2}\n{\"id\":\n\n{\"id\":3,\"s\":\"\xff\"}\n{\"id\":4}".to_vec();
    let path = write(&platform, "mixed.ndjson", content);
    let ran = platform.aap(&["ingest", "mixed", path.to_str().unwrap()]).ok();
    assert!(ran.err.contains("mixed.dead"), "it says where they are: {}", ran.err);
    counts(&platform.aap(&["ingest", "mixed", path.to_str().unwrap(), "-o", "json"]), 0, 3, 0);
    assert_eq!(platform.count("select count(distinct id) from mixed"), 3);
    let dead =
        platform.rows("select stream, source, reason, text from \"mixed.dead\" order by _epoch, _seq, _row");
    assert_eq!((dead.len(), &dead[0]["text"], &dead[1]["text"]), (3, &json!("not json"), &json!("{\"id\":")));
    for row in &dead {
        assert_eq!((&row["stream"], &row["source"]), (&json!("mixed"), &json!(path.to_str().unwrap())));
        assert!(!row["reason"].as_str().unwrap().is_empty(), "{row}");
    }
}

#[test]
fn what_cannot_be_ingested_is_refused_with_cause_and_remedy() {
    let platform = Platform::started(&[]);
    let refused = |path: &str, more: &[&str], exit: i32, code: &str| {
        platform.aap(&[&["ingest", "x", path, "-o", "json"], more].concat()).refused(exit, code)
    };
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let file = |name: &str| write(&platform, name, &garbage).to_str().unwrap().to_owned();
    refused("nowhere.ndjson", &[], 3, "ingest.unreadable");
    refused("/tmp", &[], 2, "ingest.not_a_file");
    refused("/dev/zero", &["--format", "text"], 2, "ingest.not_a_file");
    refused(&file("a.unknown"), &[], 2, "ingest.format_unknown");
    refused(&file("a.parquet"), &[], 1, "ingest.unreadable");
    refused(&file("a.arrow"), &[], 1, "ingest.unreadable");
    refused(write(&platform, "empty.parquet", "").to_str().unwrap(), &[], 1, "ingest.unreadable");
    refused(&file("a.ndjson.gz"), &[], 1, "ingest.bad_compression");
    refused(&file("a.ndjson.zst"), &[], 1, "ingest.bad_compression");
    refused(&file("a.csv"), &[], 1, "ingest.decode");
    for stream in ["Bad", "_x", "a b", "../x", ""] {
        let ran = platform.aap(&["ingest", stream, "/etc/hostname", "-o", "json"]);
        assert_eq!(ran.code, 2, "{stream}: {ran:?}");
    }
    assert_eq!(platform.count("select count(*) from x"), 0);
    counts(
        &platform.aap(&["ingest", "x", write(&platform, "empty.ndjson", "").to_str().unwrap(), "-o", "json"]),
        0,
        0,
        0,
    );
    // As bad rows they are kept; nothing is lost of what could not be read.
    counts(&platform.aap(&["ingest", "y", &file("a.ndjson"), "-o", "json", "--name", "g"]), 0, 0, {
        garbage.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() as u64
    });
    assert!(platform.panics().is_empty(), "{:?}", platform.panics());
}

#[test]
fn a_compressed_file_cut_short_keeps_its_beginning_and_continues_when_it_is_whole() {
    let platform = Platform::started(&[]);
    let whole = write(&platform, "whole.ndjson", lines(0..200_000));
    let packed = std::process::Command::new("gzip").arg("-c").arg(&whole).output().unwrap().stdout;
    let path = write(&platform, "a.ndjson.gz", &packed[..packed.len() / 2]);
    let arguments = ["ingest", "cut", path.to_str().unwrap(), "-o", "json"];
    platform.aap(&arguments).refused(1, "ingest.bad_compression");
    std::fs::write(&path, &packed).unwrap();
    assert_eq!(done(&platform.aap(&arguments))["rows_total"], 200_000);
    let found = platform.rows("select count(*) n, count(distinct id) d from cut");
    assert_eq!(found, vec![json!({"n": 200_000, "d": 200_000})]);
}
