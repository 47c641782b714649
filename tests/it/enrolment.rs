//! Machines become nodes with a token, keep their certificate, and are shut out: the attacks E1 to E9 of the security table against the
//! real programs.

use std::path::Path;
use std::time::Duration;

use aap_access::{EnrolmentTicket, IssuedKind, IssuedSecret};
use aap_tests::load::exactly_once;
use aap_tests::{Daemon, Platform, Ran, Settings, copy, eventually, source, wait_until};

/// A platform with a coordinator and no node of its own.
struct Hub {
    platform: Platform,
    coordinator: Daemon,
}

impl Hub {
    /// Certificates hold for so many seconds.
    fn with_life(seconds: u64) -> Self {
        let platform = Platform::new();
        let coordinator = "lake: { age_seconds: 1 }".to_owned();
        platform.prepare("hub", &Settings { coordinator, ..Settings::default() });
        let file = platform.home().join("config/coordinator.yaml");
        let document = std::fs::read_to_string(&file).unwrap();
        let life = format!("agents: {{ certificate_seconds: {seconds}, bind:");
        std::fs::write(&file, document.replacen("agents: { bind:", &life, 1)).unwrap();
        let daemon = platform.start("coordinator");
        platform.await_coordinator();
        Self { platform, coordinator: daemon }
    }

    /// Kills the coordinator, and starts it again.
    fn restart(&mut self) {
        self.coordinator.kill();
        self.coordinator = self.platform.start("coordinator");
        self.platform.await_coordinator();
    }

    /// A field of `aap ca show`.
    fn ca(&self, field: &str) -> serde_json::Value {
        self.platform.aap(&["ca", "show", "-o", "json"]).ok().json()["item"][field].clone()
    }

    fn new() -> Self {
        Self::with_life(86_400)
    }

    /// The text of a token.
    fn token(&self, arguments: &[&str]) -> String {
        let all = [&["token", "create", "--site", "lyon", "-o", "json"], arguments].concat();
        self.platform.aap(&all).ok().json()["item"]["token"].as_str().unwrap().to_owned()
    }

    /// A field of `aap node show`.
    fn node(&self, name: &str, field: &str) -> serde_json::Value {
        let shown = self.platform.aap(&["node", "show", name, "-o", "json"]);
        if shown.code == 0 { shown.json()["item"][field].clone() } else { serde_json::Value::Null }
    }

    fn await_state(&self, name: &str, state: &str) {
        eventually(&format!("`{name}` is {state}"), || (self.node(name, "state") == state).then_some(()));
    }
}

/// A machine with nothing on it.
struct Machine {
    platform: Platform,
    name: &'static str,
}

impl Machine {
    fn new(name: &'static str) -> Self {
        Self { platform: Platform::new(), name }
    }

    fn enrol(&self, token: &str, more: &[&str]) -> Ran {
        let mut command = self.platform.command("aap-agent");
        command.args(["enroll", token, "--node", self.name, "--output", "json"]).args(more);
        Ran::of(command.output().unwrap())
    }

    /// Follows a file into the stream `logs`, and starts.
    fn start(&self) -> Daemon {
        let sources = self.platform.home().join("config/sources.d");
        std::fs::create_dir_all(&sources).unwrap();
        let spec = format!("type: file, stream: logs, include: ['{}']", self.file().display());
        std::fs::write(sources.join("tail.yaml"), source("tail", &spec)).unwrap();
        self.platform.start("agent")
    }

    fn file(&self) -> std::path::PathBuf {
        self.platform.beside("app.log")
    }

    fn append(&self, numbers: std::ops::Range<u64>) {
        use std::io::Write;
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.file()).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}

/// Connects as machines do that want to become nodes.
struct Dial {
    address: String,
    tls: tokio_rustls::TlsConnector,
}

fn enrolling(root: &[u8]) -> tokio_rustls::TlsConnector {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, version::TLS13};
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_slice_iter(root).for_each(|root| roots.add(root.unwrap()).unwrap());
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()));
    let config = config.with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"aap-enrol/1".to_vec()];
    std::sync::Arc::new(config).into()
}

