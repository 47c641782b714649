//! The gateway before the operators' port, with the real programs: how often somebody may call, and what they are told. Row T7 of the
//! security table.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aap_client::v1;
use aap_tests::{Daemon, Http, Platform, Running, Service, eventually, free_port};
use serde_json::Value;

use super::access::{Desk, hub_with};

/// Good enough for the platform.
const PASSWORD: &str = "winter tram mushroom";

/// A coordinator with a section `gateway`.
fn hub(gateway: &str) -> (Platform, Daemon) {
    hub_with(&format!("gateway: {gateway}"))
}

/// How many calls in a row were let on, of at most `most`.
fn calls(desk: &Desk, most: usize) -> usize {
    (0..most).take_while(|_| desk.code_of("Access/WhoAmI").is_empty()).count()
}

#[test]
fn a_flood_of_one_token_is_held_back_while_everybody_else_is_served() {
    let (hub, _daemon) = hub("{ limits: { per_principal: 6/min burst 10 } }");
    let operator = Desk::of_operator(&hub);
    let (ana, ben) = (operator.desk_of(&hub, "ana", &["viewer"]), operator.desk_of(&hub, "ben", &["viewer"]));
    let request = v1::CreateApiTokenRequest::default();
    let token = ana.access(async |api| api.create_api_token(request).await).unwrap();
    let program = Desk::at(&hub, &token.text);
    let began = Instant::now();
    let passed = (0..100).filter(|_| program.code_of("Access/WhoAmI").is_empty()).count();
    let at_most = 10 + usize::try_from(began.elapsed().as_secs() / 10).unwrap() + 1;
    assert!((10..=at_most).contains(&passed), "{passed} in {:?}", began.elapsed());
    assert_eq!(calls(&ben, 5), 5);
    assert_eq!(calls(&ana, 5), 5, "her program does not keep her from calling");
    assert_eq!(calls(&operator, 50), 50);

    // What is said, to programs and to people. One in ten seconds passes.
    let heads = (0..20).map(|_| program.head_of("Access/WhoAmI"));
    let (_, head) = heads.into_iter().find(|(code, _)| code == "gateway.rate_limited").unwrap();
    let said = |name: &str| head.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!((said("ratelimit-limit"), said("ratelimit-remaining")), (Some("10".into()), Some("0".into())));
    let wait: u64 = said("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    let (code, head) = ben.head_of("Access/WhoAmI");
    assert_eq!((code.as_str(), head.contains_key("retry-after")), ("", false));
    let left: u32 = head.get("ratelimit-remaining").unwrap().to_str().unwrap().parse().unwrap();
    assert!(left < 10, "{left}");
    let refused = (0..20).map(|_| program.aap(&["auth", "whoami"])).find(|ran| ran.code != 0).unwrap();
    let problem = refused.refused(7, "gateway.rate_limited");
    assert_eq!(problem["retryable"], true);
    assert!(problem["retry_after_ms"].as_u64().is_some_and(|ms| ms <= 10_000), "{problem}");
    assert!(problem["hints"][0]["text"].as_str().unwrap().contains("try again in "), "{problem}");

    // What is written down of it: that it was, not each of them.
    let found =
        operator.aap_json(&["audit", "search", "--actor", "ana", "--outcome", "denied", "-o", "json"]);
    let limited = |record: &&Value| record["problem"] == "gateway.rate_limited";
    let records = found["items"].as_array().unwrap().iter().filter(limited).count();
    let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=most).contains(&records), "{records}");
    let counted = hub.coordinator_metric("aap_gateway_limited_total{by=\"principal\"}").unwrap();
    assert!(counted >= (100 - passed) as f64, "{counted}");
    eventually("a program that waited", || program.code_of("Access/WhoAmI").is_empty().then_some(()));
}

