//! Answers by `Idempotency-Key`, committed by the buffer with the rows they are about.
//!
//! The position of a key has the time of its answer as offset (microseconds) and the answer and the digest of the
//! request as detail. The buffer's index survives kill -9 and the reclaim of the rows, but keeps only the newest; the
//! [`Ledger`] has all of them. After 24 h an answer no longer counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_buffer::mutant;
use aap_types::{SourceKind, SourcePosition, StreamName};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Refused;
use super::ledger::{Answer, KeyHash, Ledger, NoKey, Record};
use super::take::OnError;
use crate::ingest::digest::{hex, unhex};
use crate::ingress::Ingress;

/// How long a repetition waits for the first request with its key.
const WAIT: Duration = Duration::from_secs(60);

/// The detail of a key's position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Digest of the request, as hex.
    request: String,
    /// The answer that was given.
    answer: String,
}

/// The requests under way, by position key. Shared by all lives of the HTTP source: a request outlives the reload that
/// replaces its source, and its repetition must find it.
#[derive(Debug, Clone, Default)]
pub(super) struct Open(Arc<Mutex<HashMap<String, watch::Receiver<()>>>>);

/// All keys of a source. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    ingress: Ingress,
    keep: Duration,
    open: Open,
    ledger: Ledger,
}

/// Whether a request is to be taken.
pub(super) enum Begun {
    /// It was taken before: this was the answer.
    Answered(String),
    /// It is this caller's to take.
    Mine(Claim),
    /// Another request has the key: see [`Keys::outcome`].
    Busy(Waiting),
}

/// What a repetition needs to wait for the first request; not its body.
pub(super) struct Waiting {
    key: String,
    request: String,
    first: watch::Receiver<()>,
}

impl Begun {
    /// A request without a key is always the caller's.
    pub(super) fn unkeyed() -> Self {
        Self::Mine(Claim { held: None })
    }
}

/// The right to take the request of a key; others wait until it is dropped.
pub(super) struct Claim {
    held: Option<Held>,
}

struct Held {
    keys: Keys,
    key: String,
    request: String,
    _done: watch::Sender<()>,
}

impl Keys {
    pub(super) fn new(ingress: Ingress, keep: Duration, open: Open, ledger: Ledger) -> Self {
        Self { ingress, keep, open, ledger }
    }

