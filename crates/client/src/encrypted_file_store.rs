//! Logins in files that are sealed: where nothing on a machine keeps secrets for its users.
//!
//! ```text
//!  sealed/KEY   {"version":1, "key":"id", "salt":"…", "sealed":"…"}   0600, one per platform
//!  sealed.key   64 hexadecimal digits                                 0600, where no passphrase is given
//! ```
//! With `AAP_CREDENTIAL_PASSPHRASE_FILE` the key comes of the passphrase in that file. Without it the key lies beside the logins: that
//! protects a login that gets away alone, and not from whoever can read all files of its owner.

use std::io;

use aap_access::{Salt, SealingKey};
use aap_runtime::{Secret, SecretRef};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::credential_store::{self, CredentialStore};
use crate::environment::{self, Environment};
use crate::files;

/// Of the form above.
const VERSION: u32 = 1;
/// What is sealed with every login before its key, so that nothing else sealed with the key passes for one.
const SEALED_AS: &str = "aap kept login 1 ";

/// One sealed file per platform.
#[derive(Debug, Clone)]
pub(crate) struct EncryptedFileStore {
    folder: Utf8PathBuf,
    key_file: Utf8PathBuf,
    passphrase_file: Option<Utf8PathBuf>,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Sealed {
    version: u32,
    /// Which key it is sealed under.
    key: String,
    /// Of a passphrase; none: the key is that of the key file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    sealed: String,
}

impl EncryptedFileStore {
    /// As it is named.
    pub(crate) const NAME: &str = "encrypted-file";

    /// The files of whoever types.
    pub(crate) fn of(environment: &Environment) -> Self {
        let state = environment.state_folder();
        let passphrase_file = environment.get(environment::PASSPHRASE_FILE).map(Utf8PathBuf::from);
        Self { folder: state.join("sealed"), key_file: state.join("sealed.key"), passphrase_file }
    }

    fn file(&self, key: &str) -> Utf8PathBuf {
        self.folder.join(key)
    }

    /// The key that a login is sealed under, if it is here.
    fn key_of(&self, path: &Utf8Path, sealed: &Sealed) -> Result<SealingKey, Problem> {
        let Some(salt) = &sealed.salt else {
            return self.kept_key()?.ok_or_else(|| {
                let cause = format!("its key, in `{}`, is not there", self.key_file);
                not_opened(path, &cause).hint("put the file back where it was")
            });
        };
        let salt = Salt::parse(salt).ok_or_else(|| damaged(path))?;
        let Some(passphrase) = self.passphrase()? else {
            return Err(not_opened(path, "it is sealed under a passphrase, and none is given")
                .hint("AAP_CREDENTIAL_PASSPHRASE_FILE names a file with it"));
        };
        Ok(SealingKey::of_passphrase(&passphrase, &salt))
    }

    /// The key to seal under now, with the salt of its passphrase.
    fn new_key(&self) -> Result<(SealingKey, Option<Salt>), Problem> {
        let random = |error: aap_access::RandomError| {
            Problem::new("auth.store", ExitCode::Failed, "no login can be sealed").caused_by(&error)
        };
        if let Some(passphrase) = self.passphrase()? {
            let salt = Salt::mint().map_err(random)?;
            return Ok((SealingKey::of_passphrase(&passphrase, &salt), Some(salt)));
        }
        if let Some(key) = self.kept_key()? {
            return Ok((key, None));
        }
        let text = SealingKey::mint().map_err(random)?;
        let made = files::make_private(&self.folder).and_then(|()| create_new(&self.key_file, &text));
        made.map_err(|error| credential_store::failed(&self.key_file, "written", &error))?;
        // Another command may have been faster: what lies there is the key.
        let key = self.kept_key()?.ok_or_else(|| damaged_key(&self.key_file))?;
        Ok((key, None))
    }

    fn kept_key(&self) -> Result<Option<SealingKey>, Problem> {
        let Some(text) = credential_store::read_private(&self.key_file)? else { return Ok(None) };
        SealingKey::parse(text.reveal()).map(Some).ok_or_else(|| damaged_key(&self.key_file))
    }

