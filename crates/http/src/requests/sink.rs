//! Delivers groups: a request for each slice, named by what it covers.

use std::sync::Arc;
use std::time::Duration;

use aap_columns::held_bytes;
use aap_sinks::{
    Book, Failure, FailureKind, Group, GroupLimits, Guarantee, Ledger, Positions, Range, Sink, Slice, Target,
};
use aap_types::{ExitCode, Problem};
use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use super::spec::{Format, HttpSpec};
use crate::client::{ANSWER_START, Ask, Client, Compression};
use crate::fail::{HttpError, Words, excerpt, setting};
use crate::rows::Rows;

/// Bytes at a time: what a group may take of the coordinator's memory.
const GROUP_BYTES: usize = 8 << 20;
/// How long rows wait for others: a request costs more than its rows.
const LINGER: Duration = Duration::from_millis(250);

/// A sink that sends requests.
#[derive(Debug)]
pub struct HttpSink {
    target: Target,
    spec: HttpSpec,
    book: Book,
    client: Option<Client>,
}

impl HttpSink {
    /// A sink for `target`, whose position stands in `ledger`. Connects when it is first used.
    pub fn new(target: Target, spec: HttpSpec, ledger: Arc<dyn Ledger>) -> Self {
        Self { target, spec, book: Book::new(ledger), client: None }
    }

    fn words(&self) -> Words {
        Words { server: "the HTTP server", place: self.spec.place() }
    }

    /// Connections, kept until something fails: secrets are read anew then.
    async fn connect(&mut self) -> Result<Client, Failure> {
        self.spec.check().map_err(|why| setting("the HTTP sink", why))?;
        match self.client.take() {
            Some(client) => Ok(client),
            None => {
                let client = Client::new(self.spec.ca.clone(), self.spec.login()).await;
                client.map_err(|error| self.words().failure(&error))
            }
        }
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.rows() > 0 {
            self.book.intend(group).await?;
            let client = self.connect().await?;
            self.send_all(&client, group).await?;
            self.client = Some(client);
        }
        self.book.commit(group).await
    }

    /// A request for each slice, some at a time, each of another key. Stops at the first failure.
    async fn send_all(&self, client: &Client, group: &Group) -> Result<(), Failure> {
        let mut waiting = group.slices.iter().filter(|slice| slice.rows.num_rows() > 0);
        let mut sending = FuturesUnordered::new();
        loop {
            while sending.len() < self.spec.concurrency.get() {
                let Some(slice) = waiting.next() else { break };
                sending.push(self.send(client, slice));
            }
            match sending.next().await {
                None => return Ok(()),
                Some(sent) => sent?,
            }
        }
    }

    async fn send(&self, client: &Client, slice: &Slice) -> Result<(), Failure> {
        let (rows, format, compression) = (slice.rows.clone(), self.spec.format, self.spec.compression);
        let body = tokio::task::spawn_blocking(move || body(&rows, format, compression)).await;
        let body = body.unwrap_or_else(|panic| Err(HttpError::Answer(panic.to_string())));
        let body = body.map_err(|error| self.words().failure(&error))?;
        let ask = Ask {
            method: self.spec.method(),
            url: &self.spec.url.of(&slice.key.stream),
            content_type: self.spec.format.content_type(),
            compression: self.spec.compression,
            headers: self.headers(slice),
            body,
            deadline: self.spec.timeout(),
            answer_max: ANSWER_START,
        };
        let answer = client.ask(ask).await.map_err(|error| self.words().failure(&error))?;
        if answer.status.is_success() {
            return Ok(());
        }
        let error = HttpError::Status { status: answer.status, reason: excerpt(&answer.body) };
        Err(match answer.status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                self.not_taken(slice, &error)
            }
            _ => self.words().failure(&error),
        })
    }

    /// The server says that it is the request. Which of its rows it does not say; of several batches the bad one is looked for.
    fn not_taken(&self, slice: &Slice, error: &HttpError) -> Failure {
        let message = format!("the HTTP server does not take rows of stream `{}`", slice.key.stream);
        let problem = Problem::new("sink.group_refused", ExitCode::Failed, message).caused_by(error);
        Failure::new(FailureKind::Group, problem)
    }

    /// What names the request. The same rows have the same names, whenever they are sent.
    fn headers(&self, slice: &Slice) -> HeaderMap {
        let mut headers = self.spec.header_map();
        let range = format!("{}/{}-{}", slice.key, slice.after.0 + 1, slice.through);
        let named = [
            ("idempotency-key", format!("{}/{range}", self.target.uid)),
            ("aap-batch", range),
            ("aap-stream", slice.key.stream.to_string()),
            ("aap-rows", slice.rows.num_rows().to_string()),
        ];
        for (name, value) in named {
            // Names of ours and numbers, all of them letters that a header may have.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// Asks for the options of the server: what it answers is of no interest, as long as it does.
    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let client = self.connect().await?;
        let sample =
            "s".parse().map_err(|_never| setting("the HTTP sink", "no stream has a name".to_owned()))?;
        let url = self.spec.url.of(&sample);
        let ask = Ask {
            method: Method::OPTIONS,
            url: &url,
            content_type: "",
            compression: Compression::None,
            headers: self.spec.header_map(),
            body: Bytes::new(),
            deadline: self.spec.timeout(),
            answer_max: ANSWER_START,
        };
        let answer = client.ask(ask).await.map_err(|error| self.words().failure(&error))?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let error = HttpError::Status { status: answer.status, reason: excerpt(&answer.body) };
            return Err(self.words().failure(&error));
        }
        self.client = Some(client);
        let written = self.book.look().await?;
        Ok(vec![
            format!("server: {} answers OPTIONS with {}", self.spec.url, answer.status),
            "whether it takes rows is known when some are sent".to_owned(),
            format!("ledger: at the coordinator, {} keys of this sink", written.len()),
        ])
    }
}

/// Rows as a body. Takes processor time.
fn body(rows: &RecordBatch, format: Format, compression: Compression) -> Result<Bytes, HttpError> {
    let objects = Rows::of(rows);
    let mut body = Vec::with_capacity(held_bytes(rows));
    for row in 0..rows.num_rows() {
        match format {
            Format::Ndjson => {}
            Format::Json => body.push(if row == 0 { b'[' } else { b',' }),
        }
        objects.write(row, &mut body);
        if format == Format::Ndjson {
            body.push(b'\n');
        }
    }
    if format == Format::Json {
        body.push(b']');
    }
    compression.of(body).map_err(|error| HttpError::Answer(error.to_string()))
}

impl Sink for HttpSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: self.spec.max_rows.get(), bytes: GROUP_BYTES, linger: LINGER }
    }

    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        Box::pin(self.book.take_over())
    }

    fn intended(&self) -> Vec<Range> {
        self.book.intended()
    }

    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.write_group(group))
    }

    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(self.look())
    }
}
