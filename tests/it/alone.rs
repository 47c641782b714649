//! A node by itself answers its command line: where there never was a coordinator, and where it is away.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use aap_tests::load::post_until_taken;
use aap_tests::{Platform, Settings, eventually};

/// Posts a row per id to stream `events`.
fn post(http: &aap_tests::Http, ids: std::ops::Range<u64>) {
    let body: String = ids.map(|id| format!("{{\"id\":{id},\"city\":\"c{}\"}}\n", id % 3)).collect();
    let answer = http.post("events", &[("content-type", "application/x-ndjson")], body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_node_that_never_had_a_coordinator_answers_queries_status_and_streams() {
    let platform = Platform::new();
    let (_agent, http) = platform.agent_alone("{}");
    post(&http, 0..300);

    let counted =
        platform.aap(&["query", "-o", "json", "select city, count(*) n from events group by 1 order by 1"]);
    let counted = counted.ok();
    assert_eq!(counted.json()["items"][2]["n"], 100, "{counted:?}");
    assert_eq!(counted.json()["coverage"]["answered"][0], "alone", "{counted:?}");
    for arguments in [&["--node", "alone"][..], &["--nodes", "all"], &["--wait-for-ingest"]] {
        let all =
            [&["query", "-o", "csv", "--no-headers"], arguments, &["select max(id) from events"]].concat();
        assert_eq!(platform.aap(&all).ok().out.trim(), "299", "{arguments:?}");
    }
    // It is all the nodes that it knows.
    let as_table = "select count(*) from nodes.events where _node = 'alone'";
    assert_eq!(platform.aap(&["query", "-o", "csv", "--no-headers", as_table]).ok().out.trim(), "300");

    let status = platform.aap(&["status", "-o", "json"]).ok().json()["item"].clone();
    assert_eq!(
        (&status["healthy"], &status["nodes"][0]["node"]),
        (&true.into(), &"alone".into()),
        "{status}"
    );
    assert!(platform.aap(&["status"]).ok().out.contains("node alone by itself"));
    let nodes = platform.aap(&["node", "ls", "-o", "json"]).ok().json();
    assert_eq!(
        (&nodes["items"][0]["connected"], &nodes["items"][0]["waiting_batches"]),
        (&true.into(), &0.into())
    );

    let shown = platform.aap(&["stream", "show", "events", "-o", "json"]).ok().json();
    assert_eq!(shown["item"]["rows"], 300, "{shown}");
    assert!(
        shown["item"]["columns"].as_array().unwrap().iter().any(|column| column["name"] == "city"),
        "{shown}"
    );
    let streams = platform.aap(&["stream", "ls", "-o", "json"]).ok().json();
    assert!(
        streams["items"].as_array().unwrap().iter().any(|stream| stream["stream"] == "events"),
        "{streams}"
    );
    assert_eq!(
        platform.aap(&["stream", "tail", "events", "-n", "5", "-o", "ndjson"]).ok().out.lines().count(),
        5
    );
    assert_eq!(
        platform.aap(&["query", "ls", "-o", "json"]).ok().json()["items"].as_array().unwrap().len(),
        0
    );

    platform.aap(&["stream", "show", "evens", "-o", "json"]).refused(3, "stream.unknown");
    platform.aap(&["query", "--node", "other", "-o", "json", "select 1"]).refused(3, "node.unknown");
    platform.aap(&["query", "cancel", "q-none", "-o", "json"]).refused(3, "query.unknown");
    platform.aap(&["stream", "files", "events", "-o", "json"]).refused(7, "platform.needs_coordinator");
    platform
        .aap(&["stream", "delete", "events", "--yes", "-o", "json"])
        .refused(7, "platform.needs_coordinator");
}

#[test]
fn a_followed_stream_of_a_node_alone_shows_what_comes() {
    let platform = Platform::new();
    let (_agent, http) = platform.agent_alone("{}");
    post(&http, 0..5);
    let mut command = platform.command("aap");
    command.args(["stream", "tail", "-f", "-n", "2", "-o", "ndjson", "events"]).stdout(Stdio::piped());
    let mut tail = command.spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines().map(Result::unwrap);
    for id in 3..7 {
        assert!(lines.next().unwrap().contains(&format!("\"id\":{id},")), "row {id}");
        if id >= 4 {
            post(&http, id + 1..id + 2);
        }
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn while_the_coordinator_is_away_its_node_answers_for_itself() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let (mut coordinator, _agent) = platform.start_both();
    post_until_taken(&platform, 0, 10);
    platform.await_delivered();
    coordinator.kill();
    post_until_taken(&platform, 10, 10);

    let count = "select count(*) from posts";
    let answer = platform.aap(&["query", "--node", "n1", "-o", "csv", "--no-headers", count]).ok();
    assert_eq!(answer.out.trim(), "20");
    let refused = platform.aap(&["query", "-o", "json", count]).refused(7, "platform.not_running");
    assert!(refused["hints"].to_string().contains("aap query --node n1"), "{refused}");
    let status = platform.aap(&["status", "-o", "json"]).code(7).json()["item"].clone();
    assert_eq!((&status["healthy"], &status["nodes"][0]["node"]), (&false.into(), &"n1".into()), "{status}");
    assert!(status["nodes"][0]["waiting_batches"].as_u64() > Some(0), "{status}");

    let _coordinator = platform.start("coordinator");
    eventually("a healthy platform", || (platform.aap(&["status"]).code == 0).then_some(()));
}

#[test]
fn a_node_that_delivers_elsewhere_gives_its_part_only_to_who_asks_for_it() {
    let platform = Platform::new();
    let dark = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_agent, http) = platform.agent_alone(&format!("{{ coordinator: {{ address: '{dark}' }} }}"));
    post(&http, 0..3);
    let count = "select count(*) from events";
    let refused = platform.aap(&["query", "-o", "json", count]).refused(7, "platform.needs_coordinator");
    assert!(refused["hints"].to_string().contains("aap query --node alone"), "{refused}");
    for command in [&["ls"][..], &["show", "events"], &["tail", "events"]] {
        let all = [&["stream"], command, &["-o", "json"]].concat();
        platform.aap(&all).refused(7, "platform.needs_coordinator");
    }
    let as_table = "select count(*) from nodes.events";
    let refused = platform.aap(&["query", "-o", "json", as_table]).refused(7, "platform.needs_coordinator");
    assert!(refused["hints"].to_string().contains("aap query --node alone"), "{refused}");
    for sql in [count, as_table] {
        let part = platform.aap(&["query", "--node", "alone", "-o", "csv", "--no-headers", sql]).ok();
        assert_eq!(part.out.trim(), "3", "{sql}");
    }
    let status = platform.aap(&["status", "-o", "json"]).code(11).json()["item"].clone();
    assert!(status["reasons"].to_string().contains("not connected"), "{status}");
}
