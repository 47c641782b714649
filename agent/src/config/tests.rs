//! A wrong configuration is refused with its file, its line, and what was probably meant.

use super::{ConfigError, SourceSpec, load_text};

fn check(text: &str) -> Result<super::Config, (usize, String, Option<String>)> {
    load_text(&[("agent.yaml".into(), text.to_owned())]).map_err(|error| match error {
        ConfigError::Document(error) => (error.line, error.message, error.hint),
        other => panic!("{other}"),
    })
}

const GOOD: &str = "\
apiVersion: aap/v1
kind: Agent
metadata: { name: web-01 }
spec:
  coordinator: { address: '127.0.0.1:7400' }
  buffer: { budget: 1GiB }
---
apiVersion: aap/v1
kind: Source
metadata:
  name: tail
spec:
  type: file
  stream: logs
  include: ['/var/log/*.log']
  multiline: { start: '^\\d' }
  ignore_older: 24h
---
apiVersion: aap/v1
kind: Source
metadata: { name: metrics }
spec: { type: host_metrics }
";

#[test]
fn a_whole_configuration_is_read() {
    let config = check(GOOD).unwrap();
    assert_eq!(config.node.unwrap().as_str(), "web-01");
    assert_eq!(config.agent.coordinator.unwrap().ca, "tls/root.pem");
    assert_eq!(config.sources.len(), 2);
    let SourceSpec::File(file) = &config.sources[0].spec else { panic!("{:?}", config.sources[0]) };
    assert_eq!(file.ignore_older.unwrap().0.as_secs(), 86_400);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    let (line, message, hint) = check(&GOOD.replace("include:", "inclde:")).unwrap_err();
    assert!(message.contains("unknown field `inclde`"), "{message}");
    assert!((12..=15).contains(&line), "{line}");
    assert_eq!(hint.unwrap(), "did you mean `include`?");
    let (line, _, hint) = check(&GOOD.replace("budget:", "bugdet:")).unwrap_err();
    assert!((4..=6).contains(&line), "{line}");
    assert_eq!(hint.unwrap(), "did you mean `budget`?");
}

#[test]
fn what_cannot_work_is_refused_at_its_line() {
    for (from, to, line, word) in [
        ("aap/v1\nkind: Agent", "aap/v2\nkind: Agent", 1, "apiVersion"),
        ("kind: Agent", "kind: Agnet", 2, "kind"),
        ("web-01", "Web 01", 3, "node name"),
        ("budget: 1GiB", "budget: 1MiB", 6, "budget"),
        ("type: file", "type: fil", 13, "source type"),
        ("stream: logs", "stream: ../logs", 14, "stream name"),
        ("'/var/log/*.log'", "'log'", 15, "absolute"),
        ("'^\\d'", "'('", 16, "regular expression"),
        ("24h", "24 fortnights", 17, "span of time"),
        ("name: metrics", "name: tail", 21, "second source"),
    ] {
        let (at, message, _) = check(&GOOD.replace(from, to)).unwrap_err();
        assert!(message.contains(word), "{to}: {message}");
        assert!(at.abs_diff(line) <= 3, "{to}: {message} at {at}, not {line}");
    }
}

#[test]
fn the_coordinators_of_a_cluster_are_addresses_instead_of_one() {
    let with = |coordinator: &str| check(&GOOD.replace("address: '127.0.0.1:7400'", coordinator));
    let all = |coordinator: &str| with(coordinator).unwrap().agent.coordinator.unwrap().all();
    assert_eq!(all("address: auto"), ["auto"]);
    assert_eq!(all("address: 'c.example.org:7400'"), ["c.example.org:7400"]);
    assert_eq!(all("addresses: ['a:7400', '[::1]:7400']"), ["a:7400", "[::1]:7400"]);
    assert_eq!(all("address: 'srv+_aap._tcp.example.org'"), ["srv+_aap._tcp.example.org"]);
    let many: Vec<String> = (0..33).map(|number| format!("'c{number}:7400'")).collect();
    for (coordinator, word) in [
        ("", "`address: HOST:PORT`"),
        ("addresses: []", "`address: HOST:PORT`"),
        ("address: auto, addresses: ['a:7400']", "either `address` or `addresses`"),
        ("address: 'c.example.org'", "`c.example.org` is not an address of the form HOST:PORT"),
        ("addresses: ['a:7400', 'b']", "`b` is not an address of the form HOST:PORT"),
        ("addresses: ['a:7400', auto]", "`auto` stands in `address` alone"),
        ("addresses: ['a:7400', 'a:7400']", "`a:7400` stands there twice"),
        ("address: 'srv+a..b'", "no name of DNS"),
        ("addresses: ['a:7400', 'consul+http://c:8500/aap?token=hunter2']", "over https"),
        (&format!("addresses: [{}]", many.join(", ")), "33 addresses are more than 32"),
    ] {
        let (line, message, _) = with(coordinator).unwrap_err();
        assert!(message.contains(word), "{coordinator}: {message}");
        assert_eq!(line, 5, "{coordinator}");
    }
}

