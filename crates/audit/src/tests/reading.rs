//! Records by what they say, and as they come.

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::Clock;

use super::world::{World, close, record};
use crate::disk::RealDisk;
use crate::{Filter, Object, Order, Outcome, OwnAction, Query, Reader};

/// Thirty records of three people, one a minute, over several segments.
fn filled() -> World {
    let world = World::new();
    let mut writer = world.open_whole();
    for i in 0..30_u32 {
        let actor = ["ana", "bo", "cy"][i as usize % 3];
        let mut record = record(actor, if i % 2 == 0 { "token create" } else { "node ban" });
        record.outcome = if i % 5 == 0 { Outcome::Denied } else { Outcome::Done };
        record.object = Some(Object { kind: "node".to_owned(), name: format!("n{}", i % 4) });
        writer.commit(&[record.with("i", i.to_string())]).unwrap();
        world.clock.advance(Duration::from_secs(60));
    }
    close(writer);
    assert!(world.segments().len() > 2);
    world
}

fn read(world: &World, query: Query) -> Vec<u32> {
    let entries = Reader::open(&world.config.directory, query).unwrap().map(Result::unwrap);
    entries.filter_map(|entry| entry.record.details.get("i")?.parse().ok()).collect()
}

#[test]
fn records_are_found_by_what_they_say_in_either_direction() {
    let world = filled();
    let check = |filter: Filter, wanted: &dyn Fn(u32) -> bool| {
        let expected: Vec<u32> = (0..30).filter(|i| wanted(*i)).collect();
        assert!(!expected.is_empty());
        let query = Query { filter, order: Order::OldestFirst, ..Query::default() };
        assert_eq!(read(&world, query.clone()), expected);
        let newest = Query { order: Order::NewestFirst, ..query };
        assert_eq!(read(&world, newest), expected.into_iter().rev().collect::<Vec<_>>());
    };
    let text = |text: &str| Some(text.to_owned());
    check(Filter { actor: text("bo"), ..Filter::default() }, &|i| i % 3 == 1);
    check(Filter { action: text("token"), ..Filter::default() }, &|i| i % 2 == 0);
    check(Filter { action: text("node ban"), ..Filter::default() }, &|i| i % 2 == 1);
    check(Filter { outcome: Some(Outcome::Denied), ..Filter::default() }, &|i| i % 5 == 0);
    check(Filter { object_kind: text("node"), object_name: text("n2"), ..Filter::default() }, &|i| {
        i % 4 == 2
    });
    let start = world.clock.unix_us() - 30 * 60_000_000;
    let (since, until) = (Some(start + 10 * 60_000_000), Some(start + 20 * 60_000_000));
    check(Filter { since, until, ..Filter::default() }, &|i| (10..20).contains(&i));
    let (order, actor) = (Order::NewestFirst, text("cy"));
    let filter = Filter { actor, ..Filter::default() };
    assert_eq!(read(&world, Query { filter, order, limit: Some(3), ..Query::default() }), [29, 26, 23]);
    let part_of_a_word = Filter { action: text("tok"), ..Filter::default() };
    assert!(read(&world, Query { filter: part_of_a_word, ..Query::default() }).is_empty());
}

#[test]
fn reading_begins_at_any_sequence_and_passes_over_damage() {
    let world = filled();
    let all = world.entries();
    for from in [1, 2, all.len() as u64 / 2, all.len() as u64, all.len() as u64 + 9] {
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let query = Query { order, from: Some(from), ..Query::default() };
            let seqs: Vec<u64> = Reader::open(&world.config.directory, query)
                .unwrap()
                .map(|entry| entry.unwrap().seq)
                .collect();
            let mut expected: Vec<u64> = all.iter().map(|entry| entry.seq).collect();
            match order {
                Order::OldestFirst => expected.retain(|seq| *seq >= from),
                Order::NewestFirst => {
                    expected.retain(|seq| *seq <= from);
                    expected.reverse();
                }
            }
            assert_eq!(seqs, expected, "{order:?} from {from}");
        }
    }
    let path = &world.segments()[1];
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replacen("\"seq\"", "\"sea\"", 1)).unwrap();
    let mut reader = Reader::open(&world.config.directory, Query::default()).unwrap();
    assert_eq!(reader.by_ref().count(), all.len() - 1);
    assert_eq!(reader.damaged(), 1);
}

#[tokio::test]
async fn a_tail_gives_each_record_once_it_is_durable_and_ends_with_the_log() {
    let world = filled();
    let log = world.open_log(Arc::new(RealDisk));
    let before = log.last();
    let mut all = log.tail(0);
    for seq in 1..=before {
        assert_eq!(all.next().await.unwrap().unwrap().seq, seq);
    }
    let mut newest = log.tail(before);
    for i in 0..40_u64 {
        // A wait that is given up loses nothing.
        if let Ok(entry) = tokio::time::timeout(Duration::from_millis(1), newest.next()).await {
            assert!(OwnAction::Checkpoint.is(&entry.unwrap().unwrap().record));
        }
        let seq = log.append(record("ana", "node ban").with("j", i.to_string())).await.unwrap();
        loop {
            let entry = newest.next().await.unwrap().unwrap();
            if entry.seq == seq {
                assert_eq!(entry.record.details["j"], i.to_string());
                break;
            }
        }
    }
    assert!(log.verify(&[]).unwrap().is_good());
    let checkpoint = log.checkpoint().await.unwrap();
    assert_eq!(log.read(Query::default()).unwrap().next().unwrap().unwrap().seq, checkpoint.seq);
    tokio::task::spawn_blocking({
        let log = log.clone();
        move || log.close()
    })
    .await
    .unwrap();
    while newest.next().await.is_some() {}
    assert!(log.verify(&[checkpoint]).unwrap().is_good());
}
