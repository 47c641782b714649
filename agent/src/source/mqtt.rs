//! Messages of an MQTT broker, acknowledged after their rows are durable.
//!
//! The session is the broker's: while the source is away, or the buffer is full, the broker keeps what has quality 1 or 2. What
//! it sent and saw no acknowledgement of, it sends again; so after a kill a message may stand there twice. A message of
//! quality 2 that comes again within a session is known by its id. What has quality 0 is once from the moment it is durable.
//!
//! | file | owns |
//! |---|---|
//! | `mqtt/wire.rs` | packets |
//! | `mqtt/rows.rs` | rows of messages |

mod rows;
mod wire;

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use aap_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval};
use tokio_rustls::TlsConnector;

use self::rows::Rows;
use self::wire::{Login, Packet, Publish, Reader};
use super::{SourceDeps, SourceError};
use crate::config::{MqttSpec, MqttVersion};
use crate::counters::DropReason;
use crate::ingress::BATCH_BYTES;

/// How long the broker may take to answer a connection, a login, and a subscription.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often we say that we are there. The broker gives up after one and a half of it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Nothing of a broker for so long: it is gone, whatever the kernel says.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How long a message waits for others that follow it before all of them are stored.
const LINGER: Duration = Duration::from_millis(5);
/// Messages under way that we ask for: brokers that hold them to it give us as many before the first acknowledgement.
const RECEIVE_MAX: u16 = 4096;
/// Messages of one batch: half of what may be under way, so that the broker goes on meanwhile.
const BATCH_MESSAGES: usize = 2048;
/// Between attempts to connect: doubled at each failure.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// The longest such pause.
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// A packet holds a topic and properties beside its message.
const HEAD_BYTES: u64 = 128 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Wire = Box<dyn Stream>;

/// Keeps a session until the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: MqttSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let tls = tls(&spec, &deps)?;
    let client_id = client_id(&name, &spec);
    let mut source = Source {
        rows: Rows::new(&name, &spec)?,
        unreleased: HashSet::new(),
        name,
        spec,
        deps,
        tls,
        client_id,
    };
    let mut pause = AGAIN_MIN;
    loop {
        let began = Instant::now();
        let ended = tokio::select! {
            ended = source.connected(&shutdown) => ended,
            () = shutdown.requested() => return Ok(()),
        };
        let failure = match ended {
            Ok(mut session) => session.hold(&mut source, &shutdown).await,
            Err(failure) => Err(failure),
        };
        let Err(failure) = failure else { return Ok(()) };
        source.deps.board.source(&source.name, |entry| entry.detail = "not connected".to_owned());
        if source.deps.board.source_problem(&source.name, "session", Some(failure.clone())) {
            tracing::warn!(source = source.name, failure, "no session with the broker; trying again");
        }
        pause = if began.elapsed() > AGAIN_MAX { AGAIN_MIN } else { (pause * 2).min(AGAIN_MAX) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn tls(spec: &MqttSpec, deps: &SourceDeps) -> Result<Option<TlsConnector>, SourceError> {
    if !spec.address().is_some_and(|(.., is_tls)| is_tls) {
        return Ok(None);
    }
    let at = |path: &camino::Utf8PathBuf| deps.home.root().join(path);
    let identity = spec.certificate.as_ref().zip(spec.key.as_ref());
    let identity = identity.map(|(certificate, key)| (at(certificate), at(key)));
    let files = aap_transport::OutwardTls { ca: spec.ca.as_ref().map(at), identity };
    let config = files.client(&[]).map_err(|error| SourceError::Config(error.problem().report()))?;
    Ok(Some(TlsConnector::from(config)))
}

/// The same at every start, or the broker would begin a new session.
fn client_id(name: &str, spec: &MqttSpec) -> String {
    let id = spec.client_id.clone().unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("aap-{host}-{name}")
    });
    if spec.is_trial { format!("{id}-trial-{}", std::process::id()) } else { id }
}

/// What outlives a connection.
struct Source {
    name: String,
    spec: MqttSpec,
    deps: SourceDeps,
    tls: Option<TlsConnector>,
    client_id: String,
    rows: Rows,
    /// Messages of quality 2 that are durable, and that the broker has not released.
    unreleased: HashSet<u16>,
}

