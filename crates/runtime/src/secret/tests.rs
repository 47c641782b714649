//! References, what they lead to, and that nothing is printed.

use std::sync::atomic::{AtomicBool, Ordering};

use aap_types::{ExitCode, Problem};

use super::*;

#[test]
fn a_secret_is_read_where_the_reference_says_and_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().join("password")).unwrap();
    std::fs::write(&path, "s3cret \n").unwrap();
    let reference: SecretRef = format!("file:{path}").parse().unwrap();
    let secret = reference.read().unwrap();
    assert_eq!(secret.reveal(), "s3cret ");
    assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    assert_eq!(reference.to_string(), format!("file:{path}"));
}

#[test]
fn what_cannot_be_read_is_named_and_a_literal_is_not_repeated() {
    let missing: SecretRef = "env:AAP_TEST_THIS_IS_NOT_SET".parse().unwrap();
    assert_eq!(
        missing.read().unwrap_err().to_string(),
        "the environment variable `AAP_TEST_THIS_IS_NOT_SET` is not set"
    );
    let literal = "hunter2".parse::<SecretRef>().unwrap_err();
    assert!(!literal.to_string().contains("hunter2"));
    assert!(serde_json::from_str::<SecretRef>("\"env:\"").is_err());
}

#[test]
fn a_file_that_others_can_read_is_exposed_unless_the_service_manager_handed_it_over() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let path = folder.join("token");
    std::fs::write(&path, "t").unwrap();
    for (mode, exposed) in [(0o600, None), (0o400, None), (0o440, Some(0o440)), (0o604, Some(0o604))] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(exposed_mode_beside(&path, None).unwrap(), exposed);
        assert_eq!(exposed_mode_beside(&path, Some(Utf8Path::new("/run/credentials/x"))).unwrap(), exposed);
        assert_eq!(exposed_mode_beside(&path, Some(folder)).unwrap(), None);
    }
}

/// Answers every question with the place, or is away.
#[derive(Debug, Default)]
struct Keeper {
    is_away: AtomicBool,
    denies: AtomicBool,
}

impl SecretSource for Keeper {
    fn resolve<'a>(&'a self, place: &'a SecretPlace) -> Resolving<'a> {
        let answer = if self.is_away.load(Ordering::Relaxed) {
            Err(Problem::new("secret.vault_unreachable", ExitCode::Unavailable, "away"))
        } else if self.denies.load(Ordering::Relaxed) {
            Err(Problem::new("secret.vault_denied", ExitCode::Denied, "no"))
        } else {
            Ok(Secret::from(format!("value of {place}")))
        };
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn a_copy_reads_what_was_resolved_and_an_outage_leaves_it() {
    let reference: SecretRef = "vault:kv/aap/pg#password".parse().unwrap();
    let (copy, keeper) = (reference.clone(), Keeper::default());
    assert!(matches!(copy.read(), Err(SecretError::NotResolved(_))));
    let references = [reference];
    keeper.is_away.store(true, Ordering::Relaxed);
    let away = resolve_secrets(&references, &keeper).await.unwrap_err();
    assert_eq!(away.code, "secret.vault_unreachable", "nothing was read before");
    keeper.is_away.store(false, Ordering::Relaxed);
    resolve_secrets(&references, &keeper).await.unwrap();
    assert_eq!(copy.read().unwrap().reveal(), "value of vault:kv/aap/pg#password");
    assert!(!format!("{copy:?} {copy}").contains("value"));
    keeper.is_away.store(true, Ordering::Relaxed);
    resolve_secrets(&references, &keeper).await.unwrap();
    assert!(copy.read().is_ok());
    keeper.is_away.store(false, Ordering::Relaxed);
    keeper.denies.store(true, Ordering::Relaxed);
    assert_eq!(resolve_secrets(&references, &keeper).await.unwrap_err().code, "secret.vault_denied");
    assert!(copy.read().is_err(), "what was taken away is not used on");
}

#[test]
fn references_are_read_as_they_are_written_and_nothing_else_is_one() {
    for text in
        ["env:A", "file:/a", "secret:pg-password", "vault:secret/aap/pg#password", "vault:kv/a.b/c@d#f_1"]
    {
        assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
    }
    for bad in [
        "secret:",
        "secret:Big",
        "secret:../x",
        "vault:",
        "vault:secret",
        "vault:secret/a",
        "vault:secret/#f",
        "vault:/a#f",
        "vault:secret/a#",
        "vault:secret/../sys#f",
        "vault:secret/a b#f",
        "vault:secret/a?x=1#f",
        "vault:secret/a%2e#f",
        "vault:secret//a#f",
        "hunter2",
    ] {
        let error = bad.parse::<SecretRef>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!(matches!(error, SecretError::NoReference), "{bad}");
    }
}
