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

/// How long things may take on a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Longest time to a session, with DNS, TCP, TLS and login.
    pub(crate) connect: Duration,
    /// Longest time for one statement; the server ends it by itself then.
    pub(crate) statement: Duration,
    /// Longest wait for a lock.
    pub(crate) lock: Duration,
    /// After how long the server gives up a transaction whose client says nothing, and with it the locks.
    pub(crate) idle: Duration,
}

/// What most sessions have. To connect: what a busy server or a slow link needs, with room. A COPY of a whole group takes seconds.
/// Whoever holds a lock that long is another writer of the same rows, or somebody's forgotten session.
const USUAL: Limits = Limits {
    connect: Duration::from_secs(15),
    statement: Duration::from_secs(60),
    lock: Duration::from_secs(30),
    idle: Duration::from_secs(30),
};
/// One host of several may take this part of the time to connect, so that there is some for the next ones where it is gone.
const HOSTS_TRIED: u32 = 3;
/// How much longer we wait than the server, so that it can say itself that it was too slow.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
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
    limits: Limits,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Access {
    /// A new session.
    pub(crate) async fn connect(&self) -> Result<Session, Error> {
        self.connect_within(USUAL).await
    }

    /// A new session on which things take no longer than this.
    pub(crate) async fn connect_within(&self, limits: Limits) -> Result<Session, Error> {
        let (mut config, encryption) = self.prepare().await?;
        config.connect_timeout(limits.connect / HOSTS_TRIED);
        within("connect", limits.connect, async {
            match encryption {
                Some(encryption) => {
                    config.connect(encryption).await.map(|(client, line)| drive(client, line, limits))
                }
                None => config.connect(NoTls).await.map(|(client, line)| drive(client, line, limits)),
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
fn drive<S, T>(client: Client, line: Connection<S, T>, limits: Limits) -> Session
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
    Session { client, driver, limits }
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
            self.settings()
        );
        self.batch("begin a transaction", &begin).await
    }

    /// Begins a transaction that cannot change anything.
    pub(crate) async fn begin_read_only(&self) -> Result<(), Error> {
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {}", self.settings());
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
            self.settings()
        );
        self.batch("begin a transaction", &begin).await
    }

    /// Begins a transaction that reads one moment.
    pub(crate) async fn begin_snapshot(&self) -> Result<(), Error> {
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}", self.settings());
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
        within(doing, self.answer_max(), self.client.batch_execute(sql)).await
    }

    /// The rows of a statement.
    pub(crate) async fn query(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        within(doing, self.answer_max(), self.client.query_typed(sql, parameters)).await
    }

    /// Begins a statement without parameters whose rows come one after the other. Waits as long as the caller does.
    pub(crate) async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
    ) -> Result<impl Stream<Item = Result<Row, Error>> + use<>, Error> {
        let none: [(String, Type); 0] = [];
        let rows = self.client.query_typed_raw(sql, none).await;
        let rows = rows.map_err(|error| Error::server(doing, error))?;
        Ok(rows.map_err(move |error| Error::server(doing, error)))
    }

    /// How many rows a statement changed.
    pub(crate) async fn execute(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<u64, Error> {
        within(doing, self.answer_max(), self.client.execute_typed(sql, parameters)).await
    }

    /// Begins a `COPY … FROM STDIN`.
    pub(crate) async fn copy(&self, sql: &str) -> Result<Copying, Error> {
        let sink = within("begin to copy", self.answer_max(), self.client.copy_in::<_, Bytes>(sql)).await?;
        Ok(Copying { sink: Box::pin(sink), answer_max: self.answer_max() })
    }

    fn answer_max(&self) -> Duration {
        self.limits.statement + ANSWER_GRACE
    }

    fn settings(&self) -> String {
        let tcp = SILENCE_MAX.as_secs() / u64::from(KEEPALIVES);
        format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SET LOCAL tcp_user_timeout = {}; \
             SET LOCAL tcp_keepalives_idle = {tcp}; SET LOCAL tcp_keepalives_interval = {tcp}; \
             SET LOCAL tcp_keepalives_count = {KEEPALIVES}; SET LOCAL client_min_messages = warning;",
            self.limits.statement.as_millis(),
            self.limits.lock.as_millis(),
            self.limits.idle.as_millis(),
            SILENCE_MAX.as_millis(),
        )
    }
}

/// A `COPY` under way. Dropped, the server discards it and the transaction fails.
pub(crate) struct Copying {
    sink: std::pin::Pin<Box<CopyInSink<Bytes>>>,
    answer_max: Duration,
}

impl Copying {
    /// Sends rows, or waits until the ones before are on their way.
    pub(crate) async fn send(&mut self, rows: Vec<u8>) -> Result<(), Error> {
        within("copy rows", self.answer_max, self.sink.feed(Bytes::from(rows))).await
    }

    /// Ends it. The number of rows that the server took.
    pub(crate) async fn finish(mut self) -> Result<u64, Error> {
        within("copy rows", self.answer_max, self.sink.as_mut().finish()).await
    }
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
