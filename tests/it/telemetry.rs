//! Telemetry of real clients: the SDK of OpenTelemetry, Prometheus, and an MQTT broker, with the agent killed meanwhile.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use aap_tests::{Platform, Running, Service, eventually, free_port, source, wait_until};
use serde_json::{Value, json};

/// Prometheus and the SDK wait up to half a minute before they try again.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for a condition, or the test fails.
#[track_caller]
fn settles(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait_until(PATIENCE, condition), "not within {} s: {what}", PATIENCE.as_secs());
}

/// The count that a statement gives; zero while its stream is not there.
fn count(platform: &Platform, sql: &str) -> u64 {
    let ran = platform.aap(&["query", "--wait-for-ingest", "-o", "ndjson", sql]);
    let row: Value =
        ran.out.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    row.as_object().and_then(|row| row.values().next()?.as_u64()).unwrap_or(0)
}

fn is_open(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Sends of every signal what an application would: `sdk.py PROTOCOL ENDPOINT RECORDS`.
const SDK: &str = include_str!("telemetry/sdk.py");

/// Runs the SDK; it ends well only if everything was taken.
#[track_caller]
fn run_sdk(service: &Service, protocol: &str, endpoint: &str, records: u32) -> Running {
    let mut command = Command::new(&service.address);
    command.args(["-c", SDK, protocol, endpoint, &records.to_string()]);
    Running::of(&mut command)
}

#[test]
fn the_sdk_of_opentelemetry_delivers_every_signal_over_both_protocols() {
    let test = "the_sdk_of_opentelemetry_delivers_every_signal_over_both_protocols";
    let Some(service) = Service::find("opentelemetry", "", "AAP_TEST_OPENTELEMETRY", test) else { return };
    let platform = Platform::new();
    let (grpc, http) = (free_port(), free_port());
    let spec = format!("type: otlp, grpc: '127.0.0.1:{grpc}', http: '127.0.0.1:{http}'");
    platform.configure("otlp", &source("otlp", &spec));
    platform.up(&[]).ok();
    settles("the agent listens", || is_open(grpc) && is_open(http));
    for (protocol, port) in [("grpc", grpc), ("http", http)] {
        run_sdk(&service, protocol, &format!("http://127.0.0.1:{port}"), 10).end().ok();
        let logs = format!("select count(*) from \"otlp.logs\" where service_name = 'shop-{protocol}'");
        settles("the log records are there", || count(&platform, &logs) == 10);
        let of = |columns: &str, stream: &str, which: &str| {
            let sql = format!(
                "select {columns} from \"otlp.{stream}\" where service_name = 'shop-{protocol}' and {which} order by ts limit 1"
            );
            platform.rows(&sql)[0].clone()
        };
        let log =
            of("severity, severity_text, body, length(trace_id) t, attributes", "logs", "body like '%0'");
        assert_eq!(
            (&log["severity"], &log["severity_text"], &log["body"], &log["t"]),
            (&json!("WARN"), &json!("WARN"), &json!("record 0"), &json!(32)),
            "{log}"
        );
        let attributes: Value = serde_json::from_str(log["attributes"].as_str().unwrap()).unwrap();
        assert_eq!(attributes["order"], 0, "{attributes}");
        let span = of(
            "name, kind, status, status_message, duration_ns, attributes, events, links, resource, scope_name",
            "traces",
            "name = 'pay'",
        );
        assert_eq!((&span["kind"], &span["status"]), (&json!("client"), &json!("error")), "{span}");
        assert_eq!(span["status_message"], "declined");
        assert!(span["duration_ns"].as_i64().unwrap() > 0, "{span}");
        let inner = |name: &str| serde_json::from_str::<Value>(span[name].as_str().unwrap()).unwrap();
        assert_eq!(inner("events")[0]["name"], "retry", "{span}");
        assert_eq!(inner("links").as_array().unwrap().len(), 1, "{span}");
        assert_eq!(inner("attributes"), json!({"amount": 12.5, "items": ["a", "b"]}));
        assert_eq!(inner("resource")["deployment.environment"], "test");
        assert_eq!(span["scope_name"], "shop");
        let children = format!(
            "select count(*) from \"otlp.traces\" c join \"otlp.traces\" p on c.parent_span_id = p.span_id and c.trace_id = p.trace_id \
             where p.name = 'order' and c.service_name = 'shop-{protocol}'"
        );
        assert_eq!(platform.count(&children), 1);
        let orders =
            of("value, value_int, unit, type, temporality, is_monotonic", "metrics", "metric = 'orders'");
        let expected = json!({"value": 10.0, "value_int": 10, "unit": "1", "type": "sum", "temporality": "cumulative",
            "is_monotonic": true});
        assert_eq!(orders, expected);
        let latency =
            of("type, count, sum, min, max, bucket_counts, bounds", "metrics", "metric = 'latency'");
        assert_eq!((&latency["type"], &latency["count"]), (&json!("histogram"), &json!(10)), "{latency}");
        assert_eq!((&latency["min"], &latency["max"]), (&json!(0.0), &json!(9.0)), "{latency}");
        assert!(latency["bounds"].as_str().unwrap().starts_with("[0.0,5.0,"), "{latency}");
    }
    assert!(platform.panics().is_empty());
}

#[test]
fn what_the_sdk_was_told_is_taken_is_there_after_kills() {
    const RECORDS: u32 = 4_000;
    let test = "what_the_sdk_was_told_is_taken_is_there_after_kills";
    let Some(service) = Service::find("opentelemetry", "", "AAP_TEST_OPENTELEMETRY", test) else { return };
    let platform = Platform::new();
    let grpc = free_port();
    platform.configure("otlp", &source("otlp", &format!("type: otlp, grpc: '127.0.0.1:{grpc}'")));
    platform.up(&[]).ok();
    settles("the agent listens", || is_open(grpc));
    let sending = run_sdk(&service, "grpc", &format!("http://127.0.0.1:{grpc}"), RECORDS);
    for kill in 1..=3 {
        let some = format!("select count(*) >= {} as enough from \"otlp.logs\"", kill * 500);
        settles("records come", || {
            platform.aap(&["query", "--wait-for-ingest", "-o", "ndjson", &some]).out.contains("true")
        });
        platform.kill_and_wait("agent");
    }
    sending.end().ok();
    // The exporter repeats what it had no answer to: each record is there, some perhaps twice.
    let distinct = "select count(distinct body) from \"otlp.logs\"";
    settles("each record is there", || count(&platform, distinct) == u64::from(RECORDS));
}

/// A Prometheus that scrapes itself every second and writes to `url`. Ends with the value.
fn prometheus(program: &str, folder: &std::path::Path, port: u16, url: &str) -> Running {
    fs::create_dir_all(folder).unwrap();
    let config = folder.join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: self, static_configs: [{{ targets: ['127.0.0.1:{port}'] }}] }}]\n\
         remote_write: [{{ url: '{url}', queue_config: {{ max_backoff: 1s, batch_send_deadline: 1s }} }}]\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stderr(Stdio::null());
    Running::quietly(&mut command)
}

