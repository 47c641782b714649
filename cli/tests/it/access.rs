//! Logging in, users, roles and tokens against a platform from memory.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use aap_client::operations::Id;

use crate::fake::access::{API_TOKEN, MADE_UP, PASSWORD, SESSION};
use crate::fake::{Home, Ran, TOKEN, check_fields};

/// Runs a command with something on stdin.
fn fed(home: &Home, arguments: &[&str], input: &str) -> Ran {
    let mut command = home.command(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that wants nothing of it may be gone already.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    Ran::of(child.wait_with_output().unwrap())
}

/// Nothing of a secret was said, other than what is made for the asker.
fn says_no_secret(ran: &Ran) {
    for secret in [TOKEN, SESSION, API_TOKEN, PASSWORD] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{ran:?}");
    }
}

fn item(ran: &Ran, id: Id) -> serde_json::Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    let document = ran.json();
    let item = if document["item"].is_object() { &document["item"] } else { &document["items"][0] };
    check_fields(id, item);
    item.clone()
}

/// The files with logins.
fn logins(home: &Home) -> Vec<std::path::PathBuf> {
    let folder = home.path().join("operator-state/credentials");
    std::fs::read_dir(folder).map_or_else(|_| vec![], |all| all.map(|entry| entry.unwrap().path()).collect())
}

#[test]
fn a_login_by_password_is_kept_shown_and_ended() {
    let home = Home::running();
    assert_eq!(item(&home.aap(&["auth", "status", "-o", "json"]), Id::AuthStatus)["source"], "home");
    let file = home.file("password", format!("{PASSWORD}\n").as_bytes());
    let ran = home.aap(&["auth", "login", "ana", "--password-file", file.to_str().unwrap(), "-o", "json"]);
    says_no_secret(&ran);
    let login = item(&ran, Id::AuthLogin);
    assert_eq!(
        (&login["user"], &login["store"], &login["must_change_password"]),
        (&"ana".into(), &"file".into(), &true.into())
    );
    assert!(ran.err.contains("aap auth password"), "{ran:?}");
    let [file] = &logins(&home)[..] else { panic!("{:?}", logins(&home)) };
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);

    let status = item(&home.aap(&["auth", "status", "-o", "json"]), Id::AuthStatus);
    assert_eq!(
        (&status["source"], &status["user"], &status["idle_ms"]),
        (&"login".into(), &"ana".into(), &3_600_000.into())
    );
    assert_eq!(status["place"], file.to_str().unwrap());
    let ran = home.aap(&["auth", "whoami", "-o", "json"]);
    says_no_secret(&ran);
    assert_eq!(item(&ran, Id::AuthWhoami)["name"], "ana");

    let ran = home.aap(&["auth", "logout", "-o", "json"]);
    let logout = item(&ran, Id::AuthLogout);
    assert_eq!((&logout["forgotten"], &logout["session_ended"]), (&true.into(), &true.into()));
    assert_eq!((logins(&home).len(), home.aap(&["auth", "whoami"]).code), (0, 0), "the home's token again");
    assert_eq!(home.fake.state.lock().unwrap().people.calls, ["log-out ana"]);
    assert_eq!(home.aap(&["auth", "logout"]).code, 0, "twice is no error");
}

