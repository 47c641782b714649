//! People who log in at a real Keycloak: by a browser, by a device flow, with the roles of their groups. Row A4 of the security table; row A3
//! is with the verifier, in `aap-oidc`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};

use aap_client::Loopback;
use aap_client::v1::{FinishLoginRequest, StartLoginRequest, start_login_request::Browser};
use aap_tests::{Daemon, Platform, Ran, Service, Settings, eventually};
use serde_json::Value;

use super::access::Desk;

/// How the tokens of Keycloak begin: `{"alg` in base64url.
const TOKEN_BEGINS: &str = "eyJhbGci";

/// A coordinator that knows a Keycloak.
struct Hub {
    platform: Platform,
    _coordinator: Daemon,
    keycloak: Service,
}

impl Hub {
    /// `None` where there is no Keycloak.
    fn new(test: &str, more: &str) -> Option<Self> {
        let keycloak = Service::find("keycloak", "keycloak", "AAP_TEST_KEYCLOAK", test)?;
        let ca = std::env::var("AAP_TEST_KEYCLOAK_CA").unwrap();
        let platform = Platform::new();
        let coordinator = format!(
            "oidc: {{ issuer: '{}', client_id: aap-cli, ca: '{ca}', {more} \
             roles: {{ platform-admins: [admin], platform-viewers: [viewer] }} }}",
            keycloak.address
        );
        platform.prepare("hub", &Settings { coordinator, ..Settings::default() });
        let daemon = platform.start("coordinator");
        platform.await_coordinator();
        Some(Self { platform, _coordinator: daemon, keycloak })
    }

    fn person(&self, name: &'static str) -> Person<'_> {
        Person { hub: self, name }
    }

    /// Records of the audit log that a search finds.
    fn records(&self, arguments: &[&str]) -> Vec<Value> {
        let all = [&["audit", "search", "-o", "json"], arguments].concat();
        self.platform.aap(&all).ok().json()["items"].as_array().unwrap().clone()
    }
}

/// Somebody with logins of their own; their password at the provider is their name.
struct Person<'a> {
    hub: &'a Hub,
    name: &'static str,
}

/// A log-in that waits for a person.
struct Waiting {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
    url: String,
}

impl Waiting {
    /// Until it has said where to go.
    fn of(mut child: Child) -> Self {
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let url = loop {
            let before = said.len();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended: {said}");
            let line = said[before..].trim();
            if line.starts_with("https://") {
                break line.to_owned();
            }
        };
        Self { child, stderr, said, url }
    }

    fn end(mut self) -> Ran {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        let ran = Ran::of(self.child.wait_with_output().unwrap());
        Ran { err: self.said + &rest, ..ran }
    }
}

