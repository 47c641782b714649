//! Every truncation, every flipped byte, files that are missing, copied, renamed, foreign.

use std::collections::BTreeMap;

use aap_types::{Digest, Sequence, StreamKey};
use camino::Utf8PathBuf;

use crate::format::{Kind, SEGMENT_HEADER, Seed};
use crate::fs::{FileSystem, Open, SimFileSystem};
use crate::recovery::RecoveryReport;
use crate::tests::world::{Expected, LANDING, World};
use crate::walk::{Found, Item, Walker};
use crate::{Frame, FrameKind, mutant, offline};

type Image = BTreeMap<Utf8PathBuf, Vec<u8>>;

/// A small store over two segments, closed cleanly, nothing delivered.
fn small_store() -> (World, Image) {
    store_of(3)
}

fn store_of(segments: usize) -> (World, Image) {
    let mut world = World::new(3);
    world.config.segment_bytes = aap_types::ByteCount::kib(4);
    world.open().unwrap();
    while world.log().shared.index().segments.len() < segments {
        assert!(world.append());
    }
    assert!(world.append());
    world.close();
    let image = world.sim.image();
    (world, image)
}

fn segments(image: &Image) -> Vec<Utf8PathBuf> {
    image.keys().filter(|path| path.as_str().ends_with(".seg")).cloned().collect()
}

/// Opens a changed image. The store must open, and give what it gives in order, unchanged.
fn open_damaged(world: &mut World, image: &Image) -> (RecoveryReport, BTreeMap<StreamKey, Vec<Frame>>) {
    world.log = None;
    world.sim.restore(image);
    let report = world.open().expect("damage never prevents a start");
    let mut found = BTreeMap::new();
    for key in world.keys() {
        found.insert(key.clone(), world.read_in_portions(&key, 1 << 20));
    }
    (report, found)
}

/// Whatever was damaged, new data is taken and comes back as it was, also of streams that are new. The model forgets it
/// again.
fn must_append(world: &mut World) {
    let acked = std::mem::take(&mut world.acked);
    world.streams = vec!["a", "new-1", "new-2"];
    for _ in 0..2 {
        assert!(world.append(), "damage stops the store");
    }
    world.streams = World::STREAMS.to_vec();
    let shared = world.log().shared.clone();
    for (key, expected) in std::mem::replace(&mut world.acked, acked) {
        let (first, _) = expected.first_key_value().unwrap();
        let frames = crate::read::read(&shared, &key, Sequence(first.0 - 1), 1 << 20).unwrap();
        let found = frames.into_iter().map(|frame| {
            let payload = (frame.kind == FrameKind::Data).then(|| frame.payload.clone());
            let last = frame.last_sequence();
            assert_eq!(frame.digest, Digest::of(&frame.id, &frame.positions, &frame.payload), "{}", frame.id);
            (frame.id.sequence, Expected { last, payload })
        });
        assert_eq!(
            found.collect::<BTreeMap<_, _>>(),
            expected,
            "what was appended to {key} after the damage"
        );
    }
}

/// Frames that came back as they were, and sequences that came back as skips.
fn compare(world: &World, found: &BTreeMap<StreamKey, Vec<Frame>>) -> (usize, u64) {
    let (mut intact, mut skipped) = (0, 0);
    for (key, expected) in &world.acked {
        for frame in &found[key] {
            match (&frame.kind, expected.get(&frame.id.sequence)) {
                (FrameKind::Data, Some(expected)) => {
                    assert_eq!(Some(&frame.payload), expected.payload.as_ref(), "{} changed", frame.id);
                    intact += 1;
                }
                (FrameKind::Skip { reason, .. }, Some(_)) if reason == "test" => intact += 1,
                (FrameKind::Skip { to, .. }, _) => skipped += to.0 - frame.id.sequence.0 + 1,
                (FrameKind::Data, None) => panic!("{} was invented", frame.id),
            }
        }
    }
    (intact, skipped)
}

fn expected_frames(world: &World) -> usize {
    world.acked.values().map(BTreeMap::len).sum()
}

