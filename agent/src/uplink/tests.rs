//! Delivery against a coordinator in memory: every message lost in turn, gaps, forks, ordered epochs; and several coordinators.

mod cluster;

use std::collections::BTreeMap;
use std::sync::Mutex;

use aap_proto::v1::agent_message::Kind as Up;
use aap_proto::v1::coordinator_message::Kind as Down;
use aap_proto::v1::{Ack, Barrier, CoordinatorMessage, Credit, Refusal, StreamTail, Welcome};
use aap_transport::testing::{Cut, faulty, pair};
use aap_transport::{AgentReceiver, AgentSession, CoordinatorSender};
use aap_types::StreamName;
use futures::future::BoxFuture;

use super::*;
use crate::config::FormatSpec;
use crate::formats::Recipe;
use crate::ingress::Packer;
use crate::testing::{DEADLINE, Rig};

/// Sequences and digests.
type Landed = Vec<(u64, Vec<u8>)>;

/// What survives a session: what landed, in order, per (epoch, stream).
#[derive(Default)]
struct Ledger {
    landed: BTreeMap<(u64, String), Landed>,
    sessions: u64,
    barriers: Vec<Vec<StreamTail>>,
    orders_epoch: bool,
    /// Answers FORKED for this epoch.
    forked_epoch: Option<u64>,
    /// Answers a GAP once, going back this far.
    gap: Option<u64>,
    cuts: Vec<Cut>,
}

struct Fake {
    ledger: Arc<Mutex<Ledger>>,
}

impl Dial for Fake {
    fn addresses(&self) -> Vec<String> {
        vec!["memory:1".to_owned()]
    }

    fn dial<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<AgentSession, aap_transport::Error>> {
        let session = serve(&self.ledger, None);
        Box::pin(async move { Ok(session) })
    }
}

/// A session with a coordinator of this ledger. With `gives_to`, it sends the node there after its first batch.
fn serve(ledger: &Arc<Mutex<Ledger>>, gives_to: Option<&str>) -> AgentSession {
    let (session, tx, rx) = pair();
    let cut = {
        let mut ledger = ledger.lock().unwrap();
        ledger.sessions += 1;
        if ledger.cuts.is_empty() { Cut::default() } else { ledger.cuts.remove(0) }
    };
    let (ledger, gives_to) = (ledger.clone(), gives_to.map(redirect));
    #[expect(clippy::disallowed_methods, reason = "ends with the session")]
    tokio::spawn(async move { coordinate(tx, rx, ledger, gives_to).await });
    faulty(session, cut)
}

fn redirect(to: &str) -> Down {
    Down::Refusal(Refusal { code: "REDIRECT".into(), address: to.to_owned(), ..Refusal::default() })
}

fn down(kind: Down) -> CoordinatorMessage {
    CoordinatorMessage { kind: Some(kind) }
}

async fn coordinate(
    tx: CoordinatorSender,
    mut rx: AgentReceiver,
    ledger: Arc<Mutex<Ledger>>,
    gives_to: Option<Down>,
) {
    while let Ok(Some(message)) = rx.recv().await {
        let answers = match message.kind {
            Some(Up::Hello(hello)) => {
                vec![Down::Welcome(welcome(&ledger, &hello.tails)), Down::Barrier(Barrier { id: 7 })]
            }
            Some(Up::Batch(batch)) => land(&ledger, &batch).into_iter().chain(gives_to.clone()).collect(),
            Some(Up::BarrierReply(reply)) => {
                ledger.lock().unwrap().barriers.push(reply.tails);
                vec![]
            }
            _ => vec![],
        };
        for answer in answers {
            if tx.send(down(answer)).await.is_err() {
                return;
            }
        }
    }
}

fn welcome(ledger: &Mutex<Ledger>, theirs: &[StreamTail]) -> Welcome {
    let mut ledger = ledger.lock().unwrap();
    let tail = |((epoch, stream), batches): (&(u64, String), &Landed)| {
        let theirs = theirs.iter().find(|tail| tail.epoch == *epoch && tail.stream == *stream);
        let common = theirs.map_or(0, |tail| tail.sequence).min(batches.len() as u64);
        let known = usize::try_from(common).unwrap().checked_sub(1).map(|at| batches[at].1.clone());
        StreamTail {
            epoch: *epoch,
            stream: stream.clone(),
            sequence: batches.last().map_or(0, |(sequence, _)| *sequence),
            digest: known.unwrap_or_default().into(),
        }
    };
    Welcome {
        protocol_version: 1,
        credit_bytes: 4096,
        landed: ledger.landed.iter().map(tail).collect(),
        new_epoch: std::mem::take(&mut ledger.orders_epoch),
        new_epoch_reason: "the test asks for it".into(),
        ..Welcome::default()
    }
}

