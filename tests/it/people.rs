//! People at machines of their own: contexts, logging in, passwords, roles, API tokens, sessions, protection; with the real programs over TLS.

use std::cell::RefCell;
use std::path::PathBuf;

use aap_tests::{Platform, Ran, eventually};
use serde_json::Value;

/// Good enough for the platform.
const PASSWORD: &str = "winter tram mushroom";
const OTHER_PASSWORD: &str = "lamp quarry eleven";

/// A platform with two streams, and what everybody was told.
struct Hub {
    platform: Platform,
}

impl Hub {
    fn new() -> Self {
        let platform = Platform::started(&[]);
        for stream in ["logs", "payroll"] {
            platform.aap_with_input(&["ingest", stream, "-", "--format", "text"], b"one\ntwo\n").ok();
            eventually("rows of a stream", || {
                (platform.count(&format!("select count(*) from {stream}")) == 2).then_some(())
            });
        }
        let home = platform.home().to_str().unwrap().to_owned();
        platform.aap(&["context", "add", "here", "--home", &home]).ok();
        Self { platform }
    }

    /// Makes a user with a password that they need not change.
    fn create_user(&self, name: &str, roles: &[&str]) {
        let roles: Vec<&str> = roles.iter().flat_map(|role| ["--role", *role]).collect();
        let line = [&["user", "create", name, "--password-file", "-"], &roles[..]].concat();
        self.platform.aap_with_input(&line, PASSWORD.as_bytes()).ok();
    }

    /// Somebody at another machine, with the context `hub` as it was exported.
    fn person(&self, name: &'static str, more: &[&str]) -> Person<'_> {
        let person = Person { hub: self, name, said: RefCell::default() };
        let exported = self.platform.aap(&["context", "export", "here"]).ok().out;
        let file = self.platform.beside(&format!("{name}.toml"));
        std::fs::write(&file, exported).unwrap();
        person.aap(&[&["context", "add", "hub", "--from", file.to_str().unwrap()], more].concat()).ok();
        person
    }
}

/// Somebody who has contexts and logins of their own, and no home of a platform.
struct Person<'a> {
    hub: &'a Hub,
    name: &'static str,
    /// All that was printed.
    said: RefCell<String>,
}

