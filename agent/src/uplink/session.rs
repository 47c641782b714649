//! One session: hello and welcome, then both directions side by side until one of them ends.

use std::time::Duration;

use aap_buffer::{Frame, FrameKind, mutant};
use aap_proto::v1::agent_message::Kind as Up;
use aap_proto::v1::coordinator_message::Kind as Down;
use aap_proto::v1::{AgentMessage, BarrierReply, Batch, Hello, Refusal, Schema, Skip, StreamTail, Welcome};
use aap_runtime::Shutdown;
use aap_transport::{AgentSender, AgentSession, CoordinatorReceiver};
use aap_types::{BatchId, Digest, Epoch, Sequence, SourceKind, SourcePosition, StreamKey};
use tokio::sync::mpsc;

use super::answers::Running;
use super::reconcile::{Ours, Standing, Theirs, common, standing};
use super::report::{node_report, tails};
use super::state::{State, landing_consumer};
use super::{UplinkDeps, chain};

/// How long the coordinator may take to answer the hello.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// Read from the buffer at a time: some batches of 1 MiB, decompressed by nobody.
const READ_BYTES: usize = 1 << 20;
/// A report a second while something changes.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// A report without change.
const REPORT_IDLE: Duration = Duration::from_secs(10);
/// At the end: how long what is durable here may still take to reach the coordinator.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);
/// Why a stream is held that the welcome shows to have forked.
const FORKED_HERE: &str =
    "the ledger has other batches under the same identities; this store was rolled back or cloned";

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The agent stops.
    Stopped,
    /// A better carrier can be had: dial again at once.
    BetterCarrier,
    /// There are other roots, and a certificate of the newest: dial again at once, to show it.
    OtherRoots,
    /// This node belongs to another coordinator, whose address this should be.
    Redirected(String),
    /// It broke.
    Broken(String),
}

