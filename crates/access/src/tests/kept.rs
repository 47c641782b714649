//! What is sealed opens under its key and its name, unchanged, and in no other way.

use aap_runtime::Secret;

use crate::{KeptSecret, NotKeys, NotOpened, SealingKeys};

const CANARY: &str = "canary hunter2 ß";

fn keys() -> SealingKeys {
    SealingKeys::parse(&SealingKeys::mint().unwrap()).unwrap()
}

fn sealed(keys: &SealingKeys, name: &str, value: &str) -> KeptSecret {
    keys.seal(&name.parse().unwrap(), &Secret::from(value.to_owned()), None, ("ana", 7)).unwrap()
}

/// The record with some of its JSON replaced.
fn with(record: &KeptSecret, field: &str, text: &str) -> KeptSecret {
    let mut json = serde_json::to_value(record).unwrap();
    json[field] = text.into();
    serde_json::from_value(json).unwrap()
}

fn field(record: &KeptSecret, field: &str) -> String {
    serde_json::to_value(record).unwrap()[field].as_str().unwrap().to_owned()
}

#[test]
fn what_is_sealed_opens_again_and_shows_nothing_before() {
    let keys = keys();
    for value in ["x", CANARY, &"a".repeat(crate::SECRET_BYTES_MAX)] {
        let record = sealed(&keys, "pg", value);
        assert_eq!(keys.open(&record).unwrap().reveal(), value);
        let stored = serde_json::to_string(&record).unwrap();
        assert!(!stored.contains(CANARY) && !format!("{record:?}{keys:?}").contains("canary"));
    }
    let (one, other) = (sealed(&keys, "pg", CANARY), sealed(&keys, "pg", CANARY));
    assert_ne!(field(&one, "sealed"), field(&other, "sealed"), "each has a nonce of its own");
    let again =
        keys.seal(&"pg".parse().unwrap(), &Secret::from("y".to_owned()), Some(&one), ("ben", 9)).unwrap();
    assert_eq!((again.revision, again.created_us, again.updated_us, again.author.as_str()), (2, 7, 9, "ben"));
}

#[test]
fn a_record_that_was_swapped_is_refused() {
    let keys = keys();
    let (one, other) = (sealed(&keys, "pg", "of pg"), sealed(&keys, "kafka", "of kafka"));
    let swapped = with(&one, "sealed", &field(&other, "sealed"));
    assert_eq!(keys.open(&swapped).unwrap_err(), NotOpened::Damaged);
    assert_eq!(keys.open(&with(&one, "name", "kafka")).unwrap_err(), NotOpened::Damaged);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let keys = keys();
    let record = sealed(&keys, "pg", CANARY);
    let text = field(&record, "sealed");
    for at in 0..text.len() {
        let digit = text[at..=at].chars().next().and_then(|digit| digit.to_digit(16)).unwrap();
        for bit in 0..4 {
            let flipped = char::from_digit(digit ^ 1 << bit, 16).unwrap();
            let changed = format!("{}{flipped}{}", &text[..at], &text[at + 1..]);
            assert_eq!(
                keys.open(&with(&record, "sealed", &changed)).unwrap_err(),
                NotOpened::Damaged,
                "{at}"
            );
        }
        assert_eq!(
            keys.open(&with(&record, "sealed", &text[..at])).unwrap_err(),
            NotOpened::Damaged,
            "cut {at}"
        );
    }
    for bad in [text.clone() + "0", text.clone() + "00", text.replacen(&text[..1], "x", 1)] {
        assert_eq!(keys.open(&with(&record, "sealed", &bad)).unwrap_err(), NotOpened::Damaged);
    }
}

#[test]
fn another_key_is_told_from_damage_and_one_that_claims_to_be_it_opens_nothing() {
    let (ours, theirs) = (keys(), keys());
    let record = sealed(&theirs, "pg", CANARY);
    let error = ours.open(&record).unwrap_err();
    assert_eq!(error, NotOpened::OtherKey { key: theirs.id().to_owned(), have: ours.id().to_owned() });
    assert_eq!(ours.open(&with(&record, "key", ours.id())).unwrap_err(), NotOpened::Damaged);
}

#[test]
fn a_new_key_before_the_old_one_takes_over() {
    let (old, new) = (SealingKeys::mint().unwrap(), SealingKeys::mint().unwrap());
    let before = SealingKeys::parse(&old).unwrap();
    let record = sealed(&before, "pg", CANARY);
    let both = SealingKeys::parse(&format!("{}\n{}", new.as_str(), old.as_str())).unwrap();
    assert_eq!(both.open(&record).unwrap().reveal(), CANARY);
    let resealed = both.reseal(&record).unwrap().unwrap().unwrap();
    assert!(both.reseal(&resealed).unwrap().is_none());
    assert_eq!(SealingKeys::parse(&new).unwrap().open(&resealed).unwrap().reveal(), CANARY);
    assert!(matches!(before.open(&resealed), Err(NotOpened::OtherKey { .. })));
    assert_eq!((resealed.revision, resealed.updated_us), (record.revision, record.updated_us));
}

#[test]
fn a_text_that_holds_no_keys_is_named_by_its_line() {
    let error = |text: &str| SealingKeys::parse(text).map(|_| ()).unwrap_err();
    let key = "0".repeat(64);
    assert_eq!((error(""), error("\n \n")), (NotKeys::Empty, NotKeys::Empty));
    assert_eq!(error(&format!("{key}\n\nhunter2")), NotKeys::Line(3));
    assert_eq!(error(&key[1..]), NotKeys::Line(1));
    assert_eq!(error(&format!("{key}00")), NotKeys::Line(1));
    assert!(!error("hunter2").to_string().contains("hunter2"));
}