impl tonic::codegen::Service<tonic::codegen::http::Uri> for Dial {
    type Response = hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::codegen::http::Uri) -> Self::Future {
        let (address, tls) = (self.address.clone(), self.tls.clone());
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = tokio_rustls::rustls::pki_types::ServerName::try_from("localhost").unwrap();
            tls.connect(name, stream).await.map(hyper_util::rt::TokioIo::new)
        })
    }
}

/// Every line of 0..n is at the hub, once.
fn delivered(hub: &Hub, lines: u64) {
    eventually("all lines at the hub", || {
        let counted = hub.platform.aap(&["query", "-o", "csv", "--no-headers", "select count(*) from logs"]);
        (counted.code == 0 && counted.out.trim() == lines.to_string()).then_some(())
    });
    exactly_once(&hub.platform, "logs", "cast(body as bigint)", lines);
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_machine_becomes_a_node_with_one_token_and_its_rows_land() {
    let (hub, machine) = (Hub::new(), Machine::new("edge-1"));
    let token = hub.token(&["-l", "line=7"]);
    let enrolled = machine.enrol(&token, &[]).ok().json();
    assert_eq!((&enrolled["node"], &enrolled["site"]), (&"edge-1".into(), &"lyon".into()), "{enrolled}");
    for file in ["tls/nodes/edge-1.key", "tls/nodes/edge-1.pem", "tls/root.pem", "tls/enrolment.json"] {
        assert_eq!(mode_of(&machine.platform.home().join(file)), 0o600, "{file}");
    }
    assert!(!machine.platform.home().join("tls/enrolling.key").exists());
    assert_eq!((hub.node("edge-1", "state"), hub.node("edge-1", "site")), ("approved".into(), "lyon".into()));
    assert_eq!(hub.node("edge-1", "labels")["line"], "7");
    let _agent = machine.start();
    machine.append(0..500);
    delivered(&hub, 500);
    assert_eq!(hub.node("edge-1", "generation"), 1);

    // Again, by the same command: it is said, and nothing changes.
    let mut command = machine.platform.command("aap-agent");
    let again = Ran::of(command.args(["enroll", &token, "--output", "json"]).output().unwrap());
    again.refused(6, "enrolment.already");
}

#[test]
fn e1_e2_e3_a_token_is_for_one_machine_and_whoever_guesses_learns_nothing() {
    let hub = Hub::new();
    let token = hub.token(&[]);
    Machine::new("edge-1").enrol(&token, &[]).ok();
    // Used; of another platform; for another node; revoked; mistyped.
    let denied = |machine: &Machine, token: &str| {
        let problem = machine.enrol(token, &[]).refused(5, "enrolment.denied");
        assert!(!machine.platform.home().join("tls/root.pem").exists());
        problem["message"].as_str().unwrap().to_owned()
    };
    let used = denied(&Machine::new("edge-2"), &token);
    let revoked = hub.token(&[]);
    let id = revoked.split('_').nth(1).unwrap();
    hub.platform.aap(&["token", "revoke", id]).ok();
    assert_eq!(denied(&Machine::new("edge-3"), &revoked), used, "the same text for whatever reason");
    let short = hub.token(&["--ttl", "1s"]);
    let expired = || hub.platform.aap(&["token", "ls", "-o", "json"]).ok().json()["items"].clone();
    eventually("a token that expires", || {
        expired().as_array().unwrap().iter().any(|token| token["state"] == "expired").then_some(())
    });
    assert_eq!(denied(&Machine::new("edge-4"), &short), used);
    // Who watches for stolen tokens sees which it was, and who was faster.
    let search = ["audit", "search", "--action", "node enrol", "--outcome", "denied", "-o", "json"];
    let records = hub.platform.aap(&search).ok().json()["items"].clone();
    let of = |node: &str| {
        let object = format!("node/{node}");
        let found = records.as_array().unwrap().iter().find(|record| record["object"] == object.as_str());
        found.unwrap_or_else(|| panic!("{node}: {records}")).clone()
    };
    let reused = of("edge-2");
    assert_eq!(
        (&reused["from"], &reused["details"]["used_from"]),
        (&"127.0.0.1".into(), &"127.0.0.1".into())
    );
    for (node, reason) in [("edge-2", "used_up"), ("edge-3", "revoked"), ("edge-4", "expired")] {
        assert_eq!(of(node)["details"]["reason"], reason);
        let figure = format!("aap_enrolments_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(hub.platform.coordinator_metric(&figure), Some(1.0), "{figure}");
    }
    let mistyped = token.replacen("aape_", "aape_X", 1);
    Machine::new("edge-5").enrol(&mistyped, &[]).refused(2, "enrolment.bad_token");
    // Somebody who goes on is not listened to for a while.
    let eager = Machine::new("edge-6");
    let slowed = (0..20).any(|_| eager.enrol(&token, &[]).code == 7);
    assert!(slowed, "twenty refusals in a row, and no end");
}

#[test]
fn e3_where_an_operator_approves_a_node_waits_and_then_goes_on_by_itself() {
    let (hub, machine) = (Hub::new(), Machine::new("edge-1"));
    let token = hub.token(&["--require-approval"]);
    let mut command = machine.platform.command("aap-agent");
    let waiting = aap_tests::Running::of(command.args(["enroll", &token, "--node", "edge-1"]));
    hub.await_state("edge-1", "pending");
    hub.platform.aap(&["node", "approve", "edge-1"]).ok();
    let enrolled = waiting.end().ok();
    assert!(enrolled.out.contains("`edge-1` is a node of site `lyon`"), "{enrolled:?}");
    let _agent = machine.start();
    machine.append(0..10);
    delivered(&hub, 10);
}

#[test]
fn e2_a_name_under_which_data_has_landed_is_not_given_away() {
    let (hub, first) = (Hub::new(), Machine::new("edge-1"));
    first.enrol(&hub.token(&[]), &[]).ok();
    let thief = Machine::new("edge-1");
    let token = hub.token(&["--uses", "2"]);
    thief.enrol(&token, &[]).refused(6, "enrolment.name_taken");
    // To who has no token of ours it is not even said that there is such a node.
    let foreign = Hub::new().token(&[]);
    let secret = EnrolmentTicket::parse(&foreign).unwrap();
    let secret = IssuedSecret::parse(IssuedKind::Enrolment, secret.secret().reveal()).unwrap();
    let here = EnrolmentTicket::parse(&token).unwrap();
    let made_up = EnrolmentTicket::new(secret, here.authority(), here.coordinators().to_vec()).unwrap();
    thief.enrol(&made_up.reveal(), &[]).refused(5, "enrolment.denied");
    // A machine that takes its place, as an operator says.
    let heir = Machine::new("edge-1");
    heir.enrol(&hub.token(&["--node", "edge-1"]), &[]).ok();
    let _agent = heir.start();
    heir.append(0..10);
    delivered(&hub, 10);
    // The former machine has a key that is nobody's any more.
    let _former = first.start();
    eventually("the former machine is refused", || {
        first
            .platform
            .log("agent")
            .contains("LOCKED")
            .then_some(())
            .or_else(|| (hub.node("edge-1", "state") == "locked").then_some(()))
    });
}

#[test]
fn e6_a_coordinator_of_another_authority_is_refused_at_the_first_contact() {
    let (hub, rogue) = (Hub::new(), Hub::new());
    let token = hub.token(&[]);
    // The token's authority, at the address of another platform.
    let ticket = EnrolmentTicket::parse(&token).unwrap();
    let secret = IssuedSecret::parse(IssuedKind::Enrolment, ticket.secret().reveal()).unwrap();
    let address = rogue.platform.endpoint("operator").unwrap().parse().unwrap();
    let elsewhere = EnrolmentTicket::new(secret, ticket.authority(), vec![address]).unwrap();
    let machine = Machine::new("edge-1");
    let refused = machine.enrol(&elsewhere.reveal(), &[]).refused(7, "transport.unreachable");
    assert!(refused["causes"].to_string().contains("another authority"), "{refused}");
    machine.enrol(&token, &[]).ok();
}

#[test]
fn e9_a_banned_node_is_cut_off_within_five_seconds_and_loses_nothing() {
    let (hub, machine) = (Hub::new(), Machine::new("edge-1"));
    machine.enrol(&hub.token(&[]), &[]).ok();
    let _agent = machine.start();
    machine.append(0..100);
    delivered(&hub, 100);
    hub.platform.aap(&["node", "ban", "edge-1", "--reason", "stolen"]).code(2);
    hub.platform.aap(&["node", "ban", "edge-1", "--reason", "stolen", "--yes"]).ok();
    let cut = wait_until(Duration::from_secs(5), || hub.node("edge-1", "connected") == false);
    assert!(cut, "it is still connected");
    machine.append(100..200);
    eventually("its agent says why", || machine.platform.log("agent").contains("BANNED").then_some(()));
    // Whatever the exit code says about the part that it still has.
    let counted = hub.platform.aap(&["query", "-o", "csv", "--no-headers", "select count(*) from logs"]);
    assert_eq!(counted.out.trim(), "100", "nothing of a banned node lands");
    assert_eq!(hub.node("edge-1", "reason"), "stolen");
    hub.platform.aap(&["node", "approve", "edge-1"]).ok();
    delivered(&hub, 200);
}

#[test]
fn a_certificate_is_renewed_through_three_lives_and_below_another_root_while_rows_flow() {
    const LIFE: u64 = 6;
    let (hub, machine) = (Hub::with_life(LIFE), Machine::new("edge-1"));
    machine.enrol(&hub.token(&[]), &[]).ok();
    let mut agent = machine.start();
    let mut lines = 0;
    let mut generation = |wanted: u64| {
        eventually(&format!("a certificate of generation {wanted}"), || {
            machine.append(lines..lines + 10);
            lines += 10;
            (hub.node("edge-1", "generation").as_u64() >= Some(wanted)).then_some(())
        });
    };
    generation(2);
    let (root, former) = (hub.platform.home().join("tls/root.pem"), hub.ca("root"));
    let own_root = machine.platform.home().join("tls/root.pem");
    hub.platform.aap(&["ca", "rotate"]).ok();
    assert_ne!(hub.ca("root"), former);
    assert_eq!(hub.ca("rotating"), true);
    hub.platform.aap(&["ca", "rotate", "-o", "json"]).refused(6, "ca.rotation_under_way");
    eventually("the node confirms the new root", || (hub.ca("confirmed") == 1).then_some(()));
    assert_eq!(std::fs::read(&own_root).unwrap(), std::fs::read(&root).unwrap(), "it has both");
    hub.platform.aap(&["ca", "rotate", "--finish"]).ok();
    hub.platform.aap(&["ca", "rotate", "--finish", "-o", "json"]).refused(6, "ca.no_rotation");
    let after = hub.node("edge-1", "generation").as_u64().unwrap();
    generation(after + 2);
    assert_eq!(std::fs::read(&own_root).unwrap(), std::fs::read(&root).unwrap(), "the former is gone");
    let recorded = hub.platform.aap(&["audit", "tail", "-o", "json"]).ok().out;
    assert!(recorded.contains("ca rotate"), "{recorded}");
    // With the newest one it comes back.
    agent.kill();
    machine.append(lines..lines + 10);
    let _agent = machine.start();
    delivered(&hub, lines + 10);
}

#[test]
fn a_rotation_is_not_finished_while_a_node_that_is_away_believes_only_the_former_root() {
    let (hub, machine, late) = (Hub::new(), Machine::new("edge-1"), Machine::new("edge-2"));
    // A token from before is good afterwards: the former root has signed the new one.
    let before = hub.token(&[]);
    machine.enrol(&hub.token(&[]), &[]).ok();
    hub.platform.aap(&["ca", "rotate"]).ok();
    let refused = hub.platform.aap(&["ca", "rotate", "--finish", "-o", "json"]).refused(6, "ca.nodes_wait");
    assert!(refused["message"].as_str().unwrap().contains("`edge-1`"), "{refused}");
    late.enrol(&before, &[]).ok();
    // It comes back with a certificate of the former root, and gets the next at once, though it holds for a day.
    let _agents = [machine.start(), late.start()];
    machine.append(0..100);
    eventually("both nodes confirm the new root", || (hub.ca("confirmed") == 2).then_some(()));
    hub.platform.aap(&["ca", "rotate", "--finish"]).ok();
    delivered(&hub, 100);
    // Whoever enrols now knows only the new one.
    let newest = Machine::new("edge-3");
    newest.enrol(&hub.token(&[]), &[]).ok();
    let _agent = newest.start();
    eventually("the newest node is there", || (hub.node("edge-3", "connected") == true).then_some(()));
    Machine::new("edge-4").enrol(&before, &[]).refused(7, "transport.unreachable");
}

#[test]
fn a_root_whose_key_is_offline_goes_on_and_is_exported_for_its_owner_alone() {
    let (hub, machine) = (Hub::new(), Machine::new("edge-1"));
    let (key, away) = (hub.platform.home().join("tls/root.key"), hub.platform.beside("offline.key"));
    let secret = std::fs::read(&key).unwrap();
    hub.platform.aap(&["ca", "export", "--root-key", away.to_str().unwrap()]).ok();
    assert_eq!((std::fs::read(&away).unwrap(), mode_of(&away)), (secret, 0o600));
    hub.platform.aap(&["ca", "export", "--root-key", away.to_str().unwrap(), "-o", "plain"]).code(1);
    std::fs::remove_file(&key).unwrap();
    assert_eq!(hub.ca("root_key"), "away");
    hub.platform.aap(&["ca", "rotate", "-o", "json"]).refused(6, "ca.root_offline");
    machine.enrol(&hub.token(&[]), &[]).ok();
    let _agent = machine.start();
    machine.append(0..10);
    delivered(&hub, 10);
    let printed = hub.platform.aap(&["ca", "export"]).ok().out;
    assert_eq!(printed.as_bytes(), std::fs::read(hub.platform.home().join("tls/root.pem")).unwrap());
    // Put back for a moment.
    std::fs::copy(&away, &key).unwrap();
    hub.platform.aap(&["ca", "rotate"]).ok();
}

#[test]
fn a_node_that_is_drained_delivers_all_it_has_and_takes_nothing_new_over_restarts() {
    let (mut hub, machine) = (Hub::new(), Machine::new("edge-1"));
    machine.enrol(&hub.token(&[]), &[]).ok();
    let mut agent = machine.start();
    machine.append(0..1000);
    eventually("the node is there", || (hub.node("edge-1", "connected") == true).then_some(()));
    delivered(&hub, 1000);
    let drain = ["node", "drain", "edge-1", "--wait", "--reason", "new disk"];
    let drained = hub.platform.aap(&[&drain[..], &["-o", "json"]].concat()).ok().json();
    assert_eq!(
        (&drained["item"]["state"], &drained["item"]["reason"]),
        (&"drained".into(), &"new disk".into())
    );
    machine.append(1000..1100);
    let line = ["ingest", "other", "-", "--format", "text", "--timeout", "1s", "-o", "json"];
    machine.platform.aap_with_input(&line, b"one\n").refused(7, "ingest.draining");
    // Over restarts of both.
    agent.kill();
    hub.restart();
    let agent = machine.start();
    eventually("the node is back", || (hub.node("edge-1", "connected") == true).then_some(()));
    hub.await_state("edge-1", "drained");
    let counted = hub.platform.aap(&["query", "-o", "csv", "--no-headers", "select count(*) from logs"]);
    assert_eq!(counted.out.trim(), "1000");
    hub.platform.aap(&["node", "resume", "edge-1"]).ok();
    delivered(&hub, 1100);
    assert_eq!(hub.node("edge-1", "state"), "approved");
    // A node that is away does not become drained.
    drop(agent);
    let line = ["node", "drain", "edge-1", "--wait", "--timeout", "2s", "-o", "json"];
    hub.platform.aap(&line).refused(8, "node.draining");
    let sites = hub.platform.aap(&["site", "ls", "-o", "json"]).ok().json();
    assert_eq!((&sites["items"][0]["site"], &sites["items"][0]["nodes"]), (&"lyon".into(), &1.into()));
}

#[test]
fn e5_a_machine_that_enrols_calls_nothing_else_and_says_little() {
    use aap_client::v1;
    let hub = Hub::new();
    let address = hub.platform.endpoint("operator").unwrap();
    let root = std::fs::read(hub.platform.home().join("tls/root.pem")).unwrap();
    let token = std::fs::read_to_string(hub.platform.home().join("run/operator.token")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dial = Dial { address, tls: enrolling(&root) };
        let channel = tonic::transport::Endpoint::from_static("http://coordinator");
        let channel = channel.connect_with_connector(dial).await.unwrap();
        for call in aap_client::Call::ALL {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<v1::WhoAmIRequest, v1::LogOutReply>::default();
            let mut request = tonic::Request::new(v1::WhoAmIRequest {});
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {}", token.trim()).parse().unwrap());
            let refused = grpc.unary(request, call.path().parse().unwrap(), codec).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unimplemented, "{}: {refused}", call.path());
        }
        let mut api = v1::enrolment_client::EnrolmentClient::new(channel);
        let long = v1::EnrolRequest { token: "x".repeat(5000), ..v1::EnrolRequest::default() };
        let refused = api.enrol(long).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
        let refused = api.enrol(v1::EnrolRequest::default()).await.unwrap_err();
        assert_eq!(aap_client::problem_of(&refused).code, "enrolment.bad_request", "{refused}");
    });
    let recorded = hub.platform.aap(&["node", "ls", "-o", "json"]).ok().json();
    assert_eq!(recorded["items"].as_array().unwrap().len(), 0, "no side effect");
}