impl From<String> for End {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

/// Holds a session with the coordinator at `address` to its end.
pub(super) async fn hold(
    session: AgentSession,
    address: &str,
    deps: &UplinkDeps,
    shutdown: &Shutdown,
    welcomed: impl FnOnce(),
) -> End {
    let state = &deps.state;
    let AgentSession { tx, mut rx, carrier, mut better } = session;
    let welcome = tokio::select! {
        welcome = greet(&tx, &mut rx, deps) => welcome,
        () = shutdown.requested() => return End::Stopped,
    };
    let welcome = match welcome {
        Ok(welcome) => welcome,
        Err(end) => return end,
    };
    if let Err(reason) = follow(welcome, deps, state).await {
        return End::Broken(reason);
    }
    welcomed();
    deps.first_welcome.came();
    tracing::info!(address, %carrier, "uplink connected");
    deps.board.uplink(|entry| {
        entry.connected = true;
        address.clone_into(&mut entry.address);
        entry.carrier = carrier.to_string();
        entry.problem.clear();
    });
    let running = Running::default();
    let end = tokio::select! {
        reason = send_all(&tx, deps, state) => End::Broken(reason),
        end = receive_all(rx, &tx, deps, state, &running) => end,
        reason = report_all(&tx, deps) => End::Broken(reason),
        reason = renew(&tx, deps) => End::Broken(reason),
        () = other_roots(deps) => End::OtherRoots,
        () = better.available() => End::BetterCarrier,
        () = flushed(deps, state, shutdown) => End::Stopped,
    };
    running.cancel_all();
    end
}

/// Looks after the node's certificate, where it has one that is renewed.
async fn renew(tx: &AgentSender, deps: &UplinkDeps) -> String {
    match &deps.renewal {
        Some(renewal) => renewal.ask_when_due(tx).await,
        None => std::future::pending().await,
    }
}

/// Returns when the node was given other roots.
async fn other_roots(deps: &UplinkDeps) {
    match &deps.renewal {
        Some(renewal) => renewal.other_roots().await,
        None => std::future::pending().await,
    }
}

/// Says hello and waits for the welcome.
async fn greet(tx: &AgentSender, rx: &mut CoordinatorReceiver, deps: &UplinkDeps) -> Result<Welcome, End> {
    let identity = deps.buffer.identity();
    let hello = Hello {
        protocol_version: aap_proto::PROTOCOL_VERSION,
        node: identity.node.to_string(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        store_id: identity.store_id.to_vec().into(),
        generation: identity.generation,
        epoch: identity.epoch.0,
        clock_unix_us: deps.clock.unix_us(),
        tails: tails(deps.buffer.tails()),
        heads: tails(deps.buffer.heads()),
    };
    let asked_us = deps.clock.unix_us();
    send(tx, Up::Hello(hello)).await?;
    let answer = tokio::time::timeout(WELCOME_DEADLINE, rx.recv())
        .await
        .map_err(|_| "no welcome within 10 s".to_owned())?
        .map_err(|error| chain(&error))?;
    match answer.and_then(|message| message.kind) {
        Some(Down::Welcome(welcome)) if welcome.protocol_version <= aap_proto::PROTOCOL_VERSION => {
            // The answer was made half a round trip ago.
            let middle_us = i64::midpoint(asked_us, deps.clock.unix_us());
            deps.board.uplink(|entry| entry.clock_offset_us = welcome.clock_unix_us - middle_us);
            Ok(welcome)
        }
        Some(Down::Welcome(welcome)) => {
            Err(format!("the coordinator asks for protocol version {}", welcome.protocol_version).into())
        }
        Some(Down::Refusal(refusal)) if word(&refusal) == REDIRECT => Err(End::Redirected(refusal.address)),
        Some(Down::Refusal(refusal)) => Err(refused_session(&refusal)),
        Some(_) => Err("the coordinator did not begin with a welcome".to_owned().into()),
        None => Err("the coordinator closed the session before its welcome".to_owned().into()),
    }
}

/// The word of a refusal that this node belongs to another coordinator.
const REDIRECT: &str = "REDIRECT";

/// The last word of a refusal's code, whatever stands before it.
fn word(refusal: &Refusal) -> String {
    let code = refusal.code.to_ascii_uppercase();
    code.rsplit('.').next().unwrap_or(&code).to_owned()
}

fn refused_session(refusal: &Refusal) -> End {
    End::Broken(format!("refused: {} ({})", refusal.message, refusal.code))
}

/// Does what the welcome says: deletions, positions, a new epoch, cursors.
async fn follow(welcome: Welcome, deps: &UplinkDeps, state: &State) -> Result<(), String> {
    deps.drain.follow(welcome.draining).await;
    deps.deletions.tell(&welcome.deleted);
    let positions: Vec<SourcePosition> = welcome.positions.into_iter().filter_map(position).collect();
    if !positions.is_empty() {
        tracing::info!(positions = positions.len(), "source positions came back from the coordinator");
        deps.buffer.adopt_positions(positions).await.map_err(|error| chain(&error))?;
        deps.first_welcome.adopted();
    }
    if welcome.new_epoch {
        let epoch = deps.buffer.new_epoch(&welcome.new_epoch_reason).await.map_err(|error| chain(&error))?;
        tracing::warn!(%epoch, reason = welcome.new_epoch_reason, "began a new epoch, as the coordinator ordered");
    }
    let mut landed = Vec::with_capacity(welcome.landed.len());
    for tail in &welcome.landed {
        let Some(key) = key_of(deps, tail) else { continue };
        match compare(&key, tail, deps).await? {
            Standing::Landed(sequence) => {
                deps.buffer.advance(landing_consumer(), &key, sequence);
                landed.push((key, Sequence(tail.sequence)));
            }
            Standing::Forked if state.forked(&key, FORKED_HERE) => {
                hold_fork(&key, Sequence(tail.sequence), FORKED_HERE, deps).await?;
            }
            Standing::Forked => {}
        }
    }
    state.begin(&landed, welcome.credit_bytes);
    Ok(())
}

/// Whether the ledger has of a stream what stands here.
async fn compare(key: &StreamKey, tail: &StreamTail, deps: &UplinkDeps) -> Result<Standing, String> {
    let (buffer, key, landed) = (deps.buffer.clone(), key.clone(), Sequence(tail.sequence));
    let theirs = Theirs { landed, digest: <[u8; 32]>::try_from(&tail.digest[..]).ok().map(Digest) };
    // Digests that memory no longer holds are read from disk.
    let compared = tokio::task::spawn_blocking(move || {
        let tail = buffer.tail(&key).map(|tail| tail.sequence).unwrap_or_default();
        let id = BatchId { key: key.clone(), sequence: common(tail, landed) };
        let digest = buffer.digest_of(&id).filter(|digest| *digest != Digest([0; 32]));
        standing(Ours { tail, cursor: buffer.cursor(landing_consumer(), &key), digest }, theirs)
    });
    compared.await.map_err(|error| format!("compare with the ledger: {error}"))
}

fn position(position: aap_proto::v1::Position) -> Option<SourcePosition> {
    let kind = match position.kind {
        1 => SourceKind::File,
        2 => SourceKind::Ingest,
        3 => SourceKind::HttpKey,
        4 => SourceKind::Kafka,
        5 => SourceKind::Table,
        _ => return None,
    };
    Some(SourcePosition { kind, key: position.key, offset: position.offset, detail: position.detail })
}

fn key_of(deps: &UplinkDeps, tail: &StreamTail) -> Option<StreamKey> {
    let stream = tail.stream.parse().ok()?;
    Some(StreamKey { node: deps.buffer.identity().node, epoch: Epoch(tail.epoch), stream })
}

/// Sends what is durable, for as long as the session lasts. Returns why it ended.
async fn send_all(tx: &AgentSender, deps: &UplinkDeps, state: &State) -> String {
    let mut changes = deps.buffer.changes();
    loop {
        changes.mark_unchanged();
        let Some(next) = state.next(&deps.buffer.tails()) else {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return "the buffer is closed".to_owned() },
                () = state.changed() => {}
            }
            continue;
        };
        let (buffer, key, after) = (deps.buffer.clone(), next.key.clone(), next.after);
        let read = tokio::task::spawn_blocking(move || buffer.read(&key, after, READ_BYTES)).await;
        let frames = match read {
            Ok(Ok(frames)) => frames,
            Ok(Err(error)) => return format!("read the buffer: {}", chain(&error)),
            Err(error) => return format!("read the buffer: {error}"),
        };
        if frames.is_empty() {
            // The tail says that there is more, so it was just reclaimed or is being repaired.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for frame in frames {
            match send_frame(tx, deps, state, &next.key, frame).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => return reason,
            }
        }
    }
}

