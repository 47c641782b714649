//! Logins in the memory of the kernel: they never touch a disk, and are gone when the machine restarts or the session on it ends.
//!
//! They are keys of the session's keyring, which only processes of that session possess and can read. Its system calls answer at once, so
//! that no limit of time is needed; where a sandbox forbids them, they fail.

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use linux_keyutils::{Key, KeyError, KeyRing, KeyRingIdentifier};

use crate::credential_store::CredentialStore;

/// The keyring of whoever is logged in on this machine.
#[derive(Debug, Clone)]
pub(crate) struct KeyutilsStore;

impl KeyutilsStore {
    /// As it is named.
    pub(crate) const NAME: &str = "keyutils";
}

impl CredentialStore for KeyutilsStore {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn place(&self, key: &str) -> String {
        description(key)
    }

    fn read(&self, key: &str) -> Result<Option<Secret>, Problem> {
        let Some(found) = find(key)? else { return Ok(None) };
        let bytes = found.read_to_vec().map_err(|error| failed(key, "read", error))?;
        let text = String::from_utf8(bytes).map_err(|_its_bytes_are_secret| {
            problem(key, "read")
                .hint_command("forget it, and log in again", "aap auth logout && aap auth login")
        })?;
        Ok(Some(Secret::from(text)))
    }

    fn write(&self, key: &str, record: &Secret) -> Result<(), Problem> {
        // One of the same description gets the new content.
        let added = keyring().and_then(|keyring| keyring.add_key(&description(key), record.reveal()));
        added.map(|_key| ()).map_err(|error| failed(key, "written", error))
    }

    fn remove(&self, key: &str) -> Result<bool, Problem> {
        let Some(found) = find(key)? else { return Ok(false) };
        found.invalidate().map(|()| true).map_err(|error| failed(key, "removed", error))
    }
}

fn keyring() -> Result<KeyRing, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::Session, false)
}

/// The key of a platform. One that was revoked or is over is none.
fn find(key: &str) -> Result<Option<Key>, Problem> {
    match keyring().and_then(|keyring| keyring.search(&description(key))) {
        Ok(found) => Ok(Some(found)),
        Err(KeyError::KeyDoesNotExist | KeyError::KeyRevoked | KeyError::KeyExpired) => Ok(None),
        Err(error) => Err(failed(key, "read", error)),
    }
}

/// What the key is called in the keyring.
fn description(key: &str) -> String {
    format!("aap:{key}")
}

fn failed(key: &str, what: &str, error: KeyError) -> Problem {
    problem(key, what).caused_by(&error).hint("AAP_CREDENTIAL_STORE=file keeps logins in files")
}

fn problem(key: &str, what: &str) -> Problem {
    let message = format!("the login in the kernel's keyring, `{}`, cannot be {what}", description(key));
    Problem::new("auth.store", ExitCode::Failed, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential_store::check_store;

    #[test]
    fn the_keyring_keeps_records_where_a_sandbox_allows_it() {
        if KeyutilsStore.read("context-a").is_err() {
            return;
        }
        check_store(&KeyutilsStore);
    }
}
