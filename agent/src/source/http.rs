//! HTTP ingest on loopback: `POST /v1/streams/NAME`, answered after the rows are durable.
//!
//! | content type | rows |
//! |---|---|
//! | `application/x-ndjson`, `application/jsonl` | one JSON object a line |
//! | `application/json` | an array of objects, or one object |
//! | `text/csv` | a header and records |
//! | `text/plain` | one line, one row |
//! | `application/vnd.apache.arrow.stream` | an Arrow IPC stream |
//!
//! | answer | when |
//! |---|---|
//! | 200 `{"rows":…,"batches":…,"bad_rows":…}` | durable |
//! | 400 | bad stream name; bad rows, naming row and reason: nothing was taken (`?on_error=dead-letter` keeps them apart instead, unless a JSON document breaks off) |
//! | 401 / 415 | wrong token / content type or encoding |
//! | 404 / 405 | a path that is not there / the wrong method for it |
//! | 408 | the body comes at less than 16 KiB a second |
//! | 409 with `Retry-After` | the first request with this `Idempotency-Key` is under way, or was not taken |
//! | 413 | more than the limit after decompression |
//! | 422 | the `Idempotency-Key` was used with another body |
//! | 429 with `Retry-After` | the buffer is full; too many requests, or keys within a day |
//! | 503 with `Retry-After` | the rows could not be stored, or not soon enough to say so |
//!
//! A key's answer is committed in the group of its rows and kept for 24 h, so a repetition after any crash gets the same answer and adds
//! nothing. A repetition that comes while the first is under way waits for it.
//!
//! | file | owns |
//! |---|---|
//! | `http/take.rs` | rows of one request |
//! | `http/keys.rs` | who has a key, and what was answered |
//! | `http/ledger.rs` | answers by key, for a day |
//! | `http/metrics.rs` | `/metrics` |

mod keys;
mod ledger;
mod metrics;
mod take;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_transport::{HttpListener, Security, serve_http};
use aap_types::StreamName;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, Semaphore, watch};

use self::keys::{Begun, Keys};
use self::ledger::Ledger;
use self::take::{Kind, OnError};
use super::requests::{ANSWER_WITHIN, Bearer, DRAIN, REQUESTS_MAX, Refused, TURN_WITHIN, body};
use super::{SourceDeps, SourceError};
use crate::config::HttpSpec;

/// Longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 255;

/// What is known of the HTTP source beyond one life of it: where it listens, for `run/agent.json`, and the keys of the
/// requests under way.
#[derive(Debug)]
pub struct Listening {
    settled: watch::Sender<Settled>,
    open: keys::Open,
    ledger: OnceCell<Ledger>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Settled {
    expected: bool,
    address: Option<SocketAddr>,
}

impl Default for Listening {
    fn default() -> Self {
        let settled = watch::channel(Settled::default()).0;
        Self { settled, open: keys::Open::default(), ledger: OnceCell::new() }
    }
}

impl Listening {
    /// The address, once it is known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.settled.borrow().address
    }

    /// An HTTP source is about to start: where the former one listened says nothing any more.
    pub fn expect(&self) {
        self.settled.send_replace(Settled { expected: true, address: None });
    }

    /// The ledger of keys, read when it is first wanted.
    async fn ledger(&self, deps: &SourceDeps) -> Result<Ledger, SourceError> {
        let path = deps.home.agent().join("http-keys");
        let failed = SourceError::io(format!("read the answers to keys in `{path}`"));
        let store_id = deps.ingress.buffer.keeps_with();
        let read = async || {
            let reading = tokio::task::spawn_blocking(move || Ledger::open(&path, store_id));
            reading.await.map_err(std::io::Error::other)?
        };
        self.ledger.get_or_try_init(read).await.cloned().map_err(failed)
    }

    fn set(&self, address: SocketAddr) {
        self.settled.send_replace(Settled { expected: true, address: Some(address) });
    }

