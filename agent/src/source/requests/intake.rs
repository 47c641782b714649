//! From the body of a request to rows that are durable, for protocols whose requests have a stream of their own.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;

use super::body::{self, Patience, Raw, Room};
use super::{ANSWER_WITHIN, Bearer, REQUESTS_MAX, Refused, TURN_WITHIN, not_stored};
use crate::ingress::Parcel;
use crate::source::SourceDeps;

/// What takes whole requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::source) struct Intake {
    deps: SourceDeps,
    bearer: Option<Bearer>,
    body_bytes_max: usize,
    /// Of bodies.
    room: Room,
    /// Of requests whose body is here.
    turns: Arc<Semaphore>,
}

impl Intake {
    /// Takes bodies of at most `body_bytes_max`, from those who have the token, if there is one.
    pub(in crate::source) fn new(deps: SourceDeps, bearer: Option<Bearer>, body_bytes_max: usize) -> Self {
        let room = Room::of_bodies(body_bytes_max);
        Self { deps, bearer, body_bytes_max, room, turns: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// Largest body, before and after decompression.
    pub(in crate::source) fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// The whole body of a request of one who may send.
    pub(in crate::source) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Raw, Refused> {
        if let Some(bearer) = &self.bearer {
            bearer.authorise(headers).await?;
        }
        body::read(body, self.body_bytes_max, &self.room, Patience::default()).await
    }

    /// Makes rows of a body by `pack`, on the blocking pool, and returns what it said when they are durable. Refuses where it
    /// would have to wait for room in the buffer.
    pub(in crate::source) async fn take<T: Send + 'static>(
        &self,
        raw: Raw,
        pack: impl FnOnce(&Raw, i64) -> Result<(Parcel, T), Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(body::busy)?;
        let deps = self.deps.clone();
        // Apart from the connection: a client that goes away must not leave rows half known.
        #[expect(
            clippy::disallowed_methods,
            reason = "awaited here; goes on to its end if the client goes away"
        )]
        let taking = tokio::spawn(async move {
            let _turn = turn;
            let observed_us = deps.ingress.clock.unix_us();
            let permit = deps.decoding.clone().acquire_owned().await;
            let packing = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                pack(&raw, observed_us)
            });
            let (parcel, answer) = packing.await.unwrap_or_else(|_| Err(unreadable()))?;
            deps.ingress.failpoints.reach("agent.after_read");
            deps.ingress.try_append(parcel).await.map_err(|error| not_stored(&error))?;
            Ok(answer)
        });
        match tokio::time::timeout(ANSWER_WITHIN, taking).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(_)) => Err(Refused::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "http.failed",
                "taking the rows failed unexpectedly",
            )),
            Err(_) => {
                let message = "the rows are not durable yet and may become so later";
                Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "http.not_stored", message).later())
            }
        }
    }
}

fn unreadable() -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, "http.unreadable", "the body made its reader give up")
}
