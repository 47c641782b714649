//! Keys, forms, groups, retention.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;

use super::world::{World, close, fill, record};
use crate::line::LINE_BYTES_MAX;
use crate::{
    CHECKPOINT_AFTER, Checkpoint, DETAILS_MAX, Error, KeyError, Object, OwnAction, PublicKey, SigningKey,
    TEXT_BYTES_MAX,
};

#[test]
fn a_key_is_made_for_its_owner_alone_and_refused_when_others_can_read_it() {
    let world = World::new();
    let public = world.key().public();
    assert_eq!(world.key().public(), public);
    let path = Utf8PathBuf::from_path_buf(world.folder.path().join("audit.key")).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(SigningKey::open_or_create(&path), Err(KeyError::Exposed { .. })));
    }
    std::fs::write(&path, "no key").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(SigningKey::open_or_create(&path), Err(KeyError::NotAKey { .. })));
    let link = path.with_file_name("link.key");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(SigningKey::open_or_create(&link), Err(KeyError::Io { .. })));
}

#[test]
fn keys_and_checkpoints_have_one_text_each() {
    let world = World::new();
    let mut writer = world.open_whole();
    let checkpoint = writer.sign().unwrap();
    let public = world.key().public();
    assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
    let text = checkpoint.to_string();
    let read: Checkpoint = text.parse().unwrap();
    assert_eq!(read, checkpoint);
    assert!(read.is_signed_by(&public));
    for touched in [text.replace(':', ": "), text.to_uppercase(), format!("{text} "), text[1..].to_owned()] {
        touched.parse::<Checkpoint>().unwrap_err();
    }
    let mut later = checkpoint;
    later.time += 1;
    assert!(!later.is_signed_by(&public));
}

#[test]
fn a_record_of_any_size_makes_a_line_that_is_read_again() {
    let world = World::new();
    let long = "\u{1}".repeat(10_000);
    let mut big = record(&long, &long);
    big.actor.kind.clone_from(&long);
    big.object = Some(Object { kind: long.clone(), name: long.clone() });
    for text in
        [&mut big.request, &mut big.from, &mut big.permission, &mut big.problem, &mut big.actor.credential]
    {
        *text = Some(long.clone());
    }
    for i in 0..100 {
        big = big.with(&format!("{i:03}{long}"), long.as_str());
    }
    let mut writer = world.open_whole();
    writer.commit(&[big.bounded()]).unwrap();
    writer.commit(&[record("ž\u{9b}31m\u{7f}", "node ban").bounded()]).unwrap();
    close(writer);
    world.must_be_good();
    let entries = world.of_others();
    assert!(entries[0].text.len() > 50_000 && entries[0].text.len() <= LINE_BYTES_MAX);
    assert_eq!(entries[0].record.details.len(), DETAILS_MAX);
    let name = &entries[0].record.actor.name;
    assert!(name.len() <= TEXT_BYTES_MAX && name.ends_with("\u{1}…"));
    assert_eq!(entries[1].record.actor.name, "ž\u{fffd}31m\u{fffd}");
}

#[test]
fn lines_have_the_form_that_is_documented() {
    let world = World::new();
    fill(world.open_whole(), 1);
    let text = std::fs::read_to_string(&world.segments()[0]).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(
        "{\"seq\":1,\"group\":1,\"time\":1790000000000000,\"request\":null,\"actor\":{\"kind\":\"system\","
    ));
    let (body, rest) = lines[2].split_once(",\"hash\":\"").unwrap();
    assert_eq!(rest, format!("{}\"}}", blake3::hash(body.as_bytes()).to_hex()));
    assert_eq!(
        body,
        "{\"seq\":3,\"group\":3,\"time\":1790000000000000,\"request\":null,\
         \"actor\":{\"kind\":\"user\",\"name\":\"ana\",\"credential\":null},\"from\":null,\
         \"action\":\"token create\",\"permission\":null,\"object\":null,\"outcome\":\"done\",\"problem\":null,\
         \"details\":{\"i\":\"0\"},\"prev\":\"HASH\""
            .replace("HASH", lines[1].split_once(",\"hash\":\"").unwrap().1.split_at(64).0)
    );
}

#[test]
fn lines_are_signed_after_so_many_and_after_so_long() {
    let world = World::new();
    let mut writer = world.open_whole();
    let signed = |world: &World| {
        world.entries().iter().filter(|entry| OwnAction::Checkpoint.is(&entry.record)).count()
    };
    assert_eq!(writer.checkpoint_in(), None);
    for _ in 0..7 {
        writer.commit(&[record("ana", "node ban")]).unwrap();
    }
    assert_eq!(signed(&world), 2, "the first signs the genesis");
    writer.commit(&[record("ana", "node ban")]).unwrap();
    assert_eq!(writer.checkpoint_in(), Some(CHECKPOINT_AFTER));
    world.clock.advance(CHECKPOINT_AFTER);
    writer.commit(&[record("ana", "node ban")]).unwrap();
    assert_eq!(signed(&world), 3);
    assert_eq!(world.must_be_good().unsigned, 0);
}

#[test]
fn only_one_process_writes_a_log() {
    let world = World::new();
    let writer = world.open_whole();
    let again = world.open_on(Arc::new(crate::disk::RealDisk));
    assert!(matches!(again.err(), Some(Error::Locked { .. })));
    drop(writer);
    world.open_whole();
}

#[test]
fn old_segments_go_whole_and_verification_begins_behind_them() {
    let world = World::new();
    fill(world.open_whole(), 40);
    let before = world.segments();
    let checkpoint: Checkpoint =
        std::fs::read_to_string(world.config.directory.join(crate::HEAD)).unwrap().parse().unwrap();
    world.clock.advance(world.config.retention + Duration::from_secs(1));
    let mut writer = world.open_whole();
    // The segment that is written stays, however old.
    writer.retire().unwrap();
    writer.retire().unwrap();
    close(writer);
    assert_eq!(world.segments().first(), before.last());
    let verified = world.verify(std::slice::from_ref(&checkpoint));
    assert_eq!(verified.findings, []);
    assert!(verified.first > 1);
    let retired: Vec<_> =
        world.entries().into_iter().filter(|entry| OwnAction::Retired.is(&entry.record)).collect();
    assert_eq!(retired.len(), 1);
    assert_eq!(retired[0].record.details["through"], (verified.first - 1).to_string());

    std::fs::remove_file(world.config.directory.join("start")).unwrap();
    assert!(!world.verify(&[]).is_good(), "nobody may let segments go in silence");
}

#[test]
fn an_interrupted_retention_is_no_damage_and_is_done_again() {
    let world = World::new();
    fill(world.open_whole(), 40);
    let copies: Vec<_> =
        world.segments().into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    world.clock.advance(world.config.retention + Duration::from_secs(1));
    let mut writer = world.open_whole();
    writer.retire().unwrap();
    close(writer);
    // All but the newest, which has gone on since.
    for back in 1..copies.len() {
        for (path, bytes) in &copies[copies.len() - 1 - back..copies.len() - 1] {
            std::fs::write(path, bytes).unwrap();
        }
        world.must_be_good();
    }
    world.open_whole().retire().unwrap();
    assert_eq!(world.segments().first(), copies.last().map(|(path, _)| path));
    world.must_be_good();
}
