//! Issued secrets.

use std::collections::BTreeSet;

use crate::issued::checksum;
use crate::{HashKey, IssuedId, IssuedKind, IssuedSecret, NotIssued, SecretHash};

fn mint(kind: IssuedKind) -> IssuedSecret {
    IssuedSecret::mint(kind).unwrap()
}

#[test]
fn a_secret_has_one_form_and_is_read_back() {
    let (mut ids, mut letters) = (BTreeSet::new(), BTreeSet::new());
    for kind in [IssuedKind::ApiToken, IssuedKind::Session, IssuedKind::Enrolment] {
        for _ in 0..200 {
            let secret = mint(kind);
            let text = secret.reveal();
            assert_eq!(text.len(), 67);
            let parsed = IssuedSecret::parse(kind, text).unwrap();
            assert_eq!((parsed.id(), parsed.kind(), parsed.reveal()), (secret.id(), kind, text));
            assert_eq!(secret.id().as_str().parse::<IssuedId>().as_ref(), Ok(secret.id()));
            assert!(text.starts_with(&format!("{}{}_", kind.prefix(), secret.id())));
            assert!(ids.insert(secret.id().clone()));
            letters.extend(text[18..].chars());
        }
    }
    assert_eq!(letters.len(), 62, "every letter is used");
}

#[test]
fn a_secret_that_was_mistyped_is_told_apart() {
    let secret = mint(IssuedKind::ApiToken);
    let text = secret.reveal();
    let parse = |text: &str| IssuedSecret::parse(IssuedKind::ApiToken, text).map(drop);
    for at in 0..text.len() {
        for letter in ['0', 'k', 'Z', '_', 'é', ' '] {
            let mut changed: Vec<char> = text.chars().collect();
            changed[at] = letter;
            let changed: String = changed.iter().collect();
            assert_eq!(parse(&changed).is_err(), changed != text, "{letter} at {at}");
        }
        let mut swapped: Vec<u8> = text.bytes().collect();
        swapped.swap(at, (at + 1) % text.len());
        let swapped = String::from_utf8(swapped).unwrap();
        assert_eq!(parse(&swapped).is_err(), swapped != text, "swapped at {at}");
        assert_eq!(parse(&text[..at]), Err(NotIssued::Form), "cut at {at}");
    }
    assert_eq!(parse(&format!("{text}0")), Err(NotIssued::Form));
    let last = if text.ends_with('0') { "1" } else { "0" };
    assert_eq!(parse(&format!("{}{last}", &text[..66])), Err(NotIssued::Checksum));
    let error = IssuedSecret::parse(IssuedKind::Session, text).unwrap_err();
    assert_eq!(error, NotIssued::Kind(IssuedKind::ApiToken));
    assert_eq!(error.to_string(), "it is a token of another kind: it begins with `aapt_`");
}

#[test]
fn the_checksum_is_the_crc_32_that_scanners_compute() {
    // 0xCBF43926, which is the check value of CRC-32/ISO-HDLC, to the base 62.
    assert_eq!(checksum("123456789"), "3jZRME");
    assert_eq!(checksum(""), "000000");
}

#[test]
fn nothing_prints_a_secret_and_its_hash_is_of_it_alone() {
    let (secret, other) = (mint(IssuedKind::Session), mint(IssuedKind::Session));
    let key = HashKey::derive(&[7; 32]);
    let hash = key.hash(&secret);
    assert_eq!(format!("{secret:?}"), format!("aaps_{}_***", secret.id()));
    assert_eq!(format!("{key:?} {hash:?}"), "*** ***");
    assert_eq!(hash, HashKey::derive(&[7; 32]).hash(&secret));
    assert_ne!(hash, key.hash(&other));
    assert_ne!(hash, HashKey::derive(&[8; 32]).hash(&secret), "of another installation");
    let written = serde_json::to_string(&hash).unwrap();
    assert!(!written.contains(&secret.reveal()[18..30]));
    assert_eq!(serde_json::from_str::<SecretHash>(&written).unwrap(), hash);
    assert!(serde_json::from_str::<IssuedId>("\"a\"").is_err());
}

#[test]
fn an_installation_is_known_by_a_name_that_no_other_has() {
    let name = |byte| HashKey::derive(&[byte; 32]).name();
    assert_eq!(name(7), name(7));
    assert_ne!(name(7), name(8));
    assert!(name(7).len() == 16 && name(7).bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", name(7));
}