impl Person<'_> {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.hub.platform.command("aap");
        command.args(arguments).args(["-o", "json"]);
        command.env("AAP_STATE_DIR", self.hub.platform.beside(&format!("{}-state", self.name)));
        command
    }

    fn aap(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    fn begin(&self, arguments: &[&str]) -> Waiting {
        let mut command = self.command(arguments);
        Waiting::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// By a browser that does as it should.
    fn log_in(&self) -> Ran {
        let waiting = self.begin(&["auth", "login", "--no-browser"]);
        let place = self.hub.keycloak.tool(&["visit", &waiting.url, self.name, self.name]);
        let answer = get(place.trim());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        waiting.end()
    }

    fn roles(&self) -> Vec<String> {
        let who = self.aap(&["auth", "whoami"]).ok().json()["item"].clone();
        assert_eq!(who["name"], format!("oidc:{}", self.name));
        serde_json::from_value(who["roles"].clone()).unwrap()
    }
}

/// What a browser does with `http://127.0.0.1:PORT/…`.
fn get(url: &str) -> String {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn people_log_in_with_the_roles_of_their_groups_and_without_one_not_at_all() {
    let Some(hub) = Hub::new("people_log_in_with_the_roles_of_their_groups", "") else { return };
    let (alice, bob, carol) = (hub.person("alice"), hub.person("bob"), hub.person("carol"));
    let item = alice.log_in().ok().json()["item"].clone();
    assert_eq!((&item["user"], &item["must_change_password"]), (&"oidc:alice".into(), &false.into()));
    bob.log_in().ok();
    assert_eq!((alice.roles(), bob.roles()), (vec!["admin".to_owned()], vec!["viewer".to_owned()]));
    let users = alice.aap(&["user", "ls"]).ok().json()["items"].clone();
    let origins: Vec<(&str, &str)> = users
        .as_array()
        .unwrap()
        .iter()
        .map(|user| (user["user"].as_str().unwrap(), user["origin"].as_str().unwrap()))
        .collect();
    assert_eq!(
        origins,
        [("oidc:alice", hub.keycloak.address.as_str()), ("oidc:bob", hub.keycloak.address.as_str())]
    );
    bob.aap(&["stream", "ls"]).ok();
    bob.aap(&["user", "create", "eve"]).refused(5, "auth.denied");

    let problem = carol.log_in().refused(5, "auth.no_role");
    assert!(problem["causes"][0].as_str().unwrap().contains("no group"), "{problem}");
    alice.aap(&["user", "show", "oidc:carol"]).refused(3, "user.unknown");

    let done = hub.records(&["--action", "auth login", "--outcome", "done"]);
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done.iter().all(|record| record["details"]["issuer"] == hub.keycloak.address), "{done:?}");
    assert!(done.iter().all(|record| record["details"]["subject"].as_str().unwrap().len() > 8), "{done:?}");
    let denied = hub.records(&["--action", "auth login", "--outcome", "denied"]);
    assert_eq!((denied.len(), &denied[0]["object"]), (1, &"user/oidc:carol".into()), "{denied:?}");
    assert_eq!(denied[0]["problem"], "auth.no_role");

    // What a group is changed to counts at the next log-in.
    hub.keycloak.tool(&["join", "bob", "platform-admins"]);
    assert_eq!(bob.roles(), ["viewer"]);
    bob.log_in().ok();
    assert_eq!(bob.roles(), ["admin", "viewer"]);
    bob.aap(&["user", "create", "eve"]).ok();
    hub.keycloak.tool(&["leave", "bob", "platform-admins"]);
    bob.log_in().ok();
    assert_eq!(bob.roles(), ["viewer"]);

    let sessions = alice.aap(&["auth", "session", "ls", "--user", "oidc:bob"]).ok().json();
    assert_eq!(sessions["items"].as_array().unwrap().len(), 3, "{sessions}");
    alice.aap(&["auth", "session", "end", "--all", "--user", "oidc:bob"]).ok();
    bob.aap(&["stream", "ls"]).refused(4, "auth.session_over");
    no_token_was_written(&hub);
}

#[test]
fn whoever_comes_from_the_provider_is_shut_out_here_and_changed_there() {
    let Some(hub) = Hub::new("whoever_comes_from_the_provider_is_shut_out_here", "") else { return };
    let alice = hub.person("alice");
    alice.log_in().ok();
    let operator = |arguments: &[&str]| hub.platform.aap(&[arguments, &["-o", "json"]].concat());
    for change in [&["--add-role", "viewer"][..], &["--remove-role", "admin"], &["--reset-password"]] {
        operator(&[&["user", "set", "oidc:alice"], change].concat()).refused(6, "user.external");
    }
    operator(&["user", "create", "oidc:eve"]).refused(2, "user.bad_name");
    operator(&["user", "set", "oidc:alice", "--disable"]).ok();
    alice.aap(&["stream", "ls"]).refused(4, "auth.session_over");
    alice.log_in().refused(5, "auth.user_disabled");
    operator(&["user", "set", "oidc:alice", "--enable"]).ok();
    alice.log_in().ok();
    assert_eq!(alice.roles(), ["admin"]);
    // One who is deleted is somebody new when they come again.
    operator(&["user", "delete", "oidc:alice", "--yes"]).ok();
    alice.aap(&["stream", "ls"]).refused(4, "auth.session_over");
    alice.log_in().ok();
    alice.aap(&["stream", "ls"]).ok();
}

#[test]
fn a4_a_code_counts_with_its_state_and_its_verifier_and_once() {
    let Some(hub) = Hub::new("a4_a_code_counts_with_its_state_and_its_verifier", "") else { return };
    let alice = hub.person("alice");
    // Whoever guesses at the port is turned away, and the log-in goes on.
    let waiting = alice.begin(&["auth", "login", "--no-browser"]);
    assert!(
        waiting.url.contains("code_challenge_method=S256") && waiting.url.contains("nonce="),
        "{}",
        waiting.url
    );
    let place = hub.keycloak.tool(&["visit", &waiting.url, "alice", "alice"]);
    let (path, _) = place.trim().split_once('?').unwrap();
    for stranger in [format!("{path}?code=theirs&state=guess"), format!("{path}?code=theirs")] {
        assert!(get(&stranger).starts_with("HTTP/1.1 400 "));
    }
    assert!(get(place.trim()).starts_with("HTTP/1.1 200 "));
    waiting.end().ok();

    // A code that somebody caught, without the verifier that it was asked for with.
    let desk = Desk::of_operator(&hub.platform);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [ours, other] = [(); 2].map(|()| runtime.block_on(Loopback::open()).unwrap());
    let start = || {
        let browser = Browser {
            redirect: ours.redirect().to_owned(),
            challenge: ours.challenge().to_owned(),
            state: ours.state().to_owned(),
        };
        let request = StartLoginRequest { browser: Some(browser) };
        let started = desk.access(async |api| api.start_login(request).await).unwrap();
        let place = hub.keycloak.tool(&["visit", &started.url, "alice", "alice"]);
        let code =
            place.trim().split(['?', '&']).find_map(|field| field.strip_prefix("code=")).unwrap().to_owned();
        (started.handle, code)
    };
    let finish = |handle: &str, code: &str, login: &Loopback| {
        let (handle, code) = (handle.to_owned(), code.to_owned());
        let request = FinishLoginRequest { handle, code, verifier: login.verifier().reveal().to_owned() };
        desk.access(async |api| api.finish_login(request).await).map(|reply| reply.user)
    };
    let (handle, code) = start();
    assert_eq!(finish(&handle, &code, &other), Err("auth.login_refused".to_owned()));
    assert_eq!(finish(&handle, &code, &ours), Err("auth.login_over".to_owned()), "a log-in ends once");
    // A code of one log-in in another, which has a nonce of its own.
    let ((first, first_code), (second, second_code)) = (start(), start());
    assert_eq!(finish(&first, &second_code, &ours), Err("auth.login_refused".to_owned()));
    assert_eq!(finish(&second, &first_code, &ours), Err("auth.login_refused".to_owned()));
    let (handle, code) = start();
    assert_eq!(finish(&handle, &code, &ours), Ok("oidc:alice".to_owned()));
    assert_eq!(finish(&handle, &code, &ours), Err("auth.login_over".to_owned()));
    assert_eq!(finish("", "", &ours), Err("auth.login_over".to_owned()));
    let refused = hub.records(&["--action", "auth login", "--outcome", "denied"]);
    assert!(refused.iter().any(|record| record["problem"] == "auth.login_refused"), "{refused:?}");

    // The device flow is off unless the configuration allows it.
    alice.aap(&["auth", "login", "--device"]).refused(5, "auth.device_off");
    no_token_was_written(&hub);
}

#[test]
fn a_device_flow_shows_who_asks_for_what_and_ends_as_the_person_decides() {
    let test = "a_device_flow_shows_who_asks_for_what";
    let Some(hub) = Hub::new(test, "device: true,") else { return };
    let alice = hub.person("alice");
    let waiting = alice.begin(&["auth", "login", "--device"]);
    hub.keycloak.tool(&["approve", &waiting.url, "alice", "alice"]);
    let ran = waiting.end().ok();
    assert_eq!(ran.json()["item"]["user"], "oidc:alice");
    for shown in ["aap-cli", "openid", "profile", "compare the code "] {
        assert!(ran.err.contains(shown), "{shown}: {ran:?}");
    }
    assert_eq!(alice.roles(), ["admin"]);
    let waiting = alice.begin(&["auth", "login", "--device"]);
    hub.keycloak.tool(&["approve", &waiting.url, "alice", "alice", "cancel"]);
    let problem = waiting.end().refused(4, "auth.login_refused");
    assert!(problem["causes"][0].as_str().unwrap().contains("access_denied"), "{problem}");
    no_token_was_written(&hub);
}

/// Neither in the audit log nor in the coordinator's, nor in what is kept for the person.
fn no_token_was_written(hub: &Hub) {
    let folder = hub.platform.home().join("coordinator/audit");
    let mut texts = vec![hub.platform.log("coordinator")];
    for entry in std::fs::read_dir(folder).unwrap() {
        texts.push(
            String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap_or_default()).into_owned(),
        );
    }
    assert!(texts.len() > 1);
    assert!(
        texts.iter().all(|text| !text.contains(TOKEN_BEGINS)),
        "a token of the provider was written down"
    );
}

