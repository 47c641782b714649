//! The commands of `aap` as a script uses them: exit codes, formats, errors, and a platform that comes back as it was.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use aap_tests::{PATIENCE, Platform, Ran, Signal, eventually, wait_until};
use serde_json::{Value, json};

/// A platform with 10 rows in `events`, whose lake takes over what is a second old.
fn with_events() -> Platform {
    let platform = Platform::new();
    std::fs::create_dir_all(platform.home().join("config")).unwrap();
    let quick = "apiVersion: aap/v1\nkind: Coordinator\nmetadata: { name: coordinator }\nspec: { lake: { age_seconds: 1 } }\n";
    std::fs::write(platform.home().join("config/coordinator.yaml"), quick).unwrap();
    platform.up(&[]).ok();
    let lines: String = (0..10).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    platform
        .aap_with_input(&["ingest", "events", "-", "--format", "ndjson", "--name", "ten"], lines.as_bytes())
        .ok();
    assert_eq!(platform.count("select count(*) from events"), 10);
    platform
}

#[test]
fn a_platform_starts_once_stops_whole_and_comes_back_with_its_state() {
    let platform = Platform::new();
    platform.aap(&["status", "-o", "json"]).refused(7, "platform.not_running");
    platform.aap(&["down"]).ok();
    let began = Instant::now();
    platform.up(&[]).ok();
    assert!(began.elapsed() < Duration::from_secs(3), "a warm start took {:?}", began.elapsed());
    for name in ["run/agent.pid", "run/coordinator.pid", "run/operator.token"] {
        assert!(platform.home().join(name).exists(), "{name}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&platform.home().join("run/operator.token")), 0o600, "the token is nobody else's");
    let pids = (platform.pid("agent"), platform.pid("coordinator"), platform.token());
    let again = platform.up(&[]).ok();
    assert!(again.err.contains("already running"), "{}", again.err);
    assert_eq!((platform.pid("agent"), platform.pid("coordinator"), platform.token()), pids);

    platform.aap_with_input(&["ingest", "kept", "-", "--format", "text", "--name", "k"], b"one\ntwo\n").ok();
    let rows = platform.rows("select * from kept order by _epoch, _seq, _row");
    platform.down().ok();
    for (name, pid) in [("agent", pids.0), ("coordinator", pids.1)] {
        assert!(!Path::new(&format!("/proc/{}", pid.unwrap())).exists(), "{name} is gone");
    }
    let refused = platform.aap(&["query", "-o", "json", "select 1"]).refused(7, "platform.not_running");
    assert!(refused["hints"].to_string().contains("aap up"), "{refused}");
    assert_eq!(refused["retryable"], true);
    platform
        .aap(&["ingest", "kept", "/etc/hostname", "--format", "text", "-o", "json"])
        .refused(7, "platform.not_running");
    for command in [&["stream", "ls"][..], &["node", "ls"], &["query", "ls"], &["stream", "tail", "kept"]] {
        platform.aap(&[command, &["-o", "ndjson"]].concat()).code(7);
    }
    assert!(platform.aap(&["logs", "agent"]).ok().out.contains("agent stopped"), "logs need no daemon");
    platform.up(&[]).ok();
    assert_eq!(platform.rows("select * from kept order by _epoch, _seq, _row"), rows);
}

#[test]
fn ports_that_are_taken_are_passed_over() {
    // Where another program has them already they are as taken as can be.
    let _taken: Vec<_> =
        [7400, 7401, 7410].map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).into_iter().collect();
    let one = Platform::started(&[]);
    let other = Platform::started(&[]);
    for platform in [&one, &other] {
        platform.aap_with_input(&["ingest", "own", "-", "--format", "text"], b"row\n").ok();
        assert_eq!(platform.count("select count(*) from own"), 1, "each finds its own platform");
        let ran = platform.http().post("own", &[("content-type", "text/plain")], b"over http").unwrap();
        assert_eq!(ran.status, 200);
    }
}

#[test]
fn a_killed_program_is_back_within_two_seconds() {
    let platform = Platform::started(&[]);
    for name in ["agent", "coordinator", "agent"] {
        let down = platform.kill_and_wait(name);
        assert!(down < Duration::from_secs(2), "{name} came back after {down:?}");
    }
    assert!(wait_until(PATIENCE, || platform.aap(&["status"]).code == 0), "{:?}", platform.aap(&["status"]));
}

#[test]
fn status_says_with_its_exit_code_whether_data_advances() {
    let platform = Platform::started(&[]);
    assert!(wait_until(PATIENCE, || platform.aap(&["status"]).code == 0), "{:?}", platform.aap(&["status"]));
    let status = platform.aap(&["status", "-o", "json"]).ok().json();
    for key in ["format_version", "kind", "as_of"] {
        assert!(status[key].is_string(), "{key}: {status}");
    }
    let text = eventually("a status with a stream", || {
        Some(platform.aap(&["status", "-o", "table"]).ok().out).filter(|text| text.contains("host_metrics"))
    });
    for word in ["NODE", "STREAM", "WAITING", "LANDED", "LAG"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // The agent is stopped, not killed, so that nobody starts another one.
    platform.signal("agent", Signal::STOP);
    let noticed = wait_until(Duration::from_secs(120), || platform.aap(&["status"]).code != 0);
    let ran = platform.aap(&["status"]);
    platform.signal("agent", Signal::CONT);
    assert!(noticed, "nothing arrives and the status is well: {ran:?}");
    assert_eq!(ran.code, 11, "{ran:?}");
    assert!(wait_until(PATIENCE, || platform.aap(&["status"]).code == 0), "{:?}", platform.aap(&["status"]));
}

#[test]
fn answers_come_in_every_format_and_whole_where_asked() {
    let platform = with_events();
    let sql = "select id, 'a\tb\"c' s from events order by _epoch, _seq, _row limit 2";
    let query = |format: &str| platform.aap(&["query", "-o", format, sql]).ok().out;
    assert!(query("table").contains("id"));
    assert_eq!(query("ndjson"), "{\"id\":0,\"s\":\"a\\tb\\\"c\"}\n{\"id\":1,\"s\":\"a\\tb\\\"c\"}\n");
    assert_eq!(query("csv"), "id,s\n0,\"a\tb\"\"c\"\n1,\"a\tb\"\"c\"\n");
    assert_eq!(query("plain"), "id\ts\n0\ta\\tb\"c\n1\ta\\tb\"c\n");
    let document: Value = serde_json::from_str(&query("json")).unwrap();
    assert_eq!(document["items"], json!([{"id": 0, "s": "a\tb\"c"}, {"id": 1, "s": "a\tb\"c"}]));
    assert_eq!((&document["truncated"], document["kind"].as_str()), (&json!(false), Some("query")));
    for (format, magic) in [("parquet", &b"PAR1"[..]), ("arrow", &b"\xff\xff\xff\xff"[..])] {
        let output = platform.command("aap").args(["query", "-o", format, sql]).output().unwrap();
        assert!(output.stdout.starts_with(magic), "{format}");
    }
    assert_eq!(platform.aap(&["query", "-o", "csv", "--no-headers", "select 1"]).ok().out, "1\n");

    let many = |more: &[&str]| {
        platform.aap(&[&["query", "-o", "ndjson", "select * from range(2000)"], more].concat()).ok()
    };
    let cut = many(&[]);
    assert_eq!(cut.out.lines().count(), 500);
    assert!(cut.err.contains("--limit 0"), "{}", cut.err);
    assert_eq!(many(&["--limit", "0"]).out.lines().count(), 2000);
    assert_eq!(many(&["--limit", "7"]).out.lines().count(), 7);

    let ids = platform.rows("select id from events order by _epoch, _seq, _row");
    assert_eq!(
        ids,
        (0..10).map(|id| json!({"id": id})).collect::<Vec<_>>(),
        "the order in which they were read"
    );
    let piped = platform.aap_with_input(&["query", "-", "-o", "csv"], b"select 1 as one").ok();
    assert_eq!(piped.out, "one\n1\n");
    std::fs::write(platform.beside("q.sql"), "select 2 as two").unwrap();
    let path = platform.beside("q.sql");
    assert_eq!(platform.aap(&["query", "-f", path.to_str().unwrap(), "-o", "csv"]).ok().out, "two\n2\n");
}

#[test]
fn a_node_is_asked_itself_and_coverage_says_who_answered() {
    let platform = with_events();
    let node = platform.aap(&["node", "ls", "-o", "json"]).ok().json()["items"][0]["node"]
        .as_str()
        .unwrap()
        .to_owned();
    let asked = |arguments: &[&str]| {
        let sql = "select count(*) n, max(id) high from events";
        platform.aap(&[&["query", "-o", "json"], arguments, &[sql]].concat())
    };
    for arguments in [&["--node", &node][..], &["--nodes", "all"]] {
        let answer = asked(arguments).ok().json();
        assert_eq!(answer["items"], json!([{"n": 10, "high": 9}]), "{arguments:?}");
        assert_eq!(answer["coverage"]["answered"], json!([node]), "{answer}");
    }
    asked(&["--node", "nobody"]).refused(3, "node.unknown");
    let shown = platform.aap(&["node", "show", &node, "-o", "json"]).ok().json();
    assert_eq!(shown["item"]["node"], node.as_str(), "{shown}");
    platform.aap(&["node", "show", "nobody", "-o", "json"]).refused(3, "node.unknown");
    // A node that cannot be reached is named, and the exit code says that the answer is partial.
    platform.signal("agent", Signal::STOP);
    let ran = platform.aap(&[
        "query",
        "-o",
        "json",
        "--wait-for-ingest",
        "--timeout",
        "100s",
        "select count(*) n from events",
    ]);
    platform.signal("agent", Signal::CONT);
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.out.contains(&node), "{ran:?}");
    assert!(ran.out.contains("\"n\":10"), "what landed is answered: {ran:?}");
}

#[test]
fn streams_are_listed_shown_followed_and_deleted() {
    let platform = with_events();
    let stream = |arguments: &[&str]| platform.aap(&[&["stream"], arguments].concat());
    for format in ["table", "plain", "json", "ndjson", "csv"] {
        assert!(stream(&["ls", "-o", format]).ok().out.contains("events"), "{format}");
    }
    stream(&["ls", "-o", "parquet"]).code(2);
    let listed = stream(&["ls", "-o", "json"]).ok().json();
    assert_eq!((listed["kind"].as_str(), &listed["truncated"]), (Some("stream.list"), &json!(false)));
    let events = listed["items"].as_array().unwrap().iter().find(|item| item["stream"] == "events").unwrap();
    assert_eq!(events["rows"], 10);
    for verb in ["show", "tail", "files"] {
        stream(&[verb, "nothing", "-o", "json"]).refused(3, "stream.unknown");
    }
    stream(&["delete", "nothing", "--yes", "-o", "json"]).refused(3, "stream.unknown");
    let newest = stream(&["tail", "events", "-n", "2", "-o", "ndjson"]).ok().out;
    let ids: Vec<Value> =
        newest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [json!(8), json!(9)], "the newest rows, in order");
    assert_eq!(stream(&["tail", "events", "-n", "0", "-o", "ndjson"]).ok().out, "");
    let all = stream(&["tail", "events", "--limit", "0", "-o", "ndjson"]).ok().out;
    assert_eq!(all.lines().count(), 10);

    let mut follow = platform.begin(&["stream", "tail", "events", "-f", "-o", "ndjson"]);
    follow.line_with("\"id\":9");
    let mut follow_new = platform.begin(&["stream", "tail", "events", "-f", "-n", "0", "-o", "plain"]);
    follow_new.line_with("_seq");
    platform
        .aap_with_input(
            &["ingest", "events", "-", "--format", "ndjson", "--name", "more"],
            b"{\"id\":4711}\n",
        )
        .ok();
    let first = follow_new.line_with("");
    assert!(first.contains("4711"), "only what is new: {first}");
    for (running, signal) in [(follow, Signal::INT), (follow_new, Signal::TERM)] {
        running.signal(signal);
        assert_eq!(running.end().code, 128 + signal.as_raw());
    }

    let files =
        || stream(&["files", "events", "-o", "json"]).ok().json()["items"].as_array().unwrap().clone();
    let listed = eventually("files of the stream", || Some(files()).filter(|files| !files.is_empty()));
    assert!(Path::new(listed[0]["path"].as_str().unwrap()).exists(), "{listed:?}");
    let shown = stream(&["show", "events", "-o", "json"]).ok().json();
    let columns: Vec<&str> = shown["item"]["columns"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    for name in ["id", "_node", "_epoch", "_seq", "_row"] {
        assert!(columns.contains(&name), "{name}: {columns:?}");
    }
    stream(&["delete", "events", "-o", "json"]).refused(2, "confirm.needed");
    assert_eq!(platform.count("select count(*) from events"), 11);
    stream(&["delete", "events", "--yes"]).ok();
    platform.aap(&["query", "-o", "json", "select * from events"]).refused(3, "query.unknown_table");
    let gone = wait_until(PATIENCE, || !Path::new(listed[0]["path"].as_str().unwrap()).exists());
    assert!(gone, "the file of a deleted stream stays");
    assert!(!stream(&["ls"]).ok().out.contains("events"));
    platform.http().post("events", &[("content-type", "application/x-ndjson")], b"{\"id\":1}").unwrap();
    assert_eq!(platform.count("select count(*) from events"), 1, "a stream of that name begins anew");
}

/// A statement that runs until it is stopped.
const ENDLESS: &str = "select count(*) from range(100000000) a, range(1000000) b";

/// The statement's id once it is listed.
fn listed(platform: &Platform) -> String {
    eventually("the running statement", || {
        let list = platform.aap(&["query", "ls", "-o", "json"]).ok().json();
        list["items"].as_array()?.iter().find(|item| item["sql"] == ENDLESS)?["id"]
            .as_str()
            .map(str::to_owned)
    })
}

/// Engines of this platform.
fn engines(platform: &Platform) -> usize {
    let parents = [platform.pid("agent"), platform.pid("coordinator")];
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let is_child = |stat: &str| {
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let parent = rest.split(' ').nth(1).and_then(|text| text.parse().ok());
        stat.contains("(aap-engine)") && !rest.starts_with('Z') && parents.contains(&parent)
    };
    entries
        .filter(|entry| std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_child(&stat)))
        .count()
}