#[test]
fn whoever_is_nobody_is_counted_by_address_before_anything_is_looked_at() {
    let (hub, _daemon) = hub("{ limits: { per_address: 1/s burst 40, log_in: 1/h burst 3 } }");
    let operator = Desk::of_operator(&hub);
    let ana = operator.desk_of(&hub, "ana", &["viewer"]);
    operator.log_in("ana", PASSWORD).unwrap();
    assert_eq!(operator.log_in("nobody", PASSWORD).unwrap_err(), "auth.login_refused");
    assert_eq!(operator.log_in("ana", PASSWORD).unwrap_err(), "gateway.rate_limited", "the right one too");
    assert_eq!(calls(&ana, 1), 1, "who is in stays in");

    let stranger = Desk::at(&hub, "aaps_not-a-token");
    let codes: Vec<String> = (0..60).map(|_| stranger.code_of("Operator/Status")).collect();
    for code in ["auth.token_refused", "gateway.rate_limited"] {
        assert!(codes.contains(&code.to_owned()), "{codes:?}");
    }
    // What monitoring asks comes from an address, too.
    let http = Http::new(&hub.endpoint("operator").unwrap(), "none");
    let answers = (0..3).map(|_| http.get("/healthz").unwrap());
    let refused = answers.into_iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(refused.body["error"]["code"], "gateway.rate_limited");
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    eventually("an address that waited", || (http.get("/healthz").unwrap().status == 200).then_some(()));
}

#[test]
fn coordinators_that_share_a_server_count_together() {
    let test = "coordinators_that_share_a_server_count_together";
    let Some(redis) = Service::find("redis", "redis", "AAP_TEST_REDIS", test) else { return };
    // While the server is away, each counts for itself.
    let _quiet = Service::quiet();
    let node = redis.address.rsplit_once('@').map_or(redis.address.as_str(), |(_, node)| node);
    let gateway = format!(
        "{{ limits: {{ per_principal: 2/h burst 10 }}, redis: {{ url: 'redis://{node}', password: env:AAP_TEST_SECRET }} }}"
    );
    let user = format!("u{}", std::process::id());
    let (one, _first) = hub(&gateway);
    let (other, _second) = hub(&gateway);
    let at_one = Desk::of_operator(&one).desk_of(&one, &user, &["viewer"]);
    let at_other = Desk::of_operator(&other).desk_of(&other, &user, &["viewer"]);
    assert_eq!((calls(&at_one, 6), calls(&at_other, 20), calls(&at_one, 20)), (6, 4, 0));
    assert_eq!(one.coordinator_metric("aap_gateway_limits_shared"), Some(1.0));
}

#[test]
fn a_server_of_limits_that_is_away_stops_nobody() {
    let (hub, daemon) =
        hub("{ limits: { per_principal: 2/h burst 5 }, redis: { url: 'redis://127.0.0.1:1' } }");
    let operator = Desk::of_operator(&hub);
    let ana = operator.desk_of(&hub, "ana", &["viewer"]);
    let began = Instant::now();
    assert_eq!(calls(&ana, 20), 5, "what this coordinator counts holds");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(hub.coordinator_metric("aap_gateway_limits_shared"), Some(0.0));
    drop(daemon);
    let log = hub.log("coordinator");
    assert_eq!(log.matches("limits cannot be shared").count(), 1, "{log}");
}

/// A server behind a route: says how each request came.
struct Upstream {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(vec![])));
        let heads = seen.clone();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = vec![];
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    head.push(byte[0]);
                }
                heads.lock().unwrap().push(String::from_utf8(head).unwrap().to_lowercase());
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nup").ok();
            }
        });
        Self { port, seen }
    }

    /// The head of the last request.
    fn last(&self) -> String {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Declares the route `r` to it.
    fn declare(&self, hub: &Platform, access: &str) {
        let route = format!(
            "apiVersion: aap/v1\nkind: Route\nmetadata: {{ name: r }}\nspec:\n  match: {{ prefix: /r }}\n  {access}\n  \
             upstreams: {{ urls: ['http://127.0.0.1:{}'], allow: {{ loopback: true }} }}\n",
            self.port
        );
        hub.aap_with_input(&["apply", "-f", "-"], route.as_bytes()).ok();
    }
}

/// Status of the answer, and the answer, to a GET with these headers that comes from an address of this machine.
fn get(from: [u8; 4], to: u16, path: &str, headers: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(([127, 0, 0, 1], to).into()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    });
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

