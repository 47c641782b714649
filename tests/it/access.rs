//! Who may do what, against the real programs: every call of every role, objects of others, rows of others' nodes, rights that end while
//! an answer goes on. Rows A1, A2, A5 and E10 of the security table.

use std::time::{Duration, Instant};

use aap_access::{Kind, Permission, Policy, Principal, Reach};
use aap_client::call;
use aap_client::v1;
use aap_tests::{Daemon, Platform, Ran, Settings, copy, eventually, free_port};
use serde_json::{Value, json};

use super::node_tables::post;

/// What every call needs, one of these; written apart from the coordinator, which has its own.
const NEEDS: &[(&str, &[&str])] = &[
    ("Access/CreateEnrolmentToken", &["node:approve"]),
    ("Access/ListEnrolmentTokens", &["node:read"]),
    ("Access/RevokeEnrolmentToken", &["node:approve"]),
    ("Access/ListNodeIdentities", &["node:read"]),
    ("Access/SetNodeState", &["node:approve"]),
    ("Access/LabelNode", &["node:write"]),
    ("Access/ShowAuthority", &["platform:read"]),
    ("Access/RotateAuthority", &["platform:write"]),
    ("Access/CreateUser", &["user:write"]),
    ("Access/ListUsers", &["user:read"]),
    ("Access/ChangeUser", &["user:write"]),
    ("Access/DeleteUser", &["user:delete"]),
    ("Access/ListRoles", &["role:read"]),
    ("Access/WhoCan", &["user:read"]),
    ("Audit/Read", &["audit:read"]),
    ("Audit/Verify", &["audit:read"]),
    ("Audit/Export", &["audit:read"]),
    ("Operator/Status", &["platform:read"]),
    ("Operator/ListNodes", &["node:read"]),
    ("Operator/ListStreams", &["stream:read"]),
    ("Operator/ShowStream", &["stream:read"]),
    ("Operator/ListStreamFiles", &["stream:read"]),
    ("Operator/DeleteStream", &["stream:delete"]),
    ("Operator/TailStream", &["stream:query"]),
    ("Operator/RunQuery", &["stream:query", "catalog:query", "query:read", "query:operate"]),
    ("Operator/ListQueries", &["stream:query", "catalog:query", "query:read", "query:operate"]),
    ("Operator/CancelQuery", &["stream:query", "catalog:query", "query:read", "query:operate"]),
    ("Resources/Apply", &["sink:write", "source:write", "catalog:write", "route:write", "role:write"]),
    ("Resources/Get", &["sink:read", "source:read", "catalog:read", "route:read", "role:read"]),
    ("Resources/Delete", &["sink:delete", "source:delete", "catalog:delete", "route:delete", "role:delete"]),
    ("Resources/ListSinks", &["sink:read"]),
    ("Resources/TestSink", &["sink:operate"]),
    ("Resources/PauseSink", &["sink:operate"]),
    ("Resources/ResumeSink", &["sink:operate"]),
    ("Resources/ListDeadLetters", &["sink:query"]),
    ("Resources/ReplayDeadLetters", &["sink:operate"]),
    ("Resources/PurgeDeadLetters", &["sink:delete"]),
    ("Resources/ShowCluster", &["cluster:read"]),
    ("Secrets/Set", &["secret:write"]),
    ("Secrets/List", &["secret:read"]),
    ("Secrets/Remove", &["secret:delete"]),
];
/// Calls about whoever makes them: known they must be, and nothing else.
const OWN: [&str; 10] = [
    "Access/LogOut",
    "Access/WhoAmI",
    "Access/ChangePassword",
    "Access/ListSessions",
    "Access/EndSessions",
    "Access/CreateApiToken",
    "Access/ListApiTokens",
    "Access/RevokeApiTokens",
    "Access/CanI",
    "Access/ListRoots",
];
/// Calls of whoever is not known yet.
const OPEN: [&str; 3] = ["Access/LogIn", "Access/StartLogin", "Access/FinishLogin"];
/// A change of rights counts within this.
const COUNTS_WITHIN: Duration = Duration::from_secs(5);
/// Good enough for the platform.
const PASSWORD: &str = "winter tram mushroom";

/// What is asked of a coordinator with a token.
pub(crate) struct Desk {
    /// A home that holds nothing but where the coordinator is, and the token.
    place: Platform,
    runtime: tokio::runtime::Runtime,
}