/// One connection.
struct Session {
    reader: Reader<ReadHalf<Wire>>,
    writer: WriteHalf<Wire>,
    version: MqttVersion,
    pings: Interval,
    heard: Instant,
    /// Messages that are not stored, and when the first of them, or an answer, must wait no longer.
    pending: Vec<Publish>,
    deadline: Option<Instant>,
    pending_bytes: usize,
    /// Answers that are not sent.
    answers: Vec<u8>,
}

async fn in_time<T>(what: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, work).await {
        Ok(done) => done.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

impl Source {
    /// Connects, logs in and subscribes.
    async fn connected(&mut self, shutdown: &Shutdown) -> Result<Session, String> {
        let wire = self.dial().await?;
        let (reader, writer) = tokio::io::split(wire);
        let limit = usize::try_from(self.spec.message_bytes_max.0).unwrap_or(usize::MAX);
        let mut pings = tokio::time::interval_at(Instant::now() + KEEP_ALIVE / 2, KEEP_ALIVE / 2);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut session = Session {
            reader: Reader::new(reader, self.spec.version, limit),
            writer,
            version: self.spec.version,
            pings,
            heard: Instant::now(),
            pending: Vec::new(),
            deadline: None,
            pending_bytes: 0,
            answers: Vec::new(),
        };
        let login = self.login().await?;
        in_time("log in", session.writer.write_all(&login)).await?;
        match in_time("log in", session.reader.next()).await? {
            Packet::Connected { code: 0, session_present } => {
                if !session_present {
                    self.unreleased.clear();
                }
            }
            Packet::Connected { code, .. } => {
                return Err(format!(
                    "the broker refuses the login: {}",
                    wire::refusal(self.spec.version, code)
                ));
            }
            _ => return Err("log in: the broker does not answer as MQTT does".to_owned()),
        }
        let filters = self.spec.topics.iter().map(|topic| (topic.filter.as_str(), topic.qos));
        let subscribe = wire::subscribe(self.spec.version, filters);
        in_time("subscribe", session.writer.write_all(&subscribe)).await?;
        // Messages of the session may come before the answer.
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let next = tokio::time::timeout_at(deadline, session.reader.next()).await;
            let packet =
                next.map_err(|_| "subscribe: no answer".to_owned())?.map_err(|error| error.to_string())?;
            if let Packet::Subscribed(codes) = &packet {
                let refused = codes.iter().zip(&self.spec.topics).find(|(code, _)| **code >= 0x80);
                if let Some((code, topic)) = refused {
                    let why = wire::refusal(self.spec.version, *code);
                    return Err(format!("the broker refuses the subscription to `{}`: {why}", topic.filter));
                }
                break;
            }
            session.take(packet, self)?;
            if session.is_full() {
                session.store(self, shutdown).await?;
            }
        }
        let server = &self.spec.server;
        self.deps.board.source(&self.name, |entry| entry.detail = format!("connected to {server}"));
        self.deps.board.source_problem(&self.name, "session", None);
        tracing::info!(source = self.name, server, "subscribed");
        Ok(session)
    }

    async fn dial(&self) -> Result<Wire, String> {
        let (host, port, _) = self.spec.address().ok_or_else(|| "the server has no address".to_owned())?;
        let bare = host.trim_matches(['[', ']']).to_owned();
        let tcp = in_time("connect", TcpStream::connect((bare.as_str(), port))).await?;
        tcp.set_nodelay(true).ok();
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = bare.try_into().map_err(|_| format!("`{host}` is no name for TLS"))?;
        let stream = in_time("shake hands", tls.connect(name, tcp)).await?;
        Ok(Box::new(stream))
    }

    async fn login(&self) -> Result<Vec<u8>, String> {
        let password = match &self.spec.password_file {
            None => None,
            Some(file) => {
                let path = self.deps.home.root().join(file);
                let text = tokio::fs::read_to_string(&path).await;
                Some(text.map_err(|error| format!("read `{path}`: {error}"))?.trim_end().to_owned())
            }
        };
        let packet_bytes_max = self.spec.message_bytes_max.0 + HEAD_BYTES;
        Ok(wire::connect(&Login {
            version: self.spec.version,
            client_id: &self.client_id,
            user: self.spec.user.as_deref(),
            password: password.as_deref(),
            is_clean: self.spec.is_trial,
            keep_alive_s: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
            keep_session_s: u32::try_from(self.spec.keep_session.0.as_secs()).unwrap_or(u32::MAX - 1),
            receive_max: RECEIVE_MAX,
            packet_bytes_max: u32::try_from(packet_bytes_max).unwrap_or(u32::MAX),
        }))
    }
}

