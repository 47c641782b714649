//! Indices as they are, made, and taught the types of new columns.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use arrow_schema::{DataType, Schema};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::server::Server;
use crate::fail::HttpError;

/// The longest text that can be sorted and counted as a whole: Lucene takes 32,766 bytes, and a letter has up to four.
const KEYWORD_LETTERS_MAX: u32 = 8191;
/// Names that the server keeps for itself in every document.
const TAKEN: [&str; 16] = [
    "_data_stream_timestamp",
    "_doc_count",
    "_feature",
    "_field_names",
    "_id",
    "_ignored",
    "_index",
    "_nested_path",
    "_primary_term",
    "_routing",
    "_seq_no",
    "_size",
    "_source",
    "_tier",
    "_type",
    "_version",
];

/// The indices that were seen, each with the columns whose types are settled.
#[derive(Debug, Default)]
pub(crate) struct Indices(HashMap<String, BTreeSet<String>>);

impl Indices {
    /// Sees to an index for rows with these columns.
    pub(crate) async fn ensure(
        &mut self,
        server: &Server,
        create: bool,
        index: &str,
        columns: &BTreeMap<String, Value>,
    ) -> Result<(), Failure> {
        let failed = |error: HttpError| server.words.failure(&error);
        if !self.0.contains_key(index) {
            let found = match fields(server, index).await.map_err(failed)? {
                Some(found) => found,
                None if !create => return Err(missing(server, index)),
                None => {
                    make(server, index, &properties(columns.iter())).await.map_err(failed)?;
                    // Somebody else may have made it at the same moment, with other columns.
                    fields(server, index).await.map_err(failed)?.unwrap_or_default()
                }
            };
            self.0.insert(index.to_owned(), found);
        }
        let known = self.0.get_mut(index).expect("it was just put there");
        let new: BTreeMap<_, _> = columns.iter().filter(|(name, _)| !known.contains(*name)).collect();
        if !create || new.is_empty() {
            return Ok(());
        }
        let body = json!({ "properties": properties(new.iter().map(|(name, kind)| (*name, *kind))) });
        match server.ask(Method::PUT, &format!("{index}/_mapping"), Some(body.to_string())).await {
            Ok(_) => {}
            // What it does not want to have as we say it has another form there: the rows will tell whether they fit.
            Err(error @ HttpError::Status { status: StatusCode::BAD_REQUEST, .. }) => {
                tracing::warn!(index, %error, "an index does not take the types of new columns");
            }
            Err(error) => return Err(failed(error)),
        }
        known.extend(new.into_keys().cloned());
        Ok(())
    }

    /// Looks anew at all of them when they are needed next.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

/// The columns that an index knows, `None` where there is no such index. Behind an alias: those that any index of it has.
pub(crate) async fn fields(server: &Server, index: &str) -> Result<Option<BTreeSet<String>>, HttpError> {
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        mappings: Mappings,
    }
    #[derive(Deserialize, Default)]
    struct Mappings {
        #[serde(default)]
        properties: Map<String, Value>,
    }
    let Some(found) = server.find(&format!("{index}/_mapping")).await? else { return Ok(None) };
    let all: HashMap<String, One> = found.read()?;
    Ok(Some(
        all.into_values().flat_map(|one| one.mappings.properties.into_iter().map(|(name, _)| name)).collect(),
    ))
}

async fn make(server: &Server, index: &str, properties: &Map<String, Value>) -> Result<(), HttpError> {
    // A text that looks like a date is a text: the types of columns are known.
    let body = json!({ "mappings": { "date_detection": false, "properties": properties } });
    create(server, index, &body).await
}

/// Makes an index; one that is there already is fine.
pub(crate) async fn create(server: &Server, index: &str, body: &Value) -> Result<(), HttpError> {
    match server.ask(Method::PUT, index, Some(body.to_string())).await {
        Err(HttpError::Status { status: StatusCode::BAD_REQUEST, reason })
            if reason.contains("resource_already_exists") =>
        {
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

fn properties<'a>(columns: impl Iterator<Item = (&'a String, &'a Value)>) -> Map<String, Value> {
    columns.filter(|(_, kind)| !kind.is_null()).map(|(name, kind)| (name.clone(), kind.clone())).collect()
}

/// Something is not there and may not be made.
pub(crate) fn missing(server: &Server, index: &str) -> Failure {
    let message = format!("there is no index `{index}`, and `create` is `false`");
    let problem = Problem::new("sink.index_missing", ExitCode::NotFound, message)
        .cause(format!("{} said so", server.words.server))
        .hint("set `create: true`, and the sink makes it; or make it");
    Failure::new(FailureKind::Refused, problem)
}

/// What the columns are called in documents, as many as columns.
pub(crate) fn names(schema: &Schema) -> Vec<String> {
    let name = |field: &arrow_schema::FieldRef| match field.name().as_str() {
        taken if TAKEN.contains(&taken) => format!("{taken}_1"),
        name => name.to_owned(),
    };
    schema.fields().iter().map(name).collect()
}

/// The type of each column, by its name in documents; null where the server is to find out.
pub(crate) fn kinds(schema: &Schema) -> BTreeMap<String, Value> {
    let kinds = names(schema).into_iter().zip(schema.fields()).map(|(name, field)| {
        let kind = match name.as_str() {
            "_node" => json!({"type": "keyword"}),
            // The halves of an id are far below 2^63, and every version knows this type.
            "_epoch" | "_seq" | "_row" => json!({"type": "long"}),
            _ => kind(field.data_type()),
        };
        (name, kind)
    });
    kinds.collect()
}

fn kind(of: &DataType) -> Value {
    use DataType as T;
    match of {
        T::Null | T::Map(_, _) => Value::Null,
        T::Boolean => json!({"type": "boolean"}),
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
            json!({"type": "long"})
        }
        T::UInt64 => json!({"type": "unsigned_long"}),
        // "NaN" and "Infinity" stay in the document, and are not found as numbers.
        T::Float16 | T::Float32 | T::Float64 => json!({"type": "double", "ignore_malformed": true}),
        T::Decimal128(_, _) | T::Decimal256(_, _) => json!({"type": "double"}),
        T::Timestamp(_, _) | T::Date32 | T::Date64 => json!({"type": "date", "ignore_malformed": true}),
        T::Utf8 | T::LargeUtf8 | T::Utf8View => json!({
            "type": "text",
            "fields": { "keyword": { "type": "keyword", "ignore_above": KEYWORD_LETTERS_MAX } },
        }),
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) => kind(item.data_type()),
        T::Dictionary(_, value) => kind(value),
        T::Struct(fields) => {
            let inner = fields.iter().map(|field| (field.name().clone(), kind(field.data_type())));
            let inner: Map<String, Value> = inner.filter(|(_, kind)| !kind.is_null()).collect();
            json!({ "properties": inner })
        }
        _ => json!({"type": "keyword", "ignore_above": KEYWORD_LETTERS_MAX}),
    }
}
