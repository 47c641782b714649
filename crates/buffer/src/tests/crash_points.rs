//! One scripted run, cut or failed at each of its calls in turn.

use std::sync::Arc;

use aap_types::ByteCount;

use crate::fs::{CrashPlan, Fault, FaultKind, FaultyFileSystem, SimFileSystem};
use crate::mutant;
use crate::tests::world::World;

/// Appends across several segments, cursor moves, reclaim, a close, a reopening. Stops where the power goes.
fn script(world: &mut World) {
    if world.log.is_none() && world.open().is_err() {
        return;
    }
    for round in 0..14 {
        if world.sim.is_off() {
            return;
        }
        world.append();
        if round % 3 == 2 {
            world.advance_everything();
            world.flush();
        }
        if round == 9 {
            world.close();
            if world.sim.is_off() || world.open().is_err() {
                return;
            }
        }
    }
}

fn small_world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.config.retain = ByteCount(0);
    world
}

/// Calls that the script makes when nothing fails.
fn calls_of_script() -> u64 {
    let mut world = small_world(7);
    world.sim.power_off_at(None);
    script(&mut world);
    world.sim.calls()
}

/// Cuts the power at every call, and at every call of the recovery.
fn cut_each_call() {
    let calls = calls_of_script();
    assert!(calls > 60, "the script makes only {calls} calls");
    for call in 1..=calls {
        for (variant, plan) in [
            CrashPlan::lose_all(),
            CrashPlan::half(call),
            CrashPlan { seed: 1, sector_kept: 255, name_kept: 255 },
        ]
        .into_iter()
        .enumerate()
        {
            let mut world = small_world(7);
            world.sim.power_off_at(Some(call));
            script(&mut world);
            // Cut each call of recovery as well, one after the other, until it gets through.
            for second in 1.. {
                world.log = None;
                world.sim.crash(plan);
                world.sim.power_off_at(Some(second));
                let opened = world.open().is_ok();
                world.log = None;
                if opened && !world.sim.is_off() {
                    break;
                }
                assert!(second < 50, "recovery does not end");
            }
            world.sim.power_off_at(None);
            world.crash(plan);
            assert!(world.log.is_some(), "call {call}, variant {variant}");
            world.must_go_on();
        }
    }
}

#[test]
fn a_cut_at_every_call_loses_nothing_and_so_does_a_second_cut_during_recovery() {
    cut_each_call();
}

#[test]
fn cuts_notice_a_store_that_does_not_sync() {
    for fault in ["nofsync", "nodirsync"] {
        assert!(mutant::chosen::is_caught(fault, cut_each_call), "{fault} went unnoticed");
    }
}

/// Kills the process at every call; later the power goes.
fn kill_at_each_call() {
    for call in 1..=calls_of_script() {
        let mut world = small_world(7);
        world.sim.power_off_at(Some(call));
        script(&mut world);
        world.log = None;
        world.sim.kill();
        world.open().expect("a killed store opens");
        world.check_recovered();
        world.crash(CrashPlan::lose_all());
        world.must_go_on();
    }
}

#[test]
fn a_kill_at_every_call_loses_nothing_even_if_the_power_goes_later() {
    kill_at_each_call();
}

#[test]
fn kills_notice_a_store_that_shows_what_is_only_cached() {
    assert!(mutant::chosen::is_caught("noharden", kill_at_each_call));
}

fn faulty_world(fault: Fault) -> (World, FaultyFileSystem) {
    let sim = SimFileSystem::new();
    let faulty = FaultyFileSystem::over(Arc::new(sim.clone()));
    let mut world = World::over(sim, Arc::new(faulty.clone()), 7);
    world.config.retain = ByteCount(0);
    world.open().expect("opens while nothing fails");
    faulty.set(Some(fault));
    (world, faulty)
}

fn each_call_fails(kind: FaultKind, times: u64, only_syncs: bool) {
    for at in 1.. {
        let (mut world, faulty) = faulty_world(Fault { at, times, kind, only_syncs });
        script(&mut world);
        let reached = faulty.calls() >= at;
        faulty.set(None);
        if world.log.is_none() {
            world.open().expect("opens when nothing fails any more");
            world.check_recovered();
        }
        assert!(world.check().is_empty(), "what failed is not shown");
        world.must_go_on();
        world.crash(CrashPlan::lose_all());
        world.must_go_on();
        if !reached {
            assert!(at > 40, "only {at} calls were tried");
            return;
        }
    }
}

#[test]
fn an_input_output_error_at_every_call_loses_nothing_acknowledged() {
    each_call_fails(FaultKind::Io, 1, false);
}

#[test]
fn input_output_errors_in_a_row_from_every_call_on_lose_nothing_acknowledged() {
    each_call_fails(FaultKind::Io, 5, false);
}

#[test]
fn a_full_disk_at_every_call_loses_nothing_acknowledged() {
    each_call_fails(FaultKind::NoSpace, 1, false);
}

#[test]
fn a_disk_that_stays_full_from_every_call_on_loses_nothing_acknowledged() {
    each_call_fails(FaultKind::NoSpace, 9, false);
}

#[test]
fn failing_calls_notice_a_store_that_believes_a_failed_write() {
    for kind in [FaultKind::Io, FaultKind::NoSpace] {
        let harness = || each_call_fails(kind, 1, false);
        assert!(mutant::chosen::is_caught("nowriteerror", harness), "{kind:?} went unnoticed");
    }
}

#[test]
fn short_and_interrupted_writes_are_finished() {
    each_call_fails(FaultKind::Short, 3, false);
}

/// The directory's sync fails, the file cannot be removed either, more is appended, and the power goes with the name
/// on the disk.
fn names_in_doubt() {
    for (seed, at) in (0..12).flat_map(|seed| (1..40).map(move |at| (seed, at))) {
        let sim = SimFileSystem::new();
        let faulty = FaultyFileSystem::over(Arc::new(sim.clone()));
        let mut world = World::over(sim, Arc::new(faulty.clone()), seed);
        world.open().expect("opens while nothing fails");
        faulty.set(Some(Fault { at, times: 2, kind: FaultKind::Io, only_syncs: false }));
        while world.append() && faulty.calls() < at {}
        faulty.set(None);
        for _ in 0..2 {
            assert!(world.append());
        }
        world.crash(CrashPlan { seed: 1, sector_kept: 255, name_kept: 255 });
        world.must_go_on();
    }
}

#[test]
fn a_segment_whose_name_is_in_doubt_ends_the_one_before_it() {
    names_in_doubt();
}

#[test]
fn a_store_that_appends_behind_the_end_that_a_doubtful_name_tells_is_noticed() {
    assert!(
        mutant::chosen::is_caught("keepactive", names_in_doubt),
        "acknowledged groups behind a told end went unnoticed"
    );
}
