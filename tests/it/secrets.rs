//! Secrets that documents refer to: kept ones and those of a real Vault reach the server that they are for, and are found nowhere else
//! (row A9 of the security table).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use aap_tests::{Platform, Proxy, Service, eventually};
use serde_json::{Value, json};

use super::access::Desk;
use super::sinks::{apply, ingest, settles, sink};

/// What must be found nowhere but at the server that it is for.
const CANARY: &str = "canary-7Qm2x";
/// As it may stand somewhere: also in base64.
const CANARIES: [&str; 2] = [CANARY, "Y2FuYXJ5LTdRbTJ4"];

/// A server that takes rows from whoever shows the token that counts now.
struct Hook {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    token: String,
    ids: BTreeSet<u64>,
    refused: u64,
}

impl Hook {
    fn start(token: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<Mutex<State>>::default());
        let hook = Self { address, state: state.clone() };
        hook.takes(token);
        thread::spawn(move || {
            for line in listener.incoming().flatten() {
                let state = state.clone();
                thread::spawn(move || serve(&state, line));
            }
        });
        hook
    }

    /// From now on this token counts.
    fn takes(&self, token: &str) {
        token.clone_into(&mut self.state.lock().unwrap().token);
    }

    fn has(&self, rows: u64) -> bool {
        self.state.lock().unwrap().ids == (0..rows).collect()
    }

    fn document(&self, reference: &str) -> String {
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: hook }}\nspec:\n  streams: [events]\n  \
             http: {{ url: 'http://{}/in', bearer: '{reference}' }}\n",
            self.address
        )
    }
}

fn serve(state: &Mutex<State>, line: TcpStream) {
    let mut reader = BufReader::new(line.try_clone().unwrap());
    let mut writer = line;
    while let Some((authorization, body)) = request(&mut reader) {
        let mut state = state.lock().unwrap();
        let is_known = authorization == format!("Bearer {}", state.token);
        if is_known {
            let rows = std::str::from_utf8(&body).unwrap().lines();
            state
                .ids
                .extend(rows.map(|row| serde_json::from_str::<Value>(row).unwrap()["id"].as_u64().unwrap()));
        } else {
            state.refused += 1;
        }
        drop(state);
        let status = if is_known { "204 No Content" } else { "401 Unauthorized" };
        if writer.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// `Authorization` and body; `None` where the other side has closed.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((headers.remove("authorization").unwrap_or_default(), body))
}

fn set(platform: &Platform, name: &str, value: &str) {
    let ran =
        platform.aap_with_input(&["secret", "set", name, "-o", "json"], format!("{value}\n").as_bytes()).ok();
    assert_clean("aap secret set", format!("{}{}", ran.out, ran.err).as_bytes());
    assert_eq!(ran.json()["item"]["reference"], format!("secret:{name}"));
}

#[track_caller]
fn assert_clean(what: &str, bytes: &[u8]) {
    for canary in CANARIES {
        let is_found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!is_found, "the secret stands in {what}");
    }
}

/// Everything below a folder, byte by byte.
fn assert_clean_folder(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        match kind.is_dir() {
            true => assert_clean_folder(&entry.path()),
            // Sockets have nothing to read; scratch files come and go.
            false if kind.is_file() => {
                if let Ok(bytes) = std::fs::read(entry.path()) {
                    assert_clean(&entry.path().display().to_string(), &bytes);
                }
            }
            false => {}
        }
    }
}

/// A process and everything that came of it.
fn with_children(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_threads =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let all: BTreeSet<i32> = std::iter::once(children)
        .chain(of_threads)
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    std::iter::once(pid).chain(all.into_iter().flat_map(with_children)).collect()
}

fn assert_clean_processes(platform: &Platform) {
    let mut seen = 0;
    for pid in
        ["up", "agent", "coordinator"].iter().filter_map(|name| platform.pid(name)).flat_map(with_children)
    {
        for file in ["cmdline", "environ"] {
            let Ok(bytes) = std::fs::read(format!("/proc/{pid}/{file}")) else { continue };
            assert_clean(&format!("/proc/{pid}/{file}"), &bytes);
            seen += 1;
        }
    }
    assert!(seen >= 6, "supervisor, agent and coordinator were looked at");
}

