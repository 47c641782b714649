//! The types of sources there are: what each promises, in one place for status, validation and `aap source types`.

/// One type of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceType {
    /// As it is written behind `type:`.
    pub name: &'static str,
    /// What it takes, in a few words.
    pub summary: &'static str,
    /// `replayable`, `retried with a key`, or `unacknowledged`: whether it can be asked again for what was not stored.
    pub class: &'static str,
    /// What it promises, in the words of `aap status`.
    pub guarantee: &'static str,
    /// A `spec` that works.
    pub example: &'static str,
}

/// It can be read again from where its rows stand.
const REPLAYABLE: &str = "replayable";
/// Its clients repeat a request under the same key.
const KEYED: &str = "retried with a key";
/// It cannot be asked for anything twice, or only for what may then stand there twice.
const UNACKNOWLEDGED: &str = "unacknowledged";

/// Every type, in the order of the guide.
pub const SOURCE_TYPES: &[SourceType] = &[
    SourceType {
        name: "file",
        summary: "files that are followed",
        class: REPLAYABLE,
        guarantee: "exactly-once",
        example: "{ type: file, stream: logs, include: ['/var/log/*.log'] }",
    },
    SourceType {
        name: "journald",
        summary: "the journal of systemd, from its files",
        class: REPLAYABLE,
        guarantee: "exactly-once",
        example: "{ type: journald }",
    },
    SourceType {
        name: "http",
        summary: "requests with rows",
        class: KEYED,
        guarantee: "exactly-once with Idempotency-Key, else once from the answer on",
        example: "{ type: http, token_file: run/operator.token }",
    },
    SourceType {
        name: "otlp",
        summary: "logs, metrics and traces of OpenTelemetry, over gRPC and HTTP",
        class: UNACKNOWLEDGED,
        guarantee: "once from the answer on; what a client sends again without one may stand there twice",
        example: "{ type: otlp }",
    },
    SourceType {
        name: "prometheus_remote_write",
        summary: "what Prometheus writes to remote storage",
        class: UNACKNOWLEDGED,
        guarantee: "once from the answer on; what a client sends again without one may stand there twice",
        example: "{ type: prometheus_remote_write }",
    },
    SourceType {
        name: "prometheus_scrape",
        summary: "targets that show figures to Prometheus",
        class: UNACKNOWLEDGED,
        guarantee: "once from the moment it is durable",
        example: "{ type: prometheus_scrape, targets: ['http://127.0.0.1:9100/metrics'] }",
    },
    SourceType {
        name: "mqtt",
        summary: "messages of an MQTT broker, 3.1.1 and 5",
        class: UNACKNOWLEDGED,
        guarantee: "QoS 1 and 2: acknowledged when durable, after a kill some may stand there twice; QoS 0: once from the moment it is durable",
        example: "{ type: mqtt, server: 'mqtt://127.0.0.1:1883', topics: [{ filter: 'sensors/#', stream: sensors, format: json }] }",
    },
    SourceType {
        name: "exec",
        summary: "what a command prints, run again and again or for as long as it likes",
        class: UNACKNOWLEDGED,
        guarantee: "unacknowledged: once from the moment it is durable",
        example: "{ type: exec, stream: disks, command: ['/bin/df', '-P'], every: 1m }",
    },
    SourceType {
        name: "stdin",
        summary: "standard input of the agent",
        class: UNACKNOWLEDGED,
        guarantee: "unacknowledged: once from the moment it is durable",
        example: "{ type: stdin, stream: events, format: json }",
    },
    SourceType {
        name: "syslog",
        summary: "syslog over UDP and TCP",
        class: UNACKNOWLEDGED,
        guarantee: "unacknowledged: once from the moment it is durable",
        example: "{ type: syslog, udp: '127.0.0.1:5514', tcp: '127.0.0.1:5514' }",
    },
    SourceType {
        name: "host_metrics",
        summary: "figures of this machine",
        class: UNACKNOWLEDGED,
        guarantee: "once from the moment it is durable",
        example: "{ type: host_metrics, every: 10s }",
    },
];