#[test]
fn without_a_provider_a_name_is_needed_and_one_that_is_away_is_said_to_be() {
    let platform = Platform::new();
    platform.prepare("hub", &Settings::default());
    let daemon = platform.start("coordinator");
    platform.await_coordinator();
    let json = |arguments: &[&str]| platform.aap(&[arguments, &["-o", "json"]].concat());
    json(&["auth", "login", "--no-browser"]).refused(2, "auth.oidc_off");
    json(&["auth", "login", "--device"]).refused(2, "auth.oidc_off");
    json(&["auth", "login"]).refused(2, "cli.usage");
    json(&["auth", "login", "--device", "--no-browser"]).refused(2, "cli.usage");
    drop(daemon);
    let away = Platform::new();
    let coordinator =
        "oidc: { issuer: 'http://127.0.0.1:1/x', client_id: a, device: true, roles: { g: [admin] } }";
    away.prepare("hub", &Settings { coordinator: coordinator.to_owned(), ..Settings::default() });
    let _daemon = away.start("coordinator");
    away.await_coordinator();
    for way in ["--no-browser", "--device"] {
        let problem = away.aap(&["auth", "login", way, "-o", "json"]).refused(7, "auth.provider");
        assert!(problem["causes"][0].as_str().unwrap().contains("127.0.0.1:1"), "{problem}");
    }
    // Users of the platform itself are not touched by that.
    let name = ["user", "create", "ana", "--password-file", "-"];
    away.aap_with_input(&name, b"winter tram mushroom").ok();
    let by_name = ["auth", "login", "ana", "--password-file", "-"];
    eventually("a log-in by name", || {
        (away.aap_with_input(&by_name, b"winter tram mushroom").code == 0).then_some(())
    });
}