/// A flipped byte may cost one record; in the file that the store is known by, none.
fn flip_every_byte() {
    let (mut world, image) = store_of(2);
    let all = expected_frames(&world);
    let counts = |path: &&Utf8PathBuf| path.as_str().ends_with(".seg") || path.as_str().ends_with("STORE");
    for path in image.keys().filter(counts) {
        let bytes = &image[path];
        for at in 0..bytes.len() {
            // Bytes that no group or footer covers may be anything.
            let mut changed = image.clone();
            changed.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            let (report, found) = open_damaged(&mut world, &changed);
            let (intact, skipped) = compare(&world, &found);
            let lost = all - intact;
            assert!(lost <= 3, "byte {at} of {path} cost {lost} of {all} frames");
            let notes = world.log().shared.index().problems.len() + report.problems.len();
            assert!(lost == 0 || notes > 0, "byte {at} of {path} cost {lost} frames in silence");
            assert!(
                skipped >= lost as u64 || report.new_epoch.is_some(),
                "byte {at} of {path}: a gap is not a skip"
            );
            if at % 5 == 0 {
                must_append(&mut world);
            }
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_costs_at_most_its_record_and_is_seen() {
    flip_every_byte();
}

#[test]
fn the_flips_notice_a_store_that_does_not_check_what_it_reads() {
    assert!(mutant::chosen::is_caught("nocrc", flip_every_byte), "missing checksums went unnoticed");
}

/// However short the last segment is: its whole groups are there, and nothing of the one that is cut.
fn cut_the_last_segment_at_every_length() {
    let (mut world, image) = small_store();
    let last = segments(&image).pop().unwrap();
    open_damaged(&mut world, &image);
    let groups = groups_of(&world, &last);
    let in_older = expected_frames(&world) - groups.iter().map(|(_, frames)| frames).sum::<usize>();
    assert!(in_older > 0 && groups.iter().filter(|(_, frames)| *frames > 1).count() > 1, "{groups:?}");
    for cut in 0..image[&last].len() {
        let mut changed = image.clone();
        changed.get_mut(&last).unwrap().truncate(cut);
        let (_, found) = open_damaged(&mut world, &changed);
        let (intact, _) = compare(&world, &found);
        let whole: usize = groups.iter().filter(|(end, _)| *end <= cut).map(|(_, frames)| frames).sum();
        assert_eq!(intact, in_older + whole, "frames of whole groups at length {cut}");
        if cut % 61 == 0 {
            must_append(&mut world);
        }
    }
}

#[test]
fn every_length_of_the_last_segment_opens_and_keeps_whole_groups() {
    cut_the_last_segment_at_every_length();
}

#[test]
fn the_lengths_notice_a_store_that_shows_half_a_group() {
    assert!(mutant::chosen::is_caught("notail", cut_the_last_segment_at_every_length));
}

#[test]
fn every_length_of_an_older_segment_opens_and_the_rest_is_delivered() {
    let (mut world, image) = small_store();
    let all = segments(&image);
    let newer = |world: &World, found: &BTreeMap<StreamKey, Vec<Frame>>| compare(world, found).0;
    let (_, whole) = open_damaged(&mut world, &image);
    let all_frames = newer(&world, &whole);
    for cut in (0..image[&all[1]].len()).step_by(3) {
        let mut changed = image.clone();
        changed.get_mut(&all[1]).unwrap().truncate(cut);
        let (_, found) = open_damaged(&mut world, &changed);
        let (intact, skipped) = compare(&world, &found);
        assert_eq!(
            intact as u64 + skipped,
            covered(&world),
            "every sequence is data or a skip at length {cut}"
        );
        assert!(intact * 4 > all_frames, "the other segments are still there");
    }
}

fn covered(world: &World) -> u64 {
    let sequences = |frames: &BTreeMap<Sequence, crate::tests::world::Expected>| {
        // A stored skip counts as one frame, whatever it covers.
        frames.len() as u64
    };
    world.acked.values().map(sequences).sum()
}

#[test]
fn missing_copied_renamed_and_foreign_files_are_named_and_the_rest_is_read() {
    let (mut world, image) = small_store();
    let all = segments(&image);
    let directory = all[0].parent().unwrap().to_owned();
    let frames = expected_frames(&world);

    let mut missing = image.clone();
    missing.remove(&all[1]);
    let (report, found) = open_damaged(&mut world, &missing);
    assert!(report.problems.iter().any(|text| text.contains("lost")) || compare(&world, &found).1 > 0);
    must_append(&mut world);

    let mut renamed = image.clone();
    let bytes = renamed.remove(&all[1]).unwrap();
    renamed.insert(directory.join("00000000000000ff.seg"), bytes.clone());
    let (_, found) = open_damaged(&mut world, &renamed);
    assert_eq!(compare(&world, &found).0, frames, "the header says which segment it is");

    let mut copied = image.clone();
    copied.insert(directory.join("00000000000000ff.seg"), bytes);
    let (report, found) = open_damaged(&mut world, &copied);
    assert_eq!(compare(&world, &found).0, frames);
    assert!(report.problems.iter().any(|text| text.contains("copy")), "{report:?}");

    let (other_world, other) = {
        let mut other = World::new(99);
        other.open().unwrap();
        other.append();
        other.close();
        let image = other.sim.image();
        (other, image)
    };
    drop(other_world);
    let mut foreign = image.clone();
    foreign.insert(directory.join("0000000000000777.seg"), other[&segments(&other)[0]].clone());
    let (report, found) = open_damaged(&mut world, &foreign);
    assert_eq!(compare(&world, &found).0, frames);
    assert!(report.problems.iter().any(|text| text.contains("another store")), "{report:?}");

    let mut garbage = image.clone();
    garbage.insert(directory.join("0000000000000778.seg"), vec![0xA5; 5000]);
    garbage.insert(directory.join("readme.txt"), b"hello".to_vec());
    let (_, found) = open_damaged(&mut world, &garbage);
    assert_eq!(compare(&world, &found).0, frames);
}

#[test]
fn a_lost_identity_file_starts_a_new_epoch_and_loses_nothing() {
    let (mut world, mut image) = small_store();
    let frames = expected_frames(&world);
    image.remove(&Utf8PathBuf::from("/store/STORE"));
    let (report, found) = open_damaged(&mut world, &image);
    assert!(report.new_epoch.is_some());
    assert_eq!(compare(&world, &found).0, frames);
}

#[test]
fn a_store_that_was_restored_from_a_backup_begins_a_new_epoch_once() {
    let (mut world, mut image) = small_store();
    let frames = expected_frames(&world);
    open_damaged(&mut world, &image);
    let before = world.log().shared.index().identity.clone();
    let mark = Utf8PathBuf::from("/store").join(aap_runtime::RESTORED);
    image.insert(mark.clone(), vec![]);
    let (report, found) = open_damaged(&mut world, &image);
    let after = world.log().shared.index().identity.clone();
    assert!(report.new_epoch.is_some() && report.problems.is_empty(), "{report:?}");
    assert_eq!((after.store_id, after.epoch > before.epoch), (before.store_id, true));
    assert_eq!(compare(&world, &found).0, frames);
    assert!(!world.sim.image().contains_key(&mark));
    world.append();
    world.close();
    assert_eq!(world.open().unwrap().new_epoch, None);
    assert_eq!(world.log().shared.index().identity.epoch, after.epoch);
}

#[test]
fn a_copy_and_a_rolled_back_store_can_be_told_by_their_generation() {
    let (mut world, image) = small_store();
    let (_, _) = open_damaged(&mut world, &image);
    let first = world.log().shared.index().identity.clone();
    world.close();
    world.open().unwrap();
    let later = world.log().shared.index().identity.clone();
    assert_eq!((later.store_id, later.epoch), (first.store_id, first.epoch));
    assert!(later.generation > first.generation);
    // The same store, from an older copy: its generation falls behind what a ledger has seen.
    let (_, _) = open_damaged(&mut world, &image);
    let rolled_back = world.log().shared.index().identity.clone();
    assert!(rolled_back.generation < later.generation);
    // Only the identity file is old: noticed here already.
    world.append();
    world.close();
    let mut mixed = world.sim.image();
    mixed.insert("/store/STORE".into(), image[&Utf8PathBuf::from("/store/STORE")].clone());
    let (report, _) = open_damaged(&mut world, &mixed);
    assert!(report.new_epoch.is_some());
}

#[test]
fn tools_read_a_damaged_store_and_salvage_what_is_left() {
    let (mut world, image) = small_store();
    let frames = expected_frames(&world);
    let sim = SimFileSystem::new();
    sim.restore(&image);
    let fs = std::sync::Arc::new(sim.clone());
    let store = offline::inspect_in(fs.clone(), "/store".into()).unwrap();
    assert_eq!(store.recovery().problems, Vec::<String>::new());
    assert_eq!(sim.image(), image, "looking changes nothing");
    let saved = store.salvage("/saved".into()).unwrap();
    assert!(saved.problems.is_empty());
    let copy = offline::inspect_in(fs, "/saved".into()).unwrap();
    let mut copied = 0;
    for info in copy.keys() {
        copy.export::<crate::Error>(&info.key, |frame| {
            copied += usize::from(world.acked[&info.key].contains_key(&frame.id.sequence));
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(copied, frames);
    let _ = (LANDING, open_damaged(&mut world, &image));
}

#[test]
fn the_scrubber_finds_a_rotten_byte_before_a_reader_does() {
    let (mut world, mut image) = small_store();
    let path = segments(&image)[1].clone();
    let scrub = |world: &mut World| {
        let shared = world.log().shared.clone();
        let (mut after, mut damaged) = (0, 0);
        while let Some(step) = crate::scrub::scrub(&shared, after) {
            damaged += step.damaged_bytes;
            after = step.segment;
        }
        (damaged, shared.index().problems.len())
    };
    open_damaged(&mut world, &image);
    assert_eq!(scrub(&mut world), (0, 0));
    image.get_mut(&path).unwrap()[1500] ^= 4;
    world.log = None;
    world.sim.restore(&image);
    world.open().unwrap();
    let (damaged, problems) = scrub(&mut world);
    assert!(damaged > 0 && problems == 1, "{damaged} {problems}");
}

#[test]
fn what_is_given_up_reads_as_a_skip_and_stays_so() {
    let (mut world, image) = small_store();
    open_damaged(&mut world, &image);
    let key = World::landed_key();
    let tail = world.tail(&key);
    assert!(tail.0 > 4);
    let hole = crate::Entry::Skip {
        key: key.clone(),
        from: Sequence(2),
        to: Sequence(3),
        rows: 4,
        reason: "discarded".into(),
    };
    world.log().commit(&[vec![hole]]).unwrap().remove(0).unwrap();
    let given_up = |world: &mut World| {
        let frames = world.read_all(&key);
        let skip = frames.iter().find(|frame| frame.id.sequence == Sequence(2)).unwrap().clone();
        assert_eq!(skip.kind, FrameKind::Skip { to: Sequence(3), rows: 4, reason: "discarded".into() });
        assert_eq!(frames.last().unwrap().last_sequence(), tail);
        skip.digest
    };
    let digest = given_up(&mut world);
    world.close();
    world.open().unwrap();
    assert_eq!(given_up(&mut world), digest);
}

/// What stands in a segment file of an open store.
fn items_of(world: &World, path: &Utf8PathBuf) -> Vec<Found> {
    let (id, store_id) = {
        let index = world.log.as_ref().unwrap().shared.index();
        let (id, _) = index.segments.iter().find(|(_, segment)| segment.path == *path).unwrap();
        (*id, index.identity.store_id)
    };
    let file = world.sim.open(path, Open::Read).unwrap();
    let length = file.length().unwrap();
    let mut walker = Walker::new(file, Seed::new(&store_id, id), SEGMENT_HEADER as u64, length);
    std::iter::from_fn(|| walker.next().unwrap()).collect()
}

/// Where the records of a kind stand in it, with the numbers of their channels.
fn records_of(world: &World, path: &Utf8PathBuf, kind: Kind) -> Vec<(u32, usize, usize)> {
    let of_kind = |found: Found| match found.item {
        Item::Record(header) if header.kind == kind => {
            Some((header.channel, found.start as usize, found.end as usize))
        }
        _ => None,
    };
    items_of(world, path).into_iter().filter_map(of_kind).collect()
}

/// Where its groups end, and how many frames each has.
fn groups_of(world: &World, path: &Utf8PathBuf) -> Vec<(usize, usize)> {
    let mut groups = vec![];
    for found in items_of(world, path) {
        match found.item {
            Item::Group(header) => groups.push(((header.offset + u64::from(header.length)) as usize, 0)),
            Item::Record(header) if matches!(header.kind, Kind::Data | Kind::Skip) => {
                groups.last_mut().unwrap().1 += 1;
            }
            _ => {}
        }
    }
    groups
}

#[test]
fn a_stream_whose_declaration_is_damaged_never_hides_what_is_appended_later() {
    let mut world = World::new(3);
    world.config.segment_bytes = aap_types::ByteCount::kib(32);
    world.open().unwrap();
    while world.keys().len() < 4 {
        assert!(world.append());
    }
    world.close();
    let image = world.sim.image();
    open_damaged(&mut world, &image);
    assert_eq!(segments(&image).len(), 1, "no later checkpoint knows the streams");
    let path = segments(&image).remove(0);
    let declarations = records_of(&world, &path, Kind::Channel);
    let channels = 4;
    for wrecked in 1..1u32 << channels {
        let mut changed = image.clone();
        for (channel, start, _) in &declarations {
            if wrecked & (1 << channel) != 0 {
                changed.get_mut(&path).unwrap()[start + 130] ^= 1;
            }
        }
        let (report, found) = open_damaged(&mut world, &changed);
        assert!(report.new_epoch.is_some() && !report.problems.is_empty());
        compare(&world, &found);
        must_append(&mut world);
        world.close();
        world.open().unwrap();
        must_append(&mut world);
        let index = world.log().shared.clone();
        assert!(index.index().named_channels().all(|(_, channel)| channel.key.epoch.0 > 0));
    }
}

#[test]
fn one_damaged_declaration_costs_nothing() {
    let (mut world, image) = store_of(1);
    open_damaged(&mut world, &image);
    let all = expected_frames(&world);
    let path = segments(&image).remove(0);
    for (_, start, end) in records_of(&world, &path, Kind::Channel) {
        for at in start..end {
            let mut changed = image.clone();
            changed.get_mut(&path).unwrap()[at] ^= 1 << (at % 8);
            let (_, found) = open_damaged(&mut world, &changed);
            assert_eq!(compare(&world, &found).0, all, "byte {at}");
        }
    }
}
