//! Rows as bulk requests, and what the server says of each of them.

use std::sync::Arc;

use aap_sinks::{BadRow, Failure, Slice};
use aap_types::StreamName;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::StatusCode;
use serde::Deserialize;

use super::index;
use super::server::{Said, Server};
use super::spec::{ElasticsearchSpec, IndexName};
use crate::client::Compression;
use crate::fail::HttpError;
use crate::rows::{Ids, Rows};

/// Bytes of a request before it is compressed: within what servers and those in front of them take (10 MB at the least), and large
/// enough that the request itself costs nothing beside its rows.
const BULK_BYTES: usize = 4 << 20;
/// Of each answer only what is looked at.
const BULK: &str = "_bulk?filter_path=errors,items.*.status,items.*.error";
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// What the server says of an index that takes no document by its id, whatever is in it.
const NOT_FOR_US: [&str; 2] = ["no write index", "op_type of create"];

/// The rows of a slice, and what they are called in the server.
#[derive(Debug)]
pub(crate) struct Source {
    slice: usize,
    stream: StreamName,
    index: IndexName,
    compression: Compression,
    names: Vec<String>,
    rows: RecordBatch,
}

impl Source {
    /// Of slice number `slice`.
    pub(crate) fn of(slice: usize, of: &Slice, spec: &ElasticsearchSpec) -> Self {
        Self {
            slice,
            stream: of.key.stream.clone(),
            index: spec.index.clone(),
            compression: spec.compression,
            names: index::names(of.rows.schema_ref()),
            rows: of.rows.clone(),
        }
    }

    /// The indices that its rows go to.
    pub(crate) fn indices(&self) -> Vec<String> {
        let mut days: Vec<i64> = match self.index.has_date() {
            true => (0..self.rows.num_rows()).map(days(&self.rows)).collect(),
            false => vec![0],
        };
        days.sort_unstable();
        days.dedup();
        days.into_iter().map(|day| self.index.of(&self.stream, day)).collect()
    }

    /// A request with rows from `part`, as many as have room. Takes processor time.
    fn request(&self, part: std::ops::Range<usize>) -> Result<Request, HttpError> {
        let wrong = |why: &str| HttpError::Answer(why.to_owned());
        let ids = Ids::of(&self.rows).ok_or_else(|| wrong("rows without ids"))?;
        let rows = Rows::named(&self.rows, &self.names);
        let day = days(&self.rows);
        let (mut body, mut row) = (Vec::with_capacity(BULK_BYTES / 4), part.start);
        let (mut known, mut action) = (None, String::new());
        while row < part.end && (row == part.start || body.len() < BULK_BYTES) {
            let today = if self.index.has_date() { day(row) } else { 0 };
            if known != Some(today) {
                let index = serde_json::Value::from(self.index.of(&self.stream, today));
                action = format!("{{\"index\":{{\"_index\":{index},\"_id\":\"");
                known = Some(today);
            }
            body.extend_from_slice(action.as_bytes());
            // Names and numbers: nothing in it needs to be escaped.
            ids.text(self.stream.as_str(), row, &mut body);
            body.extend_from_slice(b"\"}}\n");
            rows.write(row, &mut body);
            body.push(b'\n');
            row += 1;
        }
        let body = self.compression.of(body).map_err(|error| HttpError::Answer(error.to_string()))?;
        Ok(Request { slice: self.slice, rows: part.start..row, body })
    }
}

/// The day of a row, counted from 1970-01-01: that of its `ts`, or the first where it has none.
fn days(rows: &RecordBatch) -> impl Fn(usize) -> i64 {
    let times: Option<TimestampMicrosecondArray> = rows
        .column_by_name("ts")
        .filter(|ts| matches!(ts.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)))
        .map(|ts| ts.as_primitive::<TimestampMicrosecondType>().clone());
    move |row| match &times {
        Some(times) if times.is_valid(row) => times.value(row).div_euclid(MICROS_PER_DAY),
        _ => 0,
    }
}

/// One bulk request.
#[derive(Debug)]
struct Request {
    slice: usize,
    rows: std::ops::Range<usize>,
    body: Bytes,
}

/// How a request ended, if not in a failure.
enum Answered {
    /// All rows but these were taken.
    Taken(Vec<BadRow>),
    /// It is too large for the server.
    TooLarge,
}