fn land(ledger: &Mutex<Ledger>, batch: &aap_proto::v1::Batch) -> Vec<Down> {
    let mut ledger = ledger.lock().unwrap();
    let refusal = |code: &str, sequence| Refusal {
        code: code.into(),
        message: "by the test".into(),
        stream: batch.stream.clone(),
        epoch: batch.epoch,
        sequence,
        ..Refusal::default()
    };
    let credit = Down::Credit(Credit { bytes: batch.payload.len() as u64 });
    if ledger.forked_epoch == Some(batch.epoch) {
        return vec![Down::Refusal(refusal("FORKED", batch.sequence)), credit];
    }
    if let Some(back) = ledger.gap.filter(|back| batch.sequence > *back) {
        ledger.gap = None;
        let landed = ledger.landed.entry((batch.epoch, batch.stream.clone())).or_default();
        landed.retain(|(sequence, _)| *sequence < back);
        return vec![Down::Refusal(refusal("GAP", back))];
    }
    let landed = ledger.landed.entry((batch.epoch, batch.stream.clone())).or_default();
    let expected = landed.last().map_or(0, |(sequence, _)| *sequence) + 1;
    if batch.sequence > expected {
        return vec![];
    }
    if batch.sequence == expected {
        landed.push((batch.sequence, batch.digest.to_vec()));
    } else {
        let known = &landed[usize::try_from(batch.sequence).unwrap() - 1];
        assert_eq!(known.1, batch.digest, "same id, same digest");
    }
    let through = landed.last().map_or(0, |(sequence, _)| *sequence);
    let stream = batch.stream.clone();
    let tail = StreamTail { epoch: batch.epoch, stream, sequence: through, ..StreamTail::default() };
    vec![Down::Ack(Ack { through: vec![tail] }), credit]
}

async fn store(rig: &Rig, stream: &str, from: u32, to: u32) {
    let (decoder, _) = Recipe::new(FormatSpec::Text, None, None, false).build(b"").unwrap();
    let stream: StreamName = stream.parse().unwrap();
    let mut packer = Packer::new(stream, "test".into(), decoder);
    for n in from..to {
        let text = format!("row {n}\n");
        let packed = packer.pack(text.as_bytes(), &aap_decode::Context::default(), vec![]).unwrap();
        rig.deps.ingress.append(packed.parcel).await.unwrap();
    }
}

struct Uplink {
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), std::convert::Infallible>>,
}

fn connect(rig: &Rig, ledger: &Arc<Mutex<Ledger>>) -> Uplink {
    connect_by(rig, Arc::new(Fake { ledger: ledger.clone() }))
}

fn connect_by(rig: &Rig, dial: Arc<dyn Dial>) -> Uplink {
    let deps = UplinkDeps {
        buffer: rig.deps.ingress.buffer.clone(),
        clock: rig.deps.ingress.clock.clone(),
        counters: rig.deps.ingress.counters.clone(),
        board: rig.deps.board.clone(),
        failpoints: Failpoints::default(),
        state: Arc::new(State::default()),
        first_welcome: rig.deps.first_welcome.clone(),
        deletions: rig.deps.deletions.clone(),
        drain: rig.deps.ingress.drain.clone(),
        queries: None,
        renewal: None,
    };
    let shutdown = Shutdown::default();
    #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
    let task = tokio::spawn(run(dial, deps, shutdown.clone()));
    Uplink { shutdown, task }
}