const HERE: [u8; 4] = [127, 0, 0, 1];
/// Where a proxy comes from in these tests.
const HOP: [u8; 4] = [127, 0, 0, 2];

#[test]
fn a_route_lets_through_who_may_and_records_who_may_not() {
    let port = free_port();
    let (hub, _daemon) = hub(&format!("{{ listen: '127.0.0.1:{port}' }}"));
    let upstream = Upstream::start();
    let operator = Desk::of_operator(&hub);
    let role = "apiVersion: aap/v1\nkind: Role\nmetadata: { name: of-models }\n\
                spec: { allow: [{ resources: [model], verbs: [operate], names: [m] }] }\n";
    hub.aap_with_input(&["apply", "-f", "-"], role.as_bytes()).ok();
    upstream.declare(&hub, "auth: { resource: model, verb: operate, name: m }");
    let token = |name: &str, role: &str| {
        let desk = operator.desk_of(&hub, name, &[role]);
        let request = v1::CreateApiTokenRequest::default();
        let made = desk.access(async |api| api.create_api_token(request).await).unwrap();
        (format!("authorization: Bearer {}\r\n", made.text), made.text)
    };
    let ((ana, secret), (ben, _)) = (token("ana", "of-models"), token("ben", "viewer"));
    let ask = |headers: &str| get(HERE, port, "/r/x", headers);

    let (status, answer) = ask("");
    assert_eq!(status, 401, "{answer}");
    assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
    assert_eq!(ask("authorization: Bearer aapt_nothing\r\n").0, 401);
    let (status, answer) = ask(&ben);
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("auth.denied"), "{answer}");
    assert_eq!(upstream.last(), "", "nothing came through");
    let (status, answer) = ask(&format!("{ana}x-forwarded-for: 6.6.6.6\r\nx-request-id: mine-1\r\n"));
    assert_eq!(status, 200, "{answer}");
    assert!(answer.ends_with("up") && answer.contains("x-request-id: mine-1"), "{answer}");
    let seen = upstream.last();
    assert!(seen.starts_with("get /r/x http/1.1") && seen.contains("x-request-id: mine-1"), "{seen}");
    assert!(
        seen.contains("x-forwarded-for: 127.0.0.1\r\n") && !seen.contains(&secret.to_lowercase()),
        "{seen}"
    );
    assert_eq!(get(HERE, port, "/other", &ana).0, 404);
    assert_eq!(get(HERE, port, "/r/../x", &ana).0, 400);

    let found =
        operator.aap_json(&["audit", "search", "--actor", "ben", "--outcome", "denied", "-o", "json"]);
    let record = &found["items"][0];
    let recorded = ["action", "object", "problem"].map(|field| record[field].as_str().unwrap_or_default());
    assert_eq!(recorded, ["route", "route/r", "auth.denied"], "{found}");
    let listed = hub.aap(&["get", "route", "-o", "json"]).ok().json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let without = "apiVersion: aap/v1\nkind: Route\nmetadata: { name: open }\n\
                   spec: { match: { prefix: /o }, upstreams: { urls: ['http://u'] } }\n";
    let refused = hub.aap_with_input(&["apply", "-f", "-", "-o", "json"], without.as_bytes());
    let problem = refused.refused(2, "config.invalid");
    assert!(problem["message"].as_str().unwrap().contains("does not say who may"), "{problem}");
    hub.aap(&["delete", "route", "r", "--yes"]).ok();
    assert_eq!(ask(&ana).0, 404);
}

