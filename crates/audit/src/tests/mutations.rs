//! Whatever is done to the files of a closed log, verification finds it.

use camino::Utf8Path;

use super::world::{Random, World, fill, random_log, seeds};
use crate::mutant::chosen::is_caught;

/// Splits into lines, each with its end.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Does one thing to one file; says what. `None` where it would change nothing.
fn mutate(random: &mut Random, world: &World) -> Option<String> {
    let files = world.files();
    let path = &files[random.index(files.len())];
    let before = std::fs::read(path).unwrap();
    let is_segment = path.extension() == Some("ndjson");
    let kind = random.below(if is_segment { 9 } else { 4 });
    let mut bytes = before.clone();
    let at = random.index(bytes.len());
    let mut all = lines(&bytes);
    let line = random.index(all.len());
    let what = match kind {
        0 => {
            bytes[at] ^= 1 << random.below(8);
            format!("a bit of byte {at} is flipped")
        }
        1 => {
            bytes.remove(at);
            format!("byte {at} is gone")
        }
        2 => {
            bytes.insert(at, u8::try_from(random.below(256)).unwrap());
            format!("a byte stands at {at}")
        }
        3 => {
            std::fs::remove_file(path).unwrap();
            return Some(format!("{path} is gone"));
        }
        4 => {
            bytes.truncate(at);
            format!("it ends at {at}")
        }
        5 => {
            all.remove(line);
            bytes = all.concat();
            format!("line {line} is gone")
        }
        6 => {
            let other = random.index(all.len());
            all.swap(line, other);
            bytes = all.concat();
            format!("lines {line} and {other} are swapped")
        }
        7 => {
            all.insert(random.index(all.len()), all[line].clone());
            bytes = all.concat();
            format!("line {line} stands there twice")
        }
        _ => {
            let other = &files[random.index(files.len())];
            all.insert(line, lines(&std::fs::read(other).unwrap()).remove(0));
            bytes = all.concat();
            format!("before line {line} stands the first one of {other}")
        }
    };
    if bytes == before {
        return None;
    }
    std::fs::write(path, bytes).unwrap();
    Some(format!("{path}: {what}"))
}

fn mutate_many(count: u64) {
    for seed in seeds(count) {
        let mut random = Random(seed);
        let world = random_log(&mut random);
        let verified = world.must_be_good();
        assert!(verified.last > 0, "seed {seed}");
        if let Some(what) = mutate(&mut random, &world) {
            assert!(!world.verify(&[]).is_good(), "seed {seed}: {what}");
        }
    }
}

#[test]
fn one_random_change_of_any_kind_is_found() {
    mutate_many(150);
}

/// Flips one bit of each byte of each file.
fn flip_each_byte() {
    let world = World::new();
    fill(world.open_whole(), 5);
    for path in world.files() {
        let before = std::fs::read(&path).unwrap();
        for at in 0..before.len() {
            let mut bytes = before.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert!(!world.verify(&[]).is_good(), "{path}: byte {at}");
        }
        std::fs::write(&path, &before).unwrap();
    }
    world.must_be_good();
}

#[test]
fn every_flipped_byte_is_found() {
    flip_each_byte();
}

#[test]
fn flips_notice_a_verification_that_takes_every_signature() {
    assert!(is_caught("nosignature", flip_each_byte));
}

/// The chain of a segment, made anew by somebody who has no key: one record is changed and every hash behind it set right.
fn rewrite(path: &Utf8Path) {
    let mut prev = None;
    let mut all = Vec::new();
    for line in lines(&std::fs::read(path).unwrap()) {
        let text = String::from_utf8(line).unwrap().replace("\"name\":\"ana\"", "\"name\":\"bob\"");
        let (body, rest) = text.split_once(",\"hash\":\"").unwrap();
        let (_, after) = rest.split_at(64);
        let body = match prev {
            Some(prev) => {
                let (before, _) = body.split_once(",\"prev\":\"").unwrap();
                format!("{before},\"prev\":\"{prev}\"")
            }
            None => body.to_owned(),
        };
        let hash = blake3::hash(body.as_bytes()).to_hex().to_string();
        all.push(format!("{body},\"hash\":\"{hash}{after}"));
        prev = Some(hash);
    }
    std::fs::write(path, all.concat()).unwrap();
}

#[test]
fn a_chain_that_is_made_anew_without_the_key_is_found() {
    let world = World::new();
    fill(world.open_whole(), 5);
    rewrite(&world.segments()[0]);
    let verified = world.verify(&[]);
    assert!(!verified.is_good());
    assert!(verified.findings.iter().all(|finding| finding.fault != crate::Fault::Damaged), "{verified:?}");
}

/// Two logs of one key, of which one line is taken into the other: whole in itself, with the right sequence.
fn foreign_line() {
    let (one, two) = (World::new(), World::new());
    one.key();
    std::fs::copy(one.folder.path().join("audit.key"), two.folder.path().join("audit.key")).unwrap();
    fill(one.open_whole(), 3);
    fill(two.open_whole(), 3);
    let (path, other) = (&one.segments()[0], &two.segments()[0]);
    let mut all = lines(&std::fs::read(path).unwrap());
    all[3] = lines(&std::fs::read(other).unwrap()).remove(3);
    std::fs::write(path, all.concat()).unwrap();
    assert!(!one.verify(&[]).is_good());
}

#[test]
fn a_line_of_another_log_is_found_and_only_by_the_chain() {
    foreign_line();
    assert!(is_caught("nochain", foreign_line));
}

#[test]
fn a_tail_cut_with_its_head_is_found_by_a_checkpoint_kept_elsewhere_and_by_nothing_else() {
    let world = World::new();
    fill(world.open_whole(), 2);
    let (path, head) = (world.segments()[0].clone(), world.config.directory.join(crate::HEAD));
    let (short, old_head) = (std::fs::read(&path).unwrap(), std::fs::read(&head).unwrap());
    fill(world.open_whole(), 2);
    let remembered = std::fs::read_to_string(&head).unwrap().parse().unwrap();
    assert!(world.verify(std::slice::from_ref(&remembered)).is_good());

    std::fs::write(&path, &short).unwrap();
    assert!(!world.verify(&[]).is_good(), "`head` knows more");
    std::fs::write(&head, &old_head).unwrap();
    assert!(world.verify(&[]).is_good(), "the log of then is a log");
    let verified = world.verify(&[remembered]);
    assert_eq!(verified.findings[0].fault, crate::Fault::Missing);
}

#[test]
fn lines_behind_the_last_checkpoint_are_counted_because_they_are_not_protected() {
    let world = World::new();
    let mut writer = world.open_whole();
    writer.commit(&[super::world::record("ana", "node ban")]).unwrap();
    drop(writer);
    assert_eq!(world.must_be_good().unsigned, 1);
    let path = world.segments()[0].clone();
    let mut all = lines(&std::fs::read(&path).unwrap());
    all.pop();
    std::fs::write(&path, all.concat()).unwrap();
    assert_eq!(world.must_be_good().unsigned, 0, "nothing says that there was one more");
}