impl Uplink {
    async fn stop(self) {
        self.shutdown.request();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn delivered(rig: &Rig) -> bool {
    let buffer = &rig.deps.ingress.buffer;
    buffer.tails().iter().all(|(key, tail)| buffer.cursor(landing_consumer(), key) == *tail)
}

fn sequences(ledger: &Mutex<Ledger>) -> Vec<Vec<u64>> {
    let ledger = ledger.lock().unwrap();
    ledger.landed.values().map(|batches| batches.iter().map(|(sequence, _)| *sequence).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_message_is_lost_every_batch_lands_once_and_in_order() {
    for lost in 0..14 {
        let both = [
            Cut { after_from_agent: Some(lost), after_from_coordinator: None },
            Cut { after_from_agent: None, after_from_coordinator: Some(lost) },
        ];
        let rig = Rig::new();
        store(&rig, "a", 0, 6).await;
        store(&rig, "b", 0, 3).await;
        let ledger = Arc::new(Mutex::new(Ledger { cuts: both.to_vec(), ..Ledger::default() }));
        let uplink = connect(&rig, &ledger);
        rig.until("everything is delivered", delivered).await;
        uplink.stop().await;
        assert_eq!(sequences(&ledger), [(1..=6).collect::<Vec<_>>(), (1..=3).collect()], "lost {lost}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_data_flows_within_the_credit_and_barriers_name_what_is_durable() {
    let rig = Rig::new();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let uplink = connect(&rig, &ledger);
    rig.until("connected", |rig| rig.deps.board.uplink_entry().connected).await;
    store(&rig, "a", 0, 50).await;
    rig.until("everything is delivered", delivered).await;
    uplink.stop().await;
    assert_eq!(sequences(&ledger), [(1..=50).collect::<Vec<_>>()]);
    assert!(!ledger.lock().unwrap().barriers.is_empty());
    // After a restart nothing is sent again.
    let uplink = connect(&rig, &ledger);
    store(&rig, "a", 50, 51).await;
    rig.until("everything is delivered", delivered).await;
    uplink.stop().await;
    assert_eq!(sequences(&ledger), [(1..=51).collect::<Vec<_>>()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_goes_back_and_an_ordered_epoch_begins() {
    let rig = Rig::new();
    store(&rig, "a", 0, 8).await;
    let first = rig.deps.ingress.buffer.identity().epoch;
    let ledger = Arc::new(Mutex::new(Ledger { gap: Some(3), orders_epoch: true, ..Ledger::default() }));
    let uplink = connect(&rig, &ledger);
    rig.until("everything is delivered", delivered).await;
    store(&rig, "a", 8, 10).await;
    rig.until("the new epoch too", delivered).await;
    uplink.stop().await;
    assert!(rig.deps.ingress.buffer.identity().epoch > first);
    assert_eq!(sequences(&ledger), [(1..=8).collect::<Vec<_>>(), vec![1, 2]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_stream_waits_and_new_data_flows_under_a_new_epoch() {
    let rig = Rig::new();
    store(&rig, "a", 0, 4).await;
    let first = rig.deps.ingress.buffer.identity().epoch;
    let ledger = Arc::new(Mutex::new(Ledger { forked_epoch: Some(first.0), ..Ledger::default() }));
    let uplink = connect(&rig, &ledger);
    rig.until("the fork is a problem", |rig| rig.deps.board.problems().iter().any(|p| p.contains("forked")))
        .await;
    rig.until("a new epoch", |rig| rig.deps.ingress.buffer.identity().epoch > first).await;
    store(&rig, "a", 4, 6).await;
    let landed = || sequences(&ledger).into_iter().any(|sequences| sequences == [1, 2]);
    rig.until("new data lands", |_| landed()).await;
    uplink.stop().await;
    let held = rig.deps.ingress.buffer.tails().into_iter().find(|(key, _)| key.epoch == first).unwrap();
    assert_eq!(held.1.0, 4, "the forked batches wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_store_landed_under_the_same_identities_is_never_taken_for_ours() {
    // The ledger is ahead, behind, or level; in each case it holds other batches than this store does.
    for landed in [2, 4, 6] {
        let rig = Rig::new();
        store(&rig, "a", 0, 4).await;
        let first = rig.deps.ingress.buffer.identity().epoch;
        let foreign: Landed = (1..=landed).map(|sequence| (sequence, vec![9; 32])).collect();
        let entries = [((first.0, "a".to_owned()), foreign.clone())];
        let ledger = Arc::new(Mutex::new(Ledger { landed: entries.into(), ..Ledger::default() }));
        for _session in 0..2 {
            let uplink = connect(&rig, &ledger);
            rig.until("the fork is a problem", |rig| {
                rig.deps.board.problems().iter().any(|p| p.contains("forked"))
            })
            .await;
            rig.until("a new epoch", |rig| rig.deps.ingress.buffer.identity().epoch > first).await;
            uplink.stop().await;
        }
        let buffer = &rig.deps.ingress.buffer;
        let (held, tail) = buffer.tails().into_iter().find(|(key, _)| key.epoch == first).unwrap();
        assert_eq!((tail.0, buffer.cursor(landing_consumer(), &held).0), (4, 0), "landed {landed}");
        assert_eq!(ledger.lock().unwrap().landed[&(first.0, "a".to_owned())], foreign);
    }
}