    /// The source that listened at `address` does so no more. Its successor may have been announced already.
    fn clear(&self, address: SocketAddr) {
        self.settled.send_modify(|settled| {
            if settled.address == Some(address) {
                *settled = Settled::default();
            }
        });
    }

    /// Waits until the source that is about to start listens, at most `limit`.
    pub async fn settled(&self, limit: Duration) {
        let mut changes = self.settled.subscribe();
        let ready = changes.wait_for(|settled| !settled.expected || settled.address.is_some());
        if tokio::time::timeout(limit, ready).await.is_err() {
            tracing::warn!("the HTTP source does not listen yet");
        }
    }
}

/// What requests work with.
#[derive(Debug, Clone)]
struct Api {
    name: Arc<str>,
    deps: SourceDeps,
    keys: Keys,
    bearer: Bearer,
    body_bytes_max: usize,
    /// Of bodies.
    room: body::Room,
    /// Of requests whose body is here.
    turns: Arc<Semaphore>,
}

/// Listens until it is asked to stop.
pub(super) async fn run(
    name: String,
    spec: HttpSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let bearer = Bearer::open(deps.home.root().join(&spec.token_file)).await?;
    let ledger = deps.listening.ledger(&deps).await?;
    let keys = Keys::new(deps.ingress.clone(), spec.keep_keys.0, deps.listening.open.clone(), ledger);
    let adoptions = deps.first_welcome.adoptions();
    keys.take_over().await;
    let listener = listen(&spec, &deps).await?;
    let address = listener.local_addr().map_err(SourceError::io("ask for the address"))?;
    deps.listening.set(address);
    deps.board.source(&name, |entry| entry.detail = format!("listens on {address}"));
    tracing::info!(%address, "HTTP source listens");
    let listening = deps.listening.clone();
    let body_bytes_max = usize::try_from(spec.body_bytes_max.0).unwrap_or(usize::MAX);
    let api = Api {
        name: name.into(),
        bearer,
        deps,
        keys: keys.clone(),
        body_bytes_max,
        room: body::Room::of_bodies(body_bytes_max),
        turns: Arc::new(Semaphore::new(REQUESTS_MAX)),
    };
    let listener = HttpListener::new(listener, Security::Plain);
    let abandoned = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        () = serve_http(listener, router(api), shutdown.clone()) => {}
        () = abandoned => {}
        () = keys.keep_up(adoptions) => {}
    }
    keys.write_soon().await;
    listening.clear(address);
    Ok(())
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/streams/{name}", post(ingest))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_such_path)
        .with_state(api)
}

async fn no_such_path(uri: Uri) -> Refused {
    let path = uri.path();
    let message = format!(
        "there is nothing at `{path}`: POST rows to /v1/streams/NAME, GET /metrics, /healthz or /readyz"
    );
    Refused::new(StatusCode::NOT_FOUND, "http.no_such_path", message)
}

async fn wrong_method(method: Method, uri: Uri) -> Refused {
    let path = uri.path();
    let right = if path.starts_with("/v1/streams/") { "POST" } else { "GET" };
    let message = format!("`{path}` does not take {method}; use {right}");
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "http.wrong_method", message)
}

