//! Connecting, transactions, and deadlines for everything.

use std::time::Duration;

use aap_runtime::SecretRef;
use bytes::Bytes;
use futures::{SinkExt, Stream, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Connection, CopyInSink, NoTls, Row};

use super::error::Error;
use super::tls::Encryption;
use super::url::ServerUrl;

/// Longest time to a session, with DNS, TCP, TLS and login: what a busy server or a slow link needs, with room.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// Longest time for one statement; the server ends it by itself then. A COPY of a whole group takes seconds.
const STATEMENT_MAX: Duration = Duration::from_secs(60);
/// How much longer we wait than the server, so that it can say itself that it was too slow.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// Longest wait for a lock: whoever holds it that long is another writer of the same rows, or somebody's forgotten session.
const LOCK_MAX: Duration = Duration::from_secs(30);
/// After how long the server gives up a transaction whose client says nothing, and with it the locks.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// After how long without an answer of the peer's TCP either side takes the line for dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often a silent line is tried within [`SILENCE_MAX`].
const KEEPALIVES: u32 = 3;
/// Bytes of rows that are sent as one message: less than malloc maps and unmaps each time, many times a packet.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Parameters of a statement, with their types, so that nothing needs to be prepared under a name (poolers).
pub(crate) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Which server, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Where.
    pub(crate) url: ServerUrl,
    /// What proves who we are.
    pub(crate) password: Option<SecretRef>,
}

/// A connection, used for one transaction after another. Dropped, it closes; the server rolls back what was open.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Access {
    /// A new session.
    pub(crate) async fn connect(&self) -> Result<Session, Error> {
        let (config, encryption) = self.prepare().await?;
        within("connect", CONNECT_MAX, async {
            match encryption {
                Some(encryption) => {
                    config.connect(encryption).await.map(|(client, line)| drive(client, line))
                }
                None => config.connect(NoTls).await.map(|(client, line)| drive(client, line)),
            }
        })
        .await
    }

    /// Reads what lies in files, anew each time: passwords and authorities are changed under a running daemon.
    async fn prepare(&self) -> Result<(Config, Option<Encryption>), Error> {
        let access = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let password =
                access.password.as_ref().map(SecretRef::read).transpose().map_err(Error::Password)?;
            let encryption = Encryption::of(access.url.trust()).map_err(Error::Roots)?;
            let mut config = access.url.config().clone();
            if let Some(password) = password {
                config.password(password.reveal());
            }
            Ok((config, encryption))
        });
        let (mut config, encryption) =
            read.await.map_err(|error| Error::Roots(std::io::Error::other(error)))??;
        config
            .connect_timeout(CONNECT_MAX)
            .keepalives(true)
            .keepalives_idle(SILENCE_MAX / KEEPALIVES)
            .keepalives_interval(SILENCE_MAX / KEEPALIVES)
            .keepalives_retries(KEEPALIVES)
            .tcp_user_timeout(SILENCE_MAX);
        if config.get_application_name().is_none() {
            config.application_name("aap");
        }
        Ok((config, encryption))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task is a part of its session: it is aborted with it, and what it meets every caller of the session is told"
)]
fn drive<S, T>(client: Client, line: Connection<S, T>) -> Session
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>>,
{
    let driver = tokio::spawn(async move {
        if let Err(error) = line.await {
            tracing::debug!(%error, "the connection to PostgreSQL ended");
        }
    });
    Session { client, driver }
}

