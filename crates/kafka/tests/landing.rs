//! The landing topic of a cluster, against a real broker: what is read of it, who may write, and what a dead broker costs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/common.rs"]
mod common;
#[path = "support/landing.rs"]
mod landing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aap_kafka::{
    LandingReader, LandingWatcher, Mechanism, RECORD_BYTES_MAX, SHARDS, Sasl, ShardWriter, Tls,
    prepare_landing,
};
use aap_runtime::{Clock, SystemClock};
use aap_sinks::FailureKind;
use common::{Use, code};
use landing::{Topic, View, texts};

/// How long a taking over is tried again while a broker comes back.
const BACK_WITHIN: Duration = Duration::from_secs(90);

fn check(test: &str, wanted: Use, body: impl AsyncFnOnce(Topic)) {
    let Some(kafka) = common::kafka(test, wanted) else { return };
    common::run(async {
        let topic = Topic::of(kafka);
        prepare_landing(&topic.spec).await.unwrap();
        body(topic).await;
    });
}

#[test]
fn records_come_back_in_order_from_every_partition() {
    check("landing_in_order", Use::Shared, async |topic| {
        // What is there and fit is left as it is.
        prepare_landing(&topic.spec).await.unwrap();
        let mut next = BTreeMap::new();
        for shard in [0, 17, SHARDS - 1] {
            let (writer, first) = topic.take_over(shard, "mark").await.unwrap();
            assert_eq!(first, 1);
            writer.append(texts("a", 3)).await.unwrap();
            assert_eq!(writer.append(vec![]).await.unwrap(), 5, "nothing is where the last record ended");
            next.insert(shard, writer.append(texts("b", 200)).await.unwrap());
        }
        let mut view = View::fresh(&topic);
        view.read_to(&next).await;
        for shard in [0, 17, SHARDS - 1] {
            let expected: Vec<Vec<u8>> =
                [texts("mark", 1), texts("a", 3), texts("b", 200)].into_iter().flatten().collect();
            assert_eq!(view.payloads(shard), expected);
        }
        // From where it stands, a reader gets what comes later, and that only.
        let (writer, _) = topic.take_over(17, "again").await.unwrap();
        let end = writer.append(texts("c", 2)).await.unwrap();
        let mut later = View::at(&topic, view.next.clone());
        later.read_to(&BTreeMap::from([(17, end)])).await;
        assert_eq!(later.payloads(17), [texts("again", 1), texts("c", 2)].concat());
        assert_eq!(later.records.len(), 1, "other partitions have nothing new");
    });
}

#[test]
fn whoever_takes_over_fences_the_former_writer_and_ends_what_it_left_open() {
    check("landing_fences", Use::Shared, async |topic| {
        // One that hangs in the middle of a transaction: it has the same id, so it is the former writer to Kafka.
        let hanging = topic.open_transaction(&topic.shard_id(7), 7, "never").await;
        let clock = SystemClock::default();
        let (first, _) = topic.take_over(7, "first").await.unwrap();
        println!("taking over from one that hangs: {:?}", clock.monotonic());
        first.append(texts("a", 2)).await.unwrap();
        assert!(topic.commit(hanging).await.is_err());

        let (second, _) = topic.take_over(7, "second").await.unwrap();
        let late = first.append(texts("late", 2)).await.unwrap_err();
        assert_eq!(late.kind, FailureKind::Moved, "{late:?}");
        let again = first.append(texts("later", 2)).await.unwrap_err();
        assert_eq!(again.kind, FailureKind::Moved, "{again:?}");
        let end = second.append(texts("b", 2)).await.unwrap();

        let mut view = View::fresh(&topic);
        view.read_to(&BTreeMap::from([(7, end)])).await;
        let expected = [texts("first", 1), texts("a", 2), texts("second", 1), texts("b", 2)].concat();
        assert_eq!(view.payloads(7), expected);
    });
}