/// Sends one frame if it may leave now. `Ok(false)`: it may not.
async fn send_frame(
    tx: &AgentSender,
    deps: &UplinkDeps,
    state: &State,
    key: &StreamKey,
    frame: Frame,
) -> Result<bool, String> {
    let (first, last) = (frame.id.sequence, frame.last_sequence());
    if !state.depart(key, first, last, frame.payload.len() as u64) {
        return Ok(false);
    }
    if mutant::is("cursorfirst") {
        deps.buffer.advance(landing_consumer(), key, last);
    }
    injected(deps, "agent.uplink_before_send")?;
    match frame.kind {
        FrameKind::Skip { to, rows, reason } => {
            send(tx, Up::Skip(skip(key, first, to, rows, &reason))).await?;
        }
        FrameKind::Data => {
            let schema = Schema { fingerprint: frame.schema.fingerprint(), ipc: frame.schema.ipc().clone() };
            tx.send_batch(&schema, batch(frame)).await.map_err(|error| chain(&error))?;
        }
    }
    injected(deps, "agent.uplink_after_send")?;
    Ok(true)
}

fn injected(deps: &UplinkDeps, point: &str) -> Result<(), String> {
    deps.failpoints.pass(point).map_err(|error| error.to_string())
}

fn skip(key: &StreamKey, from: Sequence, to: Sequence, rows: u64, reason: &str) -> Skip {
    Skip {
        epoch: key.epoch.0,
        stream: key.stream.to_string(),
        from: from.0,
        to: to.0,
        rows,
        reason: reason.to_owned(),
    }
}

