//! The file with the keys that kept secrets are sealed under: `tls/secrets.key`, or where the configuration says. It is made with the
//! first secret; coordinators of a cluster have the same one, as they have the same `tls/`.

use std::io;
use std::sync::Mutex;

use aap_access::SealingKeys;
use aap_runtime::{Home, exposed_mode, write_durably};
use aap_types::Problem;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::problem;

/// The section `secrets` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// The file with the keys that kept secrets are sealed under, from the home on: mode 0600, or a credential of systemd. Default:
    /// `tls/secrets.key`, made with the first secret.
    pub key_file: Option<Utf8PathBuf>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: Utf8PathBuf,
    /// One that is named is somebody else's to make.
    is_named: bool,
    /// Two that make one would make two.
    making: Mutex<()>,
}

impl KeyFile {
    pub(crate) fn of(home: &Home, config: &SecretsConfig) -> Self {
        let path = match &config.key_file {
            Some(path) => home.root().join(path),
            None => home.tls().join("secrets.key"),
        };
        Self { path, is_named: config.key_file.is_some(), making: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// What is in it; `None` where it is not there. Blocking.
    pub(crate) fn read(&self) -> Result<Option<SealingKeys>, Problem> {
        let unreadable = |error: &io::Error| problem::key_unreadable(&self.path, error);
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&error)),
        };
        if let Some(mode) = exposed_mode(&self.path).map_err(|error| unreadable(&error))? {
            return Err(problem::key_exposed(&self.path, mode));
        }
        SealingKeys::parse(&text).map(Some).map_err(|error| problem::key_unreadable(&self.path, &error))
    }

    /// Makes it, with one key. Blocking.
    pub(crate) fn make(&self) -> Result<SealingKeys, Problem> {
        if self.is_named {
            return Err(problem::named_key_missing(&self.path));
        }
        let _turn = self.making.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(keys) = self.read()? {
            return Ok(keys);
        }
        let text = SealingKeys::mint().map_err(|error| problem::no_random(&error))?;
        write_durably(&self.path, text.as_bytes(), 0o600)
            .map_err(|error| problem::key_unreadable(&self.path, &error))?;
        SealingKeys::parse(&text).map_err(|error| problem::key_unreadable(&self.path, &error))
    }
}
