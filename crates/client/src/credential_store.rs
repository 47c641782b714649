//! Where logins are kept between commands: a seam, because what a machine offers for it differs.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};

use crate::files;

/// Longest record: a token and some words about it, not a file that somebody put there.
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// What others may do with a file.
const OTHERS: u32 = 0o077;

/// Keeps one record per platform. A record is a secret as a whole.
pub(crate) trait CredentialStore: fmt::Debug + Send + Sync {
    /// As `AAP_CREDENTIAL_STORE` names it.
    fn name(&self) -> &'static str;
    /// Where the record of a platform is, for people.
    fn place(&self, key: &str) -> String;
    /// The record of a platform, if there is one.
    ///
    /// # Errors
    /// `auth.store_exposed` (4): others can read it; `auth.store` (1).
    fn read(&self, key: &str) -> Result<Option<Secret>, Problem>;
    /// Puts a record in the place of the former.
    ///
    /// # Errors
    /// `auth.store` (1).
    fn write(&self, key: &str, record: &Secret) -> Result<(), Problem>;
    /// Removes a record; whether it was there.
    ///
    /// # Errors
    /// `auth.store` (1).
    fn remove(&self, key: &str) -> Result<bool, Problem>;
}

/// One file per platform that only its owner can read.
#[derive(Debug, Clone)]
pub(crate) struct FileStore {
    folder: Utf8PathBuf,
}

impl FileStore {
    /// As it is named.
    pub(crate) const NAME: &str = "file";

    /// The files in `credentials/` of a folder for state.
    pub(crate) fn within(state_folder: &Utf8Path) -> Self {
        Self { folder: state_folder.join("credentials") }
    }

    fn file(&self, key: &str) -> Utf8PathBuf {
        self.folder.join(key)
    }
}

impl CredentialStore for FileStore {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn place(&self, key: &str) -> String {
        self.file(key).to_string()
    }

    fn read(&self, key: &str) -> Result<Option<Secret>, Problem> {
        read_private(&self.file(key))
    }

    fn write(&self, key: &str, record: &Secret) -> Result<(), Problem> {
        write_private(&self.file(key), record.reveal())
    }

    fn remove(&self, key: &str) -> Result<bool, Problem> {
        let path = self.file(key);
        files::remove(&path).map_err(|error| failed(&path, "removed", &error))
    }
}

/// What a file holds that only its owner can read; `None`: it is not there.
///
/// # Errors
/// `auth.store_exposed` (4): others can read it; `auth.store` (1).
pub(crate) fn read_private(path: &Utf8Path) -> Result<Option<Secret>, Problem> {
    let failed = |error: io::Error| failed(path, "read", &error);
    let Some(file) = files::found(std::fs::File::open(path)).map_err(failed)? else { return Ok(None) };
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(exposed(path));
    }
    let mut text = String::new();
    file.take(RECORD_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(Secret::from(text)))
}

/// Puts a file that only its owner can read in the place of the former, and makes its folder.
///
/// # Errors
/// `auth.store` (1).
pub(crate) fn write_private(path: &Utf8Path, text: &str) -> Result<(), Problem> {
    path.parent()
        .map_or(Ok(()), files::make_private)
        .and_then(|()| aap_runtime::write_durably(path, text.as_bytes(), 0o600))
        .map_err(|error| failed(path, "written", &error))
}

fn exposed(path: &Utf8Path) -> Problem {
    let message = format!("others can read the login in `{path}`, so it is not used");
    Problem::new("auth.store_exposed", ExitCode::LoginNeeded, message)
        .hint_command("make it yours alone", format!("chmod 600 {path}"))
        .hint_command("or, if others may have read it, end it and log in again", "aap auth login")
}

/// Why nothing can be done with a file of logins.
pub(crate) fn failed(path: &Utf8Path, what: &str, error: &io::Error) -> Problem {
    Problem::new("auth.store", ExitCode::Failed, format!("the login in `{path}` cannot be {what}"))
        .caused_by(error)
        .hint("AAP_STATE_DIR names another folder for logins")
}

/// What every store does; each runs it in its tests.
#[cfg(test)]
pub(crate) fn check_store(store: &dyn CredentialStore) {
    let (key, other) = ("context-a", "context-b");
    assert_eq!((store.read(key).unwrap(), store.remove(key).unwrap()), (None, false));
    for text in ["first", "second"] {
        store.write(key, &Secret::from(text.to_owned())).unwrap();
        assert_eq!(store.read(key).unwrap().unwrap().reveal(), text);
    }
    assert_eq!(store.read(other).unwrap(), None, "each platform has its own");
    assert!(store.place(key).contains(key));
    assert!(store.remove(key).unwrap());
    assert_eq!(store.read(key).unwrap(), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, FileStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::within(Utf8Path::from_path(folder.path()).unwrap());
        (folder, store)
    }

    #[test]
    fn files_keep_records() {
        let (_folder, store) = store();
        check_store(&store);
    }

    #[test]
    fn only_its_owner_can_read_a_record_and_one_that_others_can_read_is_not_used() {
        let (_folder, store) = store();
        store.write("k", &Secret::from("x".to_owned())).unwrap();
        let mode = |path: &Utf8Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store.file("k")), mode(&store.folder)), (0o600, 0o700));
        for open in [0o640, 0o604, 0o660, 0o601] {
            std::fs::set_permissions(store.file("k"), std::fs::Permissions::from_mode(open)).unwrap();
            let problem = store.read("k").unwrap_err();
            assert_eq!((problem.code.as_str(), problem.exit), ("auth.store_exposed", ExitCode::LoginNeeded));
            assert!(problem.hints[0].command.as_ref().unwrap().starts_with("chmod 600 "), "{problem:?}");
        }
    }
}
