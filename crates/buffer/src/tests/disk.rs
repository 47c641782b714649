//! Files that cannot be opened, bytes that cannot be read, more segments than a process may hold open.

use aap_types::{ByteCount, Epoch, SourceKind, SourcePosition};

use crate::fs::CrashPlan;
use crate::log::segment_path;
use crate::positions::{Positions, ReadAt};
use crate::tests::world::World;

/// A closed store of several segments, nothing delivered.
fn closed_store(segments: usize) -> World {
    let mut world = World::new(4);
    world.config.budget = ByteCount::mib(64);
    world.open().unwrap();
    while world.log().shared.index().segments.len() < segments {
        assert!(world.append());
    }
    world.close();
    world
}

#[test]
fn a_store_of_more_segments_than_open_files_are_allowed_opens() {
    let mut world = closed_store(60);
    world.sim.set_open_files_max(Some(5));
    let report = world.open().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    world.check_recovered();
    assert!(world.append());
    world.crash(CrashPlan::lose_all());
}

#[test]
fn a_segment_that_may_not_be_opened_refuses_the_start_and_nothing_is_lost() {
    const EACCES: i32 = 13;
    const EMFILE: i32 = 24;
    let mut world = closed_store(4);
    for errno in [EACCES, EMFILE] {
        for id in 1..=4 {
            let path = segment_path("/store".into(), id);
            world.sim.fail_opening(&path, Some(errno));
            assert!(matches!(world.open(), Err(crate::Error::Io { .. })), "segment {id}");
            world.sim.fail_opening(&path, None);
        }
    }
    assert_eq!(world.open().unwrap().problems, Vec::<String>::new());
    world.check_recovered();
}

#[test]
fn a_segment_that_the_disk_does_not_open_gives_no_sequence_twice() {
    const EIO: i32 = 5;
    let mut world = closed_store(4);
    let path = segment_path("/store".into(), 4);
    world.sim.fail_opening(&path, Some(EIO));
    let report = world.open().unwrap();
    assert!(report.new_epoch.is_some(), "{report:?}");
    assert!(!report.problems.is_empty());
}

#[test]
fn bytes_that_cannot_be_read_cost_themselves_and_stop_nobody() {
    const EIO: i32 = 5;
    const EUCLEAN: i32 = 117;
    const ENODATA: i32 = 61;
    let mut world = World::new(4);
    world.config.segment_bytes = ByteCount::kib(64);
    world.config.budget = ByteCount::mib(64);
    world.open().unwrap();
    while world.log().shared.index().segments.len() < 3 {
        assert!(world.append());
    }
    world.close();
    let image = world.sim.image();
    let all: usize = world.acked.values().map(std::collections::BTreeMap::len).sum();
    let mut round = 0;
    for id in 1..=2 {
        let path = segment_path("/store".into(), id);
        for start in (0..image[&path].len() as u64).step_by(3 * 4096) {
            for opened_before in [false, true] {
                round += 1;
                let errno = [EIO, EUCLEAN, ENODATA][round % 3];
                world.log = None;
                world.sim.restore(&image);
                if opened_before {
                    world.open().unwrap();
                }
                world.sim.fail_reading(Some((&path, start..start + 512, errno)));
                if !opened_before {
                    world.open().expect("a bad sector does not prevent a start");
                }
                let mut found = 0;
                for key in world.keys() {
                    let frames = world.read_in_portions(&key, 10_000);
                    let intact = |frame: &&crate::Frame| world.acked[&key].contains_key(&frame.id.sequence);
                    found += frames.iter().filter(intact).count();
                }
                assert!(found * 10 > all * 8, "{found} of {all} with {errno} at {start} of segment {id}");
                world.sim.fail_reading(None);
            }
        }
    }
}

#[test]
fn delivered_segments_of_many_starts_do_not_pile_up() {
    let mut world = World::new(9);
    world.config.segment_bytes = ByteCount::kib(64);
    world.config.retain = ByteCount::mib(1);
    world.config.budget = ByteCount::mib(64);
    for _ in 0..120 {
        world.open().unwrap();
        assert!(world.append());
        world.advance_everything();
        world.flush();
        world.close();
    }
    world.open().unwrap();
    let segments = world.log().shared.index().segments.len();
    assert!((60..90).contains(&segments), "{segments} files");
}

fn position(offset: u64) -> SourcePosition {
    SourcePosition { kind: SourceKind::File, key: "f".into(), offset, detail: String::new() }
}

#[test]
fn a_position_that_lands_late_does_not_replace_a_newer_one() {
    let node = "far".parse().unwrap();
    let mut positions = Positions::default();
    let mut check = |epoch, sealed_us, offset, expected| {
        let read_at = ReadAt { epoch: Epoch(epoch), sealed_us };
        positions.set_landed(&node, 0, read_at, position(offset));
        assert_eq!(positions.get(&node, SourceKind::File, "f").unwrap().offset, expected);
    };
    check(5, 100, 1000, 1000);
    check(5, 120, 2000, 2000);
    check(5, 110, 1500, 2000); // Of another stream, landed late.
    check(5, 130, 10, 10); // Truncated and read again.
    check(5, 50, 3000, 3000); // The clock was set back.
    check(4, 900, 9000, 3000); // Of an earlier life.
    check(6, 10, 1, 1);
}

#[test]
fn of_the_keys_of_requests_the_newest_of_each_node_are_kept() {
    let at = ReadAt { epoch: Epoch(1), sealed_us: 0 };
    let mut positions = Positions::default();
    let key = |i: u64| SourcePosition { kind: SourceKind::HttpKey, key: format!("s/{i}"), ..position(i) };
    let (busy, quiet) = ("busy".parse().unwrap(), "quiet".parse().unwrap());
    for i in 0..12_000 {
        positions.set_own(&busy, i as i64, at, key(i));
    }
    positions.set_own(&quiet, 0, at, key(0));
    positions.prune(20_000);
    assert_eq!(positions.of_node(&busy).count(), 10_000);
    assert!(positions.get(&busy, SourceKind::HttpKey, "s/2000").is_some());
    assert_eq!(positions.of_node(&quiet).count(), 1, "another node's do not push it out");
    positions.prune(i64::MAX);
    assert_eq!(positions.all().count(), 0, "after a day they no longer count");
}

#[test]
fn positions_of_files_that_rest_are_kept_and_those_of_rotated_ones_do_not_pile_up() {
    const DAY_US: i64 = 24 * 3600 * 1_000_000;
    let node = "node-1".parse().unwrap();
    let at = ReadAt { epoch: Epoch(1), sealed_us: 0 };
    let mut positions = Positions::default();
    let file = |i: u64| SourcePosition { key: format!("file {i}"), ..position(i) };
    for i in 0..900 {
        positions.set_own(&node, i as i64, at, file(i));
    }
    positions.prune(400 * DAY_US);
    assert_eq!(positions.all().count(), 900, "they may still be there");
    for i in 900..5000 {
        positions.set_own(&node, 370 * DAY_US + i as i64, at, file(i));
    }
    positions.prune(380 * DAY_US);
    assert_eq!(positions.all().count(), 4100, "of these, the old ones go");
    positions.prune(400 * DAY_US + DAY_US);
    assert_eq!(positions.all().count(), 1000);
    assert!(positions.get(&node, SourceKind::File, "file 4999").is_some());
}