#[test]
fn an_append_that_is_dropped_on_its_way_is_there_whole_or_never() {
    check("landing_dropped", Use::Shared, async |topic| {
        let (mut writer, _) = topic.take_over(3, "mark").await.unwrap();
        let large = || (0..40).map(|n| vec![n; 500_000]).collect::<Vec<_>>();
        let mut seen = vec![];
        for wait_ms in [1, 50, 100, 200, 400] {
            let append = writer.append(large());
            drop(tokio::time::timeout(Duration::from_millis(wait_ms), append).await);
            drop(writer);
            let next;
            (writer, next) = topic.take_over(3, "mark").await.unwrap();
            let mut view = View::fresh(&topic);
            view.read_to(&BTreeMap::from([(3, next)])).await;
            let larges = view.payloads(3).iter().filter(|payload| payload.len() == 500_000).count();
            assert_eq!(larges % 40, 0, "a part of an append was read");
            seen.push(larges / 40);
        }
        println!("of 5 appends that were dropped, so many were there after each taking over: {seen:?}");
        let end = writer.append(large()).await.unwrap();
        let mut view = View::fresh(&topic);
        view.read_to(&BTreeMap::from([(3, end)])).await;
        let last = view.payloads(3).split_off(view.payloads(3).len() - 40);
        assert_eq!(last, large());
    });
}

#[test]
fn ends_count_open_transactions_and_a_reader_gets_to_them_when_these_have_ended() {
    check("landing_ends", Use::Shared, async |topic| {
        let watcher = LandingWatcher::start(&topic.spec).unwrap();
        let all: Vec<i32> = (0..SHARDS).collect();
        let empty = watcher.ends(all.clone()).await.unwrap();
        assert!(empty.len() == SHARDS as usize && empty.values().all(|end| *end == 0), "{empty:?}");
        assert_eq!(watcher.ends(vec![]).await.unwrap(), BTreeMap::new());

        let (writer, _) = topic.take_over(5, "mark").await.unwrap();
        let next = writer.append(texts("a", 3)).await.unwrap();
        // The end of a transaction takes an offset, and is counted.
        assert_eq!(topic.end_is(&watcher, 5, next + 1).await, next + 1);

        // So is an open transaction, of whomever: a reader waits for what becomes of it.
        let open = topic.open_transaction("somebody", 5, "open").await;
        assert_eq!(topic.kafka.uncommitted(&topic.kafka.topic), next + 2);
        assert_eq!(watcher.ends(vec![5]).await.unwrap(), BTreeMap::from([(5, next + 2)]));
        let after = writer.append(texts("b", 1)).await.unwrap();
        assert!(watcher.ends(vec![5]).await.unwrap()[&5] >= after);
        let mut view = View::fresh(&topic);
        view.read_to(&BTreeMap::from([(5, next + 1)])).await;
        assert_eq!(view.payloads(5), [texts("mark", 1), texts("a", 3)].concat());

        // When it was aborted, all that is behind it comes, and ends without records are passed.
        topic.abort(open).await;
        let end = topic.end_above(&watcher, 5, after).await;
        view.read_to(&BTreeMap::from([(5, end)])).await;
        assert_eq!(view.payloads(5), [texts("mark", 1), texts("a", 3), texts("b", 1)].concat());
        // The end of the other transaction may have come since.
        assert!(view.next[&5] >= end);

        // The same where nothing but an aborted transaction is left.
        let open = topic.open_transaction("somebody", 6, "open").await;
        topic.abort(open).await;
        let end = topic.end_above(&watcher, 6, 0).await;
        view.read_to(&BTreeMap::from([(6, end)])).await;
        assert_eq!(view.payloads(6), Vec::<Vec<u8>>::new());
    });
}

