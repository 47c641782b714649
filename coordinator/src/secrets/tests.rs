//! Kept secrets over a store in memory: what opens them, and what each way of not opening them is called.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use aap_runtime::{Home, Secret, SecretRef, SecretSource, SystemClock};
use aap_store::{AccessKind, AccessRow, AccessStore, MemoryStore};
use aap_types::Problem;

use super::{Secrets, SecretsConfig};

const CANARY: &str = "canary-hunter2";

struct Rig {
    folder: tempfile::TempDir,
    store: Arc<dyn AccessStore>,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tls")).unwrap();
        Self { folder, store: Arc::new(MemoryStore::default()) }
    }

    fn secrets(&self, key_file: Option<&str>) -> Secrets {
        let home = Home::at(self.folder.path().to_str().unwrap());
        let config = SecretsConfig { key_file: key_file.map(Into::into) };
        Secrets::new(self.store.clone(), (&home, &config), None, Arc::new(SystemClock::default()))
    }

    fn key_file(&self) -> std::path::PathBuf {
        self.folder.path().join("tls/secrets.key")
    }

    fn row(&self, name: &str) -> AccessRow {
        self.store.access_row(AccessKind::Secret, name).unwrap().unwrap()
    }
}

async fn set(secrets: &Secrets, name: &str, value: &str) -> Result<u64, Problem> {
    let kept = secrets.set(name.parse().unwrap(), Secret::from(value.to_owned()), "ana").await;
    kept.map(|kept| kept.revision)
}

async fn resolve(secrets: &Secrets, reference: &str) -> Result<String, Problem> {
    let reference: SecretRef = reference.parse().unwrap();
    let resolved = secrets.resolve(reference.place().unwrap()).await;
    if let Err(problem) = &resolved {
        assert!(!problem.report().contains("canary") && !problem.hints.is_empty(), "{problem:?}");
    }
    resolved.map(|secret| secret.reveal().to_owned())
}

#[tokio::test]
async fn what_is_set_is_resolved_and_lies_sealed_beside_a_key_of_mode_0600() {
    let rig = Rig::new();
    let secrets = rig.secrets(None);
    assert_eq!(resolve(&secrets, "secret:pg").await.unwrap_err().code, "secret.not_found");
    assert!(!rig.key_file().exists(), "the key is made with the first secret");
    assert_eq!(set(&secrets, "pg", CANARY).await.unwrap(), 1);
    assert_eq!(resolve(&secrets, "secret:pg").await.unwrap(), CANARY);
    assert!(!rig.row("pg").record.contains("canary"));
    assert_eq!(rig.key_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(set(&secrets, "pg", "another").await.unwrap(), 2);
    assert_eq!(resolve(&rig.secrets(None), "secret:pg").await.unwrap(), "another");
    assert_eq!(resolve(&secrets, "vault:kv/a#b").await.unwrap_err().code, "secret.no_vault");
    assert!(secrets.remove("pg".parse().unwrap()).await.unwrap());
    assert_eq!(resolve(&secrets, "secret:pg").await.unwrap_err().code, "secret.not_found");
}

#[tokio::test]
async fn records_that_were_swapped_or_changed_do_not_open() {
    let rig = Rig::new();
    let secrets = rig.secrets(None);
    set(&secrets, "pg", CANARY).await.unwrap();
    set(&secrets, "kafka", "other").await.unwrap();
    let (pg, kafka) = (rig.row("pg"), rig.row("kafka"));
    // As somebody could who can write to the database.
    let swapped = AccessRow { record: kafka.record.replace("\"kafka\"", "\"pg\""), ..pg.clone() };
    assert!(rig.store.swap_access_row(AccessKind::Secret, Some(&pg.record), &swapped).unwrap());
    assert_eq!(resolve(&secrets, "secret:pg").await.unwrap_err().code, "secret.damaged");
    let whole = AccessRow { record: kafka.record.clone(), ..pg };
    assert!(rig.store.swap_access_row(AccessKind::Secret, Some(&swapped.record), &whole).unwrap());
    assert_eq!(resolve(&secrets, "secret:pg").await.unwrap_err().code, "secret.damaged");
    assert_eq!(resolve(&secrets, "secret:kafka").await.unwrap(), "other");
}

#[tokio::test]
async fn another_key_no_key_and_a_key_that_others_can_read_have_their_own_answers() {
    let rig = Rig::new();
    let secrets = rig.secrets(None);
    set(&secrets, "pg", CANARY).await.unwrap();
    let key = std::fs::read(rig.key_file()).unwrap();
    std::fs::set_permissions(rig.key_file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = resolve(&secrets, "secret:pg").await.unwrap_err();
    assert!(exposed.code == "secret.key_unusable" && exposed.causes[0].contains("644"), "{exposed:?}");
    std::fs::remove_file(rig.key_file()).unwrap();
    for code in [
        resolve(&secrets, "secret:pg").await.unwrap_err().code,
        set(&secrets, "x", "y").await.unwrap_err().code,
    ] {
        assert_eq!(code, "secret.other_key", "no second key is made while something is sealed");
    }
    let named = rig.secrets(Some("mine.key"));
    std::fs::write(rig.folder.path().join("mine.key"), "hunter2").unwrap();
    std::fs::set_permissions(rig.folder.path().join("mine.key"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    assert_eq!(resolve(&named, "secret:pg").await.unwrap_err().code, "secret.key_unusable");
    std::fs::write(rig.folder.path().join("mine.key"), "7".repeat(64)).unwrap();
    assert_eq!(resolve(&named, "secret:pg").await.unwrap_err().code, "secret.other_key");
    // The old one after a new one: everything is sealed anew, and the old one can go.
    let both = ["7".repeat(64).as_bytes(), b"\n", &key].concat();
    std::fs::write(rig.folder.path().join("mine.key"), both).unwrap();
    assert_eq!(resolve(&named, "secret:pg").await.unwrap(), CANARY);
    named.reseal().await;
    std::fs::write(rig.folder.path().join("mine.key"), "7".repeat(64)).unwrap();
    assert_eq!(resolve(&named, "secret:pg").await.unwrap(), CANARY);
}

#[tokio::test]
async fn a_key_file_that_is_named_is_never_made() {
    let rig = Rig::new();
    let problem = set(&rig.secrets(Some("mine.key")), "pg", CANARY).await.unwrap_err();
    assert_eq!(problem.code, "secret.key_unusable");
    assert!(
        problem.hints.iter().any(|hint| hint.command.as_ref().is_some_and(|it| it.contains("openssl rand")))
    );
    assert!(!rig.folder.path().join("mine.key").exists());
}