/// Everything that a platform says about a sink and its secret.
fn assert_clean_answers(platform: &Platform) {
    for command in [
        &["secret", "ls", "-o", "json"][..],
        &["secret", "ls"],
        &["sink", "show", "hook", "-o", "json"],
        &["sink", "ls"],
        &["sink", "test", "hook"],
        &["get", "sink", "hook", "-o", "yaml"],
        &["get", "-o", "json"],
        &["status", "-o", "json"],
        &["audit", "search", "--limit", "0", "-o", "json"],
        &["secret", "rm", "hook-token", "--yes", "-o", "json"],
    ] {
        let ran = platform.aap(command);
        assert_clean(&format!("aap {}", command.join(" ")), format!("{}{}", ran.out, ran.err).as_bytes());
    }
    let operator = aap_tests::Http::new(&platform.endpoint("operator").unwrap(), &platform.token());
    let metrics = operator.get("/metrics").unwrap();
    assert_eq!(metrics.status, 200);
    assert_clean("/metrics", metrics.body.to_string().as_bytes());
}

#[test]
fn a_kept_secret_reaches_its_sink_and_is_found_nowhere_else() {
    let hook = Hook::start(CANARY);
    let platform = Platform::new();
    platform.up(&[]).ok();
    apply(&platform, &hook.document("secret:hook-token"));
    ingest(&platform, 0, 200);
    settles("the sink says what it misses", || {
        sink(&platform, "hook")["problem"]["code"] == "secret.not_found"
    });
    set(&platform, "hook-token", CANARY);
    settles("everything is delivered", || hook.has(200));
    let listed = platform.aap(&["secret", "ls", "-o", "json"]).ok().json()["items"][0].clone();
    assert_eq!(
        (&listed["used_by"], &listed["state"], &listed["revision"]),
        (&json!(["sink/hook"]), &json!("kept"), &json!(1))
    );
    assert_eq!(listed["author"], "operator");
    platform.aap(&["secret", "rm", "hook-token", "--yes", "-o", "json"]).refused(6, "secret.in_use");

    // A secret that the server does not take any more is in no error either; a new one is taken up at once.
    hook.takes("another");
    ingest(&platform, 200, 300);
    settles("the sink is refused", || sink(&platform, "hook")["state"] == "refused");
    assert_clean_answers(&platform);
    set(&platform, "hook-token", "another");
    settles("everything is delivered", || hook.has(300));
    set(&platform, "hook-token", CANARY);
    hook.takes(CANARY);
    let _query =
        platform.begin(&["query", "select count(*) from events a, events b, events c, events d, events e"]);
    eventually("an engine at work", || {
        let pid = platform.pid("coordinator")?;
        (with_children(pid).len() > 1).then_some(())
    });
    assert_clean_processes(&platform);
    platform.kill_and_wait("coordinator");
    ingest(&platform, 300, 400);
    settles("everything is delivered after a kill", || hook.has(400));
    assert_clean_answers(&platform);
    platform.aap(&["secret", "rm", "hook-token", "--force", "--yes"]).ok();
    platform.down().ok();
    assert_clean_folder(&platform.home());
    assert_clean_folder(platform.beside("operator-state").parent().unwrap());
}

