//! What HTTP clients ask is answered, and connections on which nothing is asked end.
//!
//! ```text
//! connection ─► head of a request ─► answer … its end ─► head of the next ─► …
//!            └── first_request ──┘ └── no deadline ──┘└────── idle ──────┘   over HTTP/2 there are pings all the while
//! ```
//! Strangers may be told from others: see [`Asker`]. One deadline is enough for whoever says nothing, whoever sends a head byte by byte, and connections that are only kept: as long as no head is
//! complete, nothing is asked. While something is asked, only the client's machine must be there: an answer may be quiet for hours (`aap tail`).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aap_runtime::Shutdown;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, Version};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt;
use tracing::{debug, error};

use crate::listener::{Client, Connection, HttpLimits, HttpListener};

/// Answers requests by `router`, which finds who asks as `ConnectInfo<Client>`. From `shutdown` on no connection is taken, and those that there
/// are end when what was asked on them is answered.
pub async fn serve_http(mut listener: HttpListener, router: Router, shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (connection, client) = listener.accept() => {
                let limits = listener.limits().clone();
                connections.spawn(serve(connection, client, router.clone(), limits, shutdown.clone()));
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => note(ended),
            () = shutdown.requested() => break,
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        note(ended);
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection ended by a bug");
    }
}

async fn serve(
    connection: Connection,
    client: Client,
    router: Router,
    limits: HttpLimits,
    shutdown: Shutdown,
) {
    let asked = Asked::default();
    let address = client.address;
    let service = {
        let asked = asked.clone();
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let (asker, answered) = asked.begin(request.version());
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(client.clone()));
            request.extensions_mut().insert(asker);
            let answering = router.clone().oneshot(request);
            async move {
                let response = answering.await?;
                Ok::<Response<Answer>, Infallible>(response.map(|body| Answer { body, _answered: answered }))
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.ping);
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(connection), service));
    let served = tokio::select! {
        served = serving.as_mut() => Some(served),
        () = shutdown.requested() => None,
        () = asked.nothing_within(limits.first_request, limits.idle) => None,
        () = asked.strangers_within(limits.stranger) => return,
    };
    let served = match served {
        Some(served) => served,
        None => {
            // What was asked just now is answered still.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                () = asked.is_cut(limits.close) => return,
                () = asked.strangers_within(limits.stranger) => return,
            }
        }
    };
    if let Err(error) = served {
        debug!(%address, error, "a connection of HTTP ended");
    }
}

/// What is asked on a connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
struct Asked(watch::Sender<Now>);

#[derive(Debug, Clone, Copy, Default)]
struct Now {
    /// Requests that are not answered in full.
    requests: usize,
    /// Of these, those of which no service has said that somebody known asks.
    strangers: usize,
    /// Since when there have been such.
    strangers_since: Option<Instant>,
    /// How it was asked, from the first request on.
    version: Option<Version>,
}

impl Asked {
    fn begin(&self, version: Version) -> (Asker, Answered) {
        self.0.send_modify(|now| {
            now.requests += 1;
            now.strangers += 1;
            now.strangers_since.get_or_insert_with(Instant::now);
            now.version = Some(version);
        });
        let asker = Asker { asked: self.clone(), is_known: Arc::default() };
        (asker.clone(), Answered(asker))
    }

    /// Waits until strangers have had their time on a connection on which nobody else asks. Without a limit for ever.
    async fn strangers_within(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        let mut changes = self.0.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            let since = now.strangers_since.filter(|_| now.strangers == now.requests);
            let over = since.map_or_else(Instant::now, |since| since + limit);
            tokio::select! {
                // Never closed: there is a sender here.
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(over), if since.is_some() => return,
            }
        }
    }

    /// Waits until nothing was asked for as long as it may be.
    async fn nothing_within(&self, first: Duration, idle: Duration) {
        let mut changes = self.0.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            let limit = if now.version.is_none() { first } else { idle };
            tokio::select! {
                // Never closed: there is a sender here.
                _ = changes.changed() => {}
                () = tokio::time::sleep(limit), if now.requests == 0 => return,
            }
        }
    }

    /// Waits until a connection that was told to end, and on which nothing is asked, has had its time. Over HTTP/2 never: it ends by itself
    /// when its streams have, the end of an answer may stand in its buffers for as long as the client takes to read on, and pings show who is gone.
    async fn is_cut(&self, close: Duration) {
        self.nothing_within(close, close).await;
        if self.0.borrow().version == Some(Version::HTTP_2) {
            std::future::pending::<()>().await;
        }
    }
}

/// Whoever asks, as an extension of a request: a stranger until a service says otherwise. A body that never ends, and an answer that is not read,
/// hold a connection; on listeners that tell them apart, those of strangers hold it for a while only. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Asker {
    asked: Asked,
    is_known: Arc<AtomicBool>,
}

impl Asker {
    /// Says that somebody known asks, who may take their time.
    pub fn mark_known(&self) {
        if !self.is_known.swap(true, Ordering::Relaxed) {
            self.asked.0.send_modify(|now| {
                now.strangers -= 1;
                now.strangers_since = now.strangers_since.filter(|_| now.strangers > 0);
            });
        }
    }
}

/// Ends a request when it is dropped.
#[derive(Debug)]
struct Answered(Asker);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.mark_known();
        self.0.asked.0.send_modify(|now| now.requests -= 1);
    }
}

/// The body of an answer, until the end of which its request is not answered.
struct Answer {
    body: Body,
    _answered: Answered,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
