//! One session: its settings, its views, its statement.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use aap_types::Problem;
use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_schema::{ArrowError, Field, Schema};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{IntoRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::fail;
use crate::line::Line;
use crate::messages::{
    Command, ConfigRequest, CreateDataFrameView, DataSource, ExecutePlanRequest, ExecutePlanResponse,
    KeyValue, Limit, Nothing, Op, Operation, Plan, Read, Relation, RelationType, ReleaseSessionRequest, Set,
    Sql, UserContext,
};
use crate::spec::SparkSpec;

/// What servers see of us in their logs.
const CLIENT: &str = "aap";
/// Largest message that is taken: Spark cuts batches at 4 MiB, but one row can be larger. It is what Spark itself takes.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// Longest time to set up a session. The first one of a cluster can wait for a driver that is busy.
const CONFIG_MAX: Duration = Duration::from_secs(30);
/// Longest time to say that a session has ended; the server forgets it by itself after an hour.
const RELEASE_MAX: Duration = Duration::from_secs(3);

/// What a statement must find in the session, so that it means what it means to our own engine: times in UTC, `"names"` in double
/// quotes; and no files of Spark's machines by their path, which nobody asked to share.
const SETTINGS: [(&str, &str); 4] = [
    ("spark.sql.session.timeZone", "UTC"),
    ("spark.sql.ansi.enabled", "true"),
    ("spark.sql.ansi.doubleQuotedIdentifiers", "true"),
    ("spark.sql.runSQLOnFiles", "false"),
];

/// A session of its own on the server, for one statement. End it with [`Session::release`].
pub struct Session {
    spec: SparkSpec,
    line: Line,
    id: String,
    user: UserContext,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("place", &self.spec.place())
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects and sets the session up. `user` is what the server sees of who asks.
    ///
    /// # Errors
    /// `spark.unreachable`, `spark.denied`, `spark.setting`, `spark.failed`.
    pub async fn open(spec: &SparkSpec, user: &str) -> Result<Self, Problem> {
        let line = Line::to(spec).await?;
        let user = UserContext { user_id: user.to_owned(), user_name: user.to_owned() };
        let session = Self { spec: spec.clone(), line, id: new_id()?, user };
        let pairs =
            SETTINGS.map(|(key, value)| KeyValue { key: key.to_owned(), value: Some(value.to_owned()) });
        let request = ConfigRequest {
            session_id: session.id.clone(),
            user_context: Some(session.user.clone()),
            operation: Some(Operation { set: Some(Set { pairs: pairs.to_vec() }) }),
            client_type: Some(CLIENT.to_owned()),
        };
        session.call("Config", request, CONFIG_MAX).await?;
        Ok(session)
    }

    /// Makes a table of Parquet files, which the server must reach under these names.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn create_view(&self, name: &str, paths: Vec<String>) -> Result<(), Problem> {
        let options = HashMap::from([("mergeSchema".to_owned(), "true".to_owned())]);
        let source = DataSource { format: Some("parquet".to_owned()), options, paths };
        let input = RelationType::Read(Read { data_source: Some(source) });
        let view = CreateDataFrameView {
            input: Some(Relation { of: Some(input) }),
            name: format!("`{}`", name.replace('`', "``")),
            is_global: false,
            replace: true,
        };
        let mut parts = self.execute(Op::Command(Command { create_dataframe_view: Some(view) })).await?;
        while self.understood(parts.message().await)?.is_some() {}
        Ok(())
    }

    /// Runs one SELECT. With `rows_max`, the server makes no more rows than that.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn query(&self, sql: &str, rows_max: Option<u64>) -> Result<Answer<'_>, Problem> {
        let query = RelationType::Sql(Sql { query: only_a_query(sql) });
        let mut relation = Relation { of: Some(query) };
        if let Some(limit) = rows_max.and_then(|rows| i32::try_from(rows).ok()) {
            let limited = Limit { input: Some(Box::new(relation)), limit };
            relation = Relation { of: Some(RelationType::Limit(Box::new(limited))) };
        }
        let parts = self.execute(Op::Root(relation)).await?;
        Ok(Answer { session: self, parts })
    }

    /// Ends the session and whatever runs in it. What goes wrong is of no use to anybody: the server notices by itself.
    pub async fn release(self) {
        let request = ReleaseSessionRequest {
            session_id: self.id.clone(),
            user_context: Some(self.user.clone()),
            client_type: Some(CLIENT.to_owned()),
        };
        if let Err(problem) = self.call("ReleaseSession", request, RELEASE_MAX).await {
            tracing::debug!(session = self.id, %problem, "a session of Spark was not released");
        }
    }

    async fn execute(&self, op: Op) -> Result<Streaming<ExecutePlanResponse>, Problem> {
        let request = ExecutePlanRequest {
            session_id: self.id.clone(),
            user_context: Some(self.user.clone()),
            plan: Some(Plan { op: Some(op) }),
            client_type: Some(CLIENT.to_owned()),
        };
        let mut grpc = self.understood(self.ready().await)?;
        let codec = ProstCodec::<ExecutePlanRequest, ExecutePlanResponse>::default();
        let path = PathAndQuery::from_static("/spark.connect.SparkConnectService/ExecutePlan");
        let answer = grpc.server_streaming(self.signed(request), path, codec).await;
        Ok(self.understood(answer)?.into_inner())
    }

    /// A call whose answer says nothing but that it was done.
    async fn call<M>(&self, method: &'static str, request: M, limit: Duration) -> Result<(), Problem>
    where
        M: Message + Default + 'static,
    {
        let path = PathAndQuery::from_static(match method {
            "Config" => "/spark.connect.SparkConnectService/Config",
            _ => "/spark.connect.SparkConnectService/ReleaseSession",
        });
        let answer = async {
            let mut grpc = self.ready().await?;
            grpc.unary(self.signed(request), path, ProstCodec::<M, Nothing>::default()).await
        };
        let late = || Status::unavailable(format!("no answer within {} s", limit.as_secs()));
        let answer = tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(late()));
        self.understood(answer).map(drop)
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.line.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    fn signed<M>(&self, message: M) -> Request<M> {
        let mut request = message.into_request();
        if let Some(value) = &self.line.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }

    fn understood<T>(&self, answer: Result<T, Status>) -> Result<T, Problem> {
        answer.map_err(|status| fail::of_status(&self.spec, &status))
    }
}