#[test]
fn a_running_statement_is_cancelled_by_another_command_and_by_ctrl_c() {
    let platform = Platform::started(&[]);
    let cancelled = platform.begin(&["query", "-o", "json", ENDLESS]);
    let id = listed(&platform);
    platform.aap(&["query", "cancel", &id]).ok();
    let ended = cancelled.end();
    ended.refused(1, "query.cancelled");
    platform.aap(&["query", "cancel", &id, "-o", "json"]).refused(3, "query.unknown");

    let node = platform.aap(&["node", "ls", "-o", "json"]).ok().json()["items"][0]["node"]
        .as_str()
        .unwrap()
        .to_owned();
    for (signal, arguments) in [
        (Signal::INT, vec![]),
        (Signal::TERM, vec![]),
        (Signal::INT, vec!["--node", &node]),
        (Signal::KILL, vec![]),
    ] {
        let run = platform.begin(&[&["query", ENDLESS], &arguments[..]].concat());
        assert!(wait_until(PATIENCE, || engines(&platform) > 0), "no engine runs");
        run.signal(signal);
        assert_eq!(run.end().code, 128 + signal.as_raw(), "{signal:?} {arguments:?}");
        let ended = wait_until(Duration::from_secs(10), || engines(&platform) == 0);
        assert!(ended, "the engine goes on after {signal:?} {arguments:?}");
    }
    let empty = platform.aap(&["query", "ls", "-o", "json"]).ok().json();
    assert_eq!(empty["items"], json!([]));
}