/// The port of the configuration if it was set there; else the default, the one of the last run, or any.
async fn listen(spec: &HttpSpec, deps: &SourceDeps) -> Result<TcpListener, SourceError> {
    let Some(wanted) = spec.listen else {
        for port in [last_port(deps), Some(HttpSpec::DEFAULT_PORT)].into_iter().flatten() {
            if let Ok(listener) = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await {
                return Ok(listener);
            }
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        return TcpListener::bind(any).await.map_err(SourceError::io("listen on a free port"));
    };
    TcpListener::bind(wanted).await.map_err(|source| {
        let owner = if source.kind() == std::io::ErrorKind::AddrInUse {
            "; see `ss -ltnp` for who has it"
        } else {
            ""
        };
        SourceError::Io { what: format!("listen on {wanted}{owner}"), source }
    })
}

fn last_port(deps: &SourceDeps) -> Option<u16> {
    let text = std::fs::read(deps.home.run().join("agent.json")).ok()?;
    let endpoints: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let address: SocketAddr = endpoints.get("http")?.as_str()?.parse().ok()?;
    Some(address.port())
}

/// What stands behind `?`.
#[derive(Debug, Deserialize)]
struct Wishes {
    on_error: Option<String>,
}

async fn ingest(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match take_request(&api, &name, &wishes, &headers, body).await {
        Ok(answer) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn take_request(
    api: &Api,
    name: &str,
    wishes: &Wishes,
    headers: &HeaderMap,
    body: Body,
) -> Result<String, Refused> {
    api.bearer.authorise(headers).await?;
    let stream: StreamName = name.parse().map_err(|error: aap_types::NameError| {
        Refused::new(StatusCode::BAD_REQUEST, "http.bad_stream", error.to_string())
    })?;
    let kind = Kind::of(headers)?;
    let codec = body::Codec::of(headers)?;
    let on_error = match wishes.on_error.as_deref() {
        None | Some("reject") => OnError::Reject,
        Some("dead-letter") => OnError::DeadLetter,
        Some(other) => {
            let message = format!("on_error `{other}` is not known: reject or dead-letter");
            return Err(Refused::new(StatusCode::BAD_REQUEST, "http.bad_parameter", message));
        }
    };
    let key = idempotency_key(headers)?;
    let raw = body::read(body, api.body_bytes_max, &api.room, body::Patience::default()).await?;
    let digest = key.as_ref().map(|_| keys::digest(&raw.bytes, headers, on_error));
    let begun = match (&key, digest) {
        (Some(key), Some(digest)) => api.keys.begin(&stream, key, digest)?,
        _ => Begun::unkeyed(),
    };
    let begun = match begun {
        Begun::Answered(answer) => return Ok(answer),
        Begun::Mine(claim) => claim,
        Begun::Busy(waiting) => {
            // The body was needed for its digest only: who waits takes nobody's room.
            drop(raw);
            return api.keys.outcome(waiting).await;
        }
    };
    let turn = tokio::time::timeout(TURN_WITHIN, api.turns.clone().acquire_owned()).await;
    let turn = turn.ok().and_then(Result::ok).ok_or_else(body::busy)?;
    let request = take::Request {
        stream,
        source: api.name.to_string(),
        kind,
        codec,
        on_error,
        raw,
        limit: api.body_bytes_max,
    };
    // Apart from the connection: a client that goes away must not leave the key claimed and its rows half known.
    let deps = api.deps.clone();
    #[expect(clippy::disallowed_methods, reason = "awaited here; goes on to its end if the client goes away")]
    let taking = tokio::spawn(async move {
        let _turn = turn;
        take::take(request, &deps, begun).await
    });
    let Ok(taken) = tokio::time::timeout(ANSWER_WITHIN, taking).await else {
        let message = "the rows are not durable yet and may become so later: with an Idempotency-Key it is safe to send them again";
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "http.not_stored", message).later());
    };
    taken.unwrap_or_else(|_| {
        Err(Refused::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "http.failed",
            "taking the rows failed unexpectedly",
        ))
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => {
            let message = format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} visible ASCII characters");
            Err(Refused::new(StatusCode::BAD_REQUEST, "http.bad_key", message))
        }
    }
}

/// Ready: the buffer takes data and every source runs.
async fn ready(State(api): State<Api>) -> Response {
    let stats = api.deps.ingress.buffer.stats();
    let mut problems = api.deps.board.problems();
    problems.extend(stats.problems);
    if stats.blocked {
        problems.push("the buffer is full".to_owned());
    }
    let failed =
        api.deps.board.sources().values().any(|entry| entry.state == crate::board::SourceState::Failed);
    let status = if stats.blocked || failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let text = if problems.is_empty() { "ready\n".to_owned() } else { format!("{}\n", problems.join("\n")) };
    (status, text).into_response()
}

#[cfg(test)]
mod tests;