#[test]
fn e8_a_certificate_that_expired_while_the_node_was_away_is_healed_by_its_key() {
    let (hub, machine) = (Hub::with_life(5), Machine::new("edge-1"));
    machine.enrol(&hub.token(&[]), &[]).ok();
    let ends = hub.node("edge-1", "certificate_expires").as_str().unwrap().to_owned();
    eventually("the end of a certificate", || (now() > ends).then_some(()));
    machine.append(0..100);
    let _agent = machine.start();
    delivered(&hub, 100);
    assert!(machine.platform.log("agent").contains("has expired"));
}

#[test]
fn e7_a_copied_identity_locks_the_node_and_a_new_key_frees_it() {
    let (hub, machine) = (Hub::with_life(8), Machine::new("edge-1"));
    machine.enrol(&hub.token(&[]), &[]).ok();
    let mut agent = machine.start();
    machine.append(0..100);
    delivered(&hub, 100);
    let copied = Machine::new("edge-1");
    std::fs::create_dir_all(copied.platform.home()).unwrap();
    copy(&machine.platform.home().join("tls"), &copied.platform.home().join("tls"));
    copy(&machine.platform.home().join("config"), &copied.platform.home().join("config"));
    eventually("the second generation", || {
        (hub.node("edge-1", "generation").as_u64() >= Some(2)).then_some(())
    });
    let thief = copied.start();
    hub.await_state("edge-1", "locked");
    let cut = wait_until(Duration::from_secs(5), || hub.node("edge-1", "connected") == false);
    assert!(cut, "one of them is still connected");
    drop(thief);
    machine.append(100..200);
    agent.kill();
    machine.enrol(&hub.token(&["--node", "edge-1"]), &["--again"]).ok();
    let _agent = machine.start();
    delivered(&hub, 200);
}

/// As times are written in JSON.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}
