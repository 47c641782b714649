//! Several coordinators: whoever dies or is paused, agents move and every row is there once, at whichever of them one asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aap_tests::load::{compare, exactly_once, post_until_taken};
use aap_tests::{
    Daemon, Differs, Load, Pace, Platform, Ran, Service, Settings, amount, copy, eventually, free_port,
    wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

use super::sinks::kafka::Kafka;
use super::sinks::postgres::Postgres;
use super::sinks::s3::Store;
use super::sinks::{Place, apply, assert_each_once, ingest, settles, sink};

/// How long agents may take to move from a coordinator that is frozen: its lease of 15 s, and as long again.
const MOVED_FROM_FROZEN: Duration = Duration::from_secs(30);
/// How long a query of nodes and a status together may take at one coordinator while another one is frozen: each waits 2 s for it.
const FROZEN_ANSWER: Duration = Duration::from_secs(10);
/// How long they may take to move from one that died.
const MOVED_FROM_DEAD: Duration = Duration::from_secs(15);

/// Groups that land before a coordinator dies at a place that each of them comes by: more than the records of its own start.
const GROUPS_BEFORE: u32 = 20;
/// How long the row of a request may be on its way, with the answer to it, and the death of a coordinator that answered first.
const LANDED_AND_TOLD: Duration = Duration::from_millis(500);
/// How long an agent may take to stop: it waits for no coordinator.
const AGENT_STOPS_WITHIN: Duration = Duration::from_secs(20);
/// Rows of a request.
const ROWS: u64 = 10;

/// How long anything may take that is not measured: a server of Java that another test has killed comes back meanwhile.
const SETTLED: Duration = Duration::from_secs(180);

/// After which a migration is killed. The last of them puts the old home aside as its last step: then only that is left.
const MIGRATION_STEPS: [&str; 7] =
    ["begun", "uploaded", "landed_some", "landed", "positions_saved", "metadata_moved", "ended"];

/// What stands behind the coordinators.
struct Behind {
    kafka: Kafka,
    postgres: Postgres,
    store: Store,
    metadata: String,
    /// Of the cluster, and of nobody else at these servers: who has the name of a shard fences whoever had it.
    name: String,
}

impl Behind {
    fn find(test: &str, schema: &'static str) -> Option<Self> {
        Self::over(Kafka::find(test)?, test, schema)
    }

    fn over(kafka: Kafka, test: &str, schema: &'static str) -> Option<Self> {
        let postgres = Postgres::find(test, schema)?;
        let metadata = postgres.metadata();
        let name = schema.replace('_', "-");
        Some(Self { kafka, postgres, store: Store::find(test), metadata, name })
    }

    /// The sections of one coordinator's configuration.
    fn sections(&self, name: &str) -> String {
        let Self { kafka, store, metadata, name: cluster, .. } = self;
        format!(
            "metadata: {{ postgres: {metadata} }}, lake: {{ age_seconds: 1 }}, \
             cluster: {{ name: {cluster}, coordinator: {name}, landing: {}, lake: {{ {} }} }}",
            kafka.landing(),
            store.spec()
        )
    }
}

/// Coordinators, each in a home of its own, and an agent in the home of the first.
struct Cluster {
    behind: Behind,
    members: Vec<Arc<Platform>>,
}

impl Cluster {
    fn prepared(behind: Behind, members: usize) -> Self {
        Self::prepared_of(behind, members, Platform::new, "{}")
    }

    fn prepared_of(behind: Behind, members: usize, new: impl Fn() -> Platform, buffer: &str) -> Self {
        let ports: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let coordinators: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut homes: Vec<Arc<Platform>> = vec![];
        for (number, port) in ports.iter().enumerate() {
            let platform = new();
            if let Some(first) = homes.first() {
                std::fs::create_dir_all(platform.home()).unwrap();
                copy(&first.home().join("tls"), &platform.home().join("tls"));
            }
            let settings = Settings {
                coordinators: coordinators.clone(),
                agents_port: Some(*port),
                coordinator: behind.sections(&format!("c{}", number + 1)),
                buffer: buffer.to_owned(),
                ..Settings::default()
            };
            platform.prepare("n1", &settings.tail(&Load::glob(&platform)));
            homes.push(Arc::new(platform));
        }
        Self { behind, members: homes }
    }

    fn first(&self) -> &Arc<Platform> {
        &self.members[0]
    }

    fn start(&self, member: usize) -> Daemon {
        self.start_failing(member, "")
    }

    /// The same with a crash point armed, as `AAP_FAIL` writes it.
    fn start_failing(&self, member: usize, fail: &str) -> Daemon {
        let daemon = self.members[member].start_failing("coordinator", fail);
        self.members[member].await_coordinator();
        // It listens before it has its place; one that lost its view waits for the end of its former lease.
        settles("it has its place in the cluster", || {
            self.members[member].aap(&["cluster", "status"]).code == 0
        });
        daemon
    }

    /// `aap cluster status`, at any member that answers.
    fn status(&self) -> Value {
        eventually("a coordinator that tells of the cluster", || {
            self.members.iter().find_map(|member| {
                let ran = member.aap(&["cluster", "status", "-o", "json"]);
                (ran.code == 0).then(|| ran.json()["item"].clone())
            })
        })
    }

    /// Which member owns a shard of the agent's node.
    fn owner(&self) -> usize {
        eventually("an owner of the node's shard", || {
            let status = self.status();
            let coordinators = status["coordinators"].as_array().unwrap().clone();
            let owner = coordinators.iter().find(|one| {
                one["lease_left_ms"] != 0
                    && one["shards"].as_array().unwrap().iter().any(|shard| *shard != 63)
            })?;
            owner["coordinator"].as_str()?.strip_prefix('c')?.parse::<usize>().ok().map(|n| n - 1)
        })
    }

    fn leader(&self) -> usize {
        eventually("a leader", || {
            let status = self.status();
            let leads = status["coordinators"].as_array()?.iter().find(|one| one["leads"] == true)?.clone();
            leads["coordinator"].as_str()?.strip_prefix('c')?.parse::<usize>().ok().map(|n| n - 1)
        })
    }

    /// Waits until the agent has read and delivered so many lines.
    fn await_lines(&self, lines: u64) {
        settles("all lines are delivered", || {
            let ran = self.first().aap(&["query", "-o", "ndjson", "select count(*) n from logs"]);
            ran.code == 0 && ran.json()["n"].as_u64().unwrap() >= lines
        });
    }

    /// Everything is delivered: the ids 0..`rows` are there once, at each of them.
    fn assert_each_once_everywhere(&self, stream: &str, id: &str, rows: u64) {
        for member in &self.members {
            let sql = format!("select count(*) n, count(distinct {id}) d, sum({id}) s from {stream}");
            let row = member.aap(&["query", "-o", "ndjson", &sql]).ok().json();
            let [n, d, s] =
                ["n", "d", "s"].map(|name| row[name].to_string().trim_matches('"').parse::<u64>().unwrap());
            assert_eq!(
                (n, d, s),
                (rows, rows, rows * rows.saturating_sub(1) / 2),
                "rows, distinct ids, their sum"
            );
        }
    }

    /// Waits until a request of the agent has landed at one of these members; says how long that took.
    fn lands_within(&self, at: usize, limit: Duration) -> Duration {
        let began = Instant::now();
        let sql = "select count(*) n from logs";
        let count = || -> Option<u64> {
            let ran = self.members[at].aap(&["query", "-o", "ndjson", sql]);
            (ran.code == 0).then(|| ran.json()["n"].as_u64().unwrap())
        };
        // The stream may not be there yet.
        let before = count().unwrap_or(0);
        let came = wait_until(limit, || count().is_some_and(|now| now > before));
        assert!(came, "nothing has landed within {} s", limit.as_secs());
        began.elapsed()
    }
}

#[test]
fn any_coordinator_answers_and_tells_of_all() {
    let Some(behind) = Behind::find("cluster status", "it_cluster_status") else { return };
    // Each command must do: no other test may have a server killed meanwhile.
    let _quiet = Service::quiet();
    let cluster = Cluster::prepared(behind, 2);
    let (_c1, _c2) = (cluster.start(0), cluster.start(1));
    let _agent = cluster.first().start("agent");
    (0..10).for_each(|request| post_until_taken(cluster.first(), request * 50, 50));
    cluster.first().await_delivered();
    // At once: an answer has what had landed anywhere.
    cluster.assert_each_once_everywhere("posts", "id", 500);
    let status = cluster.status();
    let names: Vec<&str> = status["coordinators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["coordinator"].as_str().unwrap())
        .collect();
    let cluster_name = cluster.behind.name.as_str();
    assert_eq!((status["cluster"].as_str(), names), (Some(cluster_name), vec!["c1", "c2"]), "{status}");
    assert_eq!(status["problems"].as_array().unwrap().len(), 0, "{status}");

    // What is declared at one is known at the other, and runs at the leader.
    let (leader, other) = (cluster.leader(), 1 - cluster.leader());
    apply(&cluster.members[other], &cluster.behind.postgres.document());
    ingest(cluster.first(), 0, 1_000);
    cluster.first().await_delivered();
    settles("it runs at the leader", || {
        cluster.members[leader].aap(&["sink", "show", "pg"]).code == 0
            && sink(&cluster.members[leader], "pg")["state"] == "running"
    });
    assert_each_once(&cluster.members[leader], &cluster.behind.postgres, "pg", 1_000);
    let refused = cluster.members[other].aap(&["sink", "ls", "-o", "json"]);
    refused.refused(6, "cluster.not_leader");

    // What is not this cluster's is refused.
    let stranger = Platform::new();
    let coordinator = cluster.behind.sections("c3");
    stranger.prepare("n2", &Settings { coordinator, ..Settings::default() });
    let mut refused = stranger.start("coordinator");
    refused.await_end("its authority is another one");
    assert!(stranger.log("coordinator").contains("certificate authority"), "{}", stranger.log("coordinator"));
}

#[test]
fn a_node_is_reached_through_any_coordinator() {
    let Some(behind) = Behind::find("cluster reach", "it_cluster_reach") else { return };
    // Each command must do: no other test may have a server killed meanwhile.
    let _quiet = Service::quiet();
    let cluster = Cluster::prepared(behind, 2);
    let running = [cluster.start(0), cluster.start(1)];
    let _agent = cluster.first().start("agent");
    (0..10).for_each(|request| post_until_taken(cluster.first(), request * 50, 50));
    let owner = cluster.owner();
    let other = &cluster.members[1 - owner];
    let sql = "select count(*) n from posts";
    for options in [&["--node", "n1"][..], &["--nodes", "all"], &["--wait-for-ingest"]] {
        let ran = other.aap(&[&["query", "-o", "json"], options, &[sql]].concat()).ok().json();
        assert_eq!(ran["items"][0]["n"], 500, "{options:?}: {ran}");
        assert_eq!(ran["coverage"]["answered"], serde_json::json!(["n1"]), "{options:?}: {ran}");
        assert_eq!(ran["coverage"]["late"], serde_json::json!([]), "{options:?}: {ran}");
    }
    let table = "select _node, count(*) n from nodes.posts group by 1";
    let ran = other.aap(&["query", "-o", "json", table]).ok().json();
    assert_eq!(ran["items"], serde_json::json!([{"_node": "n1", "n": 500}]), "{ran}");
    // Many parts, more than the node may send before some are taken.
    let many = ["query", "--node", "n1", "--limit", "0", "-o", "csv", "--no-headers"];
    let sql = "select range as id, md5(range::varchar) as text from range(300000)";
    assert_eq!(other.aap(&[&many[..], &[sql]].concat()).ok().out.lines().count(), 300_000);
    let status = other.aap(&["status", "-o", "json"]).ok().json()["item"].take();
    assert_eq!((&status["healthy"], &status["problems"]), (&true.into(), &serde_json::json!([])), "{status}");
    for nodes in
        [status["nodes"].clone(), other.aap(&["node", "ls", "-o", "json"]).ok().json()["items"].take()]
    {
        assert_eq!((&nodes[0]["node"], &nodes[0]["connected"]), (&"n1".into(), &true.into()), "{nodes}");
        assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
    }

    running[owner].signal(Signal::STOP);
    let began = Instant::now();
    let late = other.aap(&["query", "--nodes", "all", "-o", "json", "select count(*) n from posts"]);
    let problem = late.refused(7, "node.unreachable");
    let named = format!("coordinator `c{}`", owner + 1);
    assert!(problem["message"].to_string().contains("`n1`"), "{problem}");
    assert!(problem["causes"].to_string().contains(&named), "{problem}");
    let status = other.aap(&["status", "-o", "json"]).code(11).json()["item"].take();
    assert!(status["problems"].to_string().contains(&named), "{status}");
    assert!(began.elapsed() < FROZEN_ANSWER, "after {} ms", began.elapsed().as_millis());
    // It waits for the node, which moves here.
    let waited = other.aap(&["query", "--wait-for-ingest", "-o", "json", "select count(*) n from posts"]);
    let coverage = waited.ok().json()["coverage"].take();
    assert_eq!(coverage["answered"], serde_json::json!(["n1"]), "{coverage}");
    assert!(began.elapsed() < FROZEN_ANSWER + MOVED_FROM_FROZEN, "after {} s", began.elapsed().as_secs());
    other.aap(&["query", "--node", "n1", "select count(*) from posts"]).ok();
    running[owner].signal(Signal::CONT);
    settles("the one that was frozen reaches it where it is now", || {
        let frozen = &cluster.members[owner];
        frozen.aap(&["query", "--node", "n1", "select count(*) from posts"]).code == 0
            && frozen.aap(&["status"]).code == 0
    });
}

#[test]
fn rows_are_there_once_whichever_coordinator_dies() {
    let Some(behind) = Behind::find("cluster kills", "it_cluster_kills") else { return };
    let cluster = Cluster::prepared(behind, 2);
    // Each start must do: no other test may have a server killed meanwhile.
    let quiet = Service::quiet();
    let mut running = [Some(cluster.start(0)), Some(cluster.start(1))];
    drop(quiet);
    let mut agent = cluster.first().start("agent");
    let load = Load::start(cluster.first(), Pace::FILE);
    cluster.lands_within(0, SETTLED);
    let mut posted = 0;
    for round in 0..amount("AAP_TEST_CLUSTER_KILLS", 3, 20) {
        // Not while another test has a server behind them killed.
        let quiet = Service::quiet();
        cluster.lands_within(0, SETTLED);
        let victim = cluster.owner();
        running[victim].take().unwrap().kill();
        let moved = cluster.lands_within(1 - victim, MOVED_FROM_DEAD);
        eprintln!(
            "round {round}: c{} was killed, rows landed again after {:.1} s",
            victim + 1,
            moved.as_secs_f64()
        );
        post_until_taken(cluster.first(), posted, 50);
        posted += 50;
        if round == 1 {
            // A view that is lost is read again: from the topic, and from the lake what is not there any more.
            std::fs::remove_dir_all(cluster.members[victim].home().join("coordinator/view")).unwrap();
        }
        running[victim] = Some(cluster.start(victim));
        drop(quiet);
        if round % 2 == 1 {
            agent.kill();
            agent = cluster.first().start("agent");
        }
        cluster.lands_within(1 - victim, SETTLED);
    }
    let produced = load.stop();
    cluster.await_lines(produced.lines);
    cluster.first().await_delivered();
    cluster.assert_each_once_everywhere("logs", "cast(body as bigint)", produced.lines);
    cluster.assert_each_once_everywhere("posts", "id", posted);
    drop(agent);
}

#[test]
fn a_coordinator_that_was_paused_past_its_lease_doubles_nothing() {
    let Some(behind) = Behind::find("cluster pause", "it_cluster_pause") else { return };
    let cluster = Cluster::prepared(behind, 2);
    let quiet = Service::quiet();
    let running = [cluster.start(0), cluster.start(1)];
    drop(quiet);
    let _agent = cluster.first().start("agent");
    let load = Load::start(cluster.first(), Pace::FILE);
    cluster.lands_within(0, SETTLED);
    for round in 0..amount("AAP_TEST_CLUSTER_PAUSES", 1, 5) {
        let quiet = Service::quiet();
        cluster.lands_within(0, SETTLED);
        let frozen = cluster.owner();
        running[frozen].signal(Signal::STOP);
        let moved = cluster.lands_within(1 - frozen, MOVED_FROM_FROZEN);
        drop(quiet);
        eprintln!(
            "round {round}: c{} froze, rows landed again after {:.1} s",
            frozen + 1,
            moved.as_secs_f64()
        );
        running[frozen].signal(Signal::CONT);
        cluster.lands_within(1 - frozen, SETTLED);
        settles("the one that was frozen answers again", || {
            cluster.members[frozen].aap(&["query", "select count(*) from logs"]).code == 0
        });
    }
    let produced = load.stop();
    cluster.await_lines(produced.lines);
    cluster.first().await_delivered();
    cluster.assert_each_once_everywhere("logs", "cast(body as bigint)", produced.lines);
}

/// One of two coordinators dies where it comes by `point`, under requests. What the other one has then, compared with what was taken.
/// `None` where a server is missing.
pub(crate) fn one_dies_at(
    point: &str,
    schema: &'static str,
    new: impl Fn() -> Platform,
) -> Option<Result<(), Differs>> {
    let behind = Behind::find(&format!("cluster {schema}"), schema)?;
    // A server that dies beside it would take the blame.
    let _quiet = Service::quiet();
    // The agent keeps only what it must: what was acknowledged and is not there is lost.
    let cluster = Cluster::prepared_of(behind, 2, new, "{ retain: 0B, segment_bytes: 1MiB }");
    let mut dies = cluster.start_failing(0, &format!("{point}:{GROUPS_BEFORE}=abort"));
    // While it is the only one, the agent goes to it.
    let mut agent = cluster.first().start("agent");
    cluster.first().await_connected();
    // The other has its place, and takes part when the agent has let go of what it believes delivered.
    let other = cluster.start(1);
    other.signal(Signal::STOP);
    let mut rows = 0;
    let post = |rows: &mut u64| {
        post_until_taken(cluster.first(), *rows, ROWS);
        *rows += ROWS;
    };
    // One after the other, so that nothing waits behind the one with which it dies.
    for _ in 0..10 * GROUPS_BEFORE {
        post(&mut rows);
        if wait_until(LANDED_AND_TOLD, || dies.ended().is_some()) {
            break;
        }
    }
    dies.await_end("it comes by the place");
    // A store that is opened anew lets go with its first append.
    agent.stop(AGENT_STOPS_WITHIN);
    let _agent = cluster.first().start("agent");
    post(&mut rows);
    other.signal(Signal::CONT);
    post(&mut rows);
    settles("the last request is there", || {
        let sql = format!("select count(*) n from posts where id >= {}", rows - ROWS);
        let ran = cluster.members[1].aap(&["query", "-o", "ndjson", &sql]);
        ran.code == 0 && ran.json()["n"].as_u64() >= Some(ROWS)
    });
    Some(compare(&cluster.members[1], "posts", "id", rows))
}

#[test]
fn a_coordinator_that_dies_around_its_commit_loses_and_doubles_nothing() {
    for (point, schema) in [
        ("landing.before_commit", "it_cluster_before"),
        ("landing.after_commit_before_ack", "it_cluster_after"),
    ] {
        let Some(compared) = one_dies_at(point, schema, Platform::new) else { return };
        assert_eq!(compared, Ok(()), "{point}");
    }
}

#[test]
fn a_platform_of_one_machine_becomes_a_cluster_under_load() {
    let Some(behind) = Behind::find("cluster migration", "it_cluster_migration") else { return };
    // Each command must do: no other test may have a server killed meanwhile.
    let _quiet = Service::quiet();
    let platform = Platform::new();
    let alone = "lake: { age_seconds: 1 }";
    let settings = Settings { coordinator: alone.to_owned(), ..Settings::default() };
    platform.prepare("n1", &settings.tail(&Load::glob(&platform)));
    let platform = Arc::new(platform);
    let (mut coordinator, _agent) = platform.start_both();
    apply(&platform, &behind.postgres.document());
    ingest(&platform, 0, 1_000);
    assert_each_once(&platform, &behind.postgres, "pg", 1_000);
    let load = Load::start(&platform, Pace::FILE);
    eventually("rows in the lake", || {
        let files = platform.aap(&["stream", "files", "logs", "-o", "ndjson"]);
        (files.code == 0 && !files.out.trim().is_empty()).then_some(())
    });
    let uid =
        || behind.postgres.psql("select string_agg(distinct uid, ',') from it_cluster_migration.ledger");
    let before = uid();

    // It is refused while the coordinator runs, and where no cluster is named.
    let migrate = || {
        let ran = platform.aap(&["cluster", "migrate"]);
        (ran.code, ran.out + &ran.err)
    };
    let refused = migrate();
    assert!(refused.0 == 2 && refused.1.contains("names no cluster"), "{refused:?}");
    let file = platform.home().join("config/coordinator.yaml");
    let document = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, document.replace(alone, &behind.sections("c1"))).unwrap();
    let refused = migrate();
    assert!(refused.0 != 0, "{refused:?}");

    coordinator.stop(Duration::from_secs(20));
    // It dies after each of its steps, and the next one goes on.
    for step in MIGRATION_STEPS {
        let mut command = platform.command("aap");
        command.args(["cluster", "migrate"]).env("AAP_FAIL", format!("migration.{step}=abort"));
        let died = Ran::of(command.output().unwrap());
        assert!(died.code != 0, "after `{step}`: {died:?}");
    }
    let moved = migrate();
    assert!(moved.0 == 0 && moved.1.contains("moved"), "{moved:?}");
    let again = migrate();
    assert!(again.0 == 0 && again.1.contains("nothing to move"), "{again:?}");
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    settles("the load flows again", || {
        let count = || platform.count("select count(*) from logs");
        let before = count();
        wait_until(Duration::from_secs(20), || count() > before)
    });
    ingest(&platform, 1_000, 2_000);
    assert_each_once(&platform, &behind.postgres, "pg", 2_000);
    assert_eq!(uid(), before, "the sink is the same one");
    let produced = load.stop();
    settles("all lines are delivered", || platform.count("select count(*) from logs") >= produced.lines);
    exactly_once(&platform, "logs", "cast(body as bigint)", produced.lines);

    // A coordinator that is new knows all of it, without a disk of the first one.
    let second = Platform::new();
    std::fs::create_dir_all(second.home()).unwrap();
    copy(&platform.home().join("tls"), &second.home().join("tls"));
    second.prepare("n2", &Settings { coordinator: behind.sections("c2"), ..Settings::default() });
    let _second = second.start("coordinator");
    second.await_coordinator();
    let everywhere = Cluster { behind, members: vec![platform.clone(), Arc::new(second)] };
    everywhere.assert_each_once_everywhere("logs", "cast(body as bigint)", produced.lines);
    everywhere.assert_each_once_everywhere("events", "id", 2_000);
}

#[test]
fn one_of_three_brokers_may_die_at_a_time() {
    let test = "cluster brokers";
    let Some(kafka) = Kafka::find_three(test) else { return };
    let Some(behind) = Behind::over(kafka, test, "it_cluster_brokers") else { return };
    let cluster = Cluster::prepared(behind, 2);
    let quiet = Service::quiet();
    let _running = [cluster.start(0), cluster.start(1)];
    drop(quiet);
    let _agent = cluster.first().start("agent");
    let kafka = &cluster.behind.kafka;
    let leader = cluster.members[cluster.leader()].clone();
    apply(&leader, &kafka.document().replace(", allow_unreplicated: true", ""));
    let load = Load::start(cluster.first(), Pace::FILE);
    cluster.lands_within(0, SETTLED);
    let mut events = 0;
    for broker in ["kafka3-1", "kafka3-2", "kafka3-3"] {
        let quiet = Service::quiet();
        kafka.service().kill_process(broker);
        let landed = cluster.lands_within(0, SETTLED);
        drop(quiet);
        eprintln!("{broker} was killed, rows landed again after {:.1} s", landed.as_secs_f64());
        ingest(cluster.first(), events, events + 2_000);
        events += 2_000;
        kafka.service().revive();
    }
    let produced = load.stop();
    cluster.await_lines(produced.lines);
    cluster.first().await_delivered();
    cluster.assert_each_once_everywhere("logs", "cast(body as bigint)", produced.lines);
    assert_each_once(&leader, kafka, "kafka", events);
}