    /// Keeps the ledger up with the buffer. `adoptions` changes when answers came back from the coordinator.
    pub(super) async fn keep_up(&self, mut adoptions: watch::Receiver<u64>) {
        let writing = self.ledger.write_all(|| self.now_us(), self.keep);
        let taking_over = async {
            loop {
                self.take_over().await;
                if adoptions.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::join!(writing, taking_over);
    }

    /// Writes what is not written yet.
    pub(super) async fn write_soon(&self) {
        self.ledger.write_soon(self.now_us(), self.keep).await;
    }

    /// Takes over what the buffer knows and the ledger does not: a crash came between, or it came back from the coordinator.
    pub(super) async fn take_over(&self) {
        let own = self.clone();
        let taking = tokio::task::spawn_blocking(move || {
            let positions = own.ingress.buffer.positions();
            for position in positions.into_iter().filter(|position| position.kind == SourceKind::HttpKey) {
                let Ok(kept) = serde_json::from_str::<Kept>(&position.detail) else { continue };
                own.record(&position.key, &kept.request, position.offset, &kept.answer);
            }
        });
        if let Err(panic) = taking.await {
            tracing::error!(error = %panic, "keys of the buffer could not be looked at");
        }
    }

    fn record(&self, key: &str, request: &str, answered_us: u64, answer: &str) {
        let request = unhex(request).and_then(|request| <[u8; 16]>::try_from(request).ok());
        if let (Some(request), Ok(answer)) = (request, serde_json::from_str::<Answer>(answer)) {
            self.ledger.keep(KeyHash::of(key), Record::new(request, answered_us, answer));
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.ingress.clock.unix_us()).unwrap_or(0)
    }

    /// Looks the key up, and takes it if nobody has it.
    pub(super) fn begin(&self, stream: &StreamName, key: &str, request: String) -> Result<Begun, Refused> {
        let key = format!("{stream}/{key}");
        let mut open = self.open.lock();
        if let Some(first) = open.get(&key) {
            return Ok(Begun::Busy(Waiting { first: first.clone(), key, request }));
        }
        if let Some(kept) = self.kept(&key).filter(|_| !mutant::is("nokeys")) {
            return answered(kept, &request).map(Begun::Answered);
        }
        self.ledger.admit(self.now_us(), self.keep).map_err(no_key)?;
        let (done, first) = watch::channel(());
        open.insert(key.clone(), first);
        let held = Held { keys: self.clone(), key, request, _done: done };
        Ok(Begun::Mine(Claim { held: Some(held) }))
    }

    /// Waits for the first request with a key, and gives its answer.
    pub(super) async fn outcome(&self, mut waiting: Waiting) -> Result<String, Refused> {
        // The sender never sends: this ends when the first request does.
        if tokio::time::timeout(WAIT, waiting.first.changed()).await.is_err() {
            return Err(in_use("the first request with this key is still under way"));
        }
        match self.kept(&waiting.key) {
            Some(kept) => answered(kept, &waiting.request),
            None => Err(in_use("the first request with this key was not taken; send this one again")),
        }
    }

    fn kept(&self, key: &str) -> Option<Kept> {
        let now_us = self.now_us();
        let Some(position) = self.ingress.buffer.position(SourceKind::HttpKey, key) else {
            let record = self.ledger.get(KeyHash::of(key), now_us, self.keep)?;
            return Some(Kept { request: hex(&record.request), answer: record.answer().text() });
        };
        let age = Duration::from_micros(now_us.saturating_sub(position.offset));
        (age < self.keep).then(|| serde_json::from_str(&position.detail).ok()).flatten()
    }
}

fn no_key(why: NoKey) -> Refused {
    match why {
        NoKey::Full { oldest_goes_in } => {
            let message = "as many keys as can be kept were used within the time that they are kept; \
                           send more rows with each, or without a key";
            let seconds = oldest_goes_in.as_secs().max(1);
            Refused::new(StatusCode::TOO_MANY_REQUESTS, "http.keys_full", message).after(seconds)
        }
        NoKey::Unwritten { why } => {
            let message =
                format!("answers to keys cannot be stored: {why}; nothing of this request was taken");
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "http.not_stored", message).later()
        }
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_use(message: &str) -> Refused {
    Refused::new(StatusCode::CONFLICT, "http.key_in_use", message).later()
}

fn answered(kept: Kept, request: &str) -> Result<String, Refused> {
    if kept.request == request {
        return Ok(kept.answer);
    }
    let message = "this Idempotency-Key was used with another request; use a new one";
    Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, "http.key_reused", message))
}

impl Claim {
    /// The positions to commit with the rows, so that a repetition gets this answer.
    pub(super) fn positions(&self, now_us: i64, answer: &str) -> Vec<SourcePosition> {
        let position = |held: &Held| {
            let kept = Kept { request: held.request.clone(), answer: answer.to_owned() };
            SourcePosition {
                kind: SourceKind::HttpKey,
                key: held.key.clone(),
                offset: u64::try_from(now_us).unwrap_or(0),
                detail: serde_json::to_string(&kept).unwrap_or_default(),
            }
        };
        self.held.iter().map(position).collect()
    }
}

impl Claim {
    /// The rows and the answer are durable.
    pub(super) fn answered(&self, now_us: i64, answer: &str) {
        if let Some(held) = &self.held {
            held.keys.record(&held.key, &held.request, u64::try_from(now_us).unwrap_or(0), answer);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keys.open.lock().remove(&self.key);
    }
}

/// What makes two requests the same: body, type, encoding, and the wish about bad rows.
pub(super) fn digest(raw: &[u8], headers: &HeaderMap, on_error: OnError) -> String {
    let mut hasher = blake3::Hasher::new();
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        let value = headers.get(name).map(|value| value.as_bytes()).unwrap_or_default();
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value);
    }
    hasher.update(&[on_error as u8]);
    hasher.update(raw);
    hex(&hasher.finalize().as_bytes()[..16])
}
