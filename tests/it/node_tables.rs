//! What nodes hold in their own buffers as tables of a statement: `nodes.events` beside streams and tables of other systems.

use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use aap_tests::{Daemon, Platform, Ran, Settings, copy, eventually, free_port, wait_until};
use serde_json::{Value, json};

use super::sinks::postgres::Postgres;
use super::sinks::{apply, settles};

/// A deadline of which a part is time enough for a node that answers.
const SHORT: &str = "24s";
/// A cancelled query ends at once, whatever it waits for; this is for slow machines.
const CANCELLED: Duration = Duration::from_secs(10);

/// A coordinator and two nodes, each in a home of its own but for `n1`.
struct TwoNodes {
    first: Platform,
    second: Platform,
    running: Vec<Daemon>,
}

impl TwoNodes {
    fn started() -> Self {
        Self::started_with(|_| {})
    }

    /// The second agent is started by a command that `change` has had.
    fn started_with(change: impl FnOnce(&mut Command)) -> Self {
        let port = free_port();
        let first = Platform::new();
        let coordinator = "lake: { age_seconds: 0 }".to_owned();
        first.prepare("n1", &Settings { agents_port: Some(port), coordinator, ..Settings::default() });
        let second = Platform::new();
        std::fs::create_dir_all(second.home()).unwrap();
        copy(&first.home().join("tls"), &second.home().join("tls"));
        let coordinator_address = Some(format!("127.0.0.1:{port}"));
        second.prepare("n2", &Settings { coordinator_address, ..Settings::default() });
        let (coordinator, agent) = first.start_both();
        let mut command = second.command("aap-agent");
        change(&mut command);
        let running = vec![coordinator, agent, second.start_command("agent", &mut command)];
        let nodes = Self { first, second, running };
        nodes.await_nodes();
        nodes
    }

    /// Waits until both nodes have a session.
    fn await_nodes(&self) {
        eventually("two nodes with a session", || {
            let nodes = self.first.aap(&["node", "ls", "-o", "json"]).json()["items"].take();
            let connected = |node: &&Value| node["connected"] == true;
            (nodes.as_array()?.iter().filter(connected).count() == 2).then_some(())
        });
    }

    fn query(&self, arguments: &[&str], sql: &str) -> Ran {
        self.first.aap(&[&["query", "-o", "json"], arguments, &[sql]].concat())
    }

    fn rows(&self, sql: &str) -> Value {
        self.query(&["--limit", "0"], sql).ok().json()["items"].take()
    }

    /// What `aap query explain` says of each place.
    fn explained(&self, sql: &str) -> Vec<Value> {
        let document = self.first.aap(&["query", "explain", sql, "-o", "json"]).ok().json();
        document["items"].as_array().unwrap().clone()
    }
}