impl Desk {
    pub(crate) fn at(hub: &Platform, token: &str) -> Self {
        let place = Platform::new();
        for file in ["run/coordinator.json", "tls/root.pem"] {
            let to = place.home().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(hub.home().join(file), to).unwrap();
        }
        std::fs::write(place.home().join("run/operator.token"), token).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { place, runtime }
    }

    /// With the token of the platform's home.
    pub(crate) fn of_operator(hub: &Platform) -> Self {
        Self::at(hub, &std::fs::read_to_string(hub.home().join("run/operator.token")).unwrap())
    }

    fn platform(&self) -> aap_client::Platform {
        aap_client::Platform::at(aap_client::Home::at(self.place.home().to_str().unwrap()))
    }

    /// One call of the service `Access`: its answer, or the code of the problem.
    pub(crate) fn access<T>(
        &self,
        ask: impl AsyncFnOnce(&mut aap_client::AccessApi) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, String> {
        self.runtime.block_on(async {
            let mut api = self.platform().access().await.unwrap();
            call(Duration::from_secs(30), ask(&mut api)).await.map_err(|problem| problem.code)
        })
    }

    /// Makes a user with a password that they need not change.
    fn create_user(&self, name: &str, roles: &[&str]) {
        let request = v1::CreateUserRequest {
            name: name.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        self.access(async |api| api.create_user(request).await).unwrap();
    }

    fn change_user(&self, name: &str, change: v1::ChangeUserRequest) -> Result<v1::UserReply, String> {
        let request = v1::ChangeUserRequest { name: name.to_owned(), ..change };
        self.access(async |api| api.change_user(request).await)
    }

    pub(crate) fn log_in(&self, name: &str, password: &str) -> Result<v1::LogInReply, String> {
        let request = v1::LogInRequest { user: name.to_owned(), password: password.to_owned() };
        self.access(async |api| api.log_in(request).await)
    }

    /// A desk of a new user with these roles.
    pub(crate) fn desk_of(&self, hub: &Platform, name: &str, roles: &[&str]) -> Self {
        self.create_user(name, roles);
        Self::at(hub, &self.log_in(name, PASSWORD).unwrap().token)
    }

    /// The code of the problem with which a call with an empty request ends.
    pub(crate) fn code_of(&self, path: &str) -> String {
        self.head_of(path).0
    }

    /// The same, and the head of the answer.
    pub(crate) fn head_of(&self, path: &str) -> (String, tonic::metadata::MetadataMap) {
        self.runtime.block_on(async {
            let mut grpc = tonic::client::Grpc::new(self.channel().await);
            grpc.ready().await.unwrap();
            // Every field of every request may be missing, and nothing of the answer is looked at.
            let codec = tonic_prost::ProstCodec::<v1::WhoAmIRequest, v1::LogOutReply>::default();
            let path = format!("/aap.v1.{path}").parse().unwrap();
            let mut request = tonic::Request::new(v1::WhoAmIRequest {});
            let token = std::fs::read_to_string(self.place.home().join("run/operator.token")).unwrap();
            request.metadata_mut().insert("authorization", format!("Bearer {token}").trim().parse().unwrap());
            match grpc.server_streaming(request, path, codec).await {
                Ok(answer) => {
                    let (head, mut body, _) = answer.into_parts();
                    let ended = body.message().await.map_err(|status| aap_client::problem_of(&status).code);
                    (ended.err().unwrap_or_default(), head)
                }
                Err(status) => (aap_client::problem_of(&status).code, status.metadata().clone()),
            }
        })
    }

    async fn channel(&self) -> tonic::transport::Channel {
        use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
        let platform = self.platform();
        let address = platform.coordinator_endpoints().unwrap().operator;
        let root = std::fs::read(self.place.home().join("tls/root.pem")).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root));
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// What `aap` prints here.
    pub(crate) fn aap_json(&self, arguments: &[&str]) -> Value {
        self.place.aap(arguments).ok().json()
    }

    /// Runs `aap` here; what goes wrong is told as JSON.
    pub(crate) fn aap(&self, arguments: &[&str]) -> Ran {
        self.place.aap(&[arguments, &["-o", "ndjson"]].concat())
    }

    fn apply_role(&self, name: &str, spec: &str) {
        let document =
            format!("apiVersion: aap/v1\nkind: Role\nmetadata: {{ name: {name} }}\nspec:\n{spec}\n");
        self.place.aap_with_input(&["apply", "-f", "-"], document.as_bytes()).ok();
    }
}

/// A coordinator with a node, `n1`, and a second node, `n2`, each with ten rows in `logs`, and `n1` with some in `web`.
struct Sites {
    hub: Platform,
    _second: Platform,
    _running: Vec<Daemon>,
}

impl Sites {
    fn started() -> Self {
        let port = free_port();
        let hub = Platform::new();
        let coordinator = "lake: { age_seconds: 1 }".to_owned();
        hub.prepare("n1", &Settings { agents_port: Some(port), coordinator, ..Settings::default() });
        let second = Platform::new();
        std::fs::create_dir_all(second.home()).unwrap();
        copy(&hub.home().join("tls"), &second.home().join("tls"));
        let coordinator_address = Some(format!("127.0.0.1:{port}"));
        second.prepare("n2", &Settings { coordinator_address, ..Settings::default() });
        let (coordinator, agent) = hub.start_both();
        let running = vec![coordinator, agent, second.start("agent")];
        let sites = Self { hub, _second: second, _running: running };
        post(&sites.hub, "logs", 0..10, |_| String::new());
        post(&sites.hub, "web", 0..5, |_| String::new());
        post(&sites._second, "logs", 10..20, |_| String::new());
        eventually("all rows at the coordinator", || {
            let counted =
                sites.hub.aap(&["query", "-o", "csv", "--no-headers", "select count(*) from logs, web"]);
            (counted.out.trim() == "100").then_some(())
        });
        for (node, site) in [("n1", "lyon"), ("n2", "paris")] {
            sites.hub.aap(&["node", "label", node, "floor=2", "--site", site]).ok();
        }
        sites
    }
}

fn rows(desk: &Desk, arguments: &[&str], sql: &str) -> Value {
    desk.place.aap(&[&["query", "-o", "json"], arguments, &[sql]].concat()).ok().json()["items"].take()
}

pub(crate) fn hub() -> (Platform, Daemon) {
    hub_with("")
}

/// The same with sections of its configuration.
pub(crate) fn hub_with(sections: &str) -> (Platform, Daemon) {
    let platform = Platform::new();
    platform.prepare("hub", &Settings { coordinator: sections.to_owned(), ..Settings::default() });
    let daemon = platform.start("coordinator");
    platform.await_coordinator();
    (platform, daemon)
}

#[test]
fn every_role_may_make_the_calls_that_its_rules_speak_of_and_no_other() {
    // Some hundred log-ins from one address in a few seconds.
    let (hub, _daemon) = hub_with("gateway: { limits: { log_in: null } }");
    let operator = Desk::of_operator(&hub);
    operator.apply_role("pauser", "  allow: [{ resources: [sink], verbs: [operate], names: [x] }]");
    let paths: Vec<&str> = NEEDS.iter().map(|(path, _)| *path).chain(OWN).collect();
    let served: Vec<String> = aap_client::Call::ALL
        .iter()
        .map(|call| call.path().trim_start_matches("/aap.v1.").to_owned())
        .filter(|path| !OPEN.contains(&path.as_str()))
        .collect();
    assert_eq!(
        {
            let mut all = paths.clone();
            all.sort_unstable();
            all
        },
        {
            let mut all = served.clone();
            all.sort_unstable();
            all
        }
    );

    let pauser = serde_json::from_value(json!({
        "allow": [{ "resources": ["sink"], "verbs": ["operate"], "names": ["x"] }]
    }));
    let policy = Policy::new([("pauser".to_owned(), pauser.unwrap())]);
    for role in [None, Some("pauser")].into_iter().chain(aap_access::BUILT_IN.map(Some)) {
        let roles: Vec<&str> = role.into_iter().collect();
        let name = format!("with-{}", role.unwrap_or("nothing"));
        operator.create_user(&name, &roles);
        let principal = Principal {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Principal::operator()
        };
        let reaches = |text: &&str| {
            let Permission { kind, verb } = text.parse().unwrap();
            policy.reach(&principal, kind.unwrap_or(Kind::Sink), verb) != Reach::None
        };
        for path in &paths {
            // Some calls end the session with which they are made.
            let desk = Desk::at(&hub, &operator.log_in(&name, PASSWORD).unwrap().token);
            let needs = NEEDS.iter().find(|(known, _)| known == path).map(|(_, needs)| *needs);
            let may = needs.is_none_or(|needs| needs.iter().any(reaches));
            let code = desk.code_of(path);
            assert_eq!(code != "auth.denied", may, "{role:?} {path}: {code}");
        }
    }
    // Nobody, and somebody who is not known.
    for token in ["", "aaps_not-a-token", "Bearer"] {
        let desk = Desk::at(&hub, token);
        for path in &paths {
            let code = desk.code_of(path);
            assert!(["auth.token_missing", "auth.token_refused"].contains(&code.as_str()), "{path}: {code}");
        }
    }
    let told = operator.code_of("Access/NoSuchCall");
    assert!(!told.is_empty(), "a call that no rule speaks of is answered");
}

#[test]
fn what_somebody_may_not_see_is_not_there_for_them() {
    let sites = Sites::started();
    let operator = Desk::of_operator(&sites.hub);
    operator.apply_role(
        "of-logs",
        "  allow:\n  - { resources: [stream], verbs: [read, query], names: [logs] }\n  - { resources: [platform], verbs: [read] }",
    );
    let ana = operator.desk_of(&sites.hub, "ana", &["of-logs"]);
    let listed = ana.place.aap(&["stream", "ls", "-o", "json"]).ok().json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(rows(&ana, &[], "select count(*) as n from logs"), json!([{ "n": 20 }]));

    // The same words for what is hidden and for what was never there.
    let told = |arguments: &[&str], name: &str| {
        let refused = ana.aap(arguments);
        assert_eq!(refused.code, 3, "{arguments:?}: {}", refused.err);
        refused.problem().to_string().replace(name, "NAME")
    };
    for (hidden, absent) in [
        (vec!["stream", "show", "web"], vec!["stream", "show", "bew"]),
        (vec!["stream", "files", "web"], vec!["stream", "files", "bew"]),
        (vec!["stream", "tail", "web"], vec!["stream", "tail", "bew"]),
        (vec!["query", "select * from web"], vec!["query", "select * from bew"]),
        (vec!["query", "select * from lake.web"], vec!["query", "select * from lake.bew"]),
        (
            vec!["query", "select 1 from logs where exists (select * from web)"],
            vec!["query", "select 1 from logs where exists (select * from bew)"],
        ),
    ] {
        assert_eq!(told(&hidden, "web"), told(&absent, "bew"), "{hidden:?}");
    }
    for refused in [
        vec!["stream", "delete", "web", "--yes"],
        vec!["node", "ls"],
        vec!["query", "ls"],
        vec!["token", "create"],
        vec!["get"],
    ] {
        let ran = ana.place.aap(&refused);
        assert!(
            [0, 3, 5].contains(&ran.code) && !ran.out.contains("n1") && !ran.out.contains("web"),
            "{refused:?}: {}{}",
            ran.out,
            ran.err
        );
    }
    ana.aap(&["stream", "delete", "logs", "--yes"]).refused(5, "auth.denied");
    assert_eq!(rows(&operator, &[], "select count(*) as n from web"), json!([{ "n": 5 }]));

    // A sink would carry out of the platform what they do not see.
    let sink =
        "apiVersion: aap/v1\nkind: Sink\nmetadata: { name: out }\nspec: { streams: ['*'], stdout: {} }\n";
    operator.apply_role(
        "sinks",
        "  allow:\n  - { resources: [sink], verbs: ['*'] }\n  - { resources: [stream], verbs: [query], names: [logs] }",
    );
    let ben = operator.desk_of(&sites.hub, "ben", &["sinks"]);
    ben.place.aap_with_input(&["apply", "-f", "-", "-o", "json"], sink.as_bytes()).refused(5, "auth.denied");
    let of_logs = sink.replace("'*'", "logs");
    ben.place.aap_with_input(&["apply", "--dry-run", "-f", "-"], of_logs.as_bytes()).ok();
}

#[test]
fn rows_of_others_nodes_are_left_out_of_every_answer() {
    let sites = Sites::started();
    let operator = Desk::of_operator(&sites.hub);
    operator.apply_role(
        "lyon",
        "  allow:\n  - { resources: [stream], verbs: [read, query] }\n  - { resources: [node], verbs: [read, query], labels: { site: [lyon] } }",
    );
    let ana = operator.desk_of(&sites.hub, "ana", &["lyon"]);
    let seen = json!([{ "n": 10, "low": 0, "high": 9 }]);
    let counts = "select count(*) as n, min(id) as low, max(id) as high from";
    assert_eq!(rows(&ana, &[], &format!("{counts} logs")), seen);
    assert_eq!(rows(&ana, &[], &format!("{counts} logs where _node = 'n2' or id >= 0")), seen);
    assert_eq!(rows(&ana, &[], &format!("{counts} nodes.logs")), seen);
    assert_eq!(rows(&ana, &["--nodes", "all"], &format!("{counts} logs")), seen);
    ana.aap(&["query", "--node", "n2", "select 1 from logs"]).refused(3, "node.unknown");
    let tailed = ana.place.aap(&["stream", "tail", "logs", "-n", "100", "-o", "ndjson"]).ok();
    assert_eq!(tailed.out.lines().count(), 10, "{}", tailed.out);
    let nodes = ana.place.aap(&["node", "ls", "-o", "json"]).ok().json();
    assert_eq!(nodes["items"].as_array().unwrap().len(), 1);
    let shown = ana.place.aap(&["stream", "show", "logs", "-o", "json"]).ok();
    assert!(!shown.out.contains("\"n2\""), "{}", shown.out);

    // Also where the rows lie in files.
    eventually("the rows are in the lake", || {
        let shown = operator.place.aap(&["stream", "show", "logs", "-o", "json"]).ok().json();
        (shown["item"]["rows_in_lake"] == 20).then_some(())
    });
    assert_eq!(rows(&ana, &[], &format!("{counts} logs")), seen);
    // What a node is called is its operator's to say, at once.
    sites.hub.aap(&["node", "label", "n2", "--site", "lyon", "floor=3"]).ok();
    assert_eq!(rows(&ana, &[], "select count(*) as n from logs"), json!([{ "n": 20 }]));
    operator.apply_role("not-n1", "  deny:\n  - { resources: [node], verbs: [query], names: [n1] }");
    let add = v1::ChangeUserRequest { add_roles: vec!["not-n1".to_owned()], ..Default::default() };
    operator.change_user("ana", add).unwrap();
    assert_eq!(rows(&ana, &[], "select min(id) as low from logs"), json!([{ "low": 10 }]));
}

#[test]
fn a_right_that_is_taken_away_ends_the_answer_that_goes_on() {
    let sites = Sites::started();
    let operator = Desk::of_operator(&sites.hub);
    let ana = operator.desk_of(&sites.hub, "ana", &["analyst"]);
    let ben = operator.desk_of(&sites.hub, "ben", &["analyst"]);
    let follow = ["stream", "tail", "logs", "--follow", "-o", "ndjson"];
    let (mut of_ana, mut of_ben) = (ana.place.begin(&follow), ben.place.begin(&follow));
    of_ana.line_with("\"id\":19");
    of_ben.line_with("\"id\":19");
    let began = Instant::now();
    let change = v1::ChangeUserRequest { remove_roles: vec!["analyst".to_owned()], ..Default::default() };
    operator.change_user("ana", change).unwrap();
    let disable = v1::ChangeUserRequest { disabled: Some(true), ..Default::default() };
    operator.change_user("ben", disable).unwrap();
    ana.aap(&["stream", "ls"]).refused(5, "auth.denied");
    ben.aap(&["stream", "ls"]).refused(4, "auth.session_over");
    of_ana.end().refused(5, "auth.denied");
    of_ben.end().refused(4, "auth.session_over");
    assert!(began.elapsed() < COUNTS_WITHIN, "{:?}", began.elapsed());
    assert_eq!(operator.log_in("ben", PASSWORD).unwrap_err(), "auth.login_refused");
}

#[test]
fn passwords_sessions_and_tokens_are_what_shows_who_somebody_is() {
    let (hub, _daemon) = hub();
    let operator = Desk::of_operator(&hub);
    operator.create_user("ana", &["analyst"]);
    assert_eq!(operator.log_in("ana", "not her password").unwrap_err(), "auth.login_refused");
    assert_eq!(operator.log_in("nobody", PASSWORD).unwrap_err(), "auth.login_refused");

    // One that was made up has to be changed first.
    let request = v1::CreateUserRequest {
        name: "ben".to_owned(),
        roles: vec!["viewer".to_owned()],
        ..Default::default()
    };
    let made = operator.access(async |api| api.create_user(request).await).unwrap();
    let ben = operator.log_in("ben", &made.password).unwrap();
    assert!(ben.must_change_password);
    let desk = Desk::at(&hub, &ben.token);
    assert_eq!(desk.code_of("Operator/Status"), "auth.password_change_needed");
    let other = operator.log_in("ben", &made.password).unwrap();
    let change =
        |after: &str| v1::ChangePasswordRequest { before: made.password.clone(), after: after.to_owned() };
    for poor in ["short", "passwordpassword", "", &made.password] {
        let refused = desk.access(async |api| api.change_password(change(poor)).await).unwrap_err();
        assert_eq!(refused, "auth.password_refused", "{poor:?}");
    }
    let changed = desk.access(async |api| api.change_password(change(PASSWORD)).await).unwrap();
    assert_eq!(changed.sessions_ended, 1);
    assert_eq!(desk.code_of("Operator/Status"), "");
    assert_eq!(Desk::at(&hub, &other.token).code_of("Operator/Status"), "auth.session_over");

    // A reset with a password that is refused changes nothing, and ends no session.
    let poor =
        v1::ChangeUserRequest { reset_password: true, password: "short".to_owned(), ..Default::default() };
    assert_eq!(operator.change_user("ben", poor).unwrap_err(), "auth.password_refused");
    assert_eq!(desk.code_of("Operator/Status"), "");

    // Nobody gives away what they may not do themselves.
    operator.apply_role("helpdesk", "  allow:\n  - { resources: [user, token], verbs: ['*'] }");
    let helper = operator.desk_of(&hub, "helper", &["helpdesk"]);
    let admin = v1::ChangeUserRequest { add_roles: vec!["admin".to_owned()], ..Default::default() };
    assert_eq!(helper.change_user("helper", admin).unwrap_err(), "auth.denied");
    operator.create_user("root", &["admin"]);
    let reset = v1::ChangeUserRequest { reset_password: true, ..Default::default() };
    assert_eq!(helper.change_user("root", reset).unwrap_err(), "auth.denied");
    let for_root = v1::CreateApiTokenRequest { user: "root".to_owned(), ..Default::default() };
    assert_eq!(helper.access(async |api| api.create_api_token(for_root).await).unwrap_err(), "auth.denied");

    // A token is its user, within what it was made for, until it is revoked.
    let ana = Desk::at(&hub, &operator.log_in("ana", PASSWORD).unwrap().token);
    let rule = |resource: &str, verb: &str| v1::AccessRule {
        resources: vec![resource.to_owned()],
        verbs: vec![verb.to_owned()],
        ..Default::default()
    };
    let limited = v1::CreateApiTokenRequest {
        scope: vec![rule("stream", "read"), rule("user", "*")],
        ..Default::default()
    };
    let token = ana.access(async |api| api.create_api_token(limited).await).unwrap();
    assert!(token.text.starts_with("aapt_"), "scanners know it by that");
    let program = Desk::at(&hub, &token.text);
    assert_eq!(program.code_of("Operator/ListStreams"), "");
    assert_eq!(program.code_of("Operator/ListNodes"), "auth.denied");
    assert_eq!(
        program.code_of("Access/ListUsers"),
        "auth.denied",
        "a token gives nothing that its user has not"
    );
    for own in
        ["Access/CreateApiToken", "Access/ChangePassword", "Access/EndSessions", "Access/RevokeApiTokens"]
    {
        assert_eq!(program.code_of(own), "auth.needs_session", "{own}");
    }
    let revoke = v1::RevokeApiTokensRequest { user: "ana".to_owned(), ..Default::default() };
    let revoked = operator.access(async |api| api.revoke_api_tokens(revoke).await).unwrap();
    assert_eq!(
        (revoked.revoked, program.code_of("Operator/ListStreams")),
        (1, "auth.session_over".to_owned())
    );

    // The right password is no help while somebody guesses.
    let guesses =
        (0..20).find(|at| operator.log_in("ana", &format!("guess {at}")).unwrap_err() == "auth.locked_out");
    assert!(guesses.is_some_and(|guesses| guesses < 10), "{guesses:?}");
    assert_eq!(operator.log_in("ana", PASSWORD).unwrap_err(), "auth.locked_out");
    assert_eq!(ana.code_of("Operator/ListStreams"), "", "who is in stays in");
    assert_eq!(operator.place.aap(&["delete", "role", "helpdesk", "--yes"]).code, 6, "a role in use");
    for secret in [PASSWORD, &made.password, &token.text, &ben.token] {
        assert!(!hub.log("coordinator").contains(secret), "a secret in the log");
    }
}
