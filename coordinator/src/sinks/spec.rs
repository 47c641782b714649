//! The document of kind Sink, and the driver that it names.
//!
//! ```yaml
//! spec:
//!   streams: [events, 'web.*']   # names or globs, also those that appear later
//!   where: status >= 500         # optional: filter.rs
//!   start: earliest              # or now, or a time such as 2026-11-26T10:00:00Z
//!   postgres: { url: 'postgres://aap@db/aap', password: env:PGPASSWORD, table: public.events, create: true }
//! ```

use std::sync::Arc;

use aap_runtime::SecretRef;
use aap_runtime::documents::{Document, DocumentError};
use aap_sinks::{Ledger, Sink, Target};
use aap_types::{ExitCode, Problem};
use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use super::filter::Filter;
use super::stdout::{StdoutSink, StdoutSpec};

/// Where a new sink begins with the streams that are there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// With everything that the platform still has.
    #[default]
    Earliest,
    /// With what lands after its creation.
    Now,
    /// With rows whose `ts` is not before this, in microseconds since 1970.
    At(i64),
}

/// The section `spec`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkSpec {
    /// Names or globs. `*` stands for letters without a dot boundary too; streams of dead letters only where their name is
    /// written out to `.dead`.
    pub(crate) streams: Vec<String>,
    #[serde(default, deserialize_with = "start")]
    pub(crate) start: Start,
    /// Which rows it takes. Default: all.
    #[serde(default, rename = "where")]
    filter: Option<String>,
    #[serde(default)]
    kafka: Option<aap_kafka::KafkaSpec>,
    #[serde(default)]
    postgres: Option<aap_postgres::PostgresSpec>,
    #[serde(default)]
    cassandra: Option<aap_cassandra::CassandraSpec>,
    #[serde(default)]
    s3: Option<aap_lake::S3Spec>,
    #[serde(default)]
    elasticsearch: Option<aap_http::ElasticsearchSpec>,
    #[serde(default)]
    http: Option<aap_http::HttpSpec>,
    #[serde(default)]
    redis: Option<aap_redis::RedisSpec>,
    #[serde(default)]
    mongodb: Option<aap_mongodb::MongoDbSpec>,
    #[serde(default)]
    stdout: Option<StdoutSpec>,
}

fn start<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Start, D::Error> {
    let text = String::deserialize(from)?;
    match text.as_str() {
        "earliest" => Ok(Start::Earliest),
        "now" => Ok(Start::Now),
        time => time.parse::<jiff::Timestamp>().map(|at| Start::At(at.as_microsecond())).map_err(|_| {
            serde::de::Error::custom(format!(
                "`{time}` is no start: write earliest, now, or a time such as 2026-11-26T10:00:00Z"
            ))
        }),
    }
}