#[test]
fn what_was_deleted_is_passed_by_readers_that_begin_before_it() {
    check("landing_deleted", Use::Shared, async |topic| {
        let watcher = LandingWatcher::start(&topic.spec).unwrap();
        let (writer, _) = topic.take_over(9, "mark").await.unwrap();
        let (other, _) = topic.take_over(10, "mark").await.unwrap();
        other.append(texts("o", 1)).await.unwrap();
        writer.append(texts("a", 5)).await.unwrap();
        let next = writer.append(texts("b", 5)).await.unwrap();
        let end = topic.end_is(&watcher, 9, next + 1).await;
        let mut live = View::fresh(&topic);
        live.read_to(&BTreeMap::from([(9, end)])).await;

        watcher.delete_before(BTreeMap::new()).await.unwrap();
        watcher.delete_before(BTreeMap::from([(9, next - 2), (10, 1)])).await.unwrap();
        // The same again, and less, is nothing to do.
        watcher.delete_before(BTreeMap::from([(9, next - 2), (10, 0)])).await.unwrap();
        for mut view in [View::fresh(&topic), View::at(&topic, BTreeMap::from([(9, 2)]))] {
            view.read_to(&BTreeMap::from([(9, end), (10, 3)])).await;
            assert_eq!(view.payloads(9), texts("b", 5).split_off(3));
            assert_eq!(view.payloads(10), texts("o", 1));
        }
        // Nothing is left: a reader is told that it has all.
        watcher.delete_before(BTreeMap::from([(9, end)])).await.unwrap();
        let mut view = View::at(&topic, BTreeMap::from([(9, 2)]));
        view.read_to(&BTreeMap::from([(9, end)])).await;
        assert!(view.payloads(9).is_empty());

        // A reader that runs gets what comes later, also where records went that it had not read: an open transaction holds it back.
        let open = topic.open_transaction("somebody", 9, "open").await;
        watcher.delete_before(BTreeMap::from([(9, end + 1)])).await.unwrap();
        topic.abort(open).await;
        let next = writer.append(texts("c", 1)).await.unwrap();
        live.read_to(&BTreeMap::from([(9, next)])).await;
        assert_eq!(
            live.payloads(9),
            [texts("mark", 1), texts("a", 5), texts("b", 5), texts("c", 1)].concat()
        );
        assert_eq!(code(watcher.delete_before(BTreeMap::from([(9, 1000)])).await), "landing.topic_changed");
    });
}

#[test]
fn a_reader_that_begins_beyond_the_end_says_that_the_topic_is_another() {
    check("landing_beyond", Use::Shared, async |topic| {
        let (writer, _) = topic.take_over(1, "mark").await.unwrap();
        let next = writer.append(texts("a", 1)).await.unwrap();
        let mut reader = LandingReader::start(&topic.spec, BTreeMap::from([(1, next + 50)])).unwrap();
        let failure = reader.next().await.unwrap().unwrap_err();
        assert_eq!(
            (failure.kind.clone(), failure.problem.code.as_str()),
            (FailureKind::Refused, "landing.topic_changed")
        );
        println!("{}", failure.problem.report());
        assert!(reader.next().await.is_none(), "after an error comes nothing");

        // The same where the topic is made anew while it is read.
        let mut view = View::fresh(&topic);
        view.read_to(&BTreeMap::from([(1, next)])).await;
        topic.delete().await;
        topic.gone();
        prepare_landing(&topic.spec).await.unwrap();
        let failure = view.fails().await;
        println!("{}", failure.problem.report());
        assert_eq!(failure.kind, FailureKind::Refused, "{failure:?}");
        let mut reader = LandingReader::start(&topic.spec, view.next.clone()).unwrap();
        assert_eq!(code(reader.next().await.unwrap()), "landing.topic_changed");
    });
}

/// A topic's name, partitions and settings, and why that is refused.
type Unfit<'a> = (&'a str, i32, Vec<(&'a str, &'a str)>, &'a str);

#[test]
fn a_topic_that_would_lose_records_is_refused() {
    let Some(kafka) = common::kafka("landing_unfit", Use::Shared) else { return };
    common::run(async {
        let topic = Topic::of(kafka);
        if !topic.kafka.brokers.contains(',') {
            let mut spec = topic.spec.clone();
            spec.allow_unreplicated = false;
            assert_eq!(code(prepare_landing(&spec).await), "sink.unreplicated");
            assert_eq!(topic.kafka.partitions(&spec.topic), 0, "nothing was made");
            prepare_landing(&topic.spec).await.unwrap();
            assert_eq!(code(prepare_landing(&spec).await), "sink.unreplicated");
        }
        let large = (RECORD_BYTES_MAX + 1024).to_string();
        let fit = [("max.message.bytes", large.as_str()), ("retention.ms", "-1"), ("retention.bytes", "-1")];
        let with = |key: &str, value: &'static str| {
            let settings = fit.iter().map(|(k, v)| (*k, if *k == key { value } else { v }));
            settings.collect::<Vec<(&str, &str)>>()
        };
        let unfit: [Unfit<'_>; 4] = [
            ("few", 3, fit.to_vec(), "3 partitions"),
            ("forgets", SHARDS, with("retention.ms", "604800000"), "not in the lake yet"),
            ("bounded", SHARDS, with("retention.bytes", "1000000000"), "not in the lake yet"),
            ("small", SHARDS, with("max.message.bytes", "1048588"), "max.message.bytes"),
        ];
        for (name, partitions, settings, why) in unfit {
            let mut spec = topic.spec.clone();
            spec.topic = format!("{}-{name}", spec.topic);
            topic.make(&spec.topic, partitions, &settings).await;
            let failure = prepare_landing(&spec).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused);
            let report = failure.problem.report();
            assert!(failure.problem.code == "landing.topic" && report.contains(why), "{report}");
            topic.delete_named(&spec.topic).await;
        }
    });
}