impl Session {
    /// Whether it is known to be lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Begins a transaction that writes. All settings belong to the transaction, so that a pooler may sit in between.
    pub(crate) async fn begin(&self) -> Result<(), Error> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {} \
             SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
            settings()
        );
        self.batch("begin a transaction", &begin).await
    }

    /// Begins a transaction that cannot change anything.
    pub(crate) async fn begin_read_only(&self) -> Result<(), Error> {
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {}", settings());
        self.batch("begin a transaction", &begin).await
    }

    /// Begins a transaction that reads for as long as somebody listens: the server looks for that every second where it can.
    /// Times are in UTC.
    pub(crate) async fn begin_long_read(&self) -> Result<(), Error> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {} SET LOCAL statement_timeout = 0; \
             SET LOCAL TimeZone = 'UTC'; \
             SELECT set_config(name, '1000', true) FROM pg_catalog.pg_settings \
             WHERE name = 'client_connection_check_interval'",
            settings()
        );
        self.batch("begin a transaction", &begin).await
    }

    /// Begins a transaction that reads one moment.
    pub(crate) async fn begin_snapshot(&self) -> Result<(), Error> {
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}", settings());
        self.batch("begin a transaction", &begin).await
    }

    /// Begins a `COPY … TO STDOUT (FORMAT binary)` of a SELECT. Waits as long as the caller does.
    pub(crate) async fn copy_out(
        &self,
        select: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + use<>, Error> {
        let doing = "read rows";
        let sql = format!("COPY ({select}) TO STDOUT (FORMAT binary)");
        let rows = self.client.copy_out(&sql).await.map_err(|error| Error::server(doing, error))?;
        Ok(rows.map_err(move |error| Error::server(doing, error)))
    }

    /// Commits. After an error nobody knows whether it did, except where the server says what it minds.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        self.batch("commit", "COMMIT").await
    }

    /// Rolls back.
    pub(crate) async fn rollback(&self) -> Result<(), Error> {
        self.batch("roll back", "ROLLBACK").await
    }

    /// Statements without parameters and results.
    pub(crate) async fn batch(&self, doing: &'static str, sql: &str) -> Result<(), Error> {
        within(doing, STATEMENT_MAX + ANSWER_GRACE, self.client.batch_execute(sql)).await
    }

    /// The rows of a statement.
    pub(crate) async fn query(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        within(doing, STATEMENT_MAX + ANSWER_GRACE, self.client.query_typed(sql, parameters)).await
    }

    /// How many rows a statement changed.
    pub(crate) async fn execute(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<u64, Error> {
        within(doing, STATEMENT_MAX + ANSWER_GRACE, self.client.execute_typed(sql, parameters)).await
    }

    /// Begins a `COPY … FROM STDIN`.
    pub(crate) async fn copy(&self, sql: &str) -> Result<Copying, Error> {
        let sink =
            within("begin to copy", STATEMENT_MAX + ANSWER_GRACE, self.client.copy_in::<_, Bytes>(sql))
                .await?;
        Ok(Copying { sink: Box::pin(sink) })
    }
}

/// A `COPY` under way. Dropped, the server discards it and the transaction fails.
pub(crate) struct Copying {
    sink: std::pin::Pin<Box<CopyInSink<Bytes>>>,
}

impl Copying {
    /// Sends rows, or waits until the ones before are on their way.
    pub(crate) async fn send(&mut self, rows: Vec<u8>) -> Result<(), Error> {
        within("copy rows", STATEMENT_MAX + ANSWER_GRACE, self.sink.feed(Bytes::from(rows))).await
    }

    /// Ends it. The number of rows that the server took.
    pub(crate) async fn finish(mut self) -> Result<u64, Error> {
        within("copy rows", STATEMENT_MAX + ANSWER_GRACE, self.sink.as_mut().finish()).await
    }
}

fn settings() -> String {
    let tcp = SILENCE_MAX.as_secs() / u64::from(KEEPALIVES);
    format!(
        "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {}; SET LOCAL tcp_user_timeout = {}; \
         SET LOCAL tcp_keepalives_idle = {tcp}; SET LOCAL tcp_keepalives_interval = {tcp}; \
         SET LOCAL tcp_keepalives_count = {KEEPALIVES}; SET LOCAL client_min_messages = warning;",
        STATEMENT_MAX.as_millis(),
        LOCK_MAX.as_millis(),
        IDLE_MAX.as_millis(),
        SILENCE_MAX.as_millis(),
    )
}

async fn within<T>(
    doing: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|error| Error::server(doing, error)),
        Err(_elapsed) => Err(Error::Late { doing, limit }),
    }
}
