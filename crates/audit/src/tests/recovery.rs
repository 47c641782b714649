//! Opening whatever is found.

use aap_types::ByteCount;

use super::world::{World, close, fill, record};
use crate::mutant::chosen::is_caught;
use crate::{Fault, OwnAction, Recovery};

/// All in one.
fn one_segment() -> World {
    World::with_segments(ByteCount::mib(1))
}

/// A log with lines that are not signed, as a killed process leaves it.
fn killed(world: &World, groups: u64) {
    let mut writer = world.open_whole();
    for i in 0..groups {
        writer
            .commit(&[record("ana", "node ban").with("i", i.to_string()), record("bo", "node ban")])
            .unwrap();
        writer.write_head();
    }
}

#[test]
fn a_last_line_that_is_cut_anywhere_is_cut_off_noted_and_gone_from_then_on() {
    let world = one_segment();
    killed(&world, 1);
    let path = world.segments()[0].clone();
    let before = std::fs::read(&path).unwrap();
    let last = before[..before.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in (last + 1..before.len()).step_by(17) {
        std::fs::write(&path, &before[..length]).unwrap();
        let head = std::fs::read(world.config.directory.join(crate::HEAD)).unwrap();
        let (writer, recovery) = world.open();
        let cut = (length - last) as u64;
        assert_eq!(recovery, Recovery { cut_bytes: cut, unsigned_lines: 1, ..Recovery::default() });
        close(writer);
        world.must_be_good();
        let noted = world.entries().into_iter().find(|entry| OwnAction::Recovered.is(&entry.record)).unwrap();
        assert_eq!(noted.record.details["bytes"], cut.to_string());
        assert_eq!(world.of_others().len(), 1);
        std::fs::write(world.config.directory.join(crate::HEAD), head).unwrap();
    }
}

#[test]
fn a_segment_that_was_only_begun_goes() {
    let world = one_segment();
    killed(&world, 2);
    for begun in ["", "{\"seq\":"] {
        let next = world.entries().last().unwrap().seq + 1;
        std::fs::write(world.config.directory.join(format!("{next:020}.ndjson")), begun).unwrap();
        let (writer, recovery) = world.open();
        assert_eq!((recovery.cut_bytes, recovery.broken), (begun.len() as u64, None));
        drop(writer);
        world.must_be_good();
        assert_eq!(world.segments().len(), 1);
    }
}

/// Damages a line that was answered; no opening may take it for a torn tail, fail, or lose a line behind it.
fn damage_in_the_middle() {
    for at_line in 0..4 {
        let world = one_segment();
        killed(&world, 4);
        let path = world.segments()[0].clone();
        let before = std::fs::read_to_string(&path).unwrap();
        let mut all: Vec<String> = before.split_inclusive('\n').map(str::to_owned).collect();
        all[at_line] = all[at_line].replace("\"outcome\":\"done\"", "\"outcome\":\"fail\"");
        let damaged = all.concat();
        std::fs::write(&path, &damaged).unwrap();

        let (mut writer, recovery) = world.open();
        assert!(recovery.broken.is_some(), "line {at_line}");
        writer.commit(&[record("ana", "node approve")]).unwrap();
        close(writer);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged, "it is evidence");
        let verified = world.verify(&[]);
        let faults: Vec<_> = verified.findings.iter().map(|finding| finding.fault).collect();
        assert_eq!(faults, [Fault::Damaged, Fault::Broken], "line {at_line}");
        let damage = &verified.findings[0];
        assert_eq!((damage.line, damage.seq), (Some(at_line as u64 + 1), Some(at_line as u64 + 1)));
        let again = world.open_whole();
        assert_eq!(again.segment(), Some(all.len() as u64 + 1));
    }
}

#[test]
fn damage_never_prevents_a_start_and_stays_where_it_is() {
    damage_in_the_middle();
}

#[test]
fn damage_notices_an_opening_that_cuts_whatever_it_cannot_read() {
    assert!(is_caught("cutall", damage_in_the_middle));
}

#[test]
fn whatever_byte_of_a_log_is_damaged_it_opens_and_goes_on() {
    let world = one_segment();
    killed(&world, 3);
    let files: Vec<_> =
        world.files().into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    for (path, before) in &files {
        for at in (0..before.len()).step_by(29) {
            for (path, bytes) in &files {
                std::fs::write(path, bytes).unwrap();
            }
            for extra in world.files().iter().filter(|path| files.iter().all(|(known, _)| known != *path)) {
                std::fs::remove_file(extra).unwrap();
            }
            let mut bytes = before.clone();
            bytes[at] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
            let (mut writer, recovery) = world.open();
            writer.commit(&[record("ana", "node approve")]).unwrap();
            close(writer);
            let is_noted = recovery.broken.is_some() || recovery.cut_bytes > 0;
            assert!(is_noted, "{path}: byte {at}");
            assert_eq!(world.of_others().last().unwrap().record.action, "node approve");
            world.open_whole();
        }
    }
}

#[test]
fn a_tail_that_was_cut_off_while_the_log_was_closed_is_found_when_it_opens() {
    let world = one_segment();
    fill(world.open_whole(), 3);
    let path = world.segments()[0].clone();
    let before = std::fs::read_to_string(&path).unwrap();
    let last = world.entries().last().unwrap().seq;
    let short: String = before.split_inclusive('\n').take(3).collect();
    std::fs::write(&path, short).unwrap();
    let (writer, recovery) = world.open();
    assert!(recovery.broken.unwrap().contains("cut off"));
    drop(writer);
    assert_eq!(world.entries().last().unwrap().seq, last + 2, "no sequence is given twice");
    let faults: Vec<_> = world.verify(&[]).findings.iter().map(|finding| finding.fault).collect();
    assert_eq!(faults, [Fault::Missing, Fault::Broken]);
}

#[test]
fn a_log_whose_files_are_all_gone_but_one_does_not_begin_anew() {
    let world = one_segment();
    fill(world.open_whole(), 3);
    let last = world.entries().last().unwrap().seq;
    world.segments().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let (writer, recovery) = world.open();
    assert!(!recovery.created);
    assert_eq!(writer.segment(), Some(last + 1));
    assert_eq!(world.verify(&[]).findings[0].fault, Fault::Missing);
}
