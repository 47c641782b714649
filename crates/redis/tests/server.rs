//! What the sink writes to a real Redis, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

#[path = "support/place.rs"]
mod place;

use aap_sinks::conformance::{key, slice};
use aap_sinks::{Failure, FailureKind, Group, Sink};
use place::{Needs, Place, cli};
use serde_json::json;

fn group(after: u64, through: u64) -> Group {
    Group { slices: vec![slice(&key("edge-1", "events"), after, through)] }
}

#[track_caller]
fn assert_refused(failure: &Failure, code: &str, cause: &str) {
    assert_eq!((&failure.kind, failure.problem.code.as_str()), (&FailureKind::Refused, code), "{failure:?}");
    let told = failure.problem.causes.join("; ");
    assert!(told.contains(cause), "{told}");
}

#[tokio::test]
async fn an_entry_has_the_values_of_its_row_and_no_field_for_what_is_absent() {
    let Some(place) = Place::new("fields", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    let entries = place.entries();
    assert_eq!(entries.len(), 7);
    let first = &entries[1];
    assert_eq!(first["n"], "8");
    assert_eq!(first["ts"], "2025-10-09T08:53:20.123464Z");
    assert_eq!(first["message"], "row 8 \"quoted\", tab\t, é, \\ and '");
    assert_eq!((first["score"].as_str(), first["price"].as_str()), ("1.0", "8.08"));
    assert_eq!(
        (first["_node"].as_str(), first["_seq"].as_str(), first["_row"].as_str()),
        ("edge-1", "1", "1")
    );
    assert!(!first.contains_key("good"), "an absent value has no field: {first:?}");
}

#[tokio::test]
async fn json_and_a_bound_are_as_the_spec_says() {
    let Some(place) = Place::new("json", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"format": "json", "maxlen": 100}));
    sink.resume_point().await.unwrap();
    for after in 0..200 {
        sink.write(&group(after, after + 1)).await.unwrap();
    }
    let entries = place.entries();
    // About so many: the server drops whole nodes of its tree, of 100 entries each.
    assert!((100..300).contains(&entries.len()), "{}", entries.len());
    let row: serde_json::Value = serde_json::from_str(&entries.last().unwrap()["json"]).unwrap();
    assert_eq!((row["n"].as_i64(), row["_seq"].as_u64()), (Some(200 * 7 + 6), Some(200)));
}

#[tokio::test]
async fn a_key_that_is_no_stream_is_refused_and_nothing_moves() {
    let Some(place) = Place::new("wrongtype", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    place.cli(&["SET", &place.key, "taken"]);
    assert_refused(&sink.write(&group(0, 1)).await.unwrap_err(), "sink.server_refused", "WRONGTYPE");
    assert!(sink.probe().await.unwrap().iter().any(|line| line.contains("is a string and not a stream")));
    place.cli(&["DEL", &place.key]);
    assert!(sink.resume_point().await.unwrap().is_empty());
    sink.write(&group(0, 1)).await.unwrap();
    assert_eq!(place.entries().len(), 7);
}

#[tokio::test]
async fn a_wrong_password_and_a_user_without_rights_are_told_apart_from_a_server_that_is_away() {
    let Some(place) = Place::new("denied", Needs::Shared).await else { return };
    let away = place.sink(json!({"url": "redis://127.0.0.1:1"})).resume_point().await.unwrap_err();
    assert_eq!((away.kind, away.problem.code.as_str()), (FailureKind::Retry, "sink.unreachable"));
    let none = place.sink(json!({"password": null})).resume_point().await.unwrap_err();
    assert_refused(&none, "sink.denied", "");
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "wrong").unwrap();
    let wrong = json!({"password": format!("file:{}", wrong.path().display())});
    assert_refused(&place.sink(wrong).resume_point().await.unwrap_err(), "sink.denied", "");
    // Someone who may read, and not write.
    place.cli(&["ACL", "SETUSER", "reader", "on", ">aap", "~*", "+@read", "+hgetall", "+select", "+client"]);
    let reader = place.sink(json!({"username": "reader"})).resume_point().await.unwrap_err();
    place.cli(&["ACL", "DELUSER", "reader"]);
    assert_refused(&reader, "sink.denied", "hincrby");
}

