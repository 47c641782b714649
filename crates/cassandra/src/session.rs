//! A session with a cluster: who we are, where it is, and how long anything may take.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aap_sinks::Failure;
use aap_types::ExitCode;
use futures::{Stream, TryStreamExt};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::batch::BatchValues;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::Batch;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency as Level, SerialConsistency, Statement};

use crate::fail::{self, CassandraError};
use crate::spec::{CassandraSpec, Consistency};
use crate::tunnel::Tunnels;

/// A TCP connection and the handshake on it, to each node.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The whole of it: names, the first node that answers, what it knows of the others.
const SESSION_DEADLINE: Duration = Duration::from_secs(20);
/// One request with what the driver does to save it. The server gives a write 2 s by default, and we ask a second node if that
/// is over.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// A change of the schema waits until all nodes know of it.
const SCHEMA_DEADLINE: Duration = Duration::from_secs(60);
/// All rows of an answer: ledgers have thousands, not millions.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// A session, and the statements that were prepared in it.
pub(crate) struct Connected {
    session: Session,
    statements: Mutex<HashMap<String, PreparedStatement>>,
    // The lines that the session's connections go through.
    _tunnels: Option<Tunnels>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").finish_non_exhaustive()
    }
}

impl Connected {
    /// Connects. Reads secrets and authorities: blocks for small files.
    pub(crate) async fn to(spec: &CassandraSpec) -> Result<Self, Failure> {
        let tunnels =
            match &spec.tls {
                Some(tls) => Some(Tunnels::with(tls).map_err(|error| {
                    fail::setting(format!("read the authorities in `{}`: {error}", tls.ca))
                })?),
                None => None,
            };
        let builder = builder(spec, tunnels.as_ref()).await?;
        let session = match tokio::time::timeout(SESSION_DEADLINE, builder.build()).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(no_session(spec, tunnels.as_ref(), error.into())),
            Err(_late) => {
                return Err(no_session(spec, tunnels.as_ref(), CassandraError::Late(SESSION_DEADLINE)));
            }
        };
        Ok(Self { session, statements: Mutex::default(), _tunnels: tunnels })
    }

    /// Nodes that it knows, and how many of them it has a connection to.
    pub(crate) fn nodes(&self) -> (usize, usize) {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info();
        (nodes.len(), nodes.iter().filter(|node| node.is_connected()).count())
    }

    /// Changes the schema.
    pub(crate) async fn change(&self, cql: &str) -> Result<(), CassandraError> {
        let mut statement = Statement::new(cql);
        statement.set_request_timeout(Some(SCHEMA_DEADLINE));
        // The request, and then the agreement of all nodes, each within the deadline.
        within(2 * SCHEMA_DEADLINE, self.session.query_unpaged(statement, ())).await?;
        Ok(())
    }

    /// The statement, prepared at most once, and known to change nothing when it is done twice.
    pub(crate) async fn prepared(&self, cql: &str) -> Result<PreparedStatement, CassandraError> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(cql).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let mut prepared = within(REQUEST_DEADLINE, self.session.prepare(cql)).await?;
        prepared.set_is_idempotent(true);
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        statements.insert(cql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// Every row of an answer.
    pub(crate) async fn rows<R>(&self, cql: &str, values: impl SerializeRow) -> Result<Vec<R>, CassandraError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + 'static,
    {
        let prepared = self.prepared(cql).await?;
        let reading = async {
            let pages = self.session.execute_iter(prepared, values).await?;
            let rows = pages.rows_stream::<R>().map_err(|error| CassandraError::Answer(error.to_string()))?;
            rows.try_collect().await.map_err(CassandraError::from)
        };
        tokio::time::timeout(READ_DEADLINE, reading).await.unwrap_or(Err(CassandraError::Late(READ_DEADLINE)))
    }

    /// Rows of a statement without parameters, page by page as they are taken. Each page has the deadline of its request.
    pub(crate) async fn pages<R>(
        &self,
        cql: &str,
    ) -> Result<impl Stream<Item = Result<R, CassandraError>> + Unpin + use<R>, CassandraError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + 'static,
    {
        let mut statement = Statement::new(cql);
        statement.set_is_idempotent(true);
        let pages = self.session.query_iter(statement, ()).await?;
        let rows = pages.rows_stream::<R>().map_err(|error| CassandraError::Answer(error.to_string()))?;
        Ok(rows.map_err(CassandraError::from))
    }

    /// One statement. It has the deadline of its request.
    pub(crate) async fn execute(
        &self,
        prepared: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), CassandraError> {
        self.session.execute_unpaged(prepared, values).await?;
        Ok(())
    }

    /// Several, in one partition.
    pub(crate) async fn batch(&self, batch: &Batch, values: impl BatchValues) -> Result<(), CassandraError> {
        self.session.batch(batch, values).await?;
        Ok(())
    }

    /// A lightweight transaction: whether its condition held.
    pub(crate) async fn applies(&self, cql: &str, values: impl SerializeRow) -> Result<bool, CassandraError> {
        let mut prepared = self.prepared(cql).await?;
        // Done again after a lost answer, its condition would no longer hold.
        prepared.set_is_idempotent(false);
        let answer = self.session.execute_unpaged(&prepared, values).await?;
        let not_understood = |error: String| CassandraError::Answer(error);
        let rows = answer.into_rows_result().map_err(|error| not_understood(error.to_string()))?;
        let row: scylla::value::Row = rows.first_row().map_err(|error| not_understood(error.to_string()))?;
        // The first column is `[applied]`.
        let applied =
            row.columns.first().and_then(Option::as_ref).and_then(scylla::value::CqlValue::as_boolean);
        applied.ok_or_else(|| not_understood("no column says whether it applied".to_owned()))
    }
}