#[test]
fn prometheus_writes_without_a_gap_through_kills_and_is_scraped() {
    let test = "prometheus_writes_without_a_gap_through_kills_and_is_scraped";
    let Some(service) = Service::find("prometheus", "", "AAP_TEST_PROMETHEUS", test) else { return };
    let platform = Platform::new();
    let (write, web) = (free_port(), free_port());
    platform.configure(
        "write",
        &source("write", &format!("type: prometheus_remote_write, listen: '127.0.0.1:{write}'")),
    );
    let scrape =
        format!("type: prometheus_scrape, stream: scraped, every: 1s, targets: ['http://127.0.0.1:{web}']");
    platform.configure("scrape", &source("scrape", &scrape));
    platform.up(&[]).ok();
    let url = format!("http://127.0.0.1:{write}/api/v1/write");
    let _prometheus = prometheus(&service.address, &platform.beside("prometheus"), web, &url);
    let ups = "select count(distinct ts) from prometheus where metric = 'up' and job = 'self' and value = 1";
    settles("samples come", || count(&platform, ups) >= 3);
    platform.kill_and_wait("agent");
    let before = count(&platform, ups);
    settles("samples come again", || count(&platform, ups) >= before + 5);
    // Prometheus keeps what was not taken, and sends it when the agent is back.
    let gap = platform.value(
        "select max(gap) from (select epoch_ms(ts) - lag(epoch_ms(ts)) over (order by ts) as gap from \
         (select distinct ts from prometheus where metric = 'up' and job = 'self'))",
    );
    assert!(gap.as_f64().unwrap() < 1_900.0, "a scrape is missing: {gap} ms between two");
    let metrics = count(&platform, "select count(distinct metric) from prometheus");
    assert!(metrics > 100, "{metrics}");
    let info = "select attributes from scraped where metric = 'prometheus_build_info' limit 1";
    settles("the scrape of ours is there", || !platform.rows(info).is_empty());
    let labels: Value = serde_json::from_str(platform.rows(info)[0]["attributes"].as_str().unwrap()).unwrap();
    assert_eq!((&labels["job"], labels["version"].is_string()), (&json!("scrape"), true), "{labels}");
    let typed =
        "select count(*) from scraped where metric = 'prometheus_http_requests_total' and type = 'counter'";
    assert!(count(&platform, typed) > 0);
    // Both say the same of one figure: ours under the type that the target states.
    assert!(count(&platform, "select count(*) from scraped where metric = 'up' and value = 1") > 0);
    assert!(platform.panics().is_empty());
}