    fn passphrase(&self) -> Result<Option<Secret>, Problem> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        let unreadable = || {
            let message = format!("no passphrase can be read from `{path}`");
            Problem::new("auth.secret_unreadable", ExitCode::Usage, message)
                .hint_command("AAP_CREDENTIAL_PASSPHRASE_FILE names it; look", format!("ls -l {path}"))
        };
        let read = SecretRef::File(path.clone()).read().map_err(|error| unreadable().caused_by(&error))?;
        if read.reveal().is_empty() {
            return Err(unreadable().cause("it is empty"));
        }
        Ok(Some(read))
    }
}

impl CredentialStore for EncryptedFileStore {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn place(&self, key: &str) -> String {
        self.file(key).to_string()
    }

    fn read(&self, key: &str) -> Result<Option<Secret>, Problem> {
        let path = self.file(key);
        let Some(text) = credential_store::read_private(&path)? else { return Ok(None) };
        let sealed: Sealed = serde_json::from_str(text.reveal()).map_err(|_no_record| damaged(&path))?;
        if sealed.version != VERSION {
            return Err(not_opened(&path, "a later version of `aap` sealed it"));
        }
        let opener = self.key_of(&path, &sealed)?;
        if opener.id() != sealed.key {
            let other = match sealed.salt {
                Some(_) => "the passphrase is another than it was sealed under",
                None => "the key file is another than it was sealed under",
            };
            return Err(not_opened(&path, other));
        }
        let opened = opener.open(&format!("{SEALED_AS}{key}"), &sealed.sealed);
        opened.map(Some).ok_or_else(|| damaged(&path))
    }

    fn write(&self, key: &str, record: &Secret) -> Result<(), Problem> {
        let path = self.file(key);
        let (sealer, salt) = self.new_key()?;
        let sealed = sealer.seal(&format!("{SEALED_AS}{key}"), record).map_err(|error| {
            Problem::new("auth.store", ExitCode::Failed, "no login can be sealed").caused_by(&error)
        })?;
        let id = sealer.id().to_owned();
        let sealed = Sealed { version: VERSION, key: id, salt: salt.map(|salt| salt.text()), sealed };
        let text = serde_json::to_string(&sealed).expect("texts and numbers are JSON");
        credential_store::write_private(&path, &text)
    }

    fn remove(&self, key: &str) -> Result<bool, Problem> {
        let path = self.file(key);
        files::remove(&path).map_err(|error| credential_store::failed(&path, "removed", &error))
    }
}

/// Puts a file in place that is not there yet, whole or not at all; one that is stays as it is.
fn create_new(path: &Utf8Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("key.{}", std::process::id()));
    aap_runtime::write_durably(&beside, text.as_bytes(), 0o600)?;
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // The name is on disk before a login is sealed with what it names.
        _ => std::fs::File::open(path.parent().unwrap_or(Utf8Path::new(".")))?.sync_all(),
    }
}

fn not_opened(path: &Utf8Path, cause: &str) -> Problem {
    Problem::new("auth.store_sealed", ExitCode::LoginNeeded, format!("the login in `{path}` does not open"))
        .cause(cause)
        .hint_command("or log in again, which takes its place", "aap auth login")
}

fn damaged(path: &Utf8Path) -> Problem {
    not_opened(path, "it was changed after it was sealed, or is that of another platform")
}

