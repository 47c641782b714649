//! Agents and operators that are not told where a coordinator is, but where that is said: a real Consul, by its DNS and by its HTTP. What
//! it says it was told by the test, or by the coordinator itself.

use std::process::Command;
use std::time::Duration;

use aap_tests::{Daemon, Platform, Service, Settings, eventually, free_port};
use serde_json::{Value, json};

/// Longer than a coordinator's stop takes.
const STOP: Duration = Duration::from_secs(20);

/// A real Consul, with a service of its own for each test.
struct Consul {
    service: Service,
    name: String,
}

impl Consul {
    fn find(test: &str) -> Option<Self> {
        let service = Service::find("consul", "consul", "AAP_TEST_CONSUL", test)?;
        Some(Self { service, name: format!("aap-{test}-{}", std::process::id()) })
    }

    fn put(&self, path: &str, body: &Value) {
        let url = format!("{}/v1/{path}", self.service.address);
        let curl = ["-fsS", "--noproxy", "*", "-X", "PUT", &url, "-d", &body.to_string()];
        let output = Command::new("curl").args(curl).output().unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
    }

    /// Says that the service is at this port, and nowhere else.
    fn register(&self, port: u16) {
        let body = json!({ "ID": self.name, "Name": self.name, "Address": "127.0.0.1", "Port": port, "Tags": ["it"] });
        self.put("agent/service/register", &body);
    }

    fn deregister(&self) {
        self.put(&format!("agent/service/deregister/{}", self.name), &Value::Null);
    }

    /// The ports at which healthy instances of a service are.
    fn ports(&self, name: &str) -> Vec<u64> {
        let url = format!("{}/v1/health/service/{name}?passing=true", self.service.address);
        let output = Command::new("curl").args(["-fsS", "--noproxy", "*", &url]).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let entries = found.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["Service"]["Port"].as_u64().unwrap()).collect()
    }

    /// The section of a coordinator that registers itself.
    fn section(&self) -> String {
        let Self { service, name } = self;
        format!("discovery: {{ consul: {{ address: '{}', service: {name}, tags: [it] }} }}", service.address)
    }

    fn by_http(&self) -> String {
        format!("consul+{}/{}?tag=it", self.service.address, self.name)
    }

    fn by_dns(&self) -> String {
        let server = std::env::var("AAP_TEST_CONSUL_DNS").unwrap();
        format!("srv+{}.service.consul?server={server}", self.name)
    }
}

/// A home whose agent looks for the coordinator at `place`, and the port at which that will be.
fn hub(place: &str, coordinator: String) -> (Platform, u16) {
    let port = free_port();
    let hub = Platform::new();
    let coordinator_address = Some(place.to_owned());
    let settings =
        Settings { agents_port: Some(port), coordinator_address, coordinator, ..Settings::default() };
    hub.prepare("n1", &settings);
    (hub, port)
}

