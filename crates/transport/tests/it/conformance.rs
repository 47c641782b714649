//! What every carrier promises, on each of them.

use std::collections::HashMap;

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::coordinator_message::Kind;
use aap_transport::{AgentSession, Carrier, Error, Prefer, connect, testing};

use crate::support::{Platform, check_session, greet, hello, make_batch, schema, within};

/// A session over `carrier` whose other end is a checker, and what must stay alive for it.
async fn open(carrier: Carrier) -> (AgentSession, Option<Platform>) {
    let prefer = match carrier {
        Carrier::Grpc => Prefer::Grpc,
        Carrier::Quic => Prefer::Quic,
        Carrier::Memory => {
            let (session, tx, rx) = testing::pair();
            tokio::task::spawn(async move { check_session(tx, rx).await.unwrap() });
            return (session, None);
        }
    };
    let platform = Platform::start().await;
    let session = connect(&platform.client(prefer)).await.unwrap();
    assert_eq!(session.carrier, carrier);
    (session, Some(platform))
}

async fn conforms(carrier: Carrier) {
    greets(carrier).await;
    carries_200_megabytes_intact_and_in_order(carrier).await;
    refuses_what_is_too_large_and_goes_on(carrier).await;
    refuses_a_batch_without_schema_and_goes_on(carrier).await;
    ends_politely(carrier).await;
    ends_when_the_listener_stops(carrier).await;
    breaks_when_the_session_is_cut(carrier).await;
}

async fn greets(carrier: Carrier) {
    let (mut session, _platform) = open(carrier).await;
    for number in 0..50 {
        greet(&mut session, number).await;
    }
}

async fn carries_200_megabytes_intact_and_in_order(carrier: Carrier) {
    const STREAMS: [&str; 4] = ["logs", "host_metrics", "events.dead", "x"];
    const SIZES: [usize; 5] = [0, 1, 1000, 300_001, 2_000_000];
    let (AgentSession { tx, mut rx, .. }, _platform) = open(carrier).await;
    let mut total = 0;
    let sender = tokio::task::spawn(async move {
        let mut sequence = 0;
        while total < 200_000_000 {
            sequence += 1;
            for (at, stream) in STREAMS.iter().enumerate() {
                let bytes = SIZES[(sequence as usize + at) % SIZES.len()];
                total += bytes;
                tx.send_batch(&schema(stream), make_batch(stream, sequence, bytes)).await.unwrap();
            }
        }
        sequence
    });
    let mut seen: HashMap<String, u64> = HashMap::new();
    while let Some(message) = within(rx.recv()).await.unwrap() {
        let Some(Kind::Ack(ack)) = message.kind else { panic!("not an ack") };
        for tail in ack.through {
            let last = seen.entry(tail.stream).or_default();
            *last += 1;
            assert_eq!(tail.sequence, *last, "acknowledgements in order");
        }
    }
    let last = within(sender).await.unwrap();
    assert_eq!(seen, STREAMS.map(|stream| (stream.to_owned(), last)).into(), "all batches acknowledged");
}

async fn refuses_what_is_too_large_and_goes_on(carrier: Carrier) {
    let (mut session, _platform) = open(carrier).await;
    let large = make_batch("logs", 1, MESSAGE_BYTES_MAX);
    let error = session.tx.send_batch(&schema("logs"), large).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: MESSAGE_BYTES_MAX, .. }), "{error}");
    assert!(error.session_goes_on());
    greet(&mut session, 1).await;
    // As large as it may be.
    let fits = make_batch("logs", 1, MESSAGE_BYTES_MAX - 200);
    session.tx.send_batch(&schema("logs"), fits).await.unwrap();
    assert!(within(session.rx.recv()).await.unwrap().is_some());
}

async fn refuses_a_batch_without_schema_and_goes_on(carrier: Carrier) {
    let (mut session, _platform) = open(carrier).await;
    let kind = aap_proto::v1::agent_message::Kind::Batch(make_batch("logs", 1, 10));
    let error = session.tx.send(aap_proto::v1::AgentMessage { kind: Some(kind) }).await.unwrap_err();
    assert!(matches!(error, Error::UnknownSchema { .. }), "{error}");
    greet(&mut session, 1).await;
}

async fn ends_politely(carrier: Carrier) {
    let (AgentSession { tx, mut rx, .. }, platform) = open(carrier).await;
    tx.send_batch(&schema("logs"), make_batch("logs", 1, 5000)).await.unwrap();
    drop(tx);
    assert!(within(rx.recv()).await.unwrap().is_some(), "what was sent before the end arrives");
    assert!(within(rx.recv()).await.unwrap().is_none(), "the coordinator ends its side too");
    assert!(within(rx.recv()).await.unwrap().is_none(), "and stays ended");
    if let Some(platform) = platform {
        assert_eq!(platform.checker.ended().await, [Ok(())]);
    }
}

async fn ends_when_the_listener_stops(carrier: Carrier) {
    let (mut session, platform) = open(carrier).await;
    let Some(platform) = platform else { return };
    greet(&mut session, 1).await;
    platform.shutdown.request();
    within(async { while let Ok(Some(_)) = session.rx.recv().await {} }).await;
    drop(session);
    within(platform.serving.finished()).await.unwrap();
    assert_eq!(platform.checker.ended().await, [Ok(())]);
}

async fn breaks_when_the_session_is_cut(carrier: Carrier) {
    let cuts = [
        testing::Cut { after_from_agent: Some(3), after_from_coordinator: None },
        testing::Cut { after_from_agent: None, after_from_coordinator: Some(3) },
    ];
    for cut in cuts {
        let (session, _platform) = open(carrier).await;
        let mut session = testing::faulty(session, cut);
        for number in 0..3 {
            greet(&mut session, number).await;
        }
        session.tx.send(hello(3)).await.unwrap();
        let error = within(session.rx.recv()).await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)), "{error}");
        assert!(within(session.rx.recv()).await.unwrap().is_none(), "the error is the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(Carrier::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_conforms() {
    conforms(Carrier::Grpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_conforms() {
    conforms(Carrier::Quic).await;
}
