//! A schema of a real server for one test, and a client that shares no code with the sink.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aap_postgres::{PostgresSink, PostgresSpec};
use aap_sinks::{Failure, FailureKind, Group, Sink, Slice, Target};
use aap_types::{Sequence, StreamKey};
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Where a test writes.
pub(crate) struct Place {
    pub(crate) schema: String,
    config: Config,
    folder: TempDir,
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
    /// A new schema named for the test. `None`, with a line that says so, where there is no server.
    pub(crate) async fn new(test: &str, needs: Needs) -> Option<Self> {
        let Ok(url) = std::env::var("AAP_TEST_POSTGRES") else {
            let thread = std::thread::current();
            let test = thread.name().filter(|name| *name != "main").unwrap_or(test);
            let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
            assert!(
                !required.contains("postgres"),
                "{test}: no PostgreSQL (AAP_TEST_POSTGRES), and it is required"
            );
            println!("skipped: {test}: no PostgreSQL (AAP_TEST_POSTGRES)");
            return None;
        };
        let lock = tokio::task::spawn_blocking(move || {
            let file = File::create(std::env::temp_dir().join("aap-test-postgres.lock")).unwrap();
            if needs == Needs::Alone {
                file.lock().unwrap()
            } else {
                file.lock_shared().unwrap()
            }
            file
        });
        let plain = url.split('?').next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config: Config = plain.parse().unwrap();
        std::fs::write(folder.path().join("password"), config.get_password().unwrap()).unwrap();
        let schema = format!("t_{test}_{}", std::process::id());
        let place = Self { schema, config, folder, _lock: lock.await.unwrap() };
        place.sql(&format!("DROP SCHEMA IF EXISTS {0} CASCADE; CREATE SCHEMA {0}", place.schema)).await;
        Some(place)
    }

    /// The URL without its password.
    pub(crate) fn url(&self, parameters: &str) -> String {
        let host = match &self.config.get_hosts()[0] {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            other => panic!("{other:?}"),
        };
        let (user, database) = (self.config.get_user().unwrap(), self.config.get_dbname().unwrap());
        format!("postgres://{user}@{host}:{}/{database}{parameters}", self.config.get_ports()[0])
    }

    /// A spec for `<schema>.{stream}`, changed by `more`.
    pub(crate) fn spec(&self, more: Value) -> PostgresSpec {
        let mut spec = json!({
            "url": self.url(""),
            "password": format!("file:{}", self.folder.path().join("password").display()),
            "table": format!("{}.{{stream}}", self.schema),
            "ledger": format!("{}.ledger", self.schema),
        });
        let members = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(members);
        serde_json::from_value(spec).unwrap()
    }

    pub(crate) fn sink(&self, more: Value) -> PostgresSink {
        let target = Target { name: "warehouse".into(), uid: "0123456789abcdef0123456789abcdef".into() };
        PostgresSink::new(target, self.spec(more))
    }

    /// A file for a password or the like.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Where a file for this test lies.
    pub(crate) fn file_named(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another client, which has nothing to do with the sink's.
    pub(crate) async fn client(&self) -> Client {
        let (client, line) = self.config.connect(NoTls).await.unwrap();
        tokio::spawn(line);
        client
            .batch_execute(&format!("SET TimeZone = 'UTC'; SET search_path = {}", self.schema))
            .await
            .unwrap();
        client
    }

    /// Rows of a statement as text; of several, those of all.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let schema = &self.schema;
        let client = match sql.contains("CREATE SCHEMA") {
            true => {
                let (client, line) = self.config.connect(NoTls).await.unwrap();
                tokio::spawn(line);
                client
            }
            false => self.client().await,
        };
        let found =
            client.simple_query(sql).await.unwrap_or_else(|error| panic!("{schema}: {sql}: {error:?}"));
        let rows = found.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect())
            }
            _ => None,
        });
        rows.collect()
    }

    /// The same on one line a row, `NULL` for NULL.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        let shown = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        self.sql(sql)
            .await
            .into_iter()
            .map(|row| row.into_iter().map(shown).collect::<Vec<_>>().join("|"))
            .collect()
    }

    /// A way to the server that loses the answer to a COMMIT while the flag is set: its port.
    pub(crate) async fn lossy(&self, loses: Arc<AtomicBool>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = ("127.0.0.1", self.config.get_ports()[0]);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(forward(client, server, loses.clone()));
            }
        });
        port
    }

    /// A way to the server on which nothing moves while the flag is set: its port.
    pub(crate) async fn mute(&self, hangs: Arc<AtomicBool>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = ("127.0.0.1", self.config.get_ports()[0]);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, hangs.clone()));
                tokio::spawn(carry(from_server, to_client, hangs.clone()));
            }
        });
        port
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(&self) {
        kill();
        self.start().await;
    }

    /// Starts the server, and waits until it answers. The process that was killed may still be there as a zombie, and the new one
    /// takes it for alive.
    pub(crate) async fn start(&self) {
        let deadline = tokio::time::Duration::from_secs(60);
        let answers = tokio::time::timeout(deadline, async {
            while self.config.connect(NoTls).await.is_err() {
                tokio::time::sleep(tokio::time::Duration::from_millis(200)).await;
                tokio::task::spawn_blocking(|| service("postgres.sh", &["start"])).await.unwrap();
            }
        });
        answers.await.expect("the server answers within a minute");
    }
}

/// Carries bytes one way. What comes while it hangs is lost, as is whatever comes after it on the same line.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    hangs: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    let mut has_hung = false;
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        has_hung |= hangs.load(Ordering::SeqCst);
        if !has_hung {
            to.write_all(&bytes[..length]).await?;
        }
    }
}

/// Carries bytes both ways. After a COMMIT that is to be lost it waits until the server is done, and breaks the line.
async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    loses: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            length = client.read(&mut asked) => {
                let question = &asked[..length?];
                server.write_all(question).await?;
                let commits = question.windows(7).any(|bytes| bytes == b"COMMIT\0");
                if question.is_empty() || (commits && loses.load(Ordering::SeqCst)) {
                    return server.read(&mut answered).await.map(|_| ());
                }
            }
            length = server.read(&mut answered) => match length? {
                0 => return Ok(()),
                length => client.write_all(&answered[..length]).await?,
            },
        }
    }
}

/// Ends the server without a word.
pub(crate) fn kill() {
    assert!(service("fault", &["postgres", "KILL"]), "kill the server");
}

fn service(script: &str, arguments: &[&str]) -> bool {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services");
    let output = Command::new(folder.join(script)).args(arguments).output().unwrap();
    output.status.success()
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
pub(crate) async fn write(sink: &mut PostgresSink, slice: Slice) -> Result<(), Failure> {
    sink.write(&Group { slices: vec![slice] }).await
}

/// The rows that a failure names: slice, row, reason.
pub(crate) fn bad_rows(failure: &Failure) -> Vec<(usize, usize, &str)> {
    match &failure.kind {
        FailureKind::Rows(rows) => rows.iter().map(|row| (row.slice, row.row, row.reason.as_str())).collect(),
        other => panic!("{other:?}: {}", told(failure)),
    }
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