/// What the document chose.
enum Driver<'a> {
    Kafka(&'a aap_kafka::KafkaSpec),
    Postgres(&'a aap_postgres::PostgresSpec),
    Cassandra(&'a aap_cassandra::CassandraSpec),
    S3(&'a aap_lake::S3Spec),
    Elasticsearch(&'a aap_http::ElasticsearchSpec),
    Http(&'a aap_http::HttpSpec),
    Redis(&'a aap_redis::RedisSpec),
    MongoDb(&'a aap_mongodb::MongoDbSpec),
    Stdout,
}

impl SinkSpec {
    /// Reads and checks the section.
    pub(crate) fn read(document: &Document) -> Result<Self, DocumentError> {
        let spec: Self = document.spec()?;
        if spec.streams.is_empty() {
            let message = "a sink needs at least one stream".to_owned();
            return Err(document.error("streams", message, Some("`streams: ['*']` takes all".to_owned())));
        }
        globs(&spec.streams).map_err(|message| document.error("streams", message, None))?;
        if let Some(filter) = &spec.filter {
            filter.parse::<Filter>().map_err(|message| document.error("where", message, None))?;
        }
        let chosen = spec.drivers();
        match chosen.as_slice() {
            [one] => one.check().map_err(|message| document.error(one.name(), message, None))?,
            [] => {
                let message = "the sink names no place to write to".to_owned();
                let hint = format!("add one of {}", DRIVERS.map(|name| format!("`{name}:`")).join(", "));
                return Err(document.error("spec", message, Some(hint)));
            }
            [_, second, ..] => {
                let message = "a sink writes to one place".to_owned();
                let hint = Some("make a sink for each place".to_owned());
                return Err(document.error(second.name(), message, hint));
            }
        }
        Ok(spec)
    }

    fn drivers(&self) -> Vec<Driver<'_>> {
        let kafka = self.kafka.iter().map(Driver::Kafka);
        let postgres = self.postgres.iter().map(Driver::Postgres);
        kafka
            .chain(postgres)
            .chain(self.cassandra.iter().map(Driver::Cassandra))
            .chain(self.s3.iter().map(Driver::S3))
            .chain(self.elasticsearch.iter().map(Driver::Elasticsearch))
            .chain(self.http.iter().map(Driver::Http))
            .chain(self.redis.iter().map(Driver::Redis))
            .chain(self.mongodb.iter().map(Driver::MongoDb))
            .chain(self.stdout.iter().map(|_nothing_to_say| Driver::Stdout))
            .collect()
    }

    fn driver(&self) -> Driver<'_> {
        self.drivers().into_iter().next().expect("a spec that was read has one")
    }

    /// `kafka`, `postgres` and so on.
    pub(crate) fn driver_name(&self) -> &'static str {
        self.driver().name()
    }

    /// Where it writes, without secrets.
    pub(crate) fn place(&self) -> String {
        match self.driver() {
            Driver::Kafka(spec) => format!("{} topic {}", spec.brokers.join(","), spec.topic),
            Driver::Cassandra(spec) => spec.place(),
            Driver::S3(spec) => spec.place(),
            Driver::Elasticsearch(spec) => spec.place(),
            Driver::Http(spec) => spec.place(),
            Driver::Redis(spec) => spec.place(),
            Driver::MongoDb(spec) => spec.place(),
            Driver::Stdout => "the coordinator's standard output".to_owned(),
            Driver::Postgres(spec) => format!("{} table {}", spec.url, spec.table),
        }
    }

    /// An instance that has not connected yet. `ledger` is for those whose server keeps none.
    pub(crate) fn build(&self, target: Target, ledger: Arc<dyn Ledger>) -> Box<dyn Sink> {
        match self.driver() {
            Driver::Kafka(spec) => Box::new(aap_kafka::KafkaSink::new(target, spec.clone())),
            Driver::Cassandra(spec) => Box::new(aap_cassandra::CassandraSink::new(target, spec.clone())),
            Driver::Postgres(spec) => Box::new(aap_postgres::PostgresSink::new(target, spec.clone())),
            Driver::S3(spec) => Box::new(aap_lake::S3Sink::new(target, spec.clone())),
            Driver::Elasticsearch(spec) => Box::new(aap_http::ElasticsearchSink::new(target, spec.clone())),
            Driver::Http(spec) => Box::new(aap_http::HttpSink::new(target, spec.clone(), ledger)),
            Driver::Redis(spec) => Box::new(aap_redis::RedisSink::new(target, spec.clone())),
            Driver::MongoDb(spec) => Box::new(aap_mongodb::MongoDbSink::new(target, spec.clone())),
            Driver::Stdout => Box::new(StdoutSink::new(ledger)),
        }
    }

    /// Every secret that it refers to.
    pub(crate) fn secrets(&self) -> Vec<SecretRef> {
        match self.driver() {
            Driver::Kafka(spec) => spec.secrets(),
            Driver::Postgres(spec) => spec.secrets(),
            Driver::Cassandra(spec) => spec.secrets(),
            Driver::S3(spec) => spec.secrets(),
            Driver::Elasticsearch(spec) => spec.secrets(),
            Driver::Http(spec) => spec.secrets(),
            Driver::Redis(spec) => spec.secrets(),
            Driver::MongoDb(spec) => spec.secrets(),
            Driver::Stdout => vec![],
        }
    }

    /// The rows it takes.
    pub(crate) fn filter(&self) -> Option<Filter> {
        self.filter.as_deref().and_then(|filter| filter.parse().ok())
    }

    /// The streams it takes.
    pub(crate) fn streams(&self) -> Result<Streams, Problem> {
        let (dead, live): (Vec<_>, Vec<_>) =
            self.streams.iter().cloned().partition(|pattern| pattern.ends_with(".dead"));
        let set = |patterns: &[String]| {
            globs(patterns).map_err(|message| Problem::new("sink.setting", ExitCode::Usage, message))
        };
        Ok(Streams { live: set(&live)?, dead: set(&dead)? })
    }
}

/// The sections that name a place.
const DRIVERS: [&str; 9] =
    ["kafka", "postgres", "cassandra", "s3", "elasticsearch", "http", "redis", "mongodb", "stdout"];

impl Driver<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Postgres(_) => "postgres",
            Self::Cassandra(_) => "cassandra",
            Self::S3(_) => "s3",
            Self::Elasticsearch(_) => "elasticsearch",
            Self::Http(_) => "http",
            Self::Redis(_) => "redis",
            Self::MongoDb(_) => "mongodb",
            Self::Stdout => "stdout",
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Kafka(spec) => spec.validate().map_err(|error| error.to_string()),
            Self::Cassandra(spec) => spec.check(),
            Self::S3(spec) => spec.check(),
            Self::Elasticsearch(spec) => spec.check(),
            Self::Http(spec) => spec.check(),
            Self::Redis(spec) => spec.check(),
            Self::MongoDb(spec) => spec.check(),
            Self::Stdout => Ok(()),
            Self::Postgres(spec) => spec.validate().map_err(|problem| full(&problem)),
        }
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|error| format!("`{pattern}` is not a glob: {}", error.kind()))?);
    }
    set.build().map_err(|error| error.to_string())
}

/// Which streams a sink takes.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    live: GlobSet,
    /// Of dead letters only those whose pattern says so.
    dead: GlobSet,
}

impl Streams {
    /// Whether it takes this one.
    pub(crate) fn take(&self, stream: &aap_types::StreamName) -> bool {
        let name = stream.as_str();
        let globs = if name.ends_with(".dead") { &self.dead } else { &self.live };
        globs.is_match(name)
    }
}

/// A problem on one line.
fn full(problem: &Problem) -> String {
    std::iter::once(&problem.message).chain(&problem.causes).cloned().collect::<Vec<_>>().join(": ")
}