#[test]
fn only_a_trusted_hop_says_who_a_request_is_from() {
    let port = free_port();
    let gateway = format!(
        "{{ listen: '127.0.0.1:{port}', trusted_hops: [127.0.0.2], limits: {{ per_address: 1/h burst 30 }} }}"
    );
    let (hub, _daemon) = hub(&gateway);
    let upstream = Upstream::start();
    upstream.declare(&hub, "public: true");
    let named = |from, forwarded: &str| {
        let (status, answer) = get(from, port, "/r", &format!("x-forwarded-for: {forwarded}\r\n"));
        assert_eq!(status, 200, "{answer}");
        let seen = upstream.last();
        let line = seen.lines().find_map(|line| line.strip_prefix("x-forwarded-for: "));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(named(HOP, "6.6.6.6, 10.9.9.9"), "10.9.9.9");
    assert_eq!(named(HERE, "10.9.9.9"), "127.0.0.1");
    // Limits count whom a hop names. Nobody gets another by naming others.
    let used_up = |from, forwarded: &str| {
        let header = format!("x-forwarded-for: {forwarded}\r\n");
        (0..40).any(|_| get(from, port, "/r", &header).0 == 429)
    };
    assert!(used_up(HOP, "10.1.1.1"));
    assert_eq!(get(HOP, port, "/r", "x-forwarded-for: 10.1.1.2\r\n").0, 200);
    assert_eq!(get(HOP, port, "/r", "x-forwarded-for: 10.1.1.1\r\n").0, 429);
    assert!(used_up([127, 0, 0, 5], "10.1.1.2"));
    assert_eq!(get([127, 0, 0, 5], port, "/r", "x-forwarded-for: 10.1.1.3\r\n").0, 429, "it is who it was");
    // What only this machine may see is not for whom a hop of this machine names.
    let operators = hub.endpoint("operator").unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(get(HOP, operators, "/metrics", "x-forwarded-for: 10.9.9.9\r\n").0, 401);
    assert_eq!(get(HOP, operators, "/metrics", "").0, 200);
}

#[test]
fn a_real_nginx_in_front_changes_nothing_but_the_way() {
    let test = "a_real_nginx_in_front_changes_nothing_but_the_way";
    if Service::find("nginx", "nginx", "AAP_TEST_NGINX", test).is_none() {
        return;
    }
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let (port, by_stream, by_http) = (ports[0], ports[1], ports[2]);
    let gateway =
        format!("{{ listen: '127.0.0.1:{port}', trusted_hops: [127.0.0.2], proxy_protocol: true }}");
    let (hub, _daemon) = hub(&gateway);
    let upstream = Upstream::start();
    upstream.declare(&hub, "public: true");
    let operators = hub.endpoint("operator").unwrap();
    let folder = hub.beside("nginx");
    std::fs::create_dir_all(&folder).unwrap();
    let at = folder.display();
    let conf = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off; master_process off; pid {at}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         stream {{\n  proxy_bind 127.0.0.2; proxy_protocol on;\n  \
         server {{ listen 127.0.0.1:{by_stream}; proxy_pass {operators}; }}\n  \
         server {{ listen 127.0.0.1:{by_http}; proxy_pass 127.0.0.1:{port}; }}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), conf).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = std::process::Command::new("nginx");
    let conf = folder.join("nginx.conf");
    command.args(["-c", conf.to_str().unwrap(), "-e", "stderr"]).stderr(log);
    let _nginx = Running::quietly(&mut command);
    eventually("an nginx that listens", || std::net::TcpStream::connect(("127.0.0.1", by_stream)).ok());

    let (status, answer) = get([127, 0, 0, 3], by_http, "/r", "x-forwarded-for: 6.6.6.6\r\n");
    assert_eq!(status, 200, "{answer}");
    assert!(upstream.last().contains("x-forwarded-for: 127.0.0.3\r\n"), "{}", upstream.last());
    assert_eq!(get(HERE, port, "/r", "").0, 200, "who is no proxy says nothing");
    assert_eq!(get(HOP, port, "/r", "").0, 0, "a proxy must");
    // Operators come with TLS from end to end, and are recorded as who they are.
    let run = hub.home().join("run/coordinator.json");
    let text = std::fs::read_to_string(&run).unwrap();
    let desk = Desk::of_operator(&hub);
    let through = text.replace(&operators, &format!("127.0.0.1:{by_stream}"));
    std::fs::write(&run, through).unwrap();
    let behind = Desk::of_operator(&hub);
    std::fs::write(&run, text).unwrap();
    assert_eq!(behind.log_in("nobody", PASSWORD).unwrap_err(), "auth.login_refused");
    let found =
        desk.aap_json(&["audit", "search", "--action", "auth login", "--outcome", "denied", "-o", "json"]);
    assert_eq!(found["items"][0]["from"], "127.0.0.1", "{found}");
}
