//! A keyspace of a real server for one test, and a client that shares no code with the sink.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aap_cassandra::{CassandraSink, CassandraSpec};
use aap_sinks::{Failure, Group, Sink, Slice, Target};
use aap_types::{Sequence, StreamKey};
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Statement;
use scylla::value::{CqlValue, Row};
use serde_json::{Value, json};

/// How long the other client waits: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a test writes.
pub(crate) struct Place {
    pub(crate) keyspace: String,
    pub(crate) node: String,
    /// User and password, where the server asks for them.
    pub(crate) login: Option<(String, String)>,
    // Whoever kills the server waits until nobody else needs it. Released by the end of the process, too.
    _lock: File,
}

/// Whether a test kills the server.
#[derive(PartialEq, Eq)]
pub(crate) enum Needs {
    Shared,
    Alone,
}

impl Place {
    /// A keyspace of its own, not yet made. `None`, with a line that says so, where there is no server.
    pub(crate) async fn new(test: &str, needs: Needs) -> Option<Self> {
        let Ok(node) = std::env::var("AAP_TEST_CASSANDRA") else {
            let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
            assert!(
                !required.contains("cassandra"),
                "{test}: no Cassandra (AAP_TEST_CASSANDRA), and it is required"
            );
            println!("skipped: {test}: no Cassandra (AAP_TEST_CASSANDRA)");
            return None;
        };
        let lock = tokio::task::spawn_blocking(move || {
            let file = File::create(std::env::temp_dir().join("aap-test-cassandra.lock")).unwrap();
            match needs {
                Needs::Alone => file.lock().unwrap(),
                Needs::Shared => file.lock_shared().unwrap(),
            }
            file
        });
        let variable = |name: &str| std::env::var(name).ok();
        let login = variable("AAP_TEST_CASSANDRA_USER").zip(variable("AAP_TEST_CASSANDRA_PASSWORD"));
        let keyspace = format!("t_{test}_{}", std::process::id());
        let place = Self { keyspace, node, login, _lock: lock.await.unwrap() };
        place.cql(&format!("DROP KEYSPACE IF EXISTS {}", place.keyspace)).await;
        Some(place)
    }

    /// A spec for `{stream}` in the keyspace, changed by `more`.
    pub(crate) fn spec(&self, more: Value) -> CassandraSpec {
        let mut spec = json!({"nodes": [self.node], "keyspace": self.keyspace, "table": "{stream}"});
        let members = spec.as_object_mut().unwrap();
        if let Some((user, _)) = &self.login {
            members.insert("username".into(), json!(user));
            members.insert("password".into(), json!("env:AAP_TEST_CASSANDRA_PASSWORD"));
        }
        members.extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    pub(crate) fn sink(&self, more: Value) -> CassandraSink {
        let target = Target { name: "warehouse".into(), uid: "0123456789abcdef0123456789abcdef".into() };
        CassandraSink::new(target, self.spec(more))
    }

    /// One that makes what is missing, and has taken the place over.
    pub(crate) async fn ready(&self) -> CassandraSink {
        let mut sink = self.sink(json!({"create": true}));
        sink.resume_point().await.unwrap();
        sink
    }

    /// Another client, which has nothing to do with the sink's.
    pub(crate) async fn client(&self) -> Session {
        let profile = ExecutionProfile::builder().request_timeout(Some(PATIENCE)).build();
        let mut builder = SessionBuilder::new()
            .known_node(&self.node)
            .default_execution_profile_handle(profile.into_handle());
        if let Some((user, password)) = &self.login {
            builder = builder.user(user, password);
        }
        builder.build().await.unwrap()
    }

    /// Rows of a statement.
    pub(crate) async fn cql(&self, cql: &str) -> Vec<Vec<Option<CqlValue>>> {
        rows(&self.client().await, cql).await
    }

    /// The same as text, a line a row.
    pub(crate) async fn lines(&self, cql: &str) -> Vec<String> {
        let shown = |value: Option<CqlValue>| value.map_or("null".to_owned(), |value| format!("{value}"));
        let rows = self.cql(cql).await.into_iter();
        rows.map(|row| row.into_iter().map(shown).collect::<Vec<_>>().join("|")).collect()
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(&self) {
        tokio::task::spawn_blocking(kill).await.unwrap();
        self.start().await;
    }

    /// Starts the server, and waits until it answers.
    pub(crate) async fn start(&self) {
        assert!(
            tokio::task::spawn_blocking(|| service("cassandra.sh", &["start"])).await.unwrap(),
            "start the server"
        );
    }
}

pub(crate) async fn rows(client: &Session, cql: &str) -> Vec<Vec<Option<CqlValue>>> {
    let mut statement = Statement::new(cql);
    statement.set_is_idempotent(true);
    let answer = client.query_unpaged(statement, ()).await.unwrap_or_else(|error| panic!("{cql}: {error:?}"));
    match answer.into_rows_result() {
        Ok(rows) => rows.rows::<Row>().unwrap().map(|row| row.unwrap().columns).collect(),
        Err(_) => vec![],
    }
}

/// Ends the server without a word.
pub(crate) fn kill() {
    assert!(service("fault", &["cassandra", "KILL"]), "kill the server");
}

/// `STOP` or `CONT`.
pub(crate) fn signal(name: &str) {
    assert!(service("fault", &["cassandra", name]), "signal the server");
}

fn service(script: &str, arguments: &[&str]) -> bool {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services");
    Command::new(folder.join(script)).args(arguments).output().unwrap().status.success()
}

/// One batch of these columns, with the system columns behind them.
pub(crate) fn slice(key: &StreamKey, after: u64, columns: Vec<(&str, ArrayRef)>) -> Slice {
    let rows = columns[0].1.len();
    let ids: [(&str, ArrayRef); 4] = [
        ("_node", Arc::new(StringArray::from(vec![key.node.as_str(); rows]))),
        ("_epoch", Arc::new(UInt64Array::from(vec![key.epoch.0; rows]))),
        ("_seq", Arc::new(UInt64Array::from(vec![after + 1; rows]))),
        ("_row", Arc::new(UInt64Array::from_iter_values(0..rows as u64))),
    ];
    let columns = columns.into_iter().chain(ids).map(|(name, array)| (name, array, true));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    Slice { key: key.clone(), after: Sequence(after), through: Sequence(after + 1), rows }
}

/// Writes one slice.
pub(crate) async fn write(sink: &mut CassandraSink, slice: Slice) -> Result<(), Failure> {
    sink.write(&Group { slices: vec![slice] }).await
}

/// `code: message` with causes and commands, for comparisons with parts of it.
pub(crate) fn told(failure: &Failure) -> String {
    let problem = &failure.problem;
    let hints: Vec<String> = problem
        .hints
        .iter()
        .map(|hint| format!("{} {}", hint.text, hint.command.clone().unwrap_or_default()))
        .collect();
    format!("{}: {}; {}; {}", problem.code, problem.message, problem.causes.join("; "), hints.join("; "))
}