#[tokio::test]
async fn a_server_that_may_forget_the_position_is_refused() {
    let Some(place) = Place::new("forgetful", Needs::Alone).await else { return };
    place.cli(&["CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru"]);
    let refused = place.sink(json!({})).resume_point().await;
    place.cli(&["CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction"]);
    assert_refused(&refused.unwrap_err(), "sink.server_refused", "allkeys-lru");
    place.sink(json!({})).resume_point().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_full_takes_nothing_of_a_group() {
    let Some(place) = Place::new("full", Needs::Alone).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    place.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = sink.write(&group(0, 200)).await;
    place.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_refused(&refused.unwrap_err(), "sink.server_refused", "OOM");
    assert_eq!(place.cli(&["XLEN", &place.key]), json!(0));
    assert!(sink.resume_point().await.unwrap().is_empty());
    sink.write(&group(0, 200)).await.unwrap();
    assert_eq!(place.entries().len(), 1400);
}

#[tokio::test]
async fn tls_is_believed_only_under_the_authority_that_was_named() {
    let Some(place) = Place::new("tls", Needs::Shared).await else { return };
    let (Ok(url), Ok(ca)) = (std::env::var("AAP_TEST_REDIS_TLS"), std::env::var("AAP_TEST_REDIS_CA")) else {
        return;
    };
    let url = format!("rediss://{}", url.rsplit_once('@').unwrap().1);
    let mut sink = place.sink(json!({"url": url, "ca": ca}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 2)).await.unwrap();
    assert_eq!(place.entries().len(), 14);
    assert!(sink.probe().await.unwrap()[0].ends_with(", TLS"));
    // The machine's own authorities have not signed it.
    assert_refused(&place.sink(json!({"url": url})).resume_point().await.unwrap_err(), "sink.tls", "");
}

/// Two nodes that share the slots of a cluster: whichever key a stream has, it lies on one of them.
struct Cluster {
    nodes: Vec<(std::process::Child, String)>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free =
            || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let mut cluster = Self { nodes: vec![], _folder: folder };
        let ports = [(free(), free()), (free(), free())];
        for (port, bus) in &ports {
            let data = cluster._folder.path().join(port);
            std::fs::create_dir(&data).unwrap();
            let child = std::process::Command::new("redis-server")
                .args(["--port", port, "--cluster-port", bus, "--cluster-enabled", "yes", "--dir"])
                .arg(&data)
                .args(["--bind", "127.0.0.1", "--save", ""])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            cluster.nodes.push((child, format!("127.0.0.1:{port}")));
        }
        for ((_, node), slots) in cluster.nodes.iter().zip([("0", "8191"), ("8192", "16383")]) {
            until(|| cli(node, &["PING"]) == json!("PONG"));
            assert_eq!(cli(node, &["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]), json!("OK"));
        }
        let (port, bus) = &ports[1];
        assert_eq!(cli(&cluster.nodes[0].1, &["CLUSTER", "MEET", "127.0.0.1", port, bus]), json!("OK"));
        for (_, node) in &cluster.nodes {
            until(|| {
                cli(node, &["CLUSTER", "INFO"]).as_str().is_some_and(|told| told.contains("cluster_state:ok"))
            });
        }
        cluster
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (node, _) in &mut self.nodes {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within 30 s");
}

#[tokio::test]
async fn keys_are_followed_to_the_nodes_of_a_cluster() {
    let Some(place) = Place::new("cluster", Needs::Shared).await else { return };
    let cluster = Cluster::start();
    let settings =
        json!({"url": format!("redis://{}", cluster.nodes[0].1), "key": "s:{stream}", "password": null});
    let streams: Vec<String> = (0..12).map(|number| format!("events{number}")).collect();
    let slices = |after, through| Group {
        slices: streams.iter().map(|stream| slice(&key("edge-1", stream), after, through)).collect(),
    };
    let mut sink = place.sink(settings.clone());
    assert!(sink.resume_point().await.unwrap().is_empty());
    sink.write(&slices(0, 2)).await.unwrap();
    let mut next = place.sink(settings);
    assert_eq!(next.resume_point().await.unwrap().len(), streams.len());
    next.write(&slices(2, 3)).await.unwrap();
    assert_eq!(sink.write(&slices(2, 3)).await.unwrap_err().kind, FailureKind::Moved);
    let mut found = vec![0, 0];
    for stream in &streams {
        let key = format!("s:{stream}");
        let home = cluster.nodes.iter().position(|(_, node)| cli(node, &["XLEN", &key]) == json!(21));
        found[home.unwrap_or_else(|| panic!("{key} is nowhere"))] += 1;
    }
    assert!(found.iter().all(|streams| *streams > 0), "all on one node: {found:?}");
}
