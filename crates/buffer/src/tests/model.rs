//! Random histories against the model.

use crate::fs::CrashPlan;
use crate::mutant;
use crate::tests::world::World;

const STEPS: u64 = 80;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("AAP_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("AAP_MODEL_SEEDS").unwrap_or(250)).collect(),
    }
}

/// One history. Panics where the store and the model differ.
fn history(seed: u64) {
    let mut world = World::new(seed);
    world.open().expect("an empty directory opens");
    for _ in 0..STEPS {
        step(&mut world);
    }
    world.must_go_on();
    world.crash(CrashPlan::lose_all());
    world.must_go_on();
}

fn step(world: &mut World) {
    let choice = world.below(24);
    if std::env::var_os("AAP_SEED").is_some() {
        let tail = world.tail(&World::landed_key());
        eprintln!("step {choice}: landed tail {tail}, cursors {:?}", world.cursors.get(&World::landed_key()));
    }
    match choice {
        0..=9 => drop(world.append()),
        10..=11 => {
            let keys = world.keys();
            if !keys.is_empty() {
                let key = keys[world.below(keys.len() as u64) as usize].clone();
                let tail = world.tail(&key);
                let through = aap_types::Sequence(world.below(tail.0 + 1));
                if through.0 > 0 {
                    world.advance(&key, through);
                }
            }
        }
        12 => drop(world.flush()),
        13 => world.advance_everything(),
        14 => {
            let seed = world.below(u64::MAX);
            world.sim.write_back(seed);
        }
        15 => assert!(world.check().is_empty()),
        16 => {
            let room = world.below(20_000);
            let used = world.sim.used();
            world.sim.set_capacity(Some(used + room));
        }
        17 => world.sim.set_capacity(None),
        18 => {
            let times = 1 + world.below(2);
            world.sim.fail_syncs(times);
        }
        19 => {
            world.sim.set_capacity(None);
            world.sim.fail_syncs(0);
            world.close();
            world.open().expect("a closed store opens");
            world.check_recovered();
        }
        20 => {
            world.clock.advance(std::time::Duration::from_millis(3));
            if world.log().new_epoch("test").is_err() {
                world.sim.set_capacity(None);
            }
        }
        21 => drop(world.log().prepare_spare()),
        22 if world.chance(2) => {
            // Killed, not unplugged: the page cache stays.
            world.log = None;
            world.sim.set_capacity(None);
            world.sim.fail_syncs(0);
            world.sim.kill();
            world.open().expect("a killed store opens");
            world.check_recovered();
        }
        22 => {
            // The power goes at one of the next calls, in whatever comes first.
            let call = 1 + world.below(12);
            world.sim.power_off_at(Some(call));
            for _ in 0..4 {
                if !world.sim.is_off() {
                    world.append();
                }
            }
            if world.chance(2) {
                world.log = None;
                world.sim.set_capacity(None);
                world.sim.fail_syncs(0);
                world.sim.kill();
                world.open().expect("a killed store opens");
                world.check_recovered();
            }
            crash(world);
        }
        _ => crash(world),
    }
}

fn crash(world: &mut World) {
    let seed = world.below(u64::MAX);
    let plan = match world.below(3) {
        0 => CrashPlan::lose_all(),
        _ => CrashPlan::half(seed),
    };
    world.sim.set_capacity(None);
    world.sim.fail_syncs(0);
    if world.chance(4) {
        // Recovery is cut as well.
        world.log = None;
        world.sim.crash(plan);
        let call = 1 + world.below(6);
        world.sim.power_off_at(Some(call));
        if world.open().is_ok() {
            world.log = None;
        }
    }
    world.crash(plan);
}

fn survives(seed: u64) -> bool {
    std::panic::catch_unwind(|| history(seed)).is_ok()
}

#[test]
fn every_history_keeps_what_was_acknowledged() {
    for seed in seeds() {
        assert!(survives(seed), "the model and the store differ: replay with AAP_SEED={seed}");
    }
}

#[test]
fn the_model_notices_a_store_that_does_not_sync() {
    let noticed = (0..100).any(|seed| mutant::chosen::with("nofsync", || !survives(seed)));
    assert!(noticed, "a missing fsync went unnoticed");
}

#[test]
fn the_model_notices_a_store_that_does_not_check_what_it_reads() {
    let noticed = (0..100).any(|seed| mutant::chosen::with("nocrc", || !survives(seed)));
    assert!(noticed, "missing checksums went unnoticed");
}

#[test]
fn the_model_notices_a_store_that_does_not_sync_directories() {
    let noticed = (0..100).any(|seed| mutant::chosen::with("nodirsync", || !survives(seed)));
    assert!(noticed, "a missing sync of a directory went unnoticed");
}

#[test]
fn the_model_notices_a_store_that_believes_a_second_sync() {
    let noticed = (0..200).any(|seed| mutant::chosen::with("fsyncretry", || !survives(seed)));
    assert!(noticed, "a repeated fsync went unnoticed");
}

#[test]
fn the_model_notices_a_store_that_shows_what_is_only_cached() {
    let noticed = (0..250).any(|seed| mutant::chosen::with("noharden", || !survives(seed)));
    assert!(noticed, "unsynced groups of a killed process went unnoticed");
}
