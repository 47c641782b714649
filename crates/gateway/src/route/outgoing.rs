//! A request as an upstream gets it.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request};

use super::body::{Encoding, ProxyBody, Watched, collect, whole};
use super::head;
use super::refusal::{Refusal, bad_body, encoding_unknown, no_secret, too_large};
use super::rewrite;
use super::spec::RouteSpec;

/// Bodies up to here are kept, so that a request can be made again.
const KEPT_BYTES_MAX: u64 = 64 << 10;

/// Who asks, and by what their request is found again.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The address of the client.
    pub client: IpAddr,
    /// Whether they came by TLS.
    pub is_tls: bool,
    /// For logs here and there.
    pub request_id: String,
    /// Random, for a trace that begins here.
    pub fresh: u128,
}

/// A request as it is made of an upstream, perhaps more than once.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// And query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: OutgoingBody,
}

/// Its body.
pub(crate) enum OutgoingBody {
    /// Can be sent again.
    Kept(Bytes),
    /// Goes once.
    Stream(Option<ProxyBody>),
}

impl OutgoingBody {
    pub(crate) fn next(&mut self) -> ProxyBody {
        match self {
            Self::Kept(bytes) => whole(bytes.clone()),
            Self::Stream(body) => body.take().unwrap_or_default(),
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

impl Outgoing {
    /// Without a body, for whoever only looks whether a server is there.
    pub(crate) fn probe(path: &str) -> Self {
        let body = OutgoingBody::Kept(Bytes::new());
        Self { method: Method::GET, path: path.to_owned(), headers: HeaderMap::new(), body }
    }

    /// What a route makes of a request.
    pub(crate) async fn of(
        route: &str,
        spec: &RouteSpec,
        asked: &Asked,
        request: Request<ProxyBody>,
        is_socket: bool,
    ) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        if is_socket && hyper::body::Body::size_hint(&body).upper() != Some(0) {
            // None goes on: with its length announced, the server behind would take what comes next for it.
            return Err(bad_body("a WebSocket begins without a body"));
        }
        let path = rewrite::path(&spec.request, parts.uri.path(), parts.uri.query());
        let mut headers = parts.headers;
        let of_uri = || HeaderValue::from_str(parts.uri.authority()?.as_str()).ok();
        let host = headers.remove(header::HOST).or_else(of_uri);
        head::remove_hop_by_hop(&mut headers);
        // It is answered here, when the body is read.
        headers.remove(header::EXPECT);
        head::add_forwarded(&mut headers, asked.client, asked.is_tls, host.as_ref());
        head::add_trace(&mut headers, &asked.request_id, asked.fresh);
        if spec.auth.is_some() {
            // It opens this platform, and is none of the upstream's business.
            headers.remove(header::AUTHORIZATION);
        }
        if !spec.response.json.is_empty() {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        rewrite::headers(&spec.request, &mut headers);
        add_secrets(route, spec, &mut headers).await?;
        let body = match is_socket {
            true => {
                headers.remove(header::CONTENT_LENGTH);
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                OutgoingBody::Stream(None)
            }
            false => outgoing_body(spec, &mut headers, body).await?,
        };
        Ok(Self { method: parts.method, path, headers, body })
    }
}

async fn add_secrets(route: &str, spec: &RouteSpec, headers: &mut HeaderMap) -> Result<(), Refusal> {
    if spec.request.secrets.is_empty() {
        return Ok(());
    }
    let rewrite = spec.request.clone();
    let read = tokio::task::spawn_blocking(move || rewrite::secrets(&rewrite)).await;
    let read = read.unwrap_or_else(|panic| Err((String::new(), panic.to_string())));
    for (name, value) in read.map_err(|(header, why)| no_secret(route, &header, &why))? {
        headers.insert(name, value);
    }
    Ok(())
}

/// The body within the limits. What is packed is unpacked to be measured; what is rewritten is passed on unpacked.
async fn outgoing_body(
    spec: &RouteSpec,
    headers: &mut HeaderMap,
    body: ProxyBody,
) -> Result<OutgoingBody, Refusal> {
    let size = hyper::body::Body::size_hint(&body);
    if size.lower() > spec.body.bytes.0 {
        return Err(too_large("as it comes", &spec.body.bytes.to_string()));
    }
    if headers.get_all(header::CONTENT_ENCODING).iter().count() > 1 {
        return Err(encoding_unknown("more than one"));
    }
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    let encoding = Encoding::of(encoding)?;
    let json = (!spec.request.json.is_empty() && is_json(headers)).then(|| spec.request.json.clone());
    let is_small = size.upper().is_some_and(|bytes| bytes <= KEPT_BYTES_MAX);
    let watched = Watched::over(body, spec.body.bytes.0, spec.idle(), None);
    if encoding.is_none() && json.is_none() && !is_small {
        return Ok(OutgoingBody::Stream(Some(watched)));
    }
    let came = collect(watched, &spec.body).await?;
    if (encoding.is_none() && json.is_none()) || came.is_empty() {
        return Ok(OutgoingBody::Kept(came));
    }
    let (limits, as_it_came) = (spec.body.clone(), came.clone());
    let changed = tokio::task::spawn_blocking(move || -> Result<Option<Vec<u8>>, Refusal> {
        let unpacked = encoding.map(|encoding| encoding.unpack(&came, &limits)).transpose()?;
        let Some(json) = json else { return Ok(None) };
        let plain = unpacked.as_deref().unwrap_or(&came);
        let changed = rewrite::json(&json, plain).map_err(|error| bad_body(error.to_string()))?;
        Ok(Some(changed.unwrap_or_else(|| plain.to_vec())))
    });
    let changed = changed.await.map_err(|panic| bad_body(panic.to_string()))??;
    let Some(changed) = changed else { return Ok(OutgoingBody::Kept(as_it_came)) };
    headers.remove(header::CONTENT_ENCODING);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(changed.len()));
    Ok(OutgoingBody::Kept(changed.into()))
}

/// Whether a body says that it is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}