fn damaged_key(path: &Utf8Path) -> Problem {
    Problem::new("auth.store_sealed", ExitCode::LoginNeeded, format!("`{path}` holds no key of logins"))
        .hint_command("put it back, or begin anew", format!("rm {path} && aap auth login"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::credential_store::check_store;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> Utf8PathBuf {
            Utf8Path::from_path(self.0.path()).unwrap().join(name)
        }

        fn store(&self, passphrase: Option<&str>) -> EncryptedFileStore {
            let file = self.path("passphrase");
            let mut variables = vec![("AAP_STATE_DIR", self.path("state").to_string())];
            if let Some(passphrase) = passphrase {
                std::fs::write(&file, passphrase).unwrap();
                variables.push((environment::PASSPHRASE_FILE, file.to_string()));
            }
            EncryptedFileStore::of(&Environment::with(variables))
        }
    }

    fn secret() -> Secret {
        Secret::from("canary".to_owned())
    }

    #[track_caller]
    fn check_refused(store: &EncryptedFileStore, key: &str, cause: &str) {
        let before = std::fs::read(store.file(key)).unwrap();
        let problem = store.read(key).unwrap_err();
        assert_eq!((problem.code.as_str(), problem.exit), ("auth.store_sealed", ExitCode::LoginNeeded));
        assert!(problem.causes.iter().any(|said| said.contains(cause)), "{problem:?}");
        assert!(!problem.hints.is_empty());
        assert_eq!(std::fs::read(store.file(key)).unwrap(), before, "nothing is lost");
    }

    #[test]
    fn sealed_files_keep_records_with_a_passphrase_and_without() {
        check_store(&Machine::new().store(None));
        check_store(&Machine::new().store(Some("winter tram mushroom\n")));
    }

    #[test]
    fn nothing_of_a_login_can_be_read_in_its_file_and_only_its_owner_can_read_that() {
        for passphrase in [None, Some("winter tram mushroom")] {
            let machine = Machine::new();
            let store = machine.store(passphrase);
            store.write("k", &secret()).unwrap();
            assert!(!std::fs::read_to_string(store.file("k")).unwrap().contains("canary"));
            let mode = |path: &Utf8Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&store.file("k")), mode(&store.folder)), (0o600, 0o700));
            assert_eq!(store.key_file.exists(), passphrase.is_none());
            if passphrase.is_none() {
                assert_eq!(mode(&store.key_file), 0o600);
                std::fs::set_permissions(&store.key_file, std::fs::Permissions::from_mode(0o640)).unwrap();
                assert_eq!(store.read("k").unwrap_err().code, "auth.store_exposed");
            }
        }
    }

    #[test]
    fn a_wrong_passphrase_a_changed_digit_and_the_login_of_another_are_told_apart_and_lose_nothing() {
        let machine = Machine::new();
        let store = machine.store(Some("winter tram mushroom"));
        store.write("a", &secret()).unwrap();
        store.write("b", &secret()).unwrap();
        check_refused(&machine.store(Some("summer tram mushroom")), "a", "another than it was sealed");
        check_refused(&machine.store(None), "a", "none is given");
        let store = machine.store(Some("winter tram mushroom"));
        let text = std::fs::read_to_string(store.file("a")).unwrap();
        let mut sealed: Sealed = serde_json::from_str(&text).unwrap();
        let digit = if sealed.sealed.ends_with('0') { "1" } else { "0" };
        sealed.sealed.replace_range(sealed.sealed.len() - 1.., digit);
        credential_store::write_private(&store.file("a"), &serde_json::to_string(&sealed).unwrap()).unwrap();
        check_refused(&store, "a", "was changed");
        std::fs::copy(store.file("b"), store.file("a")).unwrap();
        check_refused(&store, "a", "that of another");
        credential_store::write_private(&store.file("a"), "no record").unwrap();
        check_refused(&store, "a", "was changed");
        credential_store::write_private(&store.file("a"), &text).unwrap();
        assert_eq!(store.read("a").unwrap().unwrap().reveal(), "canary");
    }

    #[test]
    fn a_login_whose_key_file_is_gone_or_another_does_not_open() {
        let machine = Machine::new();
        let store = machine.store(None);
        store.write("a", &secret()).unwrap();
        let key = std::fs::read_to_string(&store.key_file).unwrap();
        std::fs::remove_file(&store.key_file).unwrap();
        check_refused(&store, "a", "is not there");
        credential_store::write_private(&store.key_file, &SealingKey::mint().unwrap()).unwrap();
        check_refused(&store, "a", "another than it was sealed");
        credential_store::write_private(&store.key_file, &key).unwrap();
        assert_eq!(store.read("a").unwrap().unwrap().reveal(), "canary");
    }
}
