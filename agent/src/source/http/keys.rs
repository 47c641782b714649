//! Answers by `Idempotency-Key`, kept in the buffer's position index with the rows they are about.
//!
//! The position of a key has the time of its answer as offset (microseconds) and the answer and the digest of the
//! request as detail. The index survives kill -9 and the reclaim of the rows. After 24 h an answer no longer counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_buffer::mutant;
use aap_types::{SourceKind, SourcePosition, StreamName};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Refused;
use super::take::OnError;
use crate::ingest::digest::hex;
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
    pub(super) fn new(ingress: Ingress, keep: Duration, open: Open) -> Self {
        Self { ingress, keep, open }
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
        let position = self.ingress.buffer.position(SourceKind::HttpKey, key)?;
        let now_us = u64::try_from(self.ingress.clock.unix_us()).unwrap_or(0);
        let age = Duration::from_micros(now_us.saturating_sub(position.offset));
        (age < self.keep).then(|| serde_json::from_str(&position.detail).ok()).flatten()
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