/// Rows with these ids for the stream, as a node of its own has them.
pub(crate) fn post(node: &Platform, stream: &str, ids: Range<u64>, more: impl Fn(u64) -> String) {
    let body: String =
        ids.map(|id| format!("{{\"id\":{id},\"city\":\"c{}\"{}}}\n", id % 3, more(id))).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let answer =
        eventually("the agent's HTTP source", || node.http().post(stream, &headers, body.as_bytes()).ok());
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn texts(value: &Value) -> String {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_nodes_hold_is_a_table_beside_others_and_only_nodes_that_matter_are_asked() {
    let nodes = TwoNodes::started();
    post(&nodes.first, "events", 0..100, |_| String::new());
    // A column that only one node has, and one that has another type there.
    post(&nodes.second, "events", 100..150, |id| format!(",\"extra\":{},\"mixed\":\"m{id}\"", id * 2));
    post(&nodes.first, "events", 200..210, |id| format!(",\"mixed\":{id}"));
    post(&nodes.first, "alone", 0..5, |_| String::new());

    nodes.query(&["--wait-for-ingest"], "select count(*) from events").ok();

    // The same as all nodes answer by themselves, however it is made.
    for sql in [
        "select _node, count(*) n, min(id), max(ts) is null from events group by 1 order by 1",
        "select count(*), sum(id), avg(id), count(extra), min(extra), max(city) from events",
        "select count(*) from events where extra is null",
        "select city, count(distinct id) d from events where id >= 50 group by city having d > 3 order by city",
        "select id, extra from events where extra > 210 and city in ('c1', 'c2') order by id",
        "select mixed, count(*) from events where mixed > 'm' or mixed < '205' group by 1 order by 1",
        "select max(mixed), min(mixed) from events",
        "select * from events order by id limit 3",
        "select count(*) from events where ts > now() - interval 1 hour",
        "select count(*) from events where ts < timestamptz '2020-01-01'",
    ] {
        let asked = nodes.query(&["--nodes", "all", "--limit", "0"], sql).ok().json();
        let as_table = nodes.query(&["--limit", "0"], &sql.replace(" events", " nodes.events")).ok().json();
        assert_eq!(as_table["items"], asked["items"], "{sql}");
        assert_eq!(as_table["coverage"], asked["coverage"], "{sql}");
    }
    let per_node = "select _node, count(*) n from nodes.events group by 1 order by 1";
    assert_eq!(nodes.rows(per_node), json!([{"_node": "n1", "n": 110}, {"_node": "n2", "n": 50}]));

    // Joined with what has landed of the same stream.
    let joined = "select n._node, count(*) c from nodes.events n join lake.events e \
                  on n._node = e._node and n.id = e.id where e.id >= 90 group by 1 order by 1";
    let answer = nodes.query(&["--wait-for-ingest"], joined).ok().json();
    assert_eq!(answer["items"], json!([{"_node": "n1", "c": 20}, {"_node": "n2", "c": 50}]));
    assert_eq!(answer["coverage"]["answered"], json!(["n1", "n2"]), "each counts once: {answer}");
    let twice = "select count(*) c from nodes.events a join nodes.alone b on a.id = b.id";
    assert_eq!(nodes.rows(twice), json!([{"c": 5}]), "a node that lacks a stream adds nothing to it");

    // Groups come instead of rows, of each node.
    let scans = nodes.explained(per_node);
    let places: Vec<&str> = scans.iter().map(|scan| scan["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["node n1", "node n2"]);
    for scan in &scans {
        assert_eq!((&scan["aggregated"], &scan["rows"]), (&json!(true), &json!(1)), "{scan}");
        assert_eq!(scan["table"], "nodes.events");
    }
    let pruned =
        "select n.id from nodes.events n join lake.events e using (id) where n._node = 'n2' and n.id < 110";
    let scans = nodes.explained(pruned);
    let there: Vec<&Value> = scans.iter().filter(|scan| scan["table"] == "nodes.events").collect();
    assert_eq!((there.len(), &there[0]["place"], &there[0]["rows"]), (1, &json!("node n2"), &json!(10)));
    let pushed = texts(&there[0]["pushed"]);
    assert!(pushed.contains("_node = 'n2'") && pushed.contains("1 of 2 nodes"), "{pushed}");
    assert!(pushed.contains("id < 110") && there[0]["kept"] == json!([]), "{scans:?}");
    let coverage = nodes.query(&[], pruned).ok().json()["coverage"].take();
    assert_eq!((&coverage["asked"], &coverage["answered"]), (&json!(["n2"]), &json!(["n2"])));
    let first = nodes.explained("select * from nodes.events limit 7");
    assert!(first.iter().all(|scan| scan["rows"] == 7), "{first:?}");

    // One node of which only its name is asked, and what is not there.
    assert_eq!(
        nodes.query(&["--node", "n2"], "select count(*) c from nodes.events").ok().json()["items"],
        json!([{"c": 50}])
    );
    nodes.query(&[], "select * from nodes.evnts").refused(3, "query.unknown_table");
    nodes.query(&[], "select nothing from nodes.events").code(2);
    let problem =
        nodes.query(&[], "select * from nodes.events where _node = 'n3'").refused(3, "node.unknown");
    assert!(problem["message"].to_string().contains("'n3'"), "{problem}");
    nodes.query(&["--nodes", "all"], "select * from nodes.events").refused(2, "query.fan_out");
}

/// Whether a process has a child that lives.
fn has_child(parent: i32) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !rest.starts_with('Z') && rest.split(' ').nth(1).and_then(|text| text.parse().ok()) == Some(parent)
    })
}

#[test]
fn a_node_that_does_not_answer_is_named_and_never_half_counted() {
    let folder = tempfile::tempdir().unwrap();
    // A node that takes every question and answers none.
    let silent = folder.path().join("engine");
    std::fs::write(&silent, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&silent, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut nodes = TwoNodes::started_with(|agent| {
        agent.env("AAP_ENGINE", &silent);
    });
    post(&nodes.first, "events", 0..100, |_| String::new());
    post(&nodes.second, "events", 100..150, |_| String::new());

    let sql = "select _node, count(*) n from nodes.events group by 1 order by 1";
    let late = nodes.query(&["--timeout", SHORT], sql).code(9).json();
    assert_eq!(late["items"], json!([{"_node": "n1", "n": 100}]), "{late}");
    let coverage = &late["coverage"];
    assert_eq!((&coverage["answered"], &coverage["late"]), (&json!(["n1"]), &json!(["n2"])), "{coverage}");
    assert!(coverage["late_reasons"].to_string().contains("had not answered after 6 s"), "{coverage}");
    nodes.query(&[], "select count(*) from nodes.events where _node <> 'n2'").ok();
    let alone = nodes.query(&["--timeout", SHORT], "select * from nodes.events where _node = 'n2'");
    alone.refused(7, "node.unreachable");

    // Whoever cancels waits no longer, and nor does the node work on.
    let agent = nodes.running.pop().unwrap();
    let waiting = nodes.first.begin(&["query", "-o", "json", "--timeout", "10m", sql]);
    let id = eventually("the statement that waits for the node", || {
        let list = nodes.first.aap(&["query", "ls", "-o", "json"]).ok().json();
        let running = list["items"].as_array()?.iter().find(|item| item["sql"] == sql)?.clone();
        running["id"].as_str().filter(|_| has_child(agent.pid())).map(str::to_owned)
    });
    let began = Instant::now();
    nodes.first.aap(&["query", "cancel", &id]).ok();
    waiting.end().refused(1, "query.cancelled");
    assert!(began.elapsed() < CANCELLED, "after {} s", began.elapsed().as_secs());
    assert!(wait_until(CANCELLED, || !has_child(agent.pid())), "the node is still at work");

    // A node that is not there is known at once.
    drop(agent);
    let mut gone = Value::Null;
    settles("it is known that the node is gone", || {
        gone = nodes.query(&[], sql).code(9).json()["coverage"].take();
        gone["late_reasons"] == json!([""])
    });
    assert_eq!((&gone["answered"], &gone["late"]), (&json!(["n1"]), &json!(["n2"])), "{gone}");
    nodes.running.push(nodes.second.start("agent"));
    nodes.await_nodes();
    assert_eq!(nodes.rows(sql), json!([{"_node": "n1", "n": 100}, {"_node": "n2", "n": 50}]));
}

#[test]
fn nodes_the_lake_and_postgresql_meet_in_one_statement() {
    let Some(place) = Postgres::find("postgres nodes", "it_nodes") else { return };
    place.psql(
        "create table it_nodes.orders as select n::bigint id, case n % 2 when 0 then 'eu' else 'us' end region \
         from generate_series(0, 199) n",
    );
    let nodes = TwoNodes::started();
    post(&nodes.first, "events", 0..100, |_| String::new());
    post(&nodes.second, "events", 100..150, |_| String::new());
    apply(&nodes.first, &place.catalog());
    let sql = "select n._node, count(*) c from nodes.events n join pg.it_nodes.orders o on n.id = o.id \
               join events e on e.id = n.id where o.region = 'eu' and n.city = 'c0' group by 1 order by 1";
    let mut rows = Value::Null;
    settles("the server answers", || {
        let ran = nodes.query(&["--wait-for-ingest"], sql);
        let away = ran.code != 0 && ran.err.contains("query.remote_unreachable");
        if !away {
            rows = ran.ok().json()["items"].take();
        }
        !away
    });
    assert_eq!(rows, json!([{"_node": "n1", "c": 17}, {"_node": "n2", "c": 8}]));
}