/// Starts the coordinator anew on another port.
fn move_coordinator(hub: &Platform, mut running: Daemon, (before, after): (u16, u16)) -> Daemon {
    running.stop(STOP);
    let file = hub.home().join("config/coordinator.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&before.to_string(), &after.to_string())).unwrap();
    std::fs::remove_file(hub.home().join("run/coordinator.json")).unwrap();
    let coordinator = hub.start("coordinator");
    hub.await_coordinator();
    coordinator
}

fn an_agent_finds_and_follows(consul: &Consul, place: &str) {
    // What is registered here is registered once: nobody may kill Consul meanwhile.
    let _quiet = Service::quiet();
    let (hub, port) = hub(place, String::new());
    let coordinator = hub.start("coordinator");
    hub.await_coordinator();
    let _agent = hub.start("agent");
    // Nothing is registered yet: the agent says what it looks for, and keeps what it takes.
    eventually("an agent that says that nobody is known", || {
        let status = hub.aap(&["node", "show", "n1", "-o", "json"]);
        let log = hub.log("agent");
        (log.contains("discovery.nothing") && !status.out.contains("\"connected\":true")).then_some(())
    });
    super::node_tables::post(&hub, "logs", 0..50, |_| String::new());
    consul.register(port);
    hub.await_connected();
    hub.await_delivered();

    let after = free_port();
    let coordinator = move_coordinator(&hub, coordinator, (port, after));
    consul.register(after);
    super::node_tables::post(&hub, "logs", 50..80, |_| String::new());
    hub.await_connected();
    hub.await_delivered();
    // Consul forgets it: whoever is connected stays, and what was found last still leads to it.
    consul.deregister();
    drop(coordinator);
    let _coordinator = hub.start("coordinator");
    super::node_tables::post(&hub, "logs", 80..100, |_| String::new());
    hub.await_connected();
    hub.await_delivered();
    assert_eq!(hub.count("select count(distinct id) from logs"), 100);
    assert_eq!(hub.count("select count(*) from logs"), 100);
}

#[test]
fn an_agent_finds_its_coordinator_by_consul_and_follows_it_to_another_port() {
    let Some(consul) = Consul::find("http") else { return };
    an_agent_finds_and_follows(&consul, &consul.by_http());
}

#[test]
fn an_agent_finds_its_coordinator_by_dns_and_follows_it_to_another_port() {
    let Some(consul) = Consul::find("dns") else { return };
    an_agent_finds_and_follows(&consul, &consul.by_dns());
}

#[test]
fn an_operator_finds_a_coordinator_where_the_context_says_to_look() {
    let Some(consul) = Consul::find("operators") else { return };
    let _quiet = Service::quiet();
    let hub = Platform::new();
    hub.prepare("n1", &Settings::default());
    let _coordinator = hub.start("coordinator");
    hub.await_coordinator();
    let endpoint = hub.endpoint("operator").unwrap();
    let desk = Platform::new();
    let ca = hub.home().join("tls/root.pem");
    let asked = |place: &str| {
        let mut command = desk.command("aap");
        command.env("AAP_ENDPOINT", place).env("AAP_CA", &ca);
        command.env("AAP_TOKEN_FILE", hub.home().join("run/operator.token"));
        aap_tests::Ran::of(command.args(["stream", "ls", "-o", "json"]).output().unwrap())
    };
    asked(&consul.by_http()).refused(3, "discovery.nothing");
    consul.register(endpoint.rsplit_once(':').unwrap().1.parse().unwrap());
    for place in [consul.by_http(), consul.by_dns()] {
        asked(&place).ok();
    }
    asked("srv+a..b").refused(2, "context.bad_endpoint");
    asked("consul+http://127.0.0.1:1/aap").refused(7, "discovery.unreachable");
}

#[test]
fn a_coordinator_registers_itself_and_whoever_looks_finds_it_where_it_is_now() {
    let Some(consul) = Consul::find("registers") else { return };
    let _quiet = Service::quiet();
    let operators = format!("{}-operators", consul.name);
    let (hub, port) = hub(&consul.by_http(), consul.section());
    let coordinator = hub.start("coordinator");
    hub.await_coordinator();
    let _agent = hub.start("agent");
    super::node_tables::post(&hub, "logs", 0..50, |_| String::new());
    hub.await_connected();
    hub.await_delivered();
    assert_eq!(consul.ports(&consul.name), [u64::from(port)]);
    let listens: u64 = hub.endpoint("operator").unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    eventually("a service for operators", || (consul.ports(&operators) == [listens]).then_some(()));
    assert_eq!(hub.coordinator_metric("aap_discovery_registered"), Some(1.0));

    let after = free_port();
    let mut coordinator = move_coordinator(&hub, coordinator, (port, after));
    super::node_tables::post(&hub, "logs", 50..80, |_| String::new());
    hub.await_connected();
    hub.await_delivered();
    assert_eq!(consul.ports(&consul.name), [u64::from(after)]);

    // Without Consul all goes on, also for a coordinator that is killed and comes back.
    consul.service.kill_process("consul");
    eventually("a coordinator that says that it is not registered", || {
        (hub.coordinator_metric("aap_discovery_registered") == Some(0.0)).then_some(())
    });
    let status = hub.aap(&["status", "-o", "json"]).out;
    assert!(status.contains("this coordinator cannot be registered in Consul"), "{status}");
    coordinator.kill();
    let mut coordinator = hub.start("coordinator");
    hub.await_coordinator();
    super::node_tables::post(&hub, "logs", 80..100, |_| String::new());
    hub.await_connected();
    hub.await_delivered();

    // This Consul kept nothing: it is told anew.
    consul.service.revive();
    eventually("a coordinator that is registered again", || {
        (consul.ports(&consul.name) == [u64::from(after)]).then_some(())
    });
    assert_eq!(hub.count("select count(distinct id) from logs"), 100);
    assert_eq!(hub.count("select count(*) from logs"), 100);
    // One that stops in order takes itself back.
    coordinator.stop(STOP);
    assert_eq!((consul.ports(&consul.name), consul.ports(&operators)), (vec![], vec![]));
}
