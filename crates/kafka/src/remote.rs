//! Topics as tables of a query.
//!
//! A scan reads each partition from where its conditions begin to where the topic ended when it began, as a reader of committed
//! records; it joins no group and commits nothing.
//!
//! | column | |
//! |---|---|
//! | `ts` | the time of the record. It decides where reading begins. A field `ts` of the value comes as `ts_1` |
//! | `_partition`, `_offset`, `_key` | where the record stands; its key as text |
//! | the fields of the value | where it is a JSON object: each field is a column, as in a stream |
//! | `_value` | the value as text; only where it is asked for by name, or is no JSON object |
//!
//! Conditions on the first four are applied here and exactly; on fields the engine applies them.
//!
//! | file | owns |
//! |---|---|
//! | `bounds.rs` | which offsets may matter, and which records do |
//! | `read.rs` | the thread that reads |
//! | `rows.rs` | records as Arrow |

mod bounds;
mod read;
mod rows;

use std::sync::Arc;

use aap_federation::{Remote, Report, Scan, Spool, problem};
use aap_runtime::SecretRef;
use aap_sinks::{Failure, FailureKind, Target};
use aap_types::{ExitCode, Problem};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::settings::Settings;
use crate::spec::{KafkaSpec, Sasl, Tls};
use bounds::Bounds;

/// What this kind of system is called.
const KIND: &str = "kafka";
/// Batches between the thread that reads and the file.
const BATCHES: usize = 4;

/// Which cluster, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTablesSpec {
    /// Some brokers of the cluster, each `host:port`; they tell of the others.
    pub brokers: Vec<String>,
    /// Speaks TLS. `{}` trusts the authorities of the system. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Logs in. Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
}

impl KafkaTablesSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.sasl.iter().map(|sasl| sasl.password.clone()).collect()
    }

    /// Whether it makes sense, as far as that can be told without the cluster.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        self.as_sink().and_then(|spec| spec.validate().map_err(|error| error.to_string()))
    }

    /// The same access as a sink has it; the topic is never used.
    fn as_sink(&self) -> Result<KafkaSpec, String> {
        let topic = "aap".parse().map_err(|error: aap_sinks::TemplateError| error.to_string())?;
        Ok(KafkaSpec::access(self.brokers.clone(), topic, self.tls.clone(), self.sasl.clone()))
    }
}

/// The topics of a cluster. Each scan has a client of its own.
#[derive(Debug)]
pub struct KafkaTables {
    spec: Arc<KafkaTablesSpec>,
}

impl KafkaTables {
    /// Connects when it is asked.
    pub fn new(spec: KafkaTablesSpec) -> Self {
        Self { spec: Arc::new(spec) }
    }

    async fn fetch(&self, scan: &Scan, spool: &mut Spool) -> Result<Report, Problem> {
        let [topic] = scan.table.as_slice() else {
            let message = format!("`{}` names no topic", scan.table_name());
            return Err(Problem::new("query.remote_table", ExitCode::Usage, message)
                .hint("quote a topic whose name holds dots or capitals: kafka.\"web.access\""));
        };
        let mut report = Report::of(scan);
        let bounds = Bounds::of(scan, &mut report);
        let settings = self.settings().map_err(|failure| self.problem(&failure))?;
        spool.begin(&rows::schema_of_all(scan))?;
        let (sender, mut batches) = mpsc::channel(BATCHES);
        let (topic, scan) = (topic.clone(), scan.clone());
        // Dropping `batches` ends it at its next record or its next look.
        let reading =
            tokio::task::spawn_blocking(move || read::read(&settings, &topic, &scan, bounds, &sender));
        while let Some(batch) = batches.recv().await {
            spool.write(&batch)?;
        }
        let read = reading.await.map_err(|panic| {
            Problem::new("platform.bug", ExitCode::Bug, "reading a topic failed").caused_by(&panic)
        })?;
        report.statement = read.map_err(|stop| match stop {
            read::Stop::Failed(failure) => self.problem(&failure),
            read::Stop::NoTopic(wanted, known) => problem::no_table(KIND, &self.place(), &wanted, &known),
            read::Stop::Rows(problem) => problem,
        })?;
        Ok(report)
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let spec =
            self.spec.as_sink().map_err(|why| crate::failure::setting("a setting is not usable", why))?;
        Settings::of(&Target { name: "query".to_owned(), uid: "query".to_owned() }, &spec)
    }

    fn problem(&self, failure: &Failure) -> Problem {
        let problem = match failure.kind {
            FailureKind::Refused => problem::denied(KIND, &self.place(), failure),
            _ => problem::unreachable(KIND, &self.place(), failure),
        };
        failure.problem.causes.iter().fold(problem, |problem, cause| problem.cause(cause.clone()))
    }
}

impl Remote for KafkaTables {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        self.spec.brokers.join(",")
    }

    fn scan<'a>(&'a self, scan: &'a Scan, spool: &'a mut Spool) -> BoxFuture<'a, Result<Report, Problem>> {
        Box::pin(self.fetch(scan, spool))
    }
}