fn batch(frame: Frame) -> Batch {
    Batch {
        epoch: frame.id.key.epoch.0,
        stream: frame.id.key.stream.to_string(),
        sequence: frame.id.sequence.0,
        digest: frame.digest.0.to_vec().into(),
        schema_fingerprint: frame.schema.fingerprint(),
        rows: frame.rows,
        ts_min_us: frame.ts_min_us,
        ts_max_us: frame.ts_max_us,
        sealed_us: frame.sealed_us,
        raw_bytes: frame.raw_bytes,
        positions: frame.positions,
        payload: frame.payload,
    }
}

/// Takes what the coordinator sends. Returns how it ended.
async fn receive_all(
    mut rx: CoordinatorReceiver,
    tx: &AgentSender,
    deps: &UplinkDeps,
    state: &State,
    running: &Running,
) -> End {
    // Answers go out beside the loop, so that a slow network never keeps acknowledgements waiting. A coordinator
    // has few barriers and queries open at once; beyond this number the session is not worth keeping.
    let (answers, mut waiting) = mpsc::channel::<AgentMessage>(64);
    let answering = async {
        while let Some(message) = waiting.recv().await {
            if let Err(error) = tx.send(message).await {
                return End::Broken(chain(&error));
            }
        }
        std::future::pending().await
    };
    let receiving = async {
        loop {
            let message = match rx.recv().await {
                Ok(Some(message)) => message,
                Ok(None) => return "the coordinator ended the session".to_owned().into(),
                Err(error) => return chain(&error).into(),
            };
            if let Err(end) = take(message.kind, &answers, tx, deps, state, running).await {
                return end;
            }
        }
    };
    tokio::select! {
        end = answering => end,
        end = receiving => end,
    }
}

async fn take(
    message: Option<Down>,
    answers: &mpsc::Sender<AgentMessage>,
    tx: &AgentSender,
    deps: &UplinkDeps,
    state: &State,
    running: &Running,
) -> Result<(), End> {
    match message {
        Some(Down::Ack(ack)) => {
            injected(deps, "agent.uplink_before_advance")?;
            for tail in &ack.through {
                let Some(key) = key_of(deps, tail) else { continue };
                if let Some(through) = state.acknowledged(&key, Sequence(tail.sequence)) {
                    deps.buffer.advance(landing_consumer(), &key, through);
                }
            }
            injected(deps, "agent.uplink_after_advance")?;
        }
        Some(Down::Credit(credit)) => state.credit(credit.bytes),
        Some(Down::Barrier(barrier)) => {
            let reply = BarrierReply { id: barrier.id, tails: tails(deps.buffer.tails()) };
            let message = AgentMessage { kind: Some(Up::BarrierReply(reply)) };
            answers.try_send(message).map_err(|_| "too many barriers are open".to_owned())?;
        }
        Some(Down::RunQuery(query)) => running.start(query, tx, deps),
        Some(Down::QueryCredit(credit)) => running.grant(&credit),
        Some(Down::CancelQuery(cancel)) => running.cancel(&cancel.id),
        Some(Down::Refusal(refusal)) => refused(refusal, deps, state).await?,
        Some(Down::Deleted(deleted)) => deps.deletions.tell(&deleted.through),
        Some(Down::Renewed(renewed)) => {
            if let Some(renewal) = deps.renewal.clone() {
                // Some milliseconds of a disk, twice a day, and not on the thread that takes acknowledgements.
                tokio::task::spawn_blocking(move || renewal.take_in_session(&renewed));
            }
        }
        Some(Down::RenewNow(_)) => {
            if let Some(renewal) = &deps.renewal {
                renewal.renew_now();
            }
        }
        Some(Down::Drain(drain)) => deps.drain.follow(drain.draining).await,
        Some(Down::Welcome(_)) => return Err("a second welcome".to_owned().into()),
        // A newer coordinator says something that this version does not know.
        None => {}
    }
    Ok(())
}