/// Sends all rows, some requests at a time. The rows that the server does not take; all others are acknowledged. Stops at the first
/// failure: requests under way may still be taken, which changes nothing.
pub(crate) async fn send_all(
    server: &Server,
    spec: &ElasticsearchSpec,
    sources: Vec<Source>,
) -> Result<Vec<BadRow>, Failure> {
    // The next one to send is the last.
    let mut waiting: Vec<(Arc<Source>, std::ops::Range<usize>)> = sources
        .into_iter()
        .rev()
        .map(|source| {
            let rows = 0..source.rows.num_rows();
            (Arc::new(source), rows)
        })
        .collect();
    let mut sending = FuturesUnordered::new();
    let mut bad = vec![];
    loop {
        while sending.len() < spec.concurrency.get() {
            let Some((source, part)) = waiting.pop() else { break };
            let request = encode(server, source.clone(), part.clone()).await?;
            if request.rows.end < part.end {
                waiting.push((source.clone(), request.rows.end..part.end));
            }
            sending.push(send(server, spec, source, request));
        }
        let Some(answered) = sending.next().await else { return Ok(bad) };
        let (source, rows, answered) = answered?;
        match answered {
            Answered::Taken(some) => bad.extend(some),
            Answered::TooLarge if rows.len() == 1 => bad.push(BadRow {
                slice: source.slice,
                row: rows.start,
                reason: "the server takes no request as large as this row".to_owned(),
            }),
            Answered::TooLarge => {
                let middle = rows.start + rows.len() / 2;
                waiting.extend([(source.clone(), middle..rows.end), (source, rows.start..middle)]);
            }
        }
    }
}

async fn encode(
    server: &Server,
    source: Arc<Source>,
    part: std::ops::Range<usize>,
) -> Result<Request, Failure> {
    let made = tokio::task::spawn_blocking(move || source.request(part)).await;
    made.unwrap_or_else(|panic| Err(HttpError::Answer(panic.to_string())))
        .map_err(|error| server.words.failure(&error))
}

type Sent = (Arc<Source>, std::ops::Range<usize>, Answered);

fn send<'a>(
    server: &'a Server,
    spec: &'a ElasticsearchSpec,
    source: Arc<Source>,
    request: Request,
) -> BoxFuture<'a, Result<Sent, Failure>> {
    Box::pin(async move {
        let Request { slice, rows, body } = request;
        let answered = match server.bulk(BULK, body).await {
            Ok(done) => {
                let items: Items = done.read().map_err(|error| server.words.failure(&error))?;
                Answered::Taken(items.bad(server, spec, slice, &rows)?)
            }
            Err(HttpError::Status { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) => Answered::TooLarge,
            Err(error) => return Err(server.words.failure(&error)),
        };
        Ok((source, rows, answered))
    })
}

/// The answer to a bulk request.
#[derive(Debug, Deserialize)]
struct Items {
    #[serde(default)]
    errors: bool,
    #[serde(default)]
    items: Vec<One>,
}

#[derive(Debug, Deserialize)]
struct One {
    index: Outcome,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    status: u16,
    #[serde(default)]
    error: Option<Said>,
}

impl Items {
    /// The rows that the server will never take; a failure where it is no matter of rows.
    fn bad(
        self,
        server: &Server,
        spec: &ElasticsearchSpec,
        slice: usize,
        rows: &std::ops::Range<usize>,
    ) -> Result<Vec<BadRow>, Failure> {
        if self.items.len() != rows.len() {
            let what = format!("{} answers to {} rows", self.items.len(), rows.len());
            return Err(server.words.failure(&HttpError::Answer(what)));
        }
        if !self.errors {
            return Ok(vec![]);
        }
        let mut bad = vec![];
        for (row, One { index: Outcome { status, error } }) in rows.clone().zip(self.items) {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            if status.is_success() {
                continue;
            }
            let reason = error.unwrap_or_default().text();
            let is_row =
                status == StatusCode::BAD_REQUEST && !NOT_FOR_US.iter().any(|words| reason.contains(words));
            if !is_row {
                return Err(stopped(server, spec, status, reason));
            }
            bad.push(BadRow { slice, row, reason });
        }
        Ok(bad)
    }
}

/// A failure that a single item told of.
fn stopped(server: &Server, spec: &ElasticsearchSpec, status: StatusCode, reason: String) -> Failure {
    match status {
        StatusCode::NOT_FOUND if spec.create => {
            Failure::moved(format!("an index was deleted while the sink wrote to {}", server.words.place))
        }
        StatusCode::NOT_FOUND => index::missing(server, &spec.index.to_string()),
        status => server.words.failure(&HttpError::Status { status, reason }),
    }
}
