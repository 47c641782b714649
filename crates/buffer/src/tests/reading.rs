//! What reading costs, and what is told without reading.

use std::collections::BTreeMap;

use aap_types::{BatchId, ByteCount, Digest, Epoch, Sequence, StreamKey};

use crate::tests::world::{LANDING, World};
use crate::{Entry, FrameKind, read, waiting};

fn node(number: u64) -> StreamKey {
    StreamKey {
        node: format!("far-{number}").parse().unwrap(),
        epoch: Epoch(9),
        stream: "a".parse().unwrap(),
    }
}

/// Batches of many nodes in turn, in groups of a few. Returns the bytes of all payloads.
fn interleaved(world: &mut World, nodes: u64, rounds: u64, payload_bytes: usize) -> u64 {
    world.config.segment_bytes = ByteCount::mib(1);
    world.config.budget = ByteCount::mib(256);
    world.payload_bytes = Some(payload_bytes);
    world.open().unwrap();
    for sequence in 1..=rounds {
        let landed = |world: &mut World, number| {
            let id = BatchId { key: node(number), sequence: Sequence(sequence) };
            let Entry::Own { batch, .. } = world.one_call().remove(0) else { panic!("own") };
            let digest = Digest::of(&id, &[], &batch.payload);
            Entry::Landed { id, digest, positions: bytes::Bytes::new(), sealed_us: sequence as i64, batch }
        };
        let call: Vec<Entry> = (0..nodes).map(|number| landed(world, number)).collect();
        world.log().commit(&[call]).unwrap().into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    nodes * rounds * (payload_bytes as u64 + 8)
}

fn reopen(world: &mut World) {
    world.close();
    world.open().unwrap();
}

#[test]
fn reading_every_stream_reads_every_byte_about_once() {
    for (nodes, rounds, payload_bytes) in [(20, 60, 3000), (7, 400, 200), (3, 30, 100_000)] {
        let mut world = World::new(1);
        let all = interleaved(&mut world, nodes, rounds, payload_bytes);
        for _ in 0..2 {
            let before = world.sim.bytes_read();
            for number in 0..nodes {
                // Small portions: credit often ends a read in the middle.
                let frames = world.read_in_portions(&node(number), 5 * payload_bytes);
                assert_eq!(frames.len() as u64, rounds);
            }
            let read = world.sim.bytes_read() - before;
            assert!(read < 4 * all, "{read} bytes read for {all}");
            reopen(&mut world);
        }
    }
}

#[test]
fn what_waits_is_told_without_reading_payloads() {
    let mut world = World::new(2);
    let all = interleaved(&mut world, 6, 20, 50_000);
    let key = node(2);
    world.log().shared.index().advance(LANDING, &key, Sequence(15));
    for _ in 0..2 {
        let shared = world.log().shared.clone();
        let cut = |of: &StreamKey| if *of == key { Sequence(15) } else { Sequence::ZERO };
        let before = world.sim.bytes_read();
        let waiting = waiting::after(&shared, cut).unwrap();
        let read = world.sim.bytes_read() - before;
        assert!(read * 5 < all, "{read} bytes read of {all}");
        assert_eq!(waiting.len(), 6);
        for (of, frames) in waiting {
            let first = if of == key { 16 } else { 1 };
            let sequences: Vec<u64> = frames.iter().map(|frame| frame.sequence.0).collect();
            assert_eq!(sequences, (first..=20).collect::<Vec<_>>());
            assert!(frames.iter().all(|frame| frame.sealed_us == frame.sequence.0 as i64));
        }
        reopen(&mut world);
    }
}

/// The counts of a key as reading gives them: first and last sequence, rows, whether it is a skip.
fn by_reading(world: &mut World, key: &StreamKey, cut: Sequence) -> Vec<(Sequence, Sequence, u64, bool)> {
    let shared = world.log().shared.clone();
    let frames = read::read(&shared, key, cut, usize::MAX).unwrap();
    let counts = frames.iter().map(|frame| {
        let (rows, is_skip) = match &frame.kind {
            FrameKind::Data => (u64::from(frame.rows), false),
            FrameKind::Skip { rows, .. } => (*rows, true),
        };
        (frame.id.sequence, frame.last_sequence(), rows, is_skip)
    });
    counts.collect()
}

#[test]
fn what_waits_is_what_would_be_read() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.config.budget = ByteCount::mib(8);
        world.open().unwrap();
        while world.tail(&World::landed_key()).0 < 30 {
            assert!(world.append());
        }
        let hole = Entry::Skip {
            key: World::landed_key(),
            from: Sequence(7),
            to: Sequence(12),
            rows: 3,
            reason: "given up".into(),
        };
        world.log().commit(&[vec![hole]]).unwrap().remove(0).unwrap();
        let cuts: BTreeMap<StreamKey, Sequence> = world
            .keys()
            .into_iter()
            .map(|key| {
                let frames = by_reading(&mut world, &key, Sequence::ZERO);
                let cut = frames[world.below(frames.len() as u64) as usize].1;
                (key, cut)
            })
            .collect();
        let shared = world.log().shared.clone();
        let waiting = waiting::after(&shared, |key| cuts[key]).unwrap();
        for (key, cut) in &cuts {
            let told: Vec<_> = waiting.get(key).map_or(vec![], |frames| {
                frames.iter().map(|f| (f.sequence, f.last, f.rows, f.is_skip)).collect()
            });
            assert_eq!(told, by_reading(&mut world, key, *cut), "{key} after {cut}, seed {seed}");
        }
    }
}