/// The coordinator did not take a batch, or keeps the node no longer. Some reasons concern one stream, the others the session.
async fn refused(refusal: Refusal, deps: &UplinkDeps, state: &State) -> Result<(), End> {
    let tail = StreamTail {
        epoch: refusal.epoch,
        stream: refusal.stream.clone(),
        sequence: refusal.sequence,
        ..StreamTail::default()
    };
    match (word(&refusal).as_str(), key_of(deps, &tail)) {
        ("GAP", Some(key)) => {
            tracing::info!(%key, expected = refusal.sequence, "the coordinator misses batches; sending them again");
            state.rewind(&key, Sequence(refusal.sequence));
            Ok(())
        }
        ("FORKED", Some(key)) => {
            if state.forked(&key, &refusal.message) {
                hold_fork(&key, Sequence(refusal.sequence), &refusal.message, deps).await?;
            }
            Ok(())
        }
        (REDIRECT, _) => {
            tracing::info!(to = refusal.address, "the coordinator gave this node to another");
            Err(End::Redirected(refusal.address))
        }
        _ => Err(refused_session(&refusal)),
    }
}

/// The history of this stream is not what the coordinator has: it waits for an operator, new data goes on.
async fn hold_fork(key: &StreamKey, at: Sequence, why: &str, deps: &UplinkDeps) -> Result<(), String> {
    let text = format!(
        "stream `{}` of epoch {} forked at {at}: {why}; its batches wait for `aap node recover {} --resend` or `--discard`",
        key.stream, key.epoch, key.node
    );
    tracing::error!(%key, sequence = %at, reason = why, "the history of a stream forked");
    deps.board.uplink(|entry| {
        entry.forked.insert(key.to_string(), text);
    });
    if deps.buffer.identity().epoch == key.epoch {
        let epoch =
            deps.buffer.new_epoch("the history of a stream forked").await.map_err(|error| chain(&error))?;
        tracing::warn!(%epoch, "began a new epoch for new data");
    }
    Ok(())
}

/// Reports while something changes, and now and then. Returns why it ended.
async fn report_all(tx: &AgentSender, deps: &UplinkDeps) -> String {
    let mut last = (None, Duration::ZERO);
    loop {
        let told = (deps.board.as_ref(), deps.drain.as_ref());
        let report = node_report(&deps.buffer, &deps.counters, told, deps.clock.as_ref());
        let now = deps.clock.monotonic();
        let content = aap_proto::v1::NodeReport { clock_unix_us: 0, ..report.clone() };
        if last.0.as_ref() != Some(&content) || now.saturating_sub(last.1) >= REPORT_IDLE {
            if let Err(reason) = send(tx, Up::Report(report)).await {
                return reason;
            }
            last = (Some(content), now);
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

pub(super) async fn send(tx: &AgentSender, kind: Up) -> Result<(), String> {
    tx.send(AgentMessage { kind: Some(kind) }).await.map_err(|error| chain(&error))
}

/// After the request to stop: waits until everything durable is acknowledged, at most a while.
async fn flushed(deps: &UplinkDeps, state: &State, shutdown: &Shutdown) {
    shutdown.requested().await;
    let mut changes = deps.buffer.changes();
    let all = async {
        loop {
            let held = state.held();
            let open = deps.buffer.tails().into_iter().any(|(key, tail)| {
                !held.contains_key(&key) && deps.buffer.cursor(landing_consumer(), &key) < tail
            });
            if !open {
                return;
            }
            // Cursors move in memory without a notification, so look again soon.
            drop(tokio::time::timeout(Duration::from_millis(20), changes.changed()).await);
        }
    };
    if tokio::time::timeout(FLUSH_DEADLINE, all).await.is_err() {
        tracing::info!("stopped with data waiting; it is sent after the next start");
    }
}
