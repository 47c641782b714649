//! A run is exactly once: broken off at any message, repeated, changed, begun again.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use aap_proto::v1::{IngestFinish, IngestOpen};
use arrow_array::{Int64Array, StringArray};
use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;

use super::gathered::Gathered;
use super::*;
use crate::testing::Rig;

/// A client as the command line is one: checks the digest, sends from the offset, in pieces.
struct Client<'a> {
    rig: &'a Rig,
    runs: Runs,
    name: &'a str,
    format: &'a str,
    codec: &'a str,
}

#[derive(Debug)]
struct Outcome {
    opened: Option<IngestOpened>,
    done: Result<Option<IngestDone>, Problem>,
}

impl Outcome {
    fn done(self) -> IngestDone {
        self.done.unwrap().unwrap()
    }
    fn code(self) -> String {
        self.done.unwrap_err().code
    }
}

fn client<'a>(rig: &'a Rig, name: &'a str, format: &'a str, codec: &'a str) -> Client<'a> {
    Client { rig, runs: Runs::default(), name, format, codec }
}

impl Client<'_> {
    async fn send(&self, input: &[u8]) -> Outcome {
        self.attempt(input, false, usize::MAX).await
    }

    /// Sends at most `pieces` pieces, then breaks off.
    async fn attempt(&self, input: &[u8], again: bool, pieces: usize) -> Outcome {
        let (requests, incoming) = mpsc::channel(4);
        let (replies, mut answers) = mpsc::channel(4);
        let serving = serve(
            self.rig.deps.clone(),
            self.runs.clone(),
            ReceiverStream::new(incoming),
            replies,
            Shutdown::default(),
        );
        let driving = async {
            let open = IngestOpen {
                stream: "events".into(),
                name: self.name.into(),
                format: self.format.into(),
                codec: self.codec.into(),
                again,
                size: input.len() as u64,
                replayable: true,
            };
            requests.send(Ok(IngestRequest { kind: Some(Request::Open(open)) })).await.unwrap();
            let opened = match answers.recv().await {
                Some(Ok(IngestReply { kind: Some(Reply::Opened(opened)) })) => opened,
                Some(Err(status)) => return Outcome { opened: None, done: Err(problem_of_status(&status)) },
                other => panic!("{other:?}"),
            };
            let (from, digest) = match opened.may_grow {
                true => (opened.grows_from, &opened.grows_digest),
                false => (opened.offset, &opened.prefix_digest),
            };
            let from = usize::try_from(from).unwrap();
            if input.len() < from || blake3::hash(&input[..from]).as_bytes()[..] != digest[..] {
                let stream = "events".parse().unwrap();
                let changed = content_changed(&stream, self.name, "as the client found");
                return Outcome { opened: Some(opened), done: Err(changed) };
            }
            let (rest, broken_off) = (input[from..].to_vec(), input[from..].chunks(40_000).count() > pieces);
            let sending = async move {
                for piece in rest.chunks(40_000).take(pieces) {
                    let data = Request::Data(Bytes::copy_from_slice(piece));
                    if requests.send(Ok(IngestRequest { kind: Some(data) })).await.is_err() {
                        return;
                    }
                }
                if !broken_off {
                    let finish = Request::Finish(IngestFinish {});
                    drop(requests.send(Ok(IngestRequest { kind: Some(finish) })).await);
                }
            };
            let receiving = async {
                loop {
                    match answers.recv().await {
                        Some(Ok(IngestReply { kind: Some(Reply::Done(done)) })) => return Ok(Some(done)),
                        Some(Ok(_)) => {}
                        Some(Err(status)) => return Err(problem_of_status(&status)),
                        None => return Ok(None),
                    }
                }
            };
            let ((), done) = tokio::join!(sending, receiving);
            Outcome { opened: Some(opened), done }
        };
        tokio::join!(serving, driving).1
    }
}

