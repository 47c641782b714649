//! Targets that show figures to Prometheus, scraped as it does: each in its own rhythm, begun at a moment of its own so that not
//! all are asked at once. Beside what a target shows there are `up`, `scrape_duration_seconds` and `scrape_samples_scraped`.
//!
//! What was not scraped, because the agent did not run or the buffer was full, is not there: figures are of their moment.

use std::time::Duration;

use aap_decode::prometheus::{Exposition, PrometheusError, Samples, decode_text};
use aap_runtime::Shutdown;
use axum::http::{HeaderMap, Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::requests::body::Codec;
use super::{SourceDeps, SourceError};
use crate::config::ScrapeSpec;
use crate::ingress::{IngressError, Parcel, Sealer};

/// What targets are asked for: OpenMetrics if they know it.
const ACCEPT: &str =
    "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
/// Where metrics are, if the URL has no path.
const PATH: &str = "/metrics";

/// One target, and how it is reached.
#[derive(Clone)]
struct Target {
    uri: Uri,
    /// `host:port`.
    address: String,
    tls: Option<TlsConnector>,
    labels: Vec<(String, String)>,
}

/// Why a target could not be scraped.
#[derive(Debug)]
enum Failure {
    Target(String),
    Ingress(IngressError),
}

impl From<PrometheusError> for Failure {
    fn from(error: PrometheusError) -> Self {
        Self::Target(format!("its answer cannot be read: {error}"))
    }
}

/// Scrapes until the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: ScrapeSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let mut targets = Vec::with_capacity(spec.targets.len());
    for url in &spec.targets {
        targets.push(target(&name, url, &spec, &deps)?);
    }
    let all = targets.into_iter().map(|target| {
        let (name, spec, deps, shutdown) = (&name, &spec, deps.clone(), shutdown.clone());
        async move { scrape_again(name, target, spec, deps, shutdown).await }
    });
    futures::future::join_all(all).await;
    Ok(())
}

fn target(name: &str, url: &str, spec: &ScrapeSpec, deps: &SourceDeps) -> Result<Target, SourceError> {
    let wrong = || SourceError::Config(format!("`{url}` is not a URL"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let address = format!("{}:{port}", uri.host().ok_or_else(wrong)?);
    let tls = if is_tls {
        let ca = spec.ca.as_ref().map(|path| deps.home.root().join(path));
        let files = aap_transport::OutwardTls { ca, identity: None };
        let config = files.client(&[b"http/1.1"]);
        Some(TlsConnector::from(config.map_err(|error| SourceError::Config(error.problem().report()))?))
    } else {
        None
    };
    let mut labels: Vec<(String, String)> =
        [("job", name), ("instance", address.as_str())].map(|(key, value)| (key.into(), value.into())).into();
    for (key, value) in &spec.labels {
        match labels.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => known.clone_from(value),
            None => labels.push((key.clone(), value.clone())),
        }
    }
    Ok(Target { uri, address, tls, labels })
}

/// How long after its rhythm begins a target is first scraped: always the same for one target, another for each.
fn offset(target: &Target, every: Duration) -> Duration {
    let hash = blake3::hash(target.uri.to_string().as_bytes());
    let part = hash.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    every.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

async fn scrape_again(name: &str, target: Target, spec: &ScrapeSpec, deps: SourceDeps, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval_at(Instant::now() + offset(&target, spec.every.0), spec.every.0);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let problem = format!("target {}", target.uri);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.requested() => return,
        }
        let failure = tokio::select! {
            failure = scrape(&target, spec, &deps) => failure,
            () = shutdown.requested() => return,
        };
        let failure = failure.map(|failure| match failure {
            Failure::Target(text) => text,
            Failure::Ingress(error) => match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
        });
        if deps.board.source_problem(name, &problem, failure.clone()) {
            tracing::warn!(source = name, target = %target.uri, failure, "a target was not scraped");
        }
    }
}