async fn within<T, E>(
    deadline: Duration,
    doing: impl Future<Output = Result<T, E>>,
) -> Result<T, CassandraError>
where
    CassandraError: From<E>,
{
    match tokio::time::timeout(deadline, doing).await {
        Ok(done) => done.map_err(CassandraError::from),
        Err(_late) => Err(CassandraError::Late(deadline)),
    }
}

async fn builder(spec: &CassandraSpec, tunnels: Option<&Tunnels>) -> Result<SessionBuilder, Failure> {
    let (consistency, serial) = levels(spec.consistency);
    let profile = ExecutionProfile::builder()
        .consistency(consistency)
        .serial_consistency(Some(serial))
        .request_timeout(Some(REQUEST_DEADLINE))
        .build();
    let mut builder = SessionBuilder::new()
        .default_execution_profile_handle(profile.into_handle_with_label("aap".to_owned()))
        .connection_timeout(CONNECT_DEADLINE)
        .hostname_resolution_timeout(Some(CONNECT_DEADLINE))
        .schema_agreement_timeout(SCHEMA_DEADLINE)
        .keyspaces_to_fetch([&spec.keyspace]);
    if let Some(datacenter) = &spec.datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    if let (Some(user), Some(password)) = (&spec.username, &spec.password) {
        let password = password.read().map_err(|error| {
            fail::refused(
                "sink.setting",
                ExitCode::Usage,
                "the password of the Cassandra sink cannot be read".to_owned(),
                Some(&error),
            )
        })?;
        builder = builder.user(user, password.reveal());
    }
    let Some(tunnels) = tunnels else { return Ok(builder.known_nodes(&spec.nodes)) };
    for node in &spec.nodes {
        let local = tunnels.to_written(node).await.map_err(|error| {
            Failure::unreachable("a socket of the Cassandra sink cannot be opened", &error)
        })?;
        builder = builder.known_node_addr(local);
    }
    // Its ports lie beside the one that is known, where no tunnel ends.
    Ok(builder.address_translator(tunnels.translator()).disallow_shard_aware_port(true))
}

fn no_session(spec: &CassandraSpec, tunnels: Option<&Tunnels>, error: CassandraError) -> Failure {
    // What a tunnel met explains more than that it broke off.
    match tunnels.and_then(Tunnels::refusal) {
        Some(refusal) => {
            let mut failure = fail::refused(
                "sink.tls",
                ExitCode::Failed,
                format!("TLS with the Cassandra nodes of keyspace `{}` fails", spec.keyspace),
                None,
            );
            failure.problem.causes.push(refusal);
            failure
        }
        None => fail::failure(spec, &error),
    }
}

fn levels(consistency: Consistency) -> (Level, SerialConsistency) {
    match consistency {
        Consistency::One => (Level::One, SerialConsistency::Serial),
        Consistency::Two => (Level::Two, SerialConsistency::Serial),
        Consistency::Three => (Level::Three, SerialConsistency::Serial),
        Consistency::Quorum => (Level::Quorum, SerialConsistency::Serial),
        Consistency::All => (Level::All, SerialConsistency::Serial),
        Consistency::LocalOne => (Level::LocalOne, SerialConsistency::LocalSerial),
        Consistency::LocalQuorum => (Level::LocalQuorum, SerialConsistency::LocalSerial),
        Consistency::EachQuorum => (Level::EachQuorum, SerialConsistency::Serial),
    }
}