#[test]
fn a_killed_engine_costs_one_failed_statement() {
    let platform = Platform::started(&[]);
    let run = platform.begin(&["query", "-o", "json", ENDLESS]);
    listed(&platform);
    let coordinator = platform.pid("coordinator").unwrap();
    let children =
        std::process::Command::new("pkill").args(["-KILL", "-P", &coordinator.to_string()]).status();
    assert!(children.unwrap().success(), "an engine is a child of the coordinator");
    run.end().refused(1, "query.engine_died");
    platform.aap(&["query", "select 1"]).ok();
    assert_eq!(platform.pid("coordinator"), Some(coordinator));
}

#[test]
fn a_buffer_is_read_with_and_without_its_daemon() {
    let platform = with_events();
    let buffer = platform.home().join("agent/buffer");
    let buffer = buffer.to_str().unwrap();
    let aap = |verb: &str, more: &[&str]| platform.aap(&[&["buffer", verb, buffer], more].concat());
    for running in [true, false] {
        if !running {
            platform.down().ok();
        }
        assert!(aap("ls", &[]).ok().out.contains("events"), "{running}");
        assert!(aap("show", &[]).ok().out.contains("epoch"), "{running}");
        // A group that is being written at that moment looks torn; the next look finds it whole.
        eventually("a buffer without damage", || {
            let verified = aap("verify", &["-o", "json"]);
            (verified.code == 0 && verified.json()["damage"] == json!([])).then_some(())
        });
        let exported = aap("export", &["--stream", "events"]).ok().out;
        let ids: Vec<Value> =
            exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
        assert_eq!(ids, (0..10).map(Value::from).collect::<Vec<_>>(), "{running}");
        let copy = platform.beside(&format!("copy-{running}"));
        aap("salvage", &["--out", copy.to_str().unwrap()]).ok();
        let copied =
            platform.aap(&["buffer", "export", copy.to_str().unwrap(), "--stream", "events"]).ok().out;
        assert_eq!(copied, exported, "a salvaged store holds the same rows");
    }
    aap("export", &["--stream", "nothing"]).code(3);
    aap("export", &[]).code(2);
    platform.aap(&["buffer", "verify", "/nowhere"]).code(3);
    platform.aap(&["buffer", "ls", "/tmp"]).code(3);
    aap("replay", &[]).code(6);
    let copy = platform.beside("copy-false");
    platform.aap(&["buffer", "replay", copy.to_str().unwrap()]).code(7);
    // Damage is found, named, and the rest can be read.
    let segment =
        std::fs::read_dir(Path::new(buffer).join("segments")).unwrap().flatten().next().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[5000..5040].fill(0xa5);
    std::fs::write(&segment, bytes).unwrap();
    let damaged = aap("verify", &["-o", "json"]);
    assert_ne!(damaged.code, 0, "{damaged:?}");
    let copy = platform.beside("salvaged");
    let salvaged = aap("salvage", &["--out", copy.to_str().unwrap()]);
    assert!([0, 9].contains(&salvaged.code), "{salvaged:?}");
    platform.aap(&["buffer", "verify", copy.to_str().unwrap()]).ok();
    platform.up(&[]).ok();
    assert_eq!(platform.count("select count(*) from events"), 10, "what had landed is not touched");
}

