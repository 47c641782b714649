//! Full disks and used-up budgets, left by delivering alone.

use aap_types::{ByteCount, Sequence};

use crate::fs::SimFileSystem;
use crate::log::NotNow;
use crate::mutant;
use crate::tests::world::World;

/// A store with a budget that it does not reach, and no more data fits on its disk.
fn full_disk(seed: u64, free: u64) -> World {
    let mut world = World::new(seed);
    world.config.budget = ByteCount::mib(4);
    world.config.segment_bytes = ByteCount::kib(16);
    world.config.retain = ByteCount(0);
    world.open().unwrap();
    for _ in 0..25 {
        assert!(world.append());
    }
    world.sim.set_capacity(Some(world.sim.used() + free));
    while world.append() {}
    world
}

/// What the writer thread does at each acknowledgement while appends wait. Returns when all is delivered.
fn deliver_one_by_one(world: &mut World, mut after_each: impl FnMut(&mut World)) {
    for key in world.keys() {
        let tail = world.tail(&key);
        for sequence in 1..=tail.0 {
            world.advance(&key, Sequence(sequence));
            drop(world.log().free_delivered());
            after_each(world);
        }
    }
}

fn leaves_a_full_disk() {
    for (seed, free) in (0..20).zip([0, 300, 5_000, 20_000].into_iter().cycle()) {
        let mut world = full_disk(seed, free);
        deliver_one_by_one(&mut world, |_| {});
        assert!(world.append(), "all is delivered, and there is no room: seed {seed}");
    }
}

#[test]
fn a_full_disk_is_left_by_deliveries_alone() {
    leaves_a_full_disk();
}

#[test]
fn a_store_that_writes_every_cursor_on_a_full_disk_is_noticed() {
    assert!(
        mutant::chosen::is_caught("eagerflush", leaves_a_full_disk),
        "cursors that free nothing used up the room, unnoticed"
    );
}

#[test]
fn a_full_disk_is_left_by_deliveries_after_a_restart_on_it() {
    for (seed, free) in (0..20).zip([0, 300, 5_000, 20_000].into_iter().cycle()) {
        let mut world = full_disk(seed, free);
        for round in 0..4 {
            world.log = None;
            world.sim.kill();
            if round == 0 && seed % 2 == 0 {
                world.sim.set_capacity(Some(world.sim.used()));
            }
            world.open().expect("a full disk does not prevent a start");
            world.check_recovered();
            let key = world.keys()[0].clone();
            world.advance(&key, Sequence(1 + round));
            world.flush();
        }
        deliver_one_by_one(&mut world, |_| {});
        assert!(world.append(), "all is delivered, and there is no room: seed {seed}");
    }
}

#[test]
fn a_full_disk_is_left_by_deliveries_while_cursors_are_flushed_every_second() {
    let mut world = full_disk(3, 0);
    for key in world.keys() {
        let tail = world.tail(&key);
        for sequence in 1..=tail.0 {
            world.advance(&key, Sequence(sequence));
            world.flush();
        }
    }
    assert!(world.append());
}

fn holds_its_budget() {
    let mut world = World::new(11);
    world.config.segment_bytes = ByteCount::kib(32);
    world.config.budget = ByteCount::kib(160);
    world.config.retain = ByteCount(0);
    world.open().unwrap();
    while world.append() {}
    let small = ByteCount::kib(16).0;
    let budget = world.config.budget.0;
    deliver_one_by_one(&mut world, |world| {
        world.flush();
        while world.append() {}
        let used = world.log().shared.index().file_bytes();
        assert!(used <= budget + small, "{used} of {budget}");
    });
}

#[test]
fn a_used_up_budget_holds_while_cursors_move() {
    holds_its_budget();
}

#[test]
fn a_store_that_takes_whole_segments_for_cursors_is_noticed() {
    let held = std::panic::catch_unwind(|| mutant::chosen::with("overbudget", holds_its_budget));
    assert!(held.is_err(), "a budget that was passed went unnoticed");
}

#[test]
fn a_group_that_never_fits_the_budget_is_refused_and_does_not_wait() {
    let mut world = World::new(12);
    world.config.budget = ByteCount::kib(64);
    world.open().unwrap();
    world.payload_bytes = Some(80_000);
    let call = world.one_call();
    let refused = world.log().plan(&[call]);
    assert!(matches!(refused, Err(crate::Error::Oversize { .. })), "{refused:?}");
    // Two that fit only one after the other, the second in place of the first, which is still the active one.
    world.payload_bytes = Some(26_000);
    for _ in 0..4 {
        let call = world.one_call();
        let mut plan = world.log().plan(&[call]).unwrap();
        for attempt in 0.. {
            match world.log().commit_planned(&mut plan) {
                Ok(()) => break,
                Err(NotNow::NoRoom(_)) => {
                    let shared = world.log().shared.clone();
                    let tails: Vec<_> = {
                        let index = shared.index();
                        index.named_channels().map(|(_, c)| (c.key.clone(), c.tail)).collect()
                    };
                    for (key, tail) in tails {
                        shared.index().advance(super::world::LANDING, &key, tail);
                    }
                    world.log().free_delivered().unwrap();
                }
                Err(NotNow::Failed(error)) => panic!("{error}"),
            }
            assert!(attempt < 3, "it waits for ever");
        }
    }
}

#[test]
fn a_missing_reserve_does_not_matter_while_there_is_any_space() {
    let mut world = full_disk(5, 0);
    world.log = None;
    let mut image = world.sim.image();
    image.remove(camino::Utf8Path::new("/store/reserve"));
    world.sim = {
        let sim = SimFileSystem::new();
        sim.restore(&image);
        sim.set_capacity(Some(sim.used() + 14_000));
        sim
    };
    world.fs = std::sync::Arc::new(world.sim.clone());
    world.open().unwrap();
    deliver_one_by_one(&mut world, |_| {});
    assert!(world.append());
}