impl Person<'_> {
    fn ran(&self, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Ran {
        use std::io::Write;
        use std::process::Stdio;
        let folder = |what: &str| self.hub.platform.beside(&format!("{}-{what}", self.name));
        let mut command = self.hub.platform.command("aap");
        command.args(arguments).env_remove("AAP_HOME").envs(environment.iter().copied());
        command.env("AAP_CONFIG_DIR", folder("config")).env("AAP_STATE_DIR", folder("state"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that wants nothing of it may be gone already.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let ran = Ran::of(child.wait_with_output().unwrap());
        self.said.borrow_mut().push_str(&format!("{}{}", ran.out, ran.err));
        ran
    }

    fn aap(&self, arguments: &[&str]) -> Ran {
        self.ran(arguments, "", &[])
    }

    /// With `-o json`.
    fn json(&self, arguments: &[&str]) -> Ran {
        self.aap(&[arguments, &["-o", "json"]].concat())
    }

    fn log_in(&self, password: &str) -> Ran {
        self.ran(&["auth", "login", self.name, "--password-file", "-", "-o", "json"], password, &[])
    }

    /// As a program that has a token.
    fn with_token(&self, token: &str, arguments: &[&str]) -> Ran {
        let file = self.file("token", token);
        self.ran(&[arguments, &["-o", "json"]].concat(), "", &[("AAP_TOKEN_FILE", file.to_str().unwrap())])
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.hub.platform.beside(&format!("{}-{name}", self.name));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The token that is kept, which nobody else gets to see.
    fn kept(&self) -> Option<String> {
        let folder = self.hub.platform.beside(&format!("{}-state/credentials", self.name));
        let text = std::fs::read_to_string(folder.join("context-hub")).ok()?;
        let record: Value = serde_json::from_str(&text).unwrap();
        Some(record["token"].as_str().unwrap().to_owned())
    }

    /// None of these was ever printed.
    #[track_caller]
    fn was_not_told(&self, secrets: &[&str]) {
        let said = self.said.borrow();
        for secret in secrets {
            assert!(!said.contains(secret), "a secret was printed: {said}");
        }
    }
}

#[test]
fn a_user_with_a_made_up_password_has_to_change_it_before_anything_else() {
    let hub = Hub::new();
    let made = hub.platform.aap(&["user", "create", "ana", "--role", "viewer", "-o", "json"]).ok().json();
    let made_up = made["item"]["password"].as_str().unwrap().to_owned();
    let ana = hub.person("ana", &[]);
    ana.json(&["stream", "ls"]).refused(4, "auth.login_needed");
    assert_eq!(ana.log_in(&made_up).ok().json()["item"]["must_change_password"], true);
    ana.json(&["stream", "ls"]).refused(5, "auth.password_change_needed");
    let new = ana.file("new-password", PASSWORD);
    let line = ["auth", "password", "--password-file", "-", "--new-password-file", new.to_str().unwrap()];
    ana.ran(&line, &made_up, &[]).ok();
    ana.json(&["stream", "ls"]).ok();
    let who = ana.json(&["auth", "whoami"]).ok().json()["item"].clone();
    assert_eq!(
        (&who["name"], &who["kind"], &who["roles"][0]),
        (&"ana".into(), &"user".into(), &"viewer".into())
    );
    ana.log_in(&made_up).refused(4, "auth.login_refused");
    ana.json(&["stream", "ls"]).ok();
    ana.was_not_told(&[&made_up, PASSWORD, &ana.kept().unwrap()]);
}

#[test]
fn a_session_ends_by_logging_out_and_by_whoever_may_and_then_a_login_is_needed() {
    let hub = Hub::new();
    hub.create_user("ana", &["operator"]);
    hub.create_user("ben", &["viewer"]);
    let (ana, ben) = (hub.person("ana", &["--user", "ana"]), hub.person("ben", &["--user", "ben"]));
    ana.log_in(OTHER_PASSWORD).refused(4, "auth.login_refused");
    assert_eq!(ana.kept(), None);
    ana.log_in(PASSWORD).ok();
    ben.log_in(PASSWORD).ok();

    let own = ben.json(&["auth", "session", "ls"]).ok().json()["items"].clone();
    assert_eq!(
        (own.as_array().unwrap().len(), &own[0]["current"], &own[0]["user"]),
        (1, &true.into(), &"ben".into())
    );
    let all =
        hub.platform.aap(&["auth", "session", "ls", "--all", "-o", "json"]).ok().json()["items"].clone();
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let id = own[0]["id"].as_str().unwrap();
    hub.platform.aap(&["auth", "session", "end", id]).ok();
    let over = eventually("a session that is over", || {
        let ran = ben.json(&["stream", "ls"]);
        (ran.code == 4).then_some(ran)
    });
    assert_eq!(over.problem()["hints"][0]["command"], "aap auth login ben", "{over:?}");
    hub.platform.aap(&["auth", "session", "end", id, "-o", "json"]).refused(3, "session.unknown");

    let session = ana.kept().unwrap();
    assert_eq!(ana.json(&["auth", "logout"]).ok().json()["item"]["session_ended"], true);
    eventually("a token that is not good any more", || {
        (ana.with_token(&session, &["stream", "ls"]).code == 4).then_some(())
    });
    ana.json(&["stream", "ls"]).refused(4, "auth.login_needed");
    ana.was_not_told(&[PASSWORD, &session]);
    ben.was_not_told(&[PASSWORD, &ben.kept().unwrap()]);
}

#[test]
fn roles_say_what_somebody_may_and_so_do_can_i_and_who_can() {
    let hub = Hub::new();
    let operator = |line: &[&str]| hub.platform.aap(&[line, &["-o", "json"]].concat());
    operator(&["role", "create", "reader", "--allow", "stream:read,query:logs", "--allow", "platform:read"])
        .ok();
    operator(&["role", "create", "reader", "--allow", "*:read"]).refused(6, "role.exists");
    hub.create_user("ana", &["reader"]);
    let ana = hub.person("ana", &[]);
    ana.log_in(PASSWORD).ok();
    ana.json(&["query", "select count(*) from logs"]).ok();
    assert_ne!(ana.json(&["query", "select count(*) from payroll"]).code, 0);
    assert_eq!(ana.json(&["stream", "delete", "logs", "--yes"]).code, 5);

    ana.json(&["can-i", "query", "logs"]).ok();
    let denied = ana.json(&["can-i", "query", "payroll"]).code(5).json();
    assert_eq!(denied["item"]["allowed"], false, "{denied}");
    ana.json(&["can-i", "query", "stream"]).ok();
    assert_eq!(operator(&["can-i", "delete", "stream/logs", "--as", "ana"]).code, 5);
    let who = operator(&["who-can", "query", "logs"]).ok().json()["items"].clone();
    assert!(who.as_array().unwrap().iter().any(|who| who["user"] == "ana"), "{who}");
    ana.json(&["who-can", "query", "logs"]).refused(5, "auth.denied");
    ana.json(&["user", "create", "eve"]).refused(5, "auth.denied");

    let role = operator(&["role", "show", "reader"]).ok().json()["item"].clone();
    assert_eq!((&role["allow"][0], &role["users"][0]), (&"stream:read,query:logs".into(), &"ana".into()));
    operator(&["role", "delete", "reader", "--yes"]).refused(6, "role.in_use");
    operator(&["user", "set", "ana", "--remove-role", "reader", "--add-role", "viewer", "--display", "Ana"])
        .ok();
    assert_eq!(operator(&["user", "show", "ana"]).ok().json()["item"]["roles"][0], "viewer");
    operator(&["role", "delete", "reader", "--yes"]).ok();
    eventually("a role that was taken away", || {
        (ana.json(&["query", "select count(*) from logs"]).code != 0).then_some(())
    });

    operator(&["user", "set", "ana", "--disable"]).ok();
    eventually("a user who is shut out", || (ana.json(&["stream", "ls"]).code == 4).then_some(()));
    ana.log_in(PASSWORD).refused(4, "auth.login_refused");
    let deleted = operator(&["user", "delete", "ana", "--yes"]).ok().json()["item"].clone();
    assert_eq!(deleted["user"], "ana");
    operator(&["user", "show", "ana"]).refused(3, "user.unknown");
}

#[test]
fn an_api_token_may_what_it_was_made_for_until_it_is_over() {
    let hub = Hub::new();
    hub.create_user("ana", &["analyst"]);
    let ana = hub.person("ana", &[]);
    ana.log_in(PASSWORD).ok();
    let create = |more: &[&str]| {
        let line = [
            &[
                "token",
                "create",
                "--api",
                "--for",
                "report",
                "--allow",
                "stream:read,query:logs",
                "-o",
                "json",
            ],
            more,
        ]
        .concat();
        let made = ana.ran(&line, "", &[]).ok().json()["item"].clone();
        // What follows may not print it again.
        ana.said.borrow_mut().clear();
        (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
    };
    let (token, id) = create(&[]);
    ana.with_token(&token, &["query", "select count(*) from logs"]).ok();
    assert_ne!(
        ana.with_token(&token, &["query", "select count(*) from payroll"]).code,
        0,
        "not even what she may"
    );
    ana.json(&["query", "select count(*) from payroll"]).ok();
    ana.with_token(&token, &["auth", "session", "end", "--all"]).refused(5, "auth.needs_session");
    let who = ana.with_token(&token, &["auth", "whoami"]).ok().json()["item"].clone();
    assert_eq!((&who["name"], &who["scope"][0]), (&"ana".into(), &"stream:read,query:logs".into()), "{who}");
    let listed = ana.json(&["token", "ls"]).ok().json()["items"].clone();
    let listed =
        listed.as_array().unwrap().iter().find(|listed| listed["id"] == id.as_str()).unwrap().clone();
    assert_eq!(
        (&listed["type"], &listed["for"], &listed["user"]),
        (&"api".into(), &"report".into(), &"ana".into())
    );

    // Kept as a login it is the same, and forgotten without being withdrawn.
    let program = hub.person("program", &[]);
    program.ran(&["auth", "login", "--with-token", "-"], &token, &[]).ok();
    program.json(&["query", "select count(*) from logs"]).ok();
    assert_eq!(program.json(&["auth", "logout"]).ok().json()["item"]["session_ended"], false);
    program.ran(&["auth", "login", "--with-token", "-", "-o", "json"], "aapt_nothing", &[]).code(4);

    assert_eq!(ana.json(&["token", "revoke", &id]).ok().json()["items"][0]["state"], "revoked");
    eventually("a token that was revoked", || {
        (ana.with_token(&token, &["stream", "ls"]).code == 4).then_some(())
    });
    let (short, _) = create(&["--ttl", "1s"]);
    eventually("a token that expired", || {
        (ana.with_token(&short, &["stream", "ls"]).code == 4).then_some(())
    });
    let (last, _) = create(&[]);
    hub.platform.aap(&["token", "revoke", "--all-of", "ana"]).ok();
    eventually("all of them revoked", || (ana.with_token(&last, &["stream", "ls"]).code == 4).then_some(()));
    ana.was_not_told(&[&token, &short, &last, PASSWORD]);
    program.was_not_told(&[&token]);
}

#[test]
fn a_protected_context_stands_before_changes_and_a_foreign_authority_is_not_believed() {
    let hub = Hub::new();
    hub.create_user("ana", &["admin"]);
    let ana = hub.person("ana", &["--user", "ana", "--protection", "confirm"]);
    ana.ran(&["auth", "login", "--password-file", "-"], PASSWORD, &[]).ok();
    let line = ["stream", "delete", "payroll", "--yes"];
    ana.json(&line).refused(2, "confirm.needed");
    ana.json(&[&line[..], &["--confirm", "hub"]].concat()).ok();
    ana.json(&["stream", "ls"]).ok();
    ana.json(&["logs"]).refused(2, "context.no_home");

    // Another platform in the place of ours: it gets no token of ours to see.
    let other = Platform::started(&[]);
    let run = std::fs::read_to_string(other.home().join("run/coordinator.json")).unwrap();
    let endpoint = serde_json::from_str::<Value>(&run).unwrap()["operator"].as_str().unwrap().to_owned();
    let elsewhere = [("AAP_ENDPOINT", endpoint.as_str())];
    ana.ran(&["stream", "ls", "-o", "json"], "", &elsewhere).refused(7, "platform.unreachable");
    let root = other.home().join("tls/root.pem");
    let believed = [elsewhere[0], ("AAP_CA", root.to_str().unwrap())];
    ana.ran(&["stream", "ls", "-o", "json"], "", &believed).refused(4, "auth.login_needed");
}

#[test]
fn a_context_and_its_login_go_on_when_the_root_of_the_platform_is_replaced() {
    let hub = Hub::new();
    hub.create_user("ana", &["admin"]);
    hub.create_user("eva", &["viewer"]);
    let (ana, eva) = (hub.person("ana", &["--user", "ana"]), hub.person("eva", &["--user", "eva"]));
    for person in [&ana, &eva] {
        person.log_in(PASSWORD).ok();
    }
    let own = hub.platform.beside("ana-config/ca/hub.pem");
    let former = std::fs::read_to_string(&own).unwrap();
    ana.json(&["ca", "rotate"]).ok();
    // Eleven minutes later.
    let earlier = std::time::Duration::from_secs(660);
    let file = std::fs::File::options().write(true).open(&own).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(written - earlier).unwrap();
    ana.json(&["stream", "ls"]).ok();
    let both = std::fs::read_to_string(&own).unwrap();
    assert!(both.ends_with(&former) && both != former, "{both}");
    // With both it uses the login once, which is known by the new root from then on.
    ana.json(&["stream", "ls"]).ok();
    ana.json(&["ca", "rotate", "--finish"]).ok();
    ana.json(&["stream", "ls"]).ok();
    // Somebody who was away gets a new context; the local platform goes on.
    eva.json(&["stream", "ls"]).refused(7, "platform.unreachable");
    hub.platform.aap(&["stream", "ls"]).ok();
}