#[test]
fn whoever_does_not_know_the_password_is_denied_and_told_so() {
    if std::env::var("AAP_TEST_KAFKA_TLS").is_err() {
        return println!("skipped: landing_denied: no Kafka with TLS (AAP_TEST_KAFKA_TLS)");
    }
    check("landing_denied", Use::Shared, async |topic| {
        let setting = |name: &str| std::env::var(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let knowing = |password: &str| {
            let file = folder.path().join(password);
            std::fs::write(&file, password).unwrap();
            let mut spec = topic.spec.clone();
            spec.brokers = vec![setting("AAP_TEST_KAFKA_TLS")];
            spec.tls = Some(Tls { ca: Some(setting("AAP_TEST_KAFKA_CA").into()), ..Tls::default() });
            spec.sasl = Some(Sasl {
                mechanism: Mechanism::ScramSha512,
                username: setting("AAP_TEST_KAFKA_USER"),
                password: format!("file:{}", file.display()).parse().unwrap(),
            });
            spec
        };
        let spec = knowing(&setting("AAP_TEST_KAFKA_PASSWORD"));
        prepare_landing(&spec).await.unwrap();
        let (writer, next) = ShardWriter::take_over(&spec, 1, vec![1]).await.unwrap();
        assert!(writer.append(texts("a", 1)).await.unwrap() > next);
        LandingWatcher::start(&spec).unwrap().ends(vec![1]).await.unwrap();

        let wrong = knowing("wrong");
        let clock = SystemClock::default();
        assert_eq!(code(prepare_landing(&wrong).await), "sink.denied");
        let refused = ShardWriter::take_over(&wrong, 1, vec![1]).await;
        assert_eq!(code(refused), "sink.denied");
        assert!(clock.monotonic() < Duration::from_secs(10), "told only after {:?}", clock.monotonic());
        let mut reader = LandingReader::start(&wrong, BTreeMap::new()).unwrap();
        assert_eq!(code(reader.next().await.unwrap()), "sink.denied");
        assert_eq!(code(LandingWatcher::start(&wrong).unwrap().ends(vec![1]).await), "sink.denied");
    });
}

#[test]
fn the_largest_record_goes_through_and_a_larger_one_is_refused() {
    check("landing_largest", Use::Shared, async |topic| {
        let (writer, _) = topic.take_over(0, "mark").await.unwrap();
        let large = |size: usize| (0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>();
        let end =
            writer.append(vec![large(RECORD_BYTES_MAX), large(1), large(RECORD_BYTES_MAX)]).await.unwrap();
        let mut view = View::fresh(&topic);
        view.read_to(&BTreeMap::from([(0, end)])).await;
        let sizes: Vec<usize> = view.payloads(0).iter().map(Vec::len).collect();
        assert_eq!(sizes, [6, RECORD_BYTES_MAX, 1, RECORD_BYTES_MAX]);
        assert!(view.payloads(0)[3] == large(RECORD_BYTES_MAX));
        assert_eq!(code(writer.append(vec![large(RECORD_BYTES_MAX + 1)]).await), "sink.setting");
        let none = ShardWriter::take_over(&topic.spec, SHARDS, vec![]).await;
        assert_eq!(code(none), "sink.setting");
    });
}

#[test]
fn a_broker_that_dies_costs_no_acknowledged_record_and_doubles_none() {
    check("landing_broker_dies", Use::Alone, async |topic| {
        let mut acknowledged: Vec<Vec<u8>> = vec![];
        let mut view = View::fresh(&topic);
        for round in 0..3 {
            let (writer, _) = topic.take_over_within(2, "mark", BACK_WITHIN).await;
            let is_back = Arc::new(AtomicBool::new(false));
            let back = is_back.clone();
            let kill = common::blocking(move || {
                std::thread::park_timeout(Duration::from_millis(150 + 40 * round));
                common::kill();
                common::start();
                back.store(true, Ordering::Relaxed);
            });
            let write = async {
                // Until one fails, of which nobody knows yet what it did, or the broker is back before that.
                for number in 0.. {
                    if is_back.load(Ordering::Relaxed) {
                        println!("round {round}: {number} appends, and none failed");
                        break;
                    }
                    let records = texts(&format!("{round}-{number}"), 3);
                    match writer.append(records.clone()).await {
                        Ok(_) => acknowledged.extend(records),
                        Err(failure) => {
                            println!("append {number} of round {round}: {}", failure.problem.report());
                            break;
                        }
                    }
                }
            };
            futures::join!(kill, write);
        }
        let (writer, mark) = topic.take_over_within(2, "mark", BACK_WITHIN).await;
        let end = writer.append(texts("last", 1)).await.unwrap();
        assert!(end > mark);
        view.read_to_despite(&BTreeMap::from([(2, end)]), BACK_WITHIN).await;
        let mut fresh = View::fresh(&topic);
        fresh.read_to(&BTreeMap::from([(2, end)])).await;
        assert_eq!(view.payloads(2), fresh.payloads(2), "who read all along has the same");
        let all = fresh.payloads(2);
        let mut once: Vec<&Vec<u8>> = all.iter().filter(|payload| !payload.starts_with(b"mark")).collect();
        let count = once.len();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), count, "a record is there twice");
        let missing = acknowledged.iter().filter(|record| once.binary_search(record).is_err()).count();
        assert_eq!(missing, 0, "of {} acknowledged records", acknowledged.len());
        println!("{} records acknowledged, {count} there", acknowledged.len());
    });
}

