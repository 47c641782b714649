//! Passwords.

use argon2::Params;

use crate::{PasswordFault, PasswordHash, Passwords, Verified};

fn secret(text: &str) -> aap_runtime::Secret {
    aap_runtime::Secret::from(text.to_owned())
}

#[test]
fn a_password_is_kept_as_argon2id_and_recognised() {
    let passwords = Passwords::new().unwrap();
    let (right, wrong) = (secret("a long enough one"), secret("a long enough onE"));
    let kept = passwords.hash(&right).unwrap();
    let text = serde_json::to_string(&kept).unwrap();
    assert!(text.starts_with("\"$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
    assert_eq!(format!("{kept:?}"), "***");
    assert_ne!(passwords.hash(&right).unwrap(), kept, "every hash has a salt of its own");
    assert_eq!(passwords.verify(&right, Some(&kept)).unwrap(), Verified::Right(None));
    assert_eq!(passwords.verify(&wrong, Some(&kept)).unwrap(), Verified::Wrong);
    assert_eq!(passwords.verify(&right, None).unwrap(), Verified::Wrong);
    assert_eq!(passwords.verify(&secret("nobody's password"), None).unwrap(), Verified::Wrong);
    let broken: PasswordHash = serde_json::from_str("\"$argon2id$\"").unwrap();
    assert_eq!(passwords.verify(&right, Some(&broken)).unwrap(), Verified::Wrong);
}

#[test]
fn a_hash_with_other_parameters_is_replaced_when_the_password_is_shown() {
    let weaker = Passwords::with(Params::new(64, 1, 1, None).unwrap()).unwrap();
    let today = Passwords::with(Params::new(128, 1, 1, None).unwrap()).unwrap();
    let right = secret("a long enough one");
    let old = weaker.hash(&right).unwrap();
    let Verified::Right(Some(new)) = today.verify(&right, Some(&old)).unwrap() else { panic!() };
    assert_eq!(today.verify(&right, Some(&new)).unwrap(), Verified::Right(None));
    assert_eq!(today.verify(&secret("wrong"), Some(&old)).unwrap(), Verified::Wrong);
    assert!(matches!(weaker.verify(&right, Some(&new)).unwrap(), Verified::Right(Some(_))), "both ways");
}

#[test]
fn a_password_is_long_and_neither_the_user_s_name_nor_what_everybody_tries() {
    let user = "anabel@example.com".parse().unwrap();
    let check = |text: &str| Passwords::check(&secret(text), &user);
    for good in ["twelve chars", "ααβγδεζηθικλμ", "no digits no capitals", &"ab cde ".repeat(146)]
    {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, expected) in [
        ("", PasswordFault::TooShort),
        ("eleven char", PasswordFault::TooShort),
        ("ααβγδεζηθικ", PasswordFault::TooShort),
        (&"ab cde ".repeat(147), PasswordFault::TooLong),
        ("ANABEL is my name", PasswordFault::UserName),
        ("Password1234", PasswordFault::TooCommon),
        ("aaaaaaaaaaaaaaaa", PasswordFault::TooCommon),
        ("abababababababab", PasswordFault::TooCommon),
    ] {
        assert_eq!(check(bad), Err(expected), "{bad}");
    }
    let short = "ana".parse().unwrap();
    assert_eq!(Passwords::check(&secret("bananas and pears"), &short), Ok(()));
}
