//! A platform of one coordinator in a temporary directory, and a handler that checks what arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aap_proto::v1::agent_message::Kind;
use aap_proto::v1::{Ack, AgentMessage, Batch, CoordinatorMessage, Schema, StreamTail, coordinator_message};
use aap_runtime::{Shutdown, SystemClock};
use aap_transport::{
    AgentReceiver, AgentSession, Authority, ClientConfig, CoordinatorSender, LiveTls, Peer, Prefer,
    ServerConfig, Serving, SessionHandler, TlsFiles, serve,
};
use aap_types::NodeId;
use bytes::Bytes;
use camino::Utf8PathBuf;
use futures::future::BoxFuture;

/// No step of a test may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the step finishes in time")
}

pub(crate) fn node() -> NodeId {
    "web-01.example".parse().unwrap()
}

pub(crate) struct Platform {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) authority: Authority,
    pub(crate) shutdown: Shutdown,
    pub(crate) serving: Serving,
    pub(crate) checker: Arc<Checker>,
}

pub(crate) fn path(directory: &tempfile::TempDir) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap()
}

pub(crate) fn authority(directory: &tempfile::TempDir) -> Authority {
    Authority::create_or_open(&path(directory).join("tls"), Arc::new(SystemClock::default())).unwrap()
}

pub(crate) async fn listen(
    address: &str,
    tls: TlsFiles,
    checker: &Arc<Checker>,
    shutdown: &Shutdown,
) -> Serving {
    let tls = LiveTls::open(tls, None).unwrap();
    let config = ServerConfig { bind: address.parse().unwrap(), tls };
    serve(config, checker.clone(), shutdown.clone()).await.unwrap()
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(&directory);
        let tls = authority.server_files(&[]).unwrap();
        let (checker, shutdown) = (Arc::new(Checker::default()), Shutdown::default());
        let serving = listen("127.0.0.1:0", tls, &checker, &shutdown).await;
        Self { directory, authority, shutdown, serving, checker }
    }

    /// Another coordinator of the same platform, on a port of its own.
    pub(crate) async fn successor(&self) -> Serving {
        listen("127.0.0.1:0", self.authority.server_files(&[]).unwrap(), &self.checker, &self.shutdown).await
    }

    pub(crate) fn client(&self, prefer: Prefer) -> ClientConfig {
        self.client_as(self.authority.node_files(&node()).unwrap(), prefer)
    }

    pub(crate) fn client_as(&self, tls: TlsFiles, prefer: Prefer) -> ClientConfig {
        ClientConfig { address: self.serving.address().to_string(), tls, prefer }
    }
}

/// Checks that batches arrive in order, intact, after their schema; acknowledges each; repeats reports.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) peers: Mutex<Vec<Peer>>,
    pub(crate) ends: Mutex<Vec<Result<(), String>>>,
}

impl SessionHandler for Checker {
    fn session(
        self: Arc<Self>,
        peer: Peer,
        tx: CoordinatorSender,
        rx: AgentReceiver,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.peers.lock().unwrap().push(peer);
            let end = check_session(tx, rx).await;
            self.ends.lock().unwrap().push(end);
        })
    }
}

impl Checker {
    /// How the sessions ended, as soon as one has. A session's halves end a moment before its handler does.
    pub(crate) async fn ended(&self) -> Vec<Result<(), String>> {
        within(async {
            loop {
                let ends = std::mem::take(&mut *self.ends.lock().unwrap());
                if !ends.is_empty() {
                    return ends;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

pub(crate) async fn check_session(tx: CoordinatorSender, mut rx: AgentReceiver) -> Result<(), String> {
    let mut next: HashMap<String, u64> = HashMap::new();
    let mut schemas = std::collections::HashSet::new();
    while let Some(message) = rx.recv().await.map_err(|error| error.to_string())? {
        match message.kind {
            Some(Kind::Schema(schema)) => drop(schemas.insert(schema.fingerprint)),
            Some(Kind::Batch(batch)) => {
                let expected = next.entry(batch.stream.clone()).or_insert(1);
                assert_eq!(batch.sequence, *expected, "order of {}", batch.stream);
                *expected += 1;
                assert!(schemas.contains(&batch.schema_fingerprint), "schema before batch");
                assert_eq!(batch, make_batch(&batch.stream, batch.sequence, batch.payload.len()), "content");
                tx.send(ack(&batch)).await.map_err(|error| error.to_string())?;
            }
            Some(Kind::Hello(hello)) => {
                tx.send(welcome(hello.clock_unix_us)).await.map_err(|error| error.to_string())?;
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn hello(number: i64) -> AgentMessage {
    let hello = aap_proto::v1::Hello { clock_unix_us: number, ..Default::default() };
    AgentMessage { kind: Some(Kind::Hello(hello)) }
}

fn welcome(number: i64) -> CoordinatorMessage {
    let welcome = aap_proto::v1::Welcome { clock_unix_us: number, ..Default::default() };
    CoordinatorMessage { kind: Some(coordinator_message::Kind::Welcome(welcome)) }
}

fn ack(batch: &Batch) -> CoordinatorMessage {
    let stream = batch.stream.clone();
    let tail = StreamTail { epoch: batch.epoch, stream, sequence: batch.sequence, ..StreamTail::default() };
    CoordinatorMessage { kind: Some(coordinator_message::Kind::Ack(Ack { through: vec![tail] })) }
}

/// The number of the welcome that answers `hello(number)`.
pub(crate) async fn greet(session: &mut AgentSession, number: i64) {
    session.tx.send(hello(number)).await.unwrap();
    match within(session.rx.recv()).await.unwrap().unwrap().kind {
        Some(coordinator_message::Kind::Welcome(welcome)) => assert_eq!(welcome.clock_unix_us, number),
        other => panic!("no welcome but {other:?}"),
    }
}

pub(crate) fn schema(stream: &str) -> Schema {
    Schema { fingerprint: seed(stream, 0), ipc: Bytes::from(stream.to_owned()) }
}

/// Spreads the bits of small numbers.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A batch whose bytes follow from its name and number.
pub(crate) fn make_batch(stream: &str, sequence: u64, bytes: usize) -> Batch {
    let seed = seed(stream, sequence);
    // Blocks that differ in their first word, so that a lost or swapped one shows.
    let mut payload: Vec<u8> =
        (0..512_u64).flat_map(|word| (word ^ seed).wrapping_mul(ODD).to_le_bytes()).collect();
    while payload.len() < bytes {
        let block = payload.len();
        payload.extend_from_within(..4096);
        payload[block..block + 8].copy_from_slice(&(seed ^ block as u64).to_le_bytes());
    }
    payload.truncate(bytes);
    Batch {
        epoch: 7,
        stream: stream.to_owned(),
        sequence,
        digest: Bytes::copy_from_slice(&[sequence as u8; 32]),
        schema_fingerprint: schema(stream).fingerprint,
        rows: 1000,
        ts_min_us: -1,
        ts_max_us: i64::MAX,
        sealed_us: 5,
        raw_bytes: bytes as u64 * 4,
        positions: Bytes::from_static(b"positions"),
        payload: payload.into(),
    }
}

fn seed(stream: &str, sequence: u64) -> u64 {
    stream
        .bytes()
        .fold(sequence.wrapping_add(1), |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}