/// One scrape: the samples, or `up` with 0, are durable when this returns.
async fn scrape(target: &Target, spec: &ScrapeSpec, deps: &SourceDeps) -> Option<Failure> {
    let (began, scraped_us) = (Instant::now(), deps.ingress.clock.unix_us());
    let answer = match tokio::time::timeout(spec.within(), fetch(target, spec, deps)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("it did not answer within {:?}", spec.within())),
    };
    let took = began.elapsed();
    let (target, stream) = (target.clone(), spec.stream.clone());
    let limit = usize::try_from(spec.body_bytes_max.0).unwrap_or(usize::MAX);
    let permit = deps.decoding.clone().acquire_owned().await;
    let packing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        // A compressor for each: between scrapes a thousand targets cost nothing.
        let (mut parcel, mut sealer) = (Parcel::default(), Sealer::default());
        let read = answer.map_err(Failure::Target).and_then(|(headers, body)| {
            let content = Codec::of(&headers).and_then(|codec| codec.decode(body, limit));
            let content = content.map_err(|refused| Failure::Target(refused.message))?;
            let kind =
                headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let exposition = Exposition {
                text: &content,
                is_open_metrics: kind.starts_with("application/openmetrics-text"),
                labels: &target.labels,
                scraped_us,
            };
            let mut samples = Samples::default();
            let rows = decode_text(&exposition, &mut samples, &mut |batch| {
                let bytes = batch.get_array_memory_size() as u64;
                parcel.add(&stream, &mut sealer, &batch, bytes).map_err(Failure::Ingress)
            })?;
            Ok((samples, rows, content.len() as u64))
        });
        let (mut samples, rows, bytes, failure) = match read {
            Ok((samples, rows, bytes)) => (samples, rows, bytes, None),
            Err(failure) => {
                // All or nothing.
                parcel = Parcel::default();
                (Samples::default(), 0, 0, Some(failure))
            }
        };
        let up = if failure.is_none() { 1.0 } else { 0.0 };
        for (metric, value) in [
            ("up", up),
            ("scrape_duration_seconds", took.as_secs_f64()),
            ("scrape_samples_scraped", rows as f64),
        ] {
            samples.push_own(metric, value, &target.labels, scraped_us);
        }
        let sealed = match samples.finish() {
            Ok(Some(batch)) => parcel.add(&stream, &mut sealer, &batch, bytes).map_err(Failure::Ingress),
            Ok(None) => Ok(()),
            Err(error) => Err(Failure::Target(error.to_string())),
        };
        (parcel, failure.or(sealed.err()))
    });
    match packing.await {
        Ok((parcel, failure)) => {
            let stored = deps.ingress.append(parcel).await;
            failure.or(stored.err().map(Failure::Ingress))
        }
        Err(error) => Some(Failure::Target(format!("reading it failed unexpectedly: {error}"))),
    }
}