#[test]
fn a_time_format_that_cannot_work_is_refused_by_its_path_and_line() {
    let source = |timestamp: &str| {
        format!(
            "apiVersion: aap/v1\nkind: Source\nmetadata: {{name: t}}\nspec:\n  type: file\n  stream: t\n  include: ['/t']\n  \
             format: json\n  timestamp:\n    column: at\n{timestamp}"
        )
    };
    for good in ["'%d.%m.%Y %H:%M:%S'", "'%Y-%m-%dT%H:%M:%S%.f%z'", "epoch_ms", "'%s'", "'%Y-%m-%d %I:%M %p'"]
    {
        let checked = check(&source(&format!("    format: {good}\n")));
        assert!(checked.is_ok(), "{good}: {checked:?}");
    }
    for (bad, word) in [
        ("'%d.%m.%Y %J'", "%J"),
        ("'%H:%M:%S'", "no whole date"),
        ("'%b %d %H:%M:%S'", "no whole date"),
        ("'%Y-%m-%d %'", "pattern of times"),
        ("soon", "not a time format"),
    ] {
        let (line, message, _) = check(&source(&format!("    format: {bad}\n"))).unwrap_err();
        assert!(message.contains("`spec.timestamp.format`") && message.contains(word), "{bad}: {message}");
        assert_eq!(line, 11, "{bad}");
    }
    let (line, message, _) = check(&source("    zone: Mars/Olympus\n")).unwrap_err();
    assert!(message.contains("`spec.timestamp.zone`"), "{message}");
    assert_eq!(line, 11);
}

#[test]
fn listeners_without_tls_stay_on_loopback() {
    let http = "apiVersion: aap/v1\nkind: Source\nmetadata: {name: h}\nspec: {type: http, listen: '0.0.0.0:7410', token_file: t}\n";
    assert!(check(http).unwrap_err().1.contains("loopback"));
    let syslog =
        "apiVersion: aap/v1\nkind: Source\nmetadata: {name: s}\nspec: {type: syslog, udp: '0.0.0.0:5514'}\n";
    assert!(check(syslog).unwrap_err().1.contains("allow_remote"));
    assert!(check(&syslog.replace("5514'", "5514', allow_remote: true")).is_ok());
}

#[test]
fn a_syslog_source_has_a_sound_limit_and_a_known_zone() {
    let syslog = "apiVersion: aap/v1\nkind: Source\nmetadata: {name: s}\nspec: {type: syslog, udp: '127.0.0.1:5514'}\n";
    let with = |more: &str| check(&syslog.replace("5514'", &format!("5514', {more}")));
    assert!(with("message_bytes_max: 10").unwrap_err().1.contains("1KiB"));
    assert!(with("message_bytes_max: 1GiB").unwrap_err().1.contains("8MiB"));
    assert!(with("zone: Mars/Olympus").unwrap_err().1.contains("time zone"));
    let config = with("message_bytes_max: 8MiB, zone: Europe/Berlin").unwrap();
    let SourceSpec::Syslog(spec) = &config.sources[0].spec else { panic!("{config:?}") };
    assert_eq!(spec.timestamp().unwrap().zone.unwrap(), "Europe/Berlin");
}

#[test]
fn keys_are_kept_no_longer_than_the_buffer_keeps_them() {
    let http = "apiVersion: aap/v1\nkind: Source\nmetadata: {name: h}\nspec: {type: http, token_file: t, keep_keys: 24h}\n";
    assert!(check(http).is_ok());
    for (period, line) in [("25h", 4), ("0s", 4)] {
        let (at, message, _) = check(&http.replace("24h", period)).unwrap_err();
        assert!(message.contains("24h"), "{message}");
        assert_eq!(at, line);
    }
}