fn ndjson(from: u32, to: u32) -> Vec<u8> {
    (from..to)
        .flat_map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(100)).into_bytes())
        .collect()
}

fn numbers(rig: &Rig) -> Vec<u32> {
    rig.texts("events", "n").iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_breaks_off_after_any_piece_continues_exactly() {
    let input = ndjson(0, 3000);
    for pieces in [1, 2, 5, 8] {
        let mut rig = Rig::new();
        let broken = client(&rig, "f", "ndjson", "").attempt(&input, false, pieces).await;
        assert_eq!(broken.code(), "ingest.client_gone");
        rig.restart();
        let done = client(&rig, "f", "ndjson", "").send(&input).await.done();
        assert_eq!(done.rows_total, 3000);
        assert_eq!(numbers(&rig), (0..3000).collect::<Vec<_>>(), "{pieces}");
        let again = client(&rig, "f", "ndjson", "").send(&input).await;
        assert!(again.opened.as_ref().unwrap().complete);
        assert_eq!(again.done().rows, 0);
        assert_eq!(numbers(&rig).len(), 3000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_run_continues_in_the_middle_and_not_from_its_beginning() {
    let mut rig = Rig::new();
    let input = ndjson(0, 60_000);
    assert!(input.len() > 6 << 20);
    let broken = client(&rig, "f", "ndjson", "").attempt(&input, false, 150).await;
    assert!(broken.done.is_err());
    rig.restart();
    let resumed = client(&rig, "f", "ndjson", "").send(&input).await;
    assert!(resumed.opened.as_ref().unwrap().offset > 1 << 20, "{:?}", resumed.opened);
    assert_eq!(resumed.done().rows_total, 60_000);
    assert_eq!(numbers(&rig), (0..60_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_content_is_refused_and_again_takes_it() {
    let rig = Rig::new();
    let input = ndjson(0, 1000);
    client(&rig, "f", "ndjson", "").send(&input).await.done();
    let mut changed = input.clone();
    changed[10] ^= 1;
    assert_eq!(client(&rig, "f", "ndjson", "").send(&changed).await.code(), "ingest.content_changed");
    let mut longer = changed.clone();
    longer.extend(ndjson(1000, 1001));
    assert_eq!(client(&rig, "f", "ndjson", "").send(&longer).await.code(), "ingest.content_changed");
    assert_eq!(client(&rig, "f", "ndjson", "").send(&input[..1000]).await.code(), "ingest.content_changed");
    assert_eq!(numbers(&rig).len(), 1000);
    longer = [&input[..], &ndjson(1000, 1001)].concat();
    let again = client(&rig, "f", "ndjson", "").attempt(&longer, true, 1).await;
    assert!(again.done.is_err(), "broken off");
    // The generation was begun: a reconnection without `again` continues it.
    let done = client(&rig, "f", "ndjson", "").send(&longer).await.done();
    assert_eq!(done.rows_total, 1001);
    assert_eq!(numbers(&rig).len(), 2001);
    // Another name is another run.
    client(&rig, "g", "ndjson", "").send(&input).await.done();
    assert_eq!(numbers(&rig).len(), 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_only_grew_is_continued_after_what_was_taken() {
    // Around the units of the digest, and with nothing at all.
    for rows in [0, 1, 10, 1000, 3000] {
        let mut rig = Rig::new();
        let input = ndjson(0, rows);
        client(&rig, "f", "ndjson", "").send(&input).await.done();
        rig.restart();
        let grown = [input, ndjson(rows, rows + 700)].concat();
        let done = client(&rig, "f", "ndjson", "").send(&grown).await.done();
        assert_eq!((done.rows, done.rows_total), (700, u64::from(rows) + 700));
        assert_eq!(client(&rig, "f", "ndjson", "").send(&grown).await.done().rows, 0);
        // It may grow often, and break off while it does.
        let more = [grown, ndjson(rows + 700, rows + 4000)].concat();
        let broken = client(&rig, "f", "ndjson", "").attempt(&more, false, 3).await;
        assert_eq!(broken.code(), "ingest.client_gone");
        rig.restart();
        let done = client(&rig, "f", "ndjson", "").send(&more).await.done();
        assert_eq!(done.rows_total, u64::from(rows) + 4000);
        assert_eq!(numbers(&rig), (0..rows + 4000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_and_text_grow_too_and_the_header_stays() {
    let rig = Rig::new();
    assert_eq!(client(&rig, "f", "csv", "").send(b"n,text\n1,\"a\nb\"\n").await.done().rows, 1);
    assert_eq!(client(&rig, "f", "csv", "").send(b"n,text\n1,\"a\nb\"\n2,c\n3,d\n").await.done().rows, 2);
    assert_eq!(numbers(&rig), [1, 2, 3]);
    assert_eq!(client(&rig, "t", "text", "").send(b"one\n\n").await.done().rows, 2);
    assert_eq!(client(&rig, "t", "text", "").send(b"one\n\ntwo\n").await.done().rows, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_line_without_line_end_may_be_ended_but_not_go_on() {
    for (format, taken, grown, rows) in [
        ("text", "one\ntwo", "one\ntwo\nthree\n", Some(1)),
        ("text", "one\ntwo", "one\ntwo\r\nthree\r\n", Some(1)),
        ("text", "one\ntwo", "one\ntwo\n", Some(0)),
        ("text", "one\ntwo", "one\ntwo\n\n", Some(1)),
        ("text", "one\ntwo", "one\ntwofold\n", None),
        ("text", "one\ntwo", "one\ntwo\r", None),
        ("text", "one\ntwo\r", "one\ntwo\r\n", None),
        ("ndjson", "{\"n\":1}", "{\"n\":1}\n{\"n\":2}", Some(1)),
        ("ndjson", "{\"n\":1}", "{\"n\":1} {\"n\":2}\n", None),
        ("ndjson", "{\"n\":1}\n{\"n\"", "{\"n\":1}\n{\"n\":2}\n", None),
        ("csv", "n,m\n1,2", "n,m\n1,2\n3,4", Some(1)),
        ("csv", "n,m", "n,m\n3,4", Some(1)),
        ("csv", "n,m\n1,2", "n,m\n1,23\n", None),
        ("csv", "n,m\n1,\"2", "n,m\n1,\"2\n3,4\n", None),
    ] {
        let rig = Rig::new();
        let before = client(&rig, "f", format, "").send(taken.as_bytes()).await.done();
        let outcome = client(&rig, "f", format, "").send(grown.as_bytes()).await;
        match rows {
            Some(rows) => {
                let done = outcome.done();
                assert_eq!((done.rows, done.bad_rows), (rows, before.bad_rows), "{grown:?}");
                let again = client(&rig, "f", format, "").send(grown.as_bytes()).await;
                assert!(again.opened.as_ref().unwrap().complete, "{grown:?}");
                assert_eq!(again.done().rows, 0, "{grown:?}");
                let more = format!("{grown}\n{grown}");
                assert!(client(&rig, "f", format, "").send(more.as_bytes()).await.done.is_ok(), "{more:?}");
            }
            None => assert_eq!(outcome.code(), "ingest.content_changed", "{grown:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_an_end_of_its_own_does_not_grow() {
    let rig = Rig::new();
    let array = b"[{\"n\":1}]\n";
    client(&rig, "f", "ndjson", "").send(array).await.done();
    let grown = [&array[..], b"[{\"n\":2}]\n"].concat();
    assert_eq!(client(&rig, "f", "ndjson", "").send(&grown).await.code(), "ingest.content_changed");
    assert_eq!(numbers(&rig), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_file_grows_by_its_content() {
    let packed = |parts: &[&[u8]]| -> Vec<u8> {
        parts.iter().flat_map(|part| zstd::encode_all(*part, 1).unwrap()).collect()
    };
    let mut rig = Rig::new();
    let (before, more) = (ndjson(0, 2000), ndjson(2000, 2500));
    client(&rig, "f", "ndjson", "zstd").send(&packed(&[&before])).await.done();
    rig.restart();
    // Another member, or everything packed anew.
    let grown = packed(&[&before, &more]);
    assert_eq!(client(&rig, "f", "ndjson", "zstd").send(&grown).await.done().rows, 500);
    let anew = zstd::encode_all(&[&before[..], &more, &ndjson(2500, 2600)].concat()[..], 9).unwrap();
    assert_eq!(client(&rig, "f", "ndjson", "zstd").send(&anew).await.done().rows, 100);
    assert_eq!(numbers(&rig), (0..2600).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_taken_again_and_what_came_after_is_not() {
    let mut rig = Rig::new();
    let (input, later) = (ndjson(0, 100), ndjson(100, 150));
    client(&rig, "f", "ndjson", "").send(&input).await.done();
    client(&rig, "broken off", "ndjson", "").attempt(&ndjson(0, 3000), false, 2).await;
    let tails = rig.deps.ingress.buffer.tails();
    let deleted: Vec<_> = crate::uplink::tails(tails);
    rig.deps.deletions.tell(&deleted);
    assert_eq!(client(&rig, "broken off", "ndjson", "").send(&ndjson(0, 3000)).await.done().rows, 3000);
    client(&rig, "later", "ndjson", "").send(&later).await.done();
    rig.deps.deletions.tell(&deleted);
    assert_eq!(client(&rig, "later", "ndjson", "").send(&later).await.done().rows, 0, "it is still there");
    // Broken off, it stays forgotten until something of it is durable.
    let broken = client(&rig, "f", "ndjson", "").attempt(&input, false, 0).await;
    assert_eq!(broken.opened.as_ref().unwrap().offset, 0);
    assert_eq!(client(&rig, "f", "ndjson", "").send(&input).await.done().rows, 100);
    // The same is told in every welcome, also after a restart.
    rig.restart();
    rig.deps.deletions.tell(&deleted);
    for (name, input) in [("f", input), ("later", later), ("broken off", ndjson(0, 3000))] {
        assert_eq!(client(&rig, name, "ndjson", "").send(&input).await.done().rows, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_which_a_part_was_deleted_is_not_taken_twice() {
    let rig = Rig::new();
    let input = ndjson(0, 200_000);
    let done = client(&rig, "f", "ndjson", "").send(&input).await.done();
    assert!(done.batches > 1, "{done:?}");
    let told = |through: u64| {
        let tails =
            rig.deps.ingress.buffer.tails().into_iter().map(|(key, _)| (key, aap_types::Sequence(through)));
        rig.deps.deletions.tell(&crate::uplink::tails(tails.collect()));
    };
    // The newest batch is the note of which one was the last of the run.
    let last = || rig.deps.ingress.buffer.tails()[0].1.0 - 1;
    told(last() - 1);
    assert_eq!(client(&rig, "f", "ndjson", "").send(&input).await.done().rows, 0, "its last batch is there");
    told(last());
    assert_eq!(client(&rig, "f", "ndjson", "").send(&input).await.done().rows, 200_000);
    // Broken off, nobody knows how far it came: what may still be there does not come twice.
    client(&rig, "g", "ndjson", "").attempt(&input, false, 0).await;
    told(last());
    assert_eq!(client(&rig, "g", "ndjson", "").send(&input).await.done().rows_total, 200_000);
    assert_eq!(client(&rig, "g", "ndjson", "").send(&input).await.done().rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_full_buffer_hears_what_it_waits_for_and_its_run_is_nobody_elses_meanwhile() {
    let rig = Rig::with_buffer(r#"{"segment_bytes": 1048576, "budget": 8388608, "retain": 0}"#);
    let (requests, incoming) = mpsc::channel(4);
    let (replies, mut answers) = mpsc::channel(4);
    let runs = Runs::default();
    let serving =
        serve(rig.deps.clone(), runs.clone(), ReceiverStream::new(incoming), replies, Shutdown::default());
    let driving = async {
        let open = IngestOpen {
            stream: "events".into(),
            name: "f".into(),
            format: "text".into(),
            ..IngestOpen::default()
        };
        requests.send(Ok(IngestRequest { kind: Some(Request::Open(open)) })).await.unwrap();
        // Noise does not compress; several parcels of it are more than the buffer holds.
        let mut word = 1_u64;
        let mut noise = || {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word
        };
        let pieces: Vec<String> = (0..100)
            .map(|_| {
                (0..5000).map(|_| format!("{:016x}{:016x}{:016x}\n", noise(), noise(), noise())).collect()
            })
            .collect();
        let feeding = async {
            for piece in pieces {
                let data = IngestRequest { kind: Some(Request::Data(piece.into())) };
                requests.send(Ok(data)).await.unwrap();
            }
            panic!("all of it was taken");
        };
        let hearing = async {
            loop {
                match answers.recv().await.unwrap().unwrap().kind {
                    Some(Reply::Progress(told)) if !told.waits_for.is_empty() => return told.waits_for,
                    Some(Reply::Opened(_) | Reply::Progress(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let waits_for = tokio::select! {
            () = feeding => unreachable!("it panics"),
            waits_for = hearing => waits_for,
        };
        assert!(waits_for.contains("budget") && waits_for.contains("no coordinator"), "{waits_for}");
        drop((requests, answers));
        assert_eq!(client_of(&rig, &runs).send(b"x\n").await.code(), "ingest.under_way");
        for (key, tail) in rig.deps.ingress.buffer.tails() {
            rig.deps.ingress.buffer.advance("uplink", &key, tail);
        }
    };
    tokio::time::timeout(crate::testing::DEADLINE, async { tokio::join!(serving, driving) }).await.unwrap();
    assert!(rig.deps.ingress.buffer.position(SourceKind::Ingest, "events/f").is_some(), "it became durable");
}

fn client_of<'a>(rig: &'a Rig, runs: &Runs) -> Client<'a> {
    Client { runs: runs.clone(), ..client(rig, "f", "text", "") }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_input_continues_exactly_and_a_cut_file_is_an_error() {
    let content = ndjson(0, 40_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&content).unwrap();
    let zstd: Vec<u8> = content.chunks(1 << 20).flat_map(|part| zstd::encode_all(part, 1).unwrap()).collect();
    for (codec, input) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
        let mut rig = Rig::new();
        let cut = &input[..input.len() - 7];
        assert_eq!(
            client(&rig, "f", "ndjson", codec).send(cut).await.code(),
            "ingest.bad_compression",
            "{codec}"
        );
        rig.restart();
        let done = client(&rig, "f", "ndjson", codec).send(&input).await.done();
        assert_eq!(done.rows_total, 40_000, "{codec}");
        assert_eq!(numbers(&rig), (0..40_000).collect::<Vec<_>>(), "{codec}");
        assert_eq!(client(&rig, "f", "ndjson", codec).send(&input).await.done().rows, 0, "{codec}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_kept_apart_and_counted() {
    let rig = Rig::new();
    let done = client(&rig, "f", "ndjson", "").send(b"{\"n\":1}\nnonsense\n{\"n\":2}").await.done();
    assert_eq!((done.rows, done.bad_rows), (2, 1));
    assert_eq!(rig.texts("events.dead", "text"), ["nonsense"]);
    let empty = client(&rig, "empty", "text", "").send(b"").await.done();
    assert_eq!(empty.rows_total, 0);
    assert!(client(&rig, "empty", "text", "").send(b"").await.opened.unwrap().complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_continues_under_its_header() {
    let mut rig = Rig::new();
    let mut input = b"n,text\n".to_vec();
    (0..60_000).for_each(|n| writeln!(input, "{n},\"a\nb, {}\"", "y".repeat(90)).unwrap());
    let broken = client(&rig, "f", "csv", "").attempt(&input, false, 140).await;
    assert!(broken.done.is_err());
    assert!(!numbers(&rig).is_empty());
    rig.restart();
    client(&rig, "f", "csv", "").send(&input).await.done();
    assert_eq!(numbers(&rig), (0..60_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_continues_under_a_header_after_blank_lines_or_with_a_line_end_in_it() {
    for header in ["\n\nn,text\n", "n,\"te\nxt\"\n"] {
        let mut rig = Rig::new();
        let mut input = header.as_bytes().to_vec();
        (0..60_000).for_each(|n| writeln!(input, "{n},{}", "y".repeat(90)).unwrap());
        let broken = client(&rig, "f", "csv", "").attempt(&input, false, 140).await;
        assert!(broken.done.is_err());
        let before = numbers(&rig).len();
        assert!(before > 0 && before < 60_000, "{before}");
        rig.restart();
        let done = client(&rig, "f", "csv", "").send(&input).await.done();
        assert_eq!((done.rows_total, done.bad_rows), (60_000, 0), "{header:?}");
        assert_eq!(numbers(&rig), (0..60_000).collect::<Vec<_>>(), "{header:?}");
    }
}

fn taker(codec: &str) -> Box<Taker> {
    let run = Run {
        stream: "events".parse().unwrap(),
        name: "f".into(),
        offset: 0,
        detail: RunDetail { format: "text".into(), codec: codec.into(), ..RunDetail::default() },
    };
    let (decoder, _) = Recipe::new(FormatSpec::Text, None, None, false).build(b"").unwrap();
    let packer = Packer::new(run.stream.clone(), run.name.clone(), decoder);
    Box::new(Taker::new(run, packer, Rules::new(None, RECORD_BYTES_MAX).unwrap()).unwrap())
}

fn gathered(bytes: Vec<u8>) -> Gathered {
    Gathered { bytes: VecDeque::from([bytes.into()]), paused: false, finished: true }
}

#[test]
fn a_compression_bomb_is_taken_in_parcels_of_bounded_size() {
    let content = [b"x".repeat(999), vec![b'\n']].concat().repeat(64 << 10);
    let bomb = zstd::encode_all(&content[..], 19).unwrap();
    assert!(bomb.len() < 64 << 10);
    let (mut taker, mut gathered) = (taker("zstd"), gathered(bomb));
    let (mut rows, mut parcels) = (0, 0);
    while !taker.run().detail.complete {
        let parcel = take_gathered(&mut taker, &mut gathered, 0).unwrap();
        assert!(parcel.bytes() <= 26 << 20, "{}", parcel.bytes());
        rows += parcel.rows();
        parcels += 1;
    }
    assert_eq!(rows, 64 << 10);
    assert!(parcels >= 3, "{parcels}");
}

#[test]
fn blank_content_counts_as_durable_only_with_a_position() {
    let (mut taker, mut gathered) = (taker(""), gathered(vec![]));
    let recipe = Recipe::new(FormatSpec::Ndjson, None, None, false);
    let (decoder, _) = recipe.build(b"").unwrap();
    let packer = Packer::new("events".parse().unwrap(), "f".into(), decoder);
    let run =
        Run { detail: RunDetail { format: "ndjson".into(), ..RunDetail::default() }, ..taker.run().clone() };
    *taker = Taker::new(run, packer, Rules::new(None, RECORD_BYTES_MAX).unwrap()).unwrap();
    let blank = [b"{}\n".to_vec(), vec![b'\n'; 3 << 20]].concat();
    (gathered.bytes, gathered.finished) = (VecDeque::from([blank.into()]), false);
    let parcel = take_gathered(&mut taker, &mut gathered, 0).unwrap();
    assert_eq!(parcel.rows(), 1);
    let durable = taker.durable_offset();
    assert!(durable <= 1 << 20, "{durable}: what follows has no position");
    // Much of it gets one without rows.
    gathered.bytes = VecDeque::from([vec![b'\n'; 7 << 20].into()]);
    let parcel = take_gathered(&mut taker, &mut gathered, 0).unwrap();
    assert_eq!((parcel.entries.len(), parcel.rows()), (1, 0));
    assert!(taker.durable_offset() > 8 << 20, "{}", taker.durable_offset());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_the_longest_record_is_counted_and_told() {
    let rig = Rig::new();
    let input = [vec![b'x'; RECORD_BYTES_MAX + 9], b"\nshort\n".to_vec()].concat();
    let done = client(&rig, "f", "text", "").send(&input).await.done();
    assert_eq!((done.rows, done.cut_bytes), (2, 9));
    let counts = rig.deps.ingress.counters.snapshot();
    assert_eq!(counts[&"events".parse().unwrap()].bytes_cut, 9);
    let again = client(&rig, "f", "text", "").send(&input).await.done();
    assert_eq!((again.rows, again.cut_bytes), (0, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_of_records_is_taken_as_what_it_is() {
    let rig = Rig::new();
    let array = b"\n [\n  {\"n\": 1},\n  {\"n\":\n 2},\n 3\n]\n";
    let done = client(&rig, "f", "ndjson", "").send(array).await.done();
    assert_eq!((done.rows, done.bad_rows), (2, 1));
    assert_eq!(numbers(&rig), [1, 2]);
    assert_eq!(client(&rig, "f", "ndjson", "").send(array).await.done().rows, 0);
    assert_eq!(client(&rig, "broken", "ndjson", "").send(b"[{\"n\": 4},").await.code(), "ingest.decode");
    let long = [b"[".to_vec(), ndjson(0, 140_000)].concat();
    assert!(long.len() > 16 << 20);
    assert_eq!(client(&rig, "long", "ndjson", "").send(&long).await.code(), "ingest.decode");
    assert_eq!(numbers(&rig), [1, 2]);
}

#[test]
fn only_what_may_pass_is_worth_another_attempt() {
    use aap_buffer::Error::{Closed, Full, Invalid, Oversize};
    for (error, exit) in [
        (Full, ExitCode::Unavailable),
        (Closed, ExitCode::Unavailable),
        (Oversize { bytes: 2, limit: 1 }, ExitCode::Failed),
        (Invalid("x".into()), ExitCode::Failed),
    ] {
        assert_eq!(not_stored(&crate::ingress::IngressError::Append(error)).exit, exit);
    }
}

#[test]
fn a_large_batch_of_a_columnar_file_is_several_appends() {
    let rig = Rig::new();
    let rows = 2 << 20;
    let column = Arc::new(Int64Array::from_iter_values(0..rows)) as arrow_array::ArrayRef;
    let batch = arrow_array::RecordBatch::try_from_iter([("n", column)]).unwrap();
    let mut stream = Vec::new();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let run = Run {
        stream: "events".parse().unwrap(),
        name: "f".into(),
        offset: 0,
        detail: RunDetail { format: "arrow".into(), ..RunDetail::default() },
    };
    let mut columnar = Columnar::new(run, &rig.deps.home).unwrap();
    columnar.spool(&VecDeque::from([stream.into()])).unwrap();
    let (mut taken, mut parcels) = (0, 0);
    while let Some(parcel) = columnar.next(0).unwrap() {
        assert_eq!(parcel.entries.len(), 1);
        assert!(parcel.rows() <= aap_decode::ROWS_MAX as u64);
        taken += parcel.rows();
        parcels += 1;
    }
    assert_eq!((taken, parcels), (rows as u64, 33));
}

#[test]
fn a_column_of_any_batch_becomes_what_every_stream_has() {
    use arrow_array::types::Int32Type;
    use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, StringViewArray};
    use arrow_schema::DataType;
    let normalise = |columns: Vec<(&str, ArrayRef)>| {
        columnar::normalise(&RecordBatch::try_from_iter(columns).unwrap(), 7)
    };
    // A text is a time or not row by row, whatever stands beside it.
    let ts = StringArray::from(vec![Some("2026-11-23T22:00:00Z"), Some("soon"), None]);
    let batch = normalise(vec![("ts", Arc::new(ts))]).unwrap();
    let times = batch.column(0).to_data();
    assert_eq!(times.buffers()[0].typed_data::<i64>(), [1_795_471_200_000_000, 7, 7]);
    let text = batch.column_by_name("ts_").unwrap();
    assert_eq!(**text, StringArray::from(vec![None, Some("soon"), None]));
    // Names that SQL cannot tell apart, in a time that does not grow with their square.
    let one = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch =
        normalise(vec![("a", one.clone()), ("A", one.clone()), ("a", one.clone()), ("", one.clone())])
            .unwrap();
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["ts", "a", "A_", "a_2", "_"]);
    assert!(normalise((0..4096).map(|_| ("same", one.clone())).collect()).is_ok());
    assert!(normalise((0..4097).map(|_| ("same", one.clone())).collect()).is_err());
    // What shares its parts is not multiplied without bound.
    let long = "x".repeat(1 << 20);
    let mut views = arrow_array::builder::StringViewBuilder::new();
    let block = views.append_block(long.clone().into_bytes().into());
    (0..1000).for_each(|_| views.try_append_view(block, 0, 1 << 20).unwrap());
    let views: StringViewArray = views.finish();
    assert!(normalise(vec![("a", Arc::new(views))]).is_err());
    let words = |text: &str, rows: usize| {
        let keys = arrow_array::PrimitiveArray::<Int32Type>::from(vec![0; rows]);
        let values = Arc::new(arrow_array::LargeStringArray::from(vec![text])) as ArrayRef;
        normalise(vec![("a", Arc::new(DictionaryArray::new(keys, values)) as ArrayRef)])
    };
    assert!(words(&long, 1000).is_err());
    assert_eq!(*words(&long, 2).unwrap().schema().field(1).data_type(), DataType::Utf8);
    let few = words("few", 1000).unwrap();
    assert!(
        matches!(few.schema().field(1).data_type(), DataType::Dictionary(_, of) if **of == DataType::Utf8)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_and_parquet_files_are_taken_once() {
    let batch = arrow_array::RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from_iter_values(0..20_000)) as arrow_array::ArrayRef),
        ("_seq", Arc::new(StringArray::from_iter_values((0..20_000).map(|n| format!("s{n}"))))),
        (
            "ts",
            Arc::new(arrow_array::TimestampNanosecondArray::from_iter_values((0..20_000).map(|n| n * 1000))),
        ),
    ])
    .unwrap();
    let mut parquet = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let mut stream = Vec::new();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    for (format, input) in [("parquet", parquet), ("arrow", stream)] {
        let mut rig = Rig::new();
        let broken = client(&rig, "f", format, "").attempt(&input, false, 1).await;
        assert!(broken.done.is_err(), "{format}");
        rig.restart();
        let done = client(&rig, "f", format, "").send(&input).await.done();
        assert_eq!(done.rows_total, 20_000, "{format}");
        assert_eq!(numbers(&rig), (0..20_000).collect::<Vec<_>>(), "{format}");
        assert_eq!(rig.texts("events", "_seq_")[5], "s5");
        assert!(rig.batches("events").iter().all(|batch| batch.column_by_name("ts_").is_none()));
        assert_eq!(client(&rig, "f", format, "").send(&input).await.done().rows, 0, "{format}");
        assert_eq!(
            client(&rig, "bad", format, "").send(&input[..input.len() / 2]).await.code(),
            "ingest.unreadable"
        );
    }
}