/// The statement so that the grammar takes nothing but a query: a command, which Spark would run at once, cannot stand in
/// parentheses.
fn only_a_query(sql: &str) -> String {
    let sql = sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    // A comment at its end must not hide the parenthesis; the lines keep their numbers.
    format!("({sql}\n)")
}

/// A random UUID, which is what sessions are called.
fn new_id() -> Result<String, Problem> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| fail::setting(format!("no random number: {error}")))?;
    // Version 4, variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// An answer on its way.
pub struct Answer<'a> {
    session: &'a Session,
    parts: Streaming<ExecutePlanResponse>,
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("session", self.session).finish_non_exhaustive()
    }
}

impl Answer<'_> {
    /// The next batches, `None` at the end. There is at least one, with no row where the answer has none. Columns whose names
    /// differ at most by case get numbers.
    ///
    /// # Errors
    /// `spark.failed`, `spark.unreachable`.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>, Problem> {
        while let Some(part) = self.session.understood(self.parts.message().await)? {
            if let Some(batch) = part.arrow_batch {
                let unreadable = |error| fail::failed(format!("its answer is not readable: {error}"));
                let batches = decode(batch.data).map_err(unreadable)?;
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                if i64::try_from(rows).ok() != Some(batch.row_count) {
                    let message =
                        format!("a part of its answer has {rows} rows instead of {}", batch.row_count);
                    return Err(fail::failed(message));
                }
                return Ok(Some(batches));
            }
        }
        Ok(None)
    }
}

/// The batches of one stream; where it has none, one without rows.
fn decode(data: Vec<u8>) -> Result<Vec<RecordBatch>, ArrowError> {
    let reader = StreamReader::try_new(Cursor::new(data), None)?;
    let schema = Arc::new(with_distinct_names(&reader.schema()));
    let batches = reader.map(|batch| RecordBatch::try_new(schema.clone(), batch?.columns().to_vec()));
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    Ok(if batches.is_empty() { vec![RecordBatch::new_empty(schema)] } else { batches })
}

fn with_distinct_names(schema: &Schema) -> Schema {
    let mut taken: HashSet<String> = HashSet::new();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut number = 0;
        while !taken.insert(name.to_lowercase()) {
            number += 1;
            name = format!("{}_{number}", field.name());
        }
        // Spark's notes on fields mean nothing here.
        Field::new(name, field.data_type().clone(), field.is_nullable())
    });
    Schema::new(fields.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;

    use super::*;

    #[test]
    fn a_statement_is_taken_as_a_query_only() {
        assert_eq!(only_a_query("select 1; \n;"), "(select 1\n)");
        assert_eq!(only_a_query("select 1 -- why"), "(select 1 -- why\n)");
    }

    #[test]
    fn a_session_has_a_random_uuid() {
        let id = new_id().unwrap();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert_ne!(id, new_id().unwrap());
    }

    #[test]
    fn columns_of_one_name_get_numbers() {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let schema =
            with_distinct_names(&Schema::new(vec![field("id"), field("ID"), field("id"), field("id_1")]));
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["id", "ID_1", "id_2", "id_1_1"]);
    }
}