#[test]
fn whoever_may_not_use_a_secret_cannot_send_it_to_a_server_of_theirs() {
    let platform = Platform::new();
    platform.up(&[]).ok();
    let role = "apiVersion: aap/v1\nkind: Role\nmetadata: { name: sinker }\nspec:\n  allow:\n  \
                - { resources: [sink], verbs: [read, write] }\n  - { resources: [stream, node], verbs: [read, query] }\n  \
                - { resources: [secret], verbs: [operate], names: ['mine*', 'vault:kv/mine/*'] }\n";
    platform.aap_with_input(&["apply", "-f", "-"], role.as_bytes()).ok();
    set(&platform, "mine-1", "x");
    set(&platform, "others", CANARY);
    let desk = Desk::of_operator(&platform).desk_of(&platform, "ben", &["sinker"]);
    let hook = Hook::start("x");
    let apply = |reference: &str| {
        let path = platform.beside("theirs.yaml");
        std::fs::write(&path, hook.document(reference)).unwrap();
        desk.aap(&["apply", "-f", path.to_str().unwrap()])
    };
    apply("secret:others").refused(5, "auth.denied");
    apply("vault:kv/theirs#x").refused(5, "auth.denied");
    apply("secret:mine-1").ok();
    apply("vault:kv/mine/a#x").ok();
    // Nor are those of others seen, changed or removed.
    desk.aap(&["secret", "ls"]).refused(5, "auth.denied");
    desk.aap(&["secret", "rm", "others", "--yes"]).refused(5, "auth.denied");
    assert_eq!(hook.state.lock().unwrap().refused, 0, "nothing was sent");
    let denied = platform.aap(&["audit", "search", "--outcome", "denied", "-o", "json"]).ok().json();
    assert!(denied["items"].to_string().contains("others"), "{denied}");
}

#[test]
fn what_cannot_be_kept_is_refused_and_what_is_missing_is_named() {
    let platform = Platform::new();
    platform.up(&[]).ok();
    let set =
        |name: &str, value: &[u8]| platform.aap_with_input(&["secret", "set", name, "-o", "json"], value);
    set("Big", b"x").refused(2, "secret.bad_name");
    set("../x", b"x").refused(2, "secret.bad_name");
    set("empty", b"\n").refused(2, "auth.secret_unreadable");
    set("long", &[b'x'; (64 << 10) + 1]).refused(2, "auth.secret_unreadable");
    platform.aap(&["secret", "rm", "nothing", "--yes", "-o", "json"]).refused(3, "secret.not_found");
    set("some-thing", b"x").ok();
    let near =
        platform.aap(&["secret", "rm", "some-thin", "--yes", "-o", "json"]).refused(3, "secret.not_found");
    assert!(near.to_string().contains("some-thing"), "{near}");
    // A key that others can read opens nothing.
    let key = platform.home().join("tls/secrets.key");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = set("other", b"x").refused(1, "secret.key_unusable");
    assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
}

/// A real Vault, and a role in it for this test.
struct Vault {
    service: Service,
    token: String,
    mount: String,
    role_id: String,
    secret_id: String,
}

