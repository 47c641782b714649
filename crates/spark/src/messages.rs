//! The messages of Spark Connect that are sent and read here, with the numbers of their fields.

use std::collections::HashMap;

use prost::Message;

/// Who asks. Together with the session's id it names the session.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UserContext {
    #[prost(string, tag = "1")]
    pub(crate) user_id: String,
    #[prost(string, tag = "2")]
    pub(crate) user_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExecutePlanRequest {
    #[prost(string, tag = "1")]
    pub(crate) session_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) user_context: Option<UserContext>,
    #[prost(message, optional, tag = "3")]
    pub(crate) plan: Option<Plan>,
    #[prost(string, optional, tag = "4")]
    pub(crate) client_type: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Plan {
    #[prost(oneof = "Op", tags = "1, 2")]
    pub(crate) op: Option<Op>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Op {
    #[prost(message, tag = "1")]
    Root(Relation),
    #[prost(message, tag = "2")]
    Command(Command),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Relation {
    #[prost(oneof = "RelationType", tags = "2, 8, 10")]
    pub(crate) of: Option<RelationType>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum RelationType {
    #[prost(message, tag = "2")]
    Read(Read),
    #[prost(message, tag = "8")]
    Limit(Box<Limit>),
    #[prost(message, tag = "10")]
    Sql(Sql),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Read {
    #[prost(message, optional, tag = "2")]
    pub(crate) data_source: Option<DataSource>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DataSource {
    #[prost(string, optional, tag = "1")]
    pub(crate) format: Option<String>,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) options: HashMap<String, String>,
    #[prost(string, repeated, tag = "4")]
    pub(crate) paths: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Limit {
    #[prost(message, optional, boxed, tag = "1")]
    pub(crate) input: Option<Box<Relation>>,
    #[prost(int32, tag = "2")]
    pub(crate) limit: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sql {
    #[prost(string, tag = "1")]
    pub(crate) query: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(message, optional, tag = "3")]
    pub(crate) create_dataframe_view: Option<CreateDataFrameView>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateDataFrameView {
    #[prost(message, optional, tag = "1")]
    pub(crate) input: Option<Relation>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(bool, tag = "3")]
    pub(crate) is_global: bool,
    #[prost(bool, tag = "4")]
    pub(crate) replace: bool,
}

/// One part of an answer. Progress, metrics and the schema in Spark's own words are passed over.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExecutePlanResponse {
    #[prost(message, optional, tag = "2")]
    pub(crate) arrow_batch: Option<ArrowBatch>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ArrowBatch {
    #[prost(int64, tag = "1")]
    pub(crate) row_count: i64,
    /// An Arrow IPC stream of its own.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConfigRequest {
    #[prost(string, tag = "1")]
    pub(crate) session_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) user_context: Option<UserContext>,
    #[prost(message, optional, tag = "3")]
    pub(crate) operation: Option<Operation>,
    #[prost(string, optional, tag = "4")]
    pub(crate) client_type: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Operation {
    #[prost(message, optional, tag = "1")]
    pub(crate) set: Option<Set>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Set {
    #[prost(message, repeated, tag = "1")]
    pub(crate) pairs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReleaseSessionRequest {
    #[prost(string, tag = "1")]
    pub(crate) session_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) user_context: Option<UserContext>,
    #[prost(string, optional, tag = "3")]
    pub(crate) client_type: Option<String>,
}

/// An answer of which nothing is wanted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Nothing {}
