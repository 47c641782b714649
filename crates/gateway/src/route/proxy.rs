//! The way of one request through a route.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, Shutdown, Supervisor, TaskKind};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tracing::debug;

use super::body::{BodyError, ProxyBody, Watched, body_error, collect, whole};
use super::connect::{Connector, OutOfReach};
use super::head;
use super::outgoing::{Asked, Outgoing, is_json};
use super::refusal::{
    Refusal, bad_body, bad_path, no_upstream, out_of_reach, too_large, upstream_failed, upstream_late,
};
use super::relay::relay;
use super::rewrite;
use super::spec::{Balance, RouteSpec};
use super::upstreams::{Upstream, Upstreams};

/// Connections to one upstream that wait for the next request.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// How long they wait: less than servers do, so that no request meets one that was closed just now.
const IDLE_CONNECTION_KEPT: Duration = Duration::from_secs(15);

/// A route at work.
pub struct RouteProxy {
    name: String,
    spec: RouteSpec,
    upstreams: Upstreams,
    client: Client<Connector, ProxyBody>,
    clock: Arc<dyn Clock>,
    tasks: Supervisor,
}

impl fmt::Debug for RouteProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteProxy").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RouteProxy {
    /// A route that was checked. `tls`: how upstreams with `https` are spoken to. WebSockets run in `tasks`.
    pub fn new(
        name: &str,
        spec: RouteSpec,
        tls: Option<Arc<ClientConfig>>,
        clock: Arc<dyn Clock>,
        tasks: Supervisor,
    ) -> Self {
        let connector = Connector::new(spec.upstreams.allow, tls);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION_KEPT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        let upstreams = Upstreams::new(&spec.upstreams, &spec.breaker);
        Self { name: name.to_owned(), spec, upstreams, client, clock, tasks }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was declared.
    pub fn spec(&self) -> &RouteSpec {
        &self.spec
    }

    /// How many upstreams there are, and how many of them are left alone.
    pub fn standing(&self) -> (usize, usize) {
        let all = self.upstreams.all();
        (all.len(), all.iter().filter(|upstream| upstream.is_open()).count())
    }

    /// Passes a request on. When `until` ends, whoever asks may no more, and what goes on for them ends.
    ///
    /// # Errors
    /// `gateway.bad_body` (400), `gateway.too_large` (413), `gateway.encoding_unknown` (415), `gateway.secret`
    /// (500), `gateway.upstream_failed`, `gateway.out_of_reach` (502), `gateway.no_upstream` (503), `gateway.upstream_late` (504).
    pub async fn forward(
        &self,
        asked: &Asked,
        until: Option<BoxFuture<'static, ()>>,
        mut request: Request<ProxyBody>,
    ) -> Result<Response<ProxyBody>, Refusal> {
        let is_socket = request.method() == Method::GET && head::is_web_socket(request.headers());
        let upgrade = is_socket.then(|| hyper::upgrade::on(&mut request));
        let key = self.key(asked, request.headers());
        let mut outgoing = Outgoing::of(&self.name, &self.spec, asked, request, is_socket).await?;
        let (mut response, upstream) = self.ask(&mut outgoing, key.as_deref()).await?;
        debug!(route = self.name, upstream, status = response.status().as_u16(), "passed on");
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(upgrade) = upgrade else {
                return Err(upstream_failed("it wants to speak another protocol that nobody asked for"));
            };
            let theirs = hyper::upgrade::on(&mut response);
            let (idle, shutdown) = (self.spec.idle(), self.tasks.shutdown());
            let until = until.unwrap_or_else(|| Box::pin(std::future::pending()));
            self.tasks.spawn(TaskKind::optional("websocket"), async move {
                let (ours, theirs) = (upgrade.await?, theirs.await?);
                tokio::select! {
                    () = relay(TokioIo::new(ours), TokioIo::new(theirs), idle) => {}
                    () = shutdown.requested() => {}
                    () = until => {}
                }
                Ok::<_, hyper::Error>(())
            });
            return Ok(response.map(|_| ProxyBody::default()));
        }
        self.answer(response, until).await
    }

    /// By what an upstream is chosen.
    fn key(&self, asked: &Asked, headers: &HeaderMap) -> Option<Vec<u8>> {
        match &self.spec.upstreams.balance {
            Balance::RoundRobin => None,
            Balance::HashAddress => Some(asked.client.to_canonical().to_string().into_bytes()),
            Balance::HashHeader(name) => headers.get(name.as_str()).map(|value| value.as_bytes().to_vec()),
        }
    }

    /// Asks upstreams until one answers, as often as it may be asked.
    async fn ask(
        &self,
        outgoing: &mut Outgoing,
        key: Option<&[u8]>,
    ) -> Result<(Response<ProxyBody>, String), Refusal> {
        let is_repeatable = outgoing.method.is_idempotent() && outgoing.body.is_kept();
        let attempts = if is_repeatable { 1 + self.spec.retries } else { 1 };
        let mut asked = vec![];
        let mut last = None;
        for _ in 0..attempts {
            let now = self.clock.monotonic();
            // A route with one upstream asks it again.
            let chosen =
                self.upstreams.choose(key, &asked, now).or_else(|| self.upstreams.choose(key, &[], now));
            let Some((at, upstream)) = chosen else { break };
            asked.push(at);
            match self.ask_one(upstream, outgoing).await {
                Ok(response) if is_failure(response.status()) => {
                    upstream.fail(&self.name, self.clock.monotonic(), response.status().as_str());
                    last = Some(Ok((response, upstream.url.clone())));
                }
                Ok(response) => {
                    upstream.succeed(&self.name);
                    return Ok((response, upstream.url.clone()));
                }
                Err(Failed::Ours(refusal)) => return Err(refusal),
                Err(Failed::Theirs(refusal)) => {
                    let why = refusal.problem.causes.join(": ");
                    upstream.fail(&self.name, self.clock.monotonic(), &why);
                    last = Some(Err(refusal));
                }
            }
        }
        last.unwrap_or_else(|| Err(no_upstream(&self.name, self.upstreams.rests_for(self.clock.monotonic()))))
    }

    async fn ask_one(
        &self,
        upstream: &Upstream,
        outgoing: &mut Outgoing,
    ) -> Result<Response<ProxyBody>, Failed> {
        let uri: Uri =
            format!("{}{}", upstream.url, outgoing.path).parse().map_err(|_| Failed::Ours(bad_path()))?;
        let mut request = Request::new(outgoing.body.next());
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = outgoing.headers.clone();
        let timeout = self.spec.timeout();
        let answered = tokio::time::timeout(timeout, self.client.request(request)).await;
        // Of a body that was still on its way, whoever sends it may have been the one who was late.
        let late = |_elapsed| match outgoing.body.is_kept() {
            true => Failed::Theirs(upstream_late(timeout)),
            false => Failed::Ours(upstream_late(timeout)),
        };
        let answered = answered.map_err(late)?;
        let response = answered.map_err(|error| self.failed(&error))?;
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    fn failed(&self, error: &hyper_util::client::legacy::Error) -> Failed {
        match body_error(error) {
            Some(BodyError::TooLarge) => {
                return Failed::Ours(too_large("as it comes", &self.spec.body.bytes.to_string()));
            }
            Some(stalled) => return Failed::Ours(bad_body(stalled.to_string())),
            None => {}
        }
        let chain: Vec<&(dyn std::error::Error + 'static)> =
            std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
                .collect();
        let found = chain.iter().find_map(|error| {
            let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
            inner.downcast_ref::<OutOfReach>()
        });
        if let Some(found) = found {
            return Failed::Ours(out_of_reach(found));
        }
        let why = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Failed::Theirs(upstream_failed(&why))
    }

    /// An answer as whoever asked gets it.
    async fn answer(
        &self,
        response: Response<ProxyBody>,
        until: Option<BoxFuture<'static, ()>>,
    ) -> Result<Response<ProxyBody>, Refusal> {
        let (mut parts, body) = response.into_parts();
        head::remove_hop_by_hop(&mut parts.headers);
        rewrite::headers(&self.spec.response, &mut parts.headers);
        let idle = self.spec.idle();
        let is_plain = !parts.headers.contains_key(header::CONTENT_ENCODING);
        if self.spec.response.json.is_empty() || !is_json(&parts.headers) || !is_plain {
            return Ok(Response::from_parts(parts, Watched::over(body, u64::MAX, idle, until)));
        }
        let body = Watched::over(body, self.spec.body.decoded_bytes.0, idle, until);
        let came = collect(body, &self.spec.body).await;
        let came = came.map_err(|refusal| upstream_failed(&refusal.problem.to_string()))?;
        // What is no JSON although it says so goes on as it is.
        let changed = rewrite::json(&self.spec.response.json, &came).ok().flatten();
        let Some(changed) = changed else { return Ok(Response::from_parts(parts, whole(came))) };
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(changed.len()));
        Ok(Response::from_parts(parts, whole(changed.into())))
    }

    /// Asks every upstream for the path that was declared for it, again and again, until `shutdown`.
    pub async fn probe(self: Arc<Self>, shutdown: Shutdown) {
        let Some(path) = self.spec.breaker.probe.clone() else { return };
        let every = Duration::from_secs(self.spec.breaker.open_seconds.get().into());
        loop {
            for upstream in self.upstreams.all() {
                let mut outgoing = Outgoing::probe(&path);
                let why = match self.ask_one(upstream, &mut outgoing).await {
                    Ok(response) if response.status().is_success() => {
                        upstream.succeed(&self.name);
                        continue;
                    }
                    Ok(response) => response.status().to_string(),
                    Err(Failed::Ours(refusal) | Failed::Theirs(refusal)) => refusal.problem.to_string(),
                };
                upstream.fail(&self.name, self.clock.monotonic(), &why);
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = shutdown.requested() => return,
            }
        }
    }
}

/// Why an upstream gave no answer.
enum Failed {
    /// It was not its fault, and no other is asked.
    Ours(Refusal),
    /// It was.
    Theirs(Refusal),
}

/// What speaks of a server that is not well, rather than of the request.
fn is_failure(status: StatusCode) -> bool {
    [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ]
    .contains(&status)
}