#[test]
fn what_an_agent_has_once_is_configured_once() {
    for spec in ["{type: http, token_file: t}", "{type: stdin, stream: s}"] {
        let one = |name: &str| {
            format!("apiVersion: aap/v1\nkind: Source\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
        };
        assert!(check(&one("a")).is_ok());
        let (line, message, hint) = check(&(one("a") + &one("b"))).unwrap_err();
        assert!(message.contains("a second source of type"), "{message}");
        assert_eq!((line, hint.is_some()), (9, true));
    }
}

#[test]
fn sources_that_anyone_could_reach_need_tls_and_somebody_to_trust() {
    let of = |spec: &str| {
        let text = format!("apiVersion: aap/v1\nkind: Source\nmetadata: {{name: s}}\nspec: {{{spec}}}\n");
        check(&text).map_err(|(_, message, _)| message)
    };
    let tls = "tls: {certificate: c.pem, key: k.pem}";
    for kind in ["type: otlp, grpc: '0.0.0.0:4317'", "type: prometheus_remote_write, listen: '0.0.0.0:7411'"]
    {
        assert!(of(kind).unwrap_err().contains("`tls:`"), "{kind}");
        assert!(of(&format!("{kind}, token_file: t")).unwrap_err().contains("`tls:`"), "{kind}");
        assert!(of(&format!("{kind}, {tls}")).unwrap_err().contains("token_file"), "{kind}");
        assert!(of(&format!("{kind}, {tls}, token_file: t")).is_ok(), "{kind}");
        let mutual = format!("{kind}, {}", tls.replace("k.pem", "k.pem, client_ca: ca.pem"));
        assert!(of(&mutual).is_ok(), "{kind}");
    }
    for (spec, word) in [
        ("kafka: {topics: [t]}", "coordinator"),
        ("stream: s", "`type`"),
        ("type: exec, stream: s, command: []", "program"),
        ("type: exec, stream: s, command: [ls]", "absolute path"),
        ("type: exec, stream: s, command: ['/bin/ls'], every: 10ms", "once a second"),
        ("type: exec, stream: s, command: ['/bin/ls'], timeout: 1s", "without `every`"),
        ("type: exec, stream: s, command: ['/bin/ls'], format: csv", "CSV"),
        ("type: prometheus_scrape, targets: []", "targets"),
        ("type: prometheus_scrape, targets: ['localhost:9100']", "URL"),
        ("type: prometheus_scrape, targets: ['http://example.org/m'], token_file: t", "https"),
        ("type: prometheus_scrape, targets: ['http://h/m'], every: 5s, timeout: 6s", "`every`"),
        ("type: mqtt, server: 'http://h', topics: [{filter: a, stream: s}]", "mqtt://"),
        ("type: mqtt, server: 'mqtt://h', topics: []", "topics"),
        ("type: mqtt, server: 'mqtt://h', topics: [{filter: 'a/#/b', stream: s}]", "filter"),
        ("type: mqtt, server: 'mqtt://h', topics: [{filter: a, stream: s, qos: 3}]", "quality"),
        ("type: mqtt, server: 'mqtt://h', version: 4, topics: [{filter: a, stream: s}]", "3.1.1 or 5"),
        (
            "type: mqtt, server: 'mqtt://h', user: u, password_file: p, topics: [{filter: a, stream: s}]",
            "mqtts",
        ),
        ("type: otlp, body_bytes_max: 64MiB", "32MiB"),
        ("type: otlp, connections_per_address: 0", "1 to 512"),
        ("type: prometheus_remote_write, connections_per_address: 513", "1 to 512"),
    ] {
        let message = of(spec).unwrap_err();
        assert!(message.contains(word), "{spec}: {message}");
    }
    for known in super::SOURCE_TYPES {
        let spec = known.example.trim_start_matches('{').trim_end_matches('}');
        let config = of(spec).unwrap_or_else(|message| panic!("{}: {message}", known.name));
        assert_eq!(config.sources[0].spec.type_name(), known.name);
        assert!(!config.sources[0].spec.guarantee().is_empty());
    }
}
