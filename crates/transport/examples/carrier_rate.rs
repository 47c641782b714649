//! Throughput and CPU of the carriers on loopback: QUIC and gRPC, both with CUBIC, beside plain TCP.
//!
//! `carrier_rate [MEGABYTES] [ROUNDS]`. Both ends run in this process, so CPU is that of agent and coordinator
//! together. Rounds alternate between the carriers; the medians are printed.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a measuring program")]

use std::sync::Arc;
use std::time::Duration;

use aap_proto::v1::agent_message::Kind;
use aap_proto::v1::coordinator_message::Kind as Answer;
use aap_proto::v1::{Ack, AgentMessage, Batch, CoordinatorMessage, Schema};
use aap_runtime::{Shutdown, SystemClock};
use aap_transport::{
    AgentReceiver, AgentSession, Authority, ClientConfig, CoordinatorSender, Error, LiveTls, Peer, Prefer,
    ServerConfig, SessionHandler, connect, serve,
};
use bytes::Bytes;
use camino::Utf8Path;
use futures::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Payload of a batch: what an agent seals while it drains.
const PAYLOAD_BYTES: usize = 512 << 10;
/// Data streams that send side by side.
const STREAMS: usize = 4;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let number = |at, default| std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (megabytes, rounds): (usize, usize) = (number(1, 1000), number(2, 3));
    let directory = tempfile::tempdir()?;
    let tls = Utf8Path::from_path(directory.path()).ok_or("temporary path is not UTF-8")?;
    let authority = Authority::create_or_open(tls, Arc::new(SystemClock::default()))?;
    let shutdown = Shutdown::default();
    let tls = LiveTls::open(authority.server_files(&[])?, None)?;
    let config = ServerConfig { bind: "127.0.0.1:0".parse()?, tls };
    let serving = serve(config, Arc::new(Sink), shutdown.clone()).await?;
    let node = authority.node_files(&"bench".parse()?)?;
    let client = |prefer| ClientConfig { address: serving.address().to_string(), tls: node.clone(), prefer };

    let [mut tcp, mut grpc, mut quic] = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        tcp.push(measure(plain_tcp(megabytes << 20)).await?);
        grpc.push(measure(transfer(client(Prefer::Grpc), megabytes)).await?);
        quic.push(measure(transfer(client(Prefer::Quic), megabytes)).await?);
    }
    let (tcp, grpc, quic) = (median(tcp), median(grpc), median(quic));
    println!("carrier      MB/s   CPU s/GB   MB/s per core-second");
    for (name, figure) in [("plain tcp", &tcp), ("grpc", &grpc), ("quic", &quic)] {
        println!(
            "{name:<10} {:>6.0} {:>10.2} {:>12.0}",
            figure.rate(),
            figure.cpu_per_gb(),
            figure.per_core()
        );
    }
    println!(
        "quic / grpc: {:.2} in MB/s, {:.2} per core-second",
        quic.rate() / grpc.rate(),
        quic.per_core() / grpc.per_core()
    );
    shutdown.request();
    serving.finished().await?;
    Ok(())
}

/// One transfer.
struct Figure {
    bytes: u64,
    wall: Duration,
    cpu: Duration,
}

impl Figure {
    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.wall.as_secs_f64()
    }
    fn cpu_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
    fn per_core(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu.as_secs_f64()
    }
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by_key(|figure| figure.wall);
    let middle = figures.len() / 2;
    figures.swap_remove(middle)
}

async fn measure(work: impl Future<Output = Result<u64>>) -> Result<Figure> {
    let (begin, cpu) = (tokio::time::Instant::now(), cpu_time());
    let bytes = work.await?;
    Ok(Figure { bytes, wall: begin.elapsed(), cpu: cpu_time().saturating_sub(cpu) })
}

/// CPU time of the whole process: what getrusage sums up.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Sends over a session and waits for the last acknowledgement.
async fn transfer(config: ClientConfig, megabytes: usize) -> Result<u64> {
    let AgentSession { tx, mut rx, .. } = connect(&config).await?;
    let batches = (megabytes << 20) / PAYLOAD_BYTES / STREAMS;
    let schema = Schema { fingerprint: 1, ipc: Bytes::from_static(b"schema") };
    // Bytes that do not compress, like those an agent sends.
    let payload: Vec<u8> =
        (0..PAYLOAD_BYTES as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let payload = Bytes::from(payload);
    let senders: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let (tx, schema, payload) = (tx.clone(), schema.clone(), payload.clone());
            tokio::spawn(async move {
                for sequence in 1..=batches as u64 {
                    let batch = Batch {
                        stream: format!("stream-{stream}"),
                        sequence,
                        schema_fingerprint: 1,
                        payload: payload.clone(),
                        ..Default::default()
                    };
                    tx.send_batch(&schema, batch).await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    drop(tx);
    for sender in senders {
        sender.await??;
    }
    let mut acknowledged = 0;
    while rx.recv().await?.is_some() {
        acknowledged += 1;
    }
    if acknowledged != batches * STREAMS {
        return Err(format!("{acknowledged} acknowledgements for {} batches", batches * STREAMS).into());
    }
    Ok((batches * STREAMS * PAYLOAD_BYTES) as u64)
}

/// A coordinator that acknowledges and forgets.
struct Sink;

impl SessionHandler for Sink {
    fn session(
        self: Arc<Self>,
        _: Peer,
        tx: CoordinatorSender,
        mut rx: AgentReceiver,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // Acknowledgements wait here until the end, so that the agent need not read while it sends.
            let mut batches = 0_u64;
            while let Ok(Some(AgentMessage { kind })) = rx.recv().await {
                batches += u64::from(matches!(kind, Some(Kind::Batch(_))));
            }
            for _ in 0..batches {
                let ack = CoordinatorMessage { kind: Some(Answer::Ack(Ack::default())) };
                if tx.send(ack).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// The limit: the same bytes over a bare TCP connection.
async fn plain_tcp(bytes: usize) -> Result<u64> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut sender = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
    let (mut receiver, _) = listener.accept().await?;
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0_u64;
        loop {
            match receiver.read(&mut buffer).await? {
                0 => return Ok::<_, std::io::Error>(total),
                read => total += read as u64,
            }
        }
    });
    let payload = vec![7; PAYLOAD_BYTES];
    for _ in 0..bytes / PAYLOAD_BYTES {
        sender.write_all(&payload).await?;
    }
    drop(sender);
    Ok(reading.await??)
}