impl Session {
    fn is_full(&self) -> bool {
        self.pending.len() >= BATCH_MESSAGES || self.pending_bytes >= BATCH_BYTES
    }

    /// Takes messages until the connection breaks or the source is asked to stop: then what has come is stored.
    async fn hold(&mut self, source: &mut Source, shutdown: &Shutdown) -> Result<(), String> {
        let ended = self.take_all(source, shutdown).await;
        if ended.is_err() {
            // The broker sends all others again.
            self.pending.retain(|message| message.qos == 0);
            self.store(source, shutdown).await.ok();
            return ended;
        }
        self.store(source, shutdown).await?;
        self.writer.write_all(&wire::DISCONNECT).await.ok();
        self.writer.shutdown().await.ok();
        Ok(())
    }

    async fn take_all(&mut self, source: &mut Source, shutdown: &Shutdown) -> Result<(), String> {
        loop {
            let deadline = self.deadline;
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(()),
                packet = self.reader.next() => {
                    let packet = packet.map_err(|error| format!("the connection broke: {error}"))?;
                    self.heard = Instant::now();
                    self.take(packet, source)?;
                    if !self.is_full() {
                        continue;
                    }
                }
                () = over => {}
                _ = self.pings.tick() => {
                    if self.heard.elapsed() > SILENCE_MAX {
                        return Err(format!("nothing came for {} s", SILENCE_MAX.as_secs()));
                    }
                    self.send(&wire::PING).await?;
                    continue;
                }
            }
            self.store(source, shutdown).await?;
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        in_time("send", self.writer.write_all(bytes)).await
    }

    /// What a packet asks for.
    fn take(&mut self, packet: Packet, source: &mut Source) -> Result<(), String> {
        if matches!(packet, Packet::Publish(_) | Packet::Release(_)) && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + LINGER);
        }
        match packet {
            Packet::Publish(message) => {
                if message.qos == 2 && source.unreleased.contains(&message.id) {
                    // It is durable: its acknowledgement was lost.
                    wire::put_received(&mut self.answers, message.id);
                    return Ok(());
                }
                self.pending_bytes += message.payload.len() + message.topic.len();
                self.pending.push(message);
            }
            Packet::Release(id) => {
                source.unreleased.remove(&id);
                wire::put_complete(&mut self.answers, id);
            }
            Packet::Disconnect(code) => {
                let why = wire::refusal(self.version, code);
                return Err(format!("the broker ends the session: {why}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes what has come durable, and then acknowledges it in the order in which it came.
    async fn store(&mut self, source: &mut Source, shutdown: &Shutdown) -> Result<(), String> {
        let messages = std::mem::take(&mut self.pending);
        (self.pending_bytes, self.deadline) = (0, None);
        for message in messages.iter().filter(|message| message.is_too_large) {
            let stream = source.rows.stream(&message.topic);
            tracing::warn!(source = source.name, topic = message.topic, "a message was too large");
            source.deps.ingress.counters.count(stream, |count| {
                count.rows_read += 1;
                *count.rows_dropped.entry(DropReason::Rejected).or_default() += 1;
            });
        }
        let ids: Vec<(u8, u16)> = messages.iter().map(|message| (message.qos, message.id)).collect();
        let storing = source.rows.store(messages, (&source.name, &source.spec), &source.deps, shutdown);
        tokio::pin!(storing);
        // While the buffer is full the broker must not take us for gone.
        let is_stored = loop {
            tokio::select! {
                is_stored = &mut storing => break is_stored,
                _ = self.pings.tick() => {
                    in_time("send", self.writer.write_all(&wire::PING)).await?;
                    self.heard = Instant::now();
                }
            }
        };
        if !is_stored || source.spec.is_trial {
            // The broker sends again what is not acknowledged.
            return Ok(());
        }
        for (qos, id) in ids {
            match qos {
                1 => wire::put_acknowledge(&mut self.answers, id),
                2 => {
                    source.unreleased.insert(id);
                    wire::put_received(&mut self.answers, id);
                }
                _ => {}
            }
        }
        let answers = std::mem::take(&mut self.answers);
        if answers.is_empty() { Ok(()) } else { self.send(&answers).await }
    }
}