/// `mqtt://user:password@host:port` in its parts.
struct Broker {
    host: String,
    port: String,
}

impl Broker {
    fn find(test: &str) -> Option<Self> {
        let service = Service::find("mosquitto", "mosquitto", "AAP_TEST_MQTT", test)?;
        let (_, place) = service.address.rsplit_once('@').unwrap();
        let (host, port) = place.split_once(':').unwrap();
        Some(Self { host: host.to_owned(), port: port.to_owned() })
    }

    /// Publishes each text as a message.
    fn publish(&self, topic: &str, qos: u8, messages: impl Iterator<Item = String>) {
        let mut child = Command::new("mosquitto_pub")
            .args(["-h", &self.host, "-p", &self.port, "-u", "aap", "-P", "aap", "-t", topic])
            .args(["-q", &qos.to_string(), "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        messages.for_each(|message| writeln!(input, "{message}").unwrap());
        drop(input);
        assert!(child.wait().unwrap().success());
    }
}

/// A file of the home that only its owner reads.
fn secret(platform: &Platform, name: &str, text: &str) {
    let path = platform.home().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn every_message_of_a_broker_is_there_after_kills_in_both_versions() {
    let test = "every_message_of_a_broker_is_there_after_kills_in_both_versions";
    let Some(broker) = Broker::find(test) else { return };
    let platform = Platform::new();
    secret(&platform, "mqtt.password", "aap\n");
    let prefix = format!("test-{}", std::process::id());
    for (name, version) in [("three", "3.1.1"), ("five", "5")] {
        let spec = format!(
            "type: mqtt, server: 'mqtt://{}:{}', version: {version}, client_id: {prefix}-{name}, user: aap, password_file: mqtt.password, \
             topics: [{{ filter: '{prefix}/{name}/+', stream: {name}, qos: 2, format: json }}]",
            broker.host, broker.port
        );
        platform.configure(name, &source(name, &spec));
    }
    platform.up(&[]).ok();
    let connected = || {
        let status = platform.aap(&["status", "-o", "json"]).out;
        status.matches("connected to mqtt").count() >= 2
    };
    settles("both sources are connected", connected);
    for (round, qos) in [1, 2, 1].into_iter().enumerate() {
        let first = round as u64 * 1_000;
        std::thread::scope(|scope| {
            for name in ["three", "five"] {
                let (broker, prefix) = (&broker, &prefix);
                let messages = (first..first + 1_000).map(|id| format!("{{\"id\":{id}}}"));
                scope.spawn(move || broker.publish(&format!("{prefix}/{name}/{round}"), qos, messages));
            }
            // In the midst of them.
            settles("messages come", || {
                count(&platform, &format!("select count(*) from five where id >= {first}")) > 0
            });
            platform.kill_and_wait("agent");
        });
    }
    for name in ["three", "five"] {
        let distinct = format!("select count(distinct id) from {name}");
        settles("each message is there", || count(&platform, &distinct) == 3_000);
        let topics = platform.count(&format!("select count(distinct resource) from {name}"));
        assert_eq!(topics, 3, "the topic stands beside");
    }
    assert!(platform.panics().is_empty());
}

#[test]
fn a_broker_is_reached_over_tls_and_what_does_not_work_is_named() {
    let test = "a_broker_is_reached_over_tls_and_what_does_not_work_is_named";
    let Some(broker) = Broker::find(test) else { return };
    let address = std::env::var("AAP_TEST_MQTT_TLS").unwrap();
    let address = address.rsplit_once('@').unwrap().1.to_owned();
    let authority = std::env::var("AAP_TEST_MQTT_CA").unwrap();
    let platform = Platform::new();
    secret(&platform, "good.password", "aap");
    secret(&platform, "bad.password", "wrong");
    let topic = format!("tls-{}", std::process::id());
    let with = |password: &str, ca: &str| {
        source(
            "tls",
            &format!(
                "type: mqtt, server: 'mqtts://{address}', client_id: {topic}, user: aap, password_file: {password}.password, {ca} \
                 topics: [{{ filter: '{topic}', stream: tls }}]"
            ),
        )
    };
    let file = platform.beside("tls.yaml");
    let test_it = |document: &str| {
        fs::write(&file, document).unwrap();
        platform.aap(&["source", "test", file.to_str().unwrap(), "--timeout", "4s", "-o", "json"])
    };
    let ca = format!("ca: '{authority}',");
    let refused = test_it(&with("bad", &ca)).refused(11, "agent.source_cannot_run");
    assert!(refused["causes"].to_string().contains("refuses the login"), "{refused}");
    let refused = test_it(&with("good", "")).refused(11, "agent.source_cannot_run");
    assert!(refused["causes"].to_string().contains("shake hands"), "{refused}");
    platform.configure("tls", &with("good", &ca));
    platform.up(&[]).ok();
    eventually("a connection", || {
        platform.aap(&["status", "-o", "json"]).out.contains("connected to mqtts").then_some(())
    });
    broker.publish(&topic, 1, ["over TLS".to_owned()].into_iter());
    settles("the message is there", || {
        count(&platform, "select count(*) from tls where body = 'over TLS'") == 1
    });
    let topics = platform.rows("select topic, qos, retained from tls");
    assert_eq!(topics[0], json!({ "topic": topic, "qos": 1, "retained": false }));
}

#[test]
fn sources_are_listed_and_tried_out_without_storing_anything() {
    let platform = Platform::new();
    let types = platform.aap(&["source", "types", "-o", "json"]).ok().json();
    let types = types["items"].as_array().unwrap().clone();
    for name in ["file", "otlp", "exec", "mqtt", "prometheus_scrape"] {
        let known = types.iter().find(|known| known["type"] == name).unwrap();
        assert!(
            ["class", "guarantee", "example"].iter().all(|key| !known[*key].as_str().unwrap().is_empty())
        );
        // An example is a section that is valid.
        let path = platform.beside("example.yaml");
        let spec = known["example"].as_str().unwrap().trim_matches(['{', '}', ' ']);
        fs::write(&path, source("example", spec)).unwrap();
        Ran::validate(&platform, &path);
    }
    let file = platform.beside("who.yaml");
    let good = source("who", "type: exec, stream: who, command: ['/bin/echo', 'hello there'], every: 1m");
    fs::write(&file, &good).unwrap();
    let shown = platform.aap(&["source", "test", file.to_str().unwrap(), "-o", "json"]).ok().json();
    assert_eq!(shown["items"][0]["state"], "rows", "{shown}");
    assert_eq!(shown["items"][0]["rows"][0]["body"], "hello there", "{shown}");
    assert!(!platform.home().join("agent").exists(), "nothing is stored");
    fs::write(&file, good.replace("every:", "evry:")).unwrap();
    let refused =
        platform.aap(&["source", "test", file.to_str().unwrap(), "-o", "json"]).refused(2, "config.invalid");
    assert!(refused["message"].as_str().unwrap().contains("who.yaml:"), "{refused}");
    assert!(refused["hints"].to_string().contains("did you mean `every`?"), "{refused}");
    fs::write(&file, good.replace("/bin/echo", "/no/such/program")).unwrap();
    let refused = platform
        .aap(&["source", "test", file.to_str().unwrap(), "-o", "json"])
        .refused(11, "agent.source_cannot_run");
    assert!(refused["causes"].to_string().contains("/no/such/program"), "{refused}");
}

/// What the agent says of a file by itself.
struct Ran;

impl Ran {
    #[track_caller]
    fn validate(platform: &Platform, path: &std::path::Path) {
        let output = platform.command("aap-agent").arg("validate").arg(path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
