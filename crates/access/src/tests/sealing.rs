//! What is sealed under a passphrase opens with it alone, and as what it was sealed.

use aap_runtime::Secret;

use crate::{Salt, SealingKey};

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

#[test]
fn a_passphrase_and_its_salt_make_one_key_and_no_other_does() {
    let (salt, other) = (Salt::mint().unwrap(), Salt::mint().unwrap());
    let key = SealingKey::of_passphrase(&secret("winter tram mushroom"), &salt);
    let sealed = key.seal("login of a", &secret("canary")).unwrap();
    let again =
        SealingKey::of_passphrase(&secret("winter tram mushroom"), &Salt::parse(&salt.text()).unwrap());
    assert_eq!((again.id(), again.open("login of a", &sealed).unwrap().reveal()), (key.id(), "canary"));
    assert_eq!(again.open("login of b", &sealed), None, "it is sealed as what it is");
    for (passphrase, salt) in [("winter tram", &salt), ("winter tram mushroom", &other)] {
        let wrong = SealingKey::of_passphrase(&secret(passphrase), salt);
        assert!(wrong.id() != key.id() && wrong.open("login of a", &sealed).is_none());
    }
    assert!(Salt::parse("00").is_none() && Salt::parse(&"x".repeat(32)).is_none());
    assert!(!format!("{key:?}").contains("tram"));
}