#[test]
fn wrong_command_lines_end_with_2_and_help_names_everything() {
    let platform = Platform::new();
    for arguments in [
        &["nonsense"][..],
        &["stream"],
        &["stream", "nonsense"],
        &["query", "--nodes", "some", "select 1"],
        &["query", "-o", "yaml", "select 1"],
        &["query", "--timeout", "soon", "select 1"],
        &["query", "--limit", "-1", "select 1"],
        &["ingest", "only-a-stream"],
        &["logs", "nobody"],
        &["up", "--nonsense"],
    ] {
        let ran = platform.aap(arguments).code(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}: {ran:?}");
        platform.aap(&[&["-o", "json"], arguments].concat()).code(2);
    }
    let help = platform.aap(&["help"]).ok().out;
    for command in ["up", "down", "logs", "status", "ingest", "query", "stream", "node", "buffer"] {
        assert!(help.contains(command), "{command}");
        let ran = platform.aap(&[command, "--help"]).ok();
        assert!(ran.out.contains("Usage"), "{command}");
    }
    let codes = platform.aap(&["help", "exit-codes"]).ok().out;
    for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "70", "130", "143"] {
        assert!(
            codes.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))),
            "{code}: {codes}"
        );
    }
    platform.aap(&["help", "nonsense"]).code(3);
    platform.aap(&["version", "-o", "json"]).ok().json();
    for shell in ["bash", "zsh", "fish"] {
        assert!(platform.aap(&["completion", shell]).ok().out.contains("aap"));
    }
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let platform = Platform::started(&[]);
    let aap = aap_tests::program("aap");
    let script =
        format!("{} query --limit 0 -o csv 'select * from range(5000000)' | head -n 1", aap.display());
    let mut shell = std::process::Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &script]).env("AAP_HOME", platform.home());
    let ran = Ran::of(shell.output().unwrap());
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("range\n", ""), "{ran:?}");
    assert!([0, 141].contains(&ran.code), "{ran:?}");
}