#[test]
fn a_wrong_password_and_one_that_nobody_can_be_asked_for_say_what_to_do() {
    let home = Home::running();
    let ran = fed(&home, &["auth", "login", "ana", "--password-file", "-", "-o", "json"], "wrong\n");
    assert_eq!(
        (ran.code, &ran.error()["code"], ran.out.as_str()),
        (4, &"auth.login_refused".into(), ""),
        "{ran:?}"
    );
    let ran = home.aap(&["auth", "login", "ana"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.err.contains("error[auth.password_needed]") && ran.err.contains("--password-file"),
        "{ran:?}"
    );
    for line in [
        &["auth", "login"][..],
        &["auth", "login", "ana", "--password-file", "x", "--with-token", "y"],
        &["auth", "login", "ana", "--password-file", "/nowhere"],
        &["auth", "login", "oidc:ana"],
        &["auth", "login", "--device", "--no-browser"],
        &["auth", "login", "--device", "--with-token", "-"],
        &["auth", "login", "--no-browser"],
        &["auth", "login", "--device"],
        &["auth", "password", "--password-file", "-", "--new-password-file", "-"],
        &["auth", "session", "end"],
        &["auth", "session", "end", "id", "--all"],
        &["auth", "session", "ls", "--all", "--user", "ana"],
        &["user", "set", "ana"],
        &["user", "set", "ana", "--enable", "--disable"],
        &["user", "set", "ana", "--password-file", "x"],
        &["role", "create", "web"],
        &["role", "create", "web", "--allow", "streams:read"],
        &["token", "revoke"],
        &["token", "create", "--allow", "stream:read"],
        &["token", "create", "--api", "--site", "lyon"],
        &["can-i", "fly", "logs"],
        &["can-i", "read", "nodes/x"],
    ] {
        let ran = home.aap(&[line, &["-o", "json"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line:?}: {ran:?}");
        assert!(!ran.error()["hints"].as_array().unwrap().is_empty(), "{line:?}: {ran:?}");
    }
    assert!(logins(&home).is_empty());
}

#[test]
fn a_token_is_kept_only_if_the_platform_knows_it() {
    let home = Home::running();
    let ran = fed(&home, &["auth", "login", "--with-token", "-", "-o", "json"], "aapt_of_nobody\n");
    assert_eq!((ran.code, logins(&home).len()), (4, 0), "{ran:?}");
    assert!(!ran.err.contains("aapt_of_nobody"), "{ran:?}");
    let ran = fed(&home, &["auth", "login", "--with-token", "-", "-o", "json"], &format!("{API_TOKEN}\n"));
    says_no_secret(&ran);
    assert_eq!(item(&ran, Id::AuthLogin)["user"], "ana");
    let ran = home.aap(&["auth", "logout", "-o", "json"]);
    assert_eq!(item(&ran, Id::AuthLogout)["session_ended"], false, "a token is only forgotten");
    assert!(home.fake.state.lock().unwrap().people.calls.is_empty());
}

#[test]
fn the_environment_wins_over_a_login_and_each_says_what_to_do_when_it_is_refused() {
    let home = Home::running();
    let ended = |name: &str, value: &str, words: &[&str]| {
        Ran::of(home.command(words).env(name, value).output().unwrap())
    };
    fed(&home, &["auth", "login", "ana", "--password-file", "-"], PASSWORD);
    let ran = ended("AAP_TOKEN", TOKEN, &["auth", "whoami", "-o", "json"]);
    assert_eq!(ran.json()["item"]["name"], "operator");
    assert!(ran.err.contains("AAP_TOKEN_FILE") && !ran.err.contains(TOKEN), "a warning: {ran:?}");
    let file = home.file("token", b"wrong");
    let ran = ended("AAP_TOKEN_FILE", file.to_str().unwrap(), &["auth", "whoami", "-o", "json"]);
    assert_eq!((ran.code, ran.error()["hints"].to_string().contains("AAP_TOKEN_FILE")), (4, true), "{ran:?}");

    home.fake.state.lock().unwrap().people.session_is_over = true;
    let ran = home.aap(&["user", "ls", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (4, &"auth.token_refused".into()), "{ran:?}");
    let hints = ran.error()["hints"].clone();
    assert_eq!(hints.as_array().unwrap().last().unwrap()["command"], "aap auth login ana", "{hints}");
}

#[test]
fn a_login_that_others_can_read_is_not_used_until_it_is_one_s_own() {
    let home = Home::running();
    fed(&home, &["auth", "login", "ana", "--password-file", "-"], PASSWORD);
    let file = logins(&home).remove(0);
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o640);
    let ran = home.aap(&["auth", "whoami", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (4, &"auth.store_exposed".into()));
    assert_eq!(ran.error()["hints"][0]["command"], format!("chmod 600 {}", file.display()));
    mode(0o600);
    assert_eq!(home.aap(&["auth", "whoami"]).code, 0);
    mode(0o644);
    assert_eq!(
        (home.aap(&["auth", "logout"]).code, file.exists()),
        (0, false),
        "it can be forgotten all the same"
    );
}

#[test]
fn passwords_change_from_files_and_sessions_end() {
    let home = Home::running();
    fed(&home, &["auth", "login", "ana", "--password-file", "-"], PASSWORD);
    let new = home.file("new", b"battery staple\n");
    let line = [
        "auth",
        "password",
        "--password-file",
        "-",
        "--new-password-file",
        new.to_str().unwrap(),
        "-o",
        "json",
    ];
    let ran = fed(&home, &line, PASSWORD);
    says_no_secret(&ran);
    let changed = item(&ran, Id::AuthPassword);
    assert_eq!((&changed["user"], &changed["sessions_ended"]), (&"ana".into(), &2.into()));
    let asked = home.fake.state.lock().unwrap().people.last_password.clone().unwrap();
    assert_eq!((asked.before.as_str(), asked.after.as_str()), (PASSWORD, "battery staple"));

    assert_eq!(item(&home.aap(&["auth", "session", "ls", "-o", "json"]), Id::AuthSessionLs)["user"], "ana");
    assert_eq!(home.aap(&["auth", "session", "ls", "--all", "-o", "json"]).json()["items"][0]["user"], "*");
    assert_eq!(
        item(&home.aap(&["auth", "session", "end", "7mKq", "-o", "json"]), Id::AuthSessionEnd)["ended"],
        1
    );
    assert_eq!(
        home.aap(&["auth", "session", "end", "gone", "-o", "json"]).error()["code"],
        "session.unknown"
    );
    assert_eq!(
        (home.aap(&["auth", "session", "end", "--all", "--user", "ben"]).code, logins(&home).len()),
        (0, 1)
    );
    let ran = home.aap(&["auth", "session", "end", "--all"]);
    assert_eq!((ran.code, logins(&home).len()), (0, 0), "this one, too: {ran:?}");
    let calls = home.fake.state.lock().unwrap().people.calls.clone();
    assert_eq!(
        calls,
        ["end-sessions ana 7mKq", "end-sessions ana gone", "end-sessions ben ", "end-sessions ana "]
    );
}

#[test]
fn users_are_created_changed_and_deleted_and_a_made_up_password_is_shown_once() {
    let home = Home::running();
    let ran = home.aap(&[
        "user",
        "create",
        "ben",
        "--role",
        "viewer",
        "--role",
        "analyst",
        "--display",
        "Ben",
        "-o",
        "json",
    ]);
    assert_eq!(item(&ran, Id::UserCreate)["password"], MADE_UP);
    assert!(ran.err.contains("this once") && !ran.err.contains(MADE_UP), "{ran:?}");
    let sent = home.fake.state.lock().unwrap().people.last_user.clone().unwrap();
    assert_eq!((sent.name.as_str(), sent.roles.len(), sent.display.as_str()), ("ben", 2, "Ben"));
    let ran =
        fed(&home, &["user", "create", "ben", "--password-file", "-", "-o", "json"], "battery staple\n");
    assert_eq!(item(&ran, Id::UserCreate)["password"], serde_json::Value::Null);
    assert!(!ran.out.contains("battery") && !ran.err.contains("battery"), "{ran:?}");

    let line = [
        "user",
        "set",
        "ana",
        "--add-role",
        "a",
        "--remove-role",
        "b",
        "--disable",
        "--reset-password",
        "-o",
        "json",
    ];
    assert_eq!(item(&home.aap(&line), Id::UserSet)["password"], MADE_UP);
    let sent = home.fake.state.lock().unwrap().people.last_change.clone().unwrap();
    assert_eq!((sent.disabled, sent.reset_password, sent.display), (Some(true), true, None));

    assert_eq!(item(&home.aap(&["user", "ls", "-o", "json"]), Id::UserLs)["user"], "ana");
    assert_eq!(item(&home.aap(&["user", "show", "ana", "-o", "json"]), Id::UserShow)["roles"][0], "viewer");
    assert_eq!(home.aap(&["user", "show", "nobody", "-o", "json"]).code, 3);
    assert_eq!(home.aap(&["user", "delete", "ana"]).code, 2, "nobody confirmed");
    assert_eq!(
        item(&home.aap(&["user", "delete", "ana", "--yes", "-o", "json"]), Id::UserDelete)["tokens_revoked"],
        2
    );
    assert_eq!(home.aap(&["user", "delete", "nobody", "--yes"]).code, 3);
}

#[test]
fn a_role_is_declared_by_rules_and_never_replaced() {
    let home = Home::running();
    let ran = home.aap(&[
        "role",
        "create",
        "web",
        "--allow",
        "stream:read,query:web.*",
        "--deny",
        "*:delete",
        "-o",
        "json",
    ]);
    let role = item(&ran, Id::RoleCreate);
    assert_eq!(
        (&role["allow"][0], &role["deny"][0]),
        (&"stream:read,query:web.*".into(), &"*:delete".into())
    );
    let sent = home.fake.state.lock().unwrap().declared.last_apply.clone().unwrap();
    assert!(
        sent.files[0].text.starts_with("apiVersion: aap/v1\nkind: Role\nmetadata:\n  name: web\n"),
        "{sent:?}"
    );
    let ran = home.aap(&["role", "create", "orders", "--allow", "*:read", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (6, &"role.exists".into()), "{ran:?}");
    assert_eq!(item(&home.aap(&["role", "ls", "-o", "json"]), Id::RoleLs)["built_in"], true);
    assert_eq!(
        item(&home.aap(&["role", "show", "viewer", "-o", "json"]), Id::RoleShow)["allow"][0],
        "*:read"
    );
    for line in [&["role", "show", "nobody"][..], &["role", "delete", "viewer", "--yes"]] {
        assert_eq!(home.aap(&[line, &["-o", "json"]].concat()).error()["code"], "role.unknown", "{line:?}");
    }
}

#[test]
fn tokens_of_both_types_are_listed_and_revoked() {
    let home = Home::running();
    let line = [
        "token",
        "create",
        "--api",
        "--user",
        "ana",
        "--for",
        "report",
        "--ttl",
        "30d",
        "--allow",
        "stream:query:logs@site=lyon",
        "-o",
        "json",
    ];
    let ran = home.aap(&line);
    let made = item(&ran, Id::TokenCreate);
    assert_eq!(
        (&made["token"], &made["type"], &made["scope"][0]),
        (&API_TOKEN.into(), &"api".into(), &"stream:query:logs".into())
    );
    assert!(!ran.err.contains(API_TOKEN), "{ran:?}");
    let sent = home.fake.state.lock().unwrap().people.last_token.clone().unwrap();
    assert_eq!(
        (sent.ttl_ms, sent.label.as_str(), sent.scope[0].labels["site"].as_str()),
        (2_592_000_000, "report", "lyon")
    );
    let made = item(&home.aap(&["token", "create", "--site", "lyon", "-o", "json"]), Id::TokenCreate);
    assert_eq!(made["type"], "enrolment");

    let listed = home.aap(&["token", "ls", "-o", "json"]);
    item(&listed, Id::TokenLs);
    let types: Vec<_> =
        listed.json()["items"].as_array().unwrap().iter().map(|token| token["type"].clone()).collect();
    assert_eq!(types, ["enrolment", "api"]);
    for (token, call) in [
        ("enrolment", "revoke-enrolment enrolment"),
        ("Vd43xq9TzRwe", "revoke-api Vd43xq9TzRwe"),
        (API_TOKEN, "revoke-api Vd43xq9TzRwe"),
        ("aape_enrolment_text", "revoke-enrolment enrolment"),
    ] {
        item(&home.aap(&["token", "revoke", token, "-o", "json"]), Id::TokenRevoke);
        assert_eq!(home.fake.state.lock().unwrap().people.calls.pop().unwrap(), call);
    }
    let all = item(&home.aap(&["token", "revoke", "--all-of", "ana", "-o", "json"]), Id::TokenRevoke);
    assert_eq!((&all["state"], &all["for"]), (&"revoked".into(), &"report".into()));
    assert_eq!(home.aap(&["token", "revoke", "gone", "-o", "json"]).error()["code"], "token.unknown");

    fed(&home, &["auth", "login", "ana", "--password-file", "-"], PASSWORD);
    let ran = home.aap(&["token", "ls", "-o", "json"]);
    assert_eq!(item(&ran, Id::TokenLs)["type"], "api", "what she may see");
    assert!(ran.err.contains("enrolment tokens are not shown"), "{ran:?}");
    assert_eq!(home.aap(&["token", "revoke", "Vd43xq9TzRwe"]).code, 0, "her own");
}

#[test]
fn what_somebody_may_is_an_exit_code_with_its_reason() {
    let home = Home::running();
    let ran = home.aap(&["can-i", "query", "logs", "-o", "json"]);
    assert_eq!(item(&ran, Id::CanI)["because"], "the role `viewer`");
    let ran = home.aap(&["can-i", "delete", "node/edge-17", "--as", "ana", "-o", "json"]);
    assert_eq!((ran.code, &ran.json()["item"]["allowed"]), (5, &false.into()), "{ran:?}");
    let asked = home.fake.state.lock().unwrap().people.last_question.clone().unwrap();
    assert_eq!((asked.kind.as_str(), asked.name.as_str(), asked.user.as_str()), ("node", "edge-17", "ana"));
    assert_eq!(item(&home.aap(&["who-can", "query", "stream", "-o", "json"]), Id::WhoCan)["user"], "ana");
}

#[test]
fn a_secret_comes_from_stdin_or_a_file_and_is_not_printed() {
    let home = Home::running();
    let kept = || home.fake.state.lock().unwrap().last_secret.clone().unwrap();
    let check = |ran: Ran, value: &str| {
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!format!("{ran:?}").contains("hunter") && ran.err.contains("secret:pg"), "{ran:?}");
        assert_eq!((kept().name.as_str(), kept().value.as_str()), ("pg", value));
    };
    check(fed(&home, &["secret", "set", "pg"], "hunter2\n"), "hunter2");
    let file = home.file("value", b"-----BEGIN\nhunter3\n");
    let from_file = ["secret", "set", "pg", "--value-file", file.to_str().unwrap(), "-o", "json"];
    check(home.aap(&from_file), "-----BEGIN\nhunter3");
    assert_eq!(home.aap(&["secret", "set", "pg"]).code, 2, "there is nothing on stdin");
    assert_eq!(home.aap(&["secret", "set", "pg", "hunter2"]).code, 2, "a value is no argument");
}
