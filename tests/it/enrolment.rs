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
    _coordinator: Daemon,
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
        Self { platform, _coordinator: daemon }
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
fn a_certificate_is_renewed_through_three_lives_while_rows_flow() {
    const LIFE: u64 = 6;
    let (hub, machine) = (Hub::with_life(LIFE), Machine::new("edge-1"));
    machine.enrol(&hub.token(&[]), &[]).ok();
    let mut agent = machine.start();
    let mut lines = 0;
    eventually("a certificate of the fourth generation", || {
        machine.append(lines..lines + 10);
        lines += 10;
        (hub.node("edge-1", "generation").as_u64() >= Some(4)).then_some(())
    });
    // With the newest one it comes back.
    agent.kill();
    machine.append(lines..lines + 10);
    let _agent = machine.start();
    delivered(&hub, lines + 10);
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
