//! An S3 server that is none of ours, over a directory, and what can go wrong between it and a client.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Who may ask.
pub(crate) const ACCESS_KEY: &str = "aapaapaap";
/// And with what.
pub(crate) const SECRET_KEY: &str = "aapaapaap-secret";
/// The bucket that is there.
pub(crate) const BUCKET: &str = "aap";

/// What happens to a request that creates an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The next one is answered by a line that breaks.
    LosesAnswer,
    /// The next one never arrives.
    LosesRequest,
    /// The next one is answered by a line that breaks, and arrives just before another one for the same object.
    Delays,
    /// None is refused: what is there is overwritten, as by a store that does not know the condition.
    Overwrites,
    /// Every request of any kind is answered by this status and code.
    Answers(u16, &'static str),
}

/// The server. Its objects are the files under `root/BUCKET`.
pub(crate) struct S3Server {
    root: PathBuf,
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    tls: Option<TlsAcceptor>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    fault: Mutex<Option<Fault>>,
    /// A request that is on its way for long, as bytes of its object.
    delayed: Mutex<Option<(PathBuf, Vec<u8>)>>,
    requests: AtomicU64,
    /// One object is created at a time: the server looks and writes in two steps.
    turn: tokio::sync::Mutex<()>,
}

impl S3Server {
    /// Starts it on a free port of the loopback address.
    pub(crate) async fn start(root: &Path, tls: Option<TlsAcceptor>) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            fault: Mutex::default(),
            delayed: Mutex::default(),
            requests: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
        };
        let server = Self {
            root: root.to_owned(),
            address: listener.local_addr().unwrap(),
            state: Arc::new(state),
            tls,
            serving: Mutex::default(),
        };
        server.serve(listener);
        server
    }

    /// Where it answers.
    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The directory of its bucket.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.root.join(BUCKET)
    }

    pub(crate) fn fault(&self, fault: Option<Fault>) {
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Requests that have arrived.
    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Drops every connection where it stands, as a process that is killed does. Nobody listens afterwards.
    pub(crate) async fn kill(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Starts it again where it was.
    pub(crate) async fn revive(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    fn serve(&self, listener: TcpListener) {
        let mut service = S3ServiceBuilder::new(FileSystem::new(&self.root).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let (service, state, bucket, tls) =
            (service.build(), self.state.clone(), self.root.clone(), self.tls.clone());
        let serving = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (service, state, root, tls) =
                    (service.clone(), state.clone(), bucket.clone(), tls.clone());
                lines.spawn(async move {
                    let answering = service_fn(move |request| {
                        let (service, state, root) = (service.clone(), state.clone(), root.clone());
                        async move { answer(request, &service, &state, &root).await }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), answering).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), answering).await);
                            }
                        }
                    }
                });
            }
        });
        *self.serving.lock().unwrap() = Some(serving);
    }
}

/// An error of the service ends the connection without an answer.
fn broken() -> io::Error {
    io::Error::other("the line breaks")
}

async fn answer(
    request: Request<Incoming>,
    service: &S3Service,
    state: &State,
    root: &Path,
) -> io::Result<Response<Body>> {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let fault = *state.fault.lock().unwrap();
    if let Some(Fault::Answers(status, code)) = fault {
        let text = format!("<Error><Code>{code}</Code><Message>it was told to say so</Message></Error>");
        return Ok(Response::builder().status(status).body(Body::from(text)).unwrap());
    }
    if *request.method() != Method::PUT {
        return Service::call(service, request).await.map_err(|_| broken());
    }
    let _turn = state.turn.lock().await;
    let path = root.join(request.uri().path().trim_start_matches('/'));
    let delayed = state.delayed.lock().unwrap().take_if(|(delayed, _)| *delayed == path);
    if let Some((path, bytes)) = delayed {
        std::fs::write(path, bytes).unwrap();
    }
    if fault == Some(Fault::Overwrites) {
        let _ = std::fs::remove_file(&path);
        return Service::call(service, request).await.map_err(|_| broken());
    }
    let is_once = matches!(fault, Some(Fault::LosesAnswer | Fault::LosesRequest | Fault::Delays));
    if is_once {
        *state.fault.lock().unwrap() = None;
    }
    if fault == Some(Fault::LosesRequest) {
        return Err(broken());
    }
    let answer = Service::call(service, request).await.map_err(|_| broken())?;
    if fault == Some(Fault::Delays) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        *state.delayed.lock().unwrap() = Some((path, bytes));
    }
    if is_once { Err(broken()) } else { Ok(answer) }
}