impl Vault {
    fn find(test: &str) -> Option<Self> {
        let service = Service::find("vault", "vault", "AAP_TEST_VAULT", test)?;
        let token = std::env::var("AAP_TEST_VAULT_TOKEN").unwrap();
        let mount = format!("it-{test}-{}", std::process::id());
        let mut vault =
            Self { service, token, mount: mount.clone(), role_id: String::new(), secret_id: String::new() };
        vault.call(
            "POST",
            &format!("sys/mounts/{mount}"),
            &json!({ "type": "kv", "options": { "version": "2" } }),
        );
        let policy = format!("path \"{mount}/data/aap/*\" {{ capabilities = [\"read\"] }}");
        vault.call("PUT", &format!("sys/policies/acl/{mount}"), &json!({ "policy": policy }));
        let role = json!({ "token_policies": mount, "token_ttl": "60s", "token_max_ttl": "1h" });
        vault.call("POST", &format!("auth/approle/role/{mount}"), &role);
        let id = vault.call("GET", &format!("auth/approle/role/{mount}/role-id"), &Value::Null);
        vault.role_id = id["data"]["role_id"].as_str().unwrap().to_owned();
        let id = vault.call("POST", &format!("auth/approle/role/{mount}/secret-id"), &json!({}));
        vault.secret_id = id["data"]["secret_id"].as_str().unwrap().to_owned();
        Some(vault)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("{}/v1/{path}", self.service.address);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--noproxy", "*", "-X", method, &url]);
        curl.args(["-H", &format!("X-Vault-Token: {}", self.token)]);
        if !body.is_null() {
            curl.args(["-d", &body.to_string()]);
        }
        let output = curl.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn put(&self, value: &str) {
        self.call("POST", &format!("{}/data/aap/hook", self.mount), &json!({ "data": { "token": value } }));
    }

    /// Ends every token that was given to the role.
    fn revoke_tokens(&self) {
        self.call("PUT", "sys/leases/revoke-prefix/auth/approle/login", &json!({}));
    }

    /// A platform whose coordinator asks it at `address`.
    fn platform(&self, address: &str) -> Platform {
        let platform = Platform::new();
        std::fs::create_dir_all(platform.home().join("config")).unwrap();
        let file = platform.beside("vault-secret-id");
        std::fs::write(&file, &self.secret_id).unwrap();
        let spec = format!(
            "vault: {{ address: 'http://{address}', auth: {{ app_role: {{ role_id: '{}', secret_id: 'file:{}' }} }} }}",
            self.role_id,
            file.display()
        );
        let document =
            format!("apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{ name: c }}\nspec: {{ {spec} }}\n");
        std::fs::write(platform.home().join("config/coordinator.yaml"), document).unwrap();
        platform.up(&[]).ok();
        platform
    }
}

/// `http://HOST:PORT` without its scheme.
fn node_of(url: &str) -> &str {
    url.trim_start_matches("http://")
}

#[test]
fn a_sink_has_its_secret_from_vault_whose_token_may_be_revoked() {
    let Some(vault) = Vault::find("revoked") else { return };
    vault.put(CANARY);
    let hook = Hook::start(CANARY);
    let platform = vault.platform(node_of(&vault.service.address));
    apply(&platform, &hook.document(&format!("vault:{}/aap/hook#token", vault.mount)));
    ingest(&platform, 0, 200);
    settles("everything is delivered", || hook.has(200));

    // A new value, and the old token is worth nothing: it logs in anew.
    vault.put("another");
    hook.takes("another");
    vault.revoke_tokens();
    ingest(&platform, 200, 300);
    settles("everything is delivered", || hook.has(300));
    eventually("the log-in anew", || platform.log("coordinator").contains("logging in anew").then_some(()));

    for (reference, code) in [
        ("aap/hook#nothing", "secret.not_found"),
        ("aap/nothing#token", "secret.not_found"),
        ("other#token", "secret.vault_denied"),
    ] {
        apply(&platform, &hook.document(&format!("vault:{}/{reference}", vault.mount)));
        settles(code, || sink(&platform, "hook")["problem"]["code"] == code);
        let tested = platform.aap(&["sink", "test", "hook", "-o", "json"]);
        assert_eq!(tested.problem()["code"], code, "{tested:?}");
    }
    platform.down().ok();
    assert_clean_folder(&platform.home());
}

#[test]
fn while_vault_is_away_a_sink_says_so_and_nothing_is_lost() {
    let Some(vault) = Vault::find("away") else { return };
    vault.put(CANARY);
    let upstream: SocketAddr = node_of(&vault.service.address).parse().unwrap();
    let network = Proxy::new(move || Some(upstream));
    let hook = Hook::start(CANARY);
    let platform = vault.platform(&network.address());
    apply(&platform, &hook.document(&format!("vault:{}/aap/hook#token", vault.mount)));
    ingest(&platform, 0, 100);
    settles("everything is delivered", || hook.has(100));

    // Whoever has read it goes on with what it has.
    network.block_tcp(true);
    hook.takes("nobody's");
    ingest(&platform, 100, 200);
    settles("the sink is refused by its server", || sink(&platform, "hook")["state"] == "refused");
    hook.takes(CANARY);
    platform.aap(&["sink", "resume", "hook"]).ok();
    settles("everything is delivered", || hook.has(200));

    // One that starts has not.
    platform.kill_and_wait("coordinator");
    ingest(&platform, 200, 300);
    settles("the sink says that Vault is away", || {
        let shown = sink(&platform, "hook");
        shown["state"] == "retrying" && shown["problem"]["code"] == "secret.vault_unreachable"
    });
    network.block_tcp(false);
    settles("everything is delivered", || hook.has(300));
    assert_eq!(sink(&platform, "hook")["dead_letters"], 0);
}
