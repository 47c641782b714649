//! Answers by `Idempotency-Key`, kept in the buffer's position index with the rows they are about.
//!
//! The position of a key has the time of its answer as offset (microseconds) and the answer and the digest of the
//! request as detail. The index survives kill -9 and the reclaim of the rows. After 24 h an answer no longer counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// All keys of a source. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    ingress: Ingress,
    keep: Duration,
    /// Requests under way, by position key.
    open: Arc<Mutex<HashMap<String, watch::Receiver<()>>>>,
}

/// Whether a request is to be taken.
pub(super) enum Begun {
    /// It was taken before: this was the answer.
    Answered(String),
    /// It is this caller's to take.
    Mine(Claim),
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
    pub(super) fn new(ingress: Ingress, keep: Duration) -> Self {
        Self { ingress, keep, open: Arc::default() }
    }

    /// Looks the key up, after whoever has it now.
    pub(super) async fn begin(
        &self,
        stream: &StreamName,
        key: &str,
        request: String,
    ) -> Result<Begun, Refused> {
        let key = format!("{stream}/{key}");
        loop {
            let mut waiting = {
                let mut open = self.lock();
                match open.get(&key) {
                    Some(first) => first.clone(),
                    None => {
                        if let Some(kept) = self.kept(&key) {
                            return answered(kept, &request);
                        }
                        let (done, first) = watch::channel(());
                        open.insert(key.clone(), first);
                        let held = Held { keys: self.clone(), key, request, _done: done };
                        return Ok(Begun::Mine(Claim { held: Some(held) }));
                    }
                }
            };
            // The sender never sends: this ends when the first request does.
            if tokio::time::timeout(WAIT, waiting.changed()).await.is_err() {
                let message = "the first request with this key is still under way";
                return Err(Refused::new(StatusCode::CONFLICT, "http.key_in_use", message).later());
            }
        }
    }

    fn kept(&self, key: &str) -> Option<Kept> {
        let position = self.ingress.buffer.position(SourceKind::HttpKey, key)?;
        let now_us = u64::try_from(self.ingress.clock.unix_us()).unwrap_or(0);
        let age = Duration::from_micros(now_us.saturating_sub(position.offset));
        (age < self.keep).then(|| serde_json::from_str(&position.detail).ok()).flatten()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answered(kept: Kept, request: &str) -> Result<Begun, Refused> {
    if kept.request == request {
        return Ok(Begun::Answered(kept.answer));
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
        self.keys.lock().remove(&self.key);
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