#[test]
fn appends_and_readers_are_quick() {
    check("landing_quick", Use::Shared, async |topic| {
        let (writer, mut next) = topic.take_over(4, "mark").await.unwrap();
        let mut view = View::fresh(&topic);
        view.read_to(&BTreeMap::from([(4, next)])).await;
        let (mut appends, mut delays, clock) = (vec![], vec![], SystemClock::default());
        for _ in 0..50 {
            let begun = clock.monotonic();
            let append = async {
                let next = writer.append(vec![vec![7; 100_000]]).await.unwrap();
                (next, clock.monotonic())
            };
            // Behind the end of the transaction before.
            let expected = BTreeMap::from([(4, next + 2)]);
            let read = async {
                view.read_to(&expected).await;
                clock.monotonic()
            };
            let ((end, appended), read) = futures::join!(append, read);
            next = end;
            appends.push(appended - begun);
            delays.push(read.saturating_sub(appended));
        }
        let begun = clock.monotonic();
        let (_writer, _) = topic.take_over(4, "mark").await.unwrap();
        let took = clock.monotonic() - begun;
        println!("append of 100 KB: {}", spread(&mut appends));
        println!("from there to the reader: {}", spread(&mut delays));
        println!("taking over: {took:?}");
    });
}

#[test]
fn one_process_writes_all_shards() {
    check("landing_all_shards", Use::Shared, async |topic| {
        let (before, clock) = (resources(), SystemClock::default());
        let take = (0..SHARDS).map(|shard| topic.take_over(shard, "mark"));
        let taken: Vec<_> = futures::future::try_join_all(take).await.unwrap();
        let took = clock.monotonic();
        let append = taken.iter().map(|(writer, _)| writer.append(vec![vec![7; 100_000]]));
        let next = futures::future::try_join_all(append).await.unwrap();
        let appended = clock.monotonic() - took;
        println!("all shards taken over in {took:?}, one append each in {appended:?}");
        println!("threads and MiB: {before:?}, then {:?}", resources());
        let next = next.into_iter().enumerate().map(|(shard, next)| (shard as i32, next)).collect();
        let mut view = View::fresh(&topic);
        view.read_to(&next).await;
        assert!((0..SHARDS).all(|shard| view.payloads(shard).len() == 2));
    });
}

/// Threads and MiB in memory of this process.
fn resources() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok())
    };
    (number("Threads:").unwrap_or(0), number("VmRSS:").unwrap_or(0) / 1024)
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    format!("least {:?}, median {:?}, 90 % {:?}, most {:?}", at(0), at(50), at(90), at(100))
}