#[test]
fn a_wrong_token_is_refused_and_says_so() {
    let platform = Platform::started(&[]);
    let path = platform.home().join("run/operator.token");
    let right = platform.token();
    std::fs::write(&path, "wrong").unwrap();
    let refused = platform.aap(&["query", "-o", "json", "select 1"]).refused(4, "auth.token_refused");
    assert!(!refused["hints"].as_array().unwrap().is_empty(), "{refused}");
    platform.aap(&["stream", "ls", "-o", "json"]).refused(4, "auth.token_refused");
    std::fs::write(&path, right).unwrap();
    platform.aap(&["query", "select 1"]).ok();
}

#[test]
fn the_rows_that_a_lost_node_had_not_sent_are_replayed_once() {
    let lost = Platform::new();
    let dark = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (running, http) = lost.agent_alone(&format!("{{ coordinator: {{ address: '{dark}' }} }}"));
    http.post("unsent", &[("content-type", "text/plain")], b"one\ntwo\nthree\n").unwrap();
    running.signal(Signal::TERM);
    running.end().code(0);
    let platform = Platform::started(&[]);
    let buffer = lost.home().join("agent/buffer");
    for round in 0..2 {
        platform.aap(&["buffer", "replay", buffer.to_str().unwrap()]).ok();
        assert_eq!(platform.count("select count(*) from unsent"), 3, "round {round}");
    }
}

#[test]
fn a_coordinator_that_listens_on_every_address_is_found_by_the_agent_of_its_home() {
    let platform = Platform::new();
    std::fs::create_dir_all(platform.home().join("config")).unwrap();
    let open = "apiVersion: aap/v1\nkind: Coordinator\nmetadata: { name: c }\nspec: { agents: { bind: '0.0.0.0:0' } }\n";
    std::fs::write(platform.home().join("config/coordinator.yaml"), open).unwrap();
    // Ready means that the agent is connected.
    platform.up(&[]).ok();
    let agents = platform.endpoint("agents").unwrap();
    assert!(agents.starts_with("127.0.0.1:"), "{agents}");
}