/// Asks a target once, over a connection of its own: it is closed between, and costs neither side anything.
async fn fetch(target: &Target, spec: &ScrapeSpec, deps: &SourceDeps) -> Result<(HeaderMap, Bytes), String> {
    let failed =
        |what: &'static str| move |error: &dyn std::error::Error| format!("{what}: {}", chain(error));
    let tcp = TcpStream::connect(&target.address).await.map_err(|error| failed("connect")(&error))?;
    match &target.tls {
        None => request(target, spec, deps, tcp).await,
        Some(tls) => {
            let host = target.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let host = host.try_into().map_err(|_| "its host name is none for TLS".to_owned())?;
            let stream = tls.connect(host, tcp).await.map_err(|error| failed("shake hands")(&error))?;
            request(target, spec, deps, stream).await
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn request(
    target: &Target,
    spec: &ScrapeSpec,
    deps: &SourceDeps,
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
) -> Result<(HeaderMap, Bytes), String> {
    let path = match target.uri.path_and_query().map(|path| path.as_str()) {
        None | Some("" | "/") => PATH,
        Some(path) => path,
    };
    let timeout = spec.within().as_secs_f64().to_string();
    let mut request = Request::get(path)
        .header(header::HOST, target.uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, ACCEPT)
        .header(header::ACCEPT_ENCODING, "gzip")
        .header(header::USER_AGENT, concat!("aap-agent/", env!("CARGO_PKG_VERSION")))
        .header("x-prometheus-scrape-timeout-seconds", timeout);
    if let Some(file) = &spec.token_file {
        let path = deps.home.root().join(file);
        let token =
            tokio::fs::read_to_string(&path).await.map_err(|error| format!("read `{path}`: {error}"))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        let (parts, body) = response.into_parts();
        let limit = usize::try_from(spec.body_bytes_max.0).unwrap_or(usize::MAX);
        let body = Limited::new(body, limit).collect().await.map_err(|error| chain(error.as_ref()))?;
        Ok((parts.headers, body.to_bytes()))
    };
    // The connection moves only while it is asked for.
    let connection = async {
        connection.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = asking => answer,
        never = connection => never,
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;

    use super::*;
    use crate::testing::Rig;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_target_gives_its_samples_and_what_is_known_of_the_scrape() {
        let rig = Rig::new();
        let metrics = get(|headers: HeaderMap| async move {
            assert!(headers[header::ACCEPT].to_str().unwrap().contains("openmetrics"));
            let text = "# TYPE a_total counter\na_total{x=\"y\"} 3 1.5\n# EOF\n";
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0")], text)
        });
        let router =
            Router::new().route("/metrics", metrics).route("/bad", get(|| async { "good 1\nbad\n" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spec = serde_json::json!({
            "type": "prometheus_scrape", "every": "1s", "labels": { "job": "mine", "site": "s" },
            "targets": [format!("http://{address}"), format!("http://{address}/bad"), "http://127.0.0.1:1/x"],
        });
        let spec: ScrapeSpec = serde_json::from_value(spec).unwrap();
        rig.deps.board.add_source("scrape", crate::testing::entry());
        let shutdown = Shutdown::default();
        let scraping = run("scrape".into(), spec, rig.deps.clone(), shutdown.clone());
        let looking = async {
            let all = ["a_total", "up", "up", "up"];
            let holds = |rig: &Rig| {
                let metrics = rig.texts("prometheus", "metric");
                let count = |name: &str| metrics.iter().filter(|metric| *metric == name).count();
                count("a_total") >= 1 && count("up") >= all.len()
            };
            rig.until("each target was asked", holds).await;
            shutdown.request();
        };
        tokio::select! {
            (ended, ()) = async { tokio::join!(scraping, looking) } => ended.unwrap(),
            served = async { axum::serve(listener, router).await } => panic!("{served:?}"),
        }
        let rows: Vec<[String; 5]> = {
            let columns =
                ["metric", "value", "attributes", "type", "ts"].map(|name| rig.texts("prometheus", name));
            (0..columns[0].len())
                .map(|row| [0, 1, 2, 3, 4].map(|column| columns[column][row].clone()))
                .collect()
        };
        let a = rows.iter().find(|row| row[0] == "a_total").unwrap();
        let labels = format!(r#"{{"x":"y","job":"mine","instance":"{address}","site":"s"}}"#);
        assert_eq!(a[1..], ["3.0".to_owned(), labels, "counter".into(), "1970-01-01T00:00:01.500".into()]);
        let ups: Vec<&str> = rows.iter().filter(|row| row[0] == "up").map(|row| row[1].as_str()).collect();
        assert!(ups.contains(&"1.0") && ups.contains(&"0.0"), "{rows:?}");
        assert!(rows.iter().all(|row| row[0] != "good"), "a bad line refuses the whole answer");
        let problems = rig.deps.board.sources()["scrape"].problems.clone();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.values().any(|problem| problem.contains("line 2")), "{problems:?}");
        assert!(problems.values().any(|problem| problem.contains("connect")), "{problems:?}");
    }
}
