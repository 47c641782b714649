//! Secrets that documents refer to: those that the platform keeps, and those of Vault.
//!
//! ```text
//!  aap secret set ──▶ sealed under keys.rs ──▶ metadata store ──▶ opened ─┐
//!                                                         vault: Vault ─┴─▶ resolve ──▶ sinks, sources, catalogs
//! ```
//! The keys lie in a file of this machine and never in the metadata; the file is read whenever it is needed. Nothing gives a value
//! out but [`SecretSource`], to whoever starts a sink, a source or a scan.
//!
//! | file | owns |
//! |---|---|
//! | `keys.rs` | the file with the keys |
//! | `service.rs` | the service `Secrets`: what operators call |
//! | `problem.rs` | what operators are told |

mod keys;
mod problem;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aap_access::{KeptSecret, NotOpened, SealingKeys};
use aap_runtime::{Clock, Home, Resolving, Secret, SecretPlace, SecretSource};
use aap_store::{AccessStore, PAGE_ROWS_MAX, RowsAfter};
use aap_types::{Problem, SecretName};
use aap_vault::Vault;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

pub use keys::SecretsConfig;
pub(crate) use service::SecretsService;

use crate::access::store_failed;
use keys::KeyFile;

/// All secrets. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn AccessStore>,
    file: KeyFile,
    vault: Option<Vault>,
    clock: Arc<dyn Clock>,
}

impl Secrets {
    pub(crate) fn new(
        store: Arc<dyn AccessStore>,
        (home, config): (&Home, &SecretsConfig),
        vault: Option<Vault>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { inner: Arc::new(Inner { store, file: KeyFile::of(home, config), vault, clock }) }
    }

    /// Seals under the first key what is sealed under another of them: somebody put a new one before it.
    pub(crate) async fn reseal(&self) {
        match self.blocking(Inner::reseal).await {
            Ok(0) => {}
            Ok(secrets) => info!(secrets, "kept secrets are sealed under the new key"),
            Err(problem) => warn!(code = problem.code, causes = ?problem.causes, "{problem}"),
        }
    }

    async fn set(&self, name: SecretName, value: Secret, author: &str) -> Result<KeptSecret, Problem> {
        let author = author.to_owned();
        self.blocking(move |inner| inner.set(&name, &value, &author)).await
    }

    async fn list(&self) -> Result<Vec<KeptSecret>, Problem> {
        self.blocking(Inner::list).await
    }

    async fn find(&self, name: SecretName) -> Result<Option<KeptSecret>, Problem> {
        self.blocking(move |inner| inner.find(&name)).await
    }

    async fn remove(&self, name: SecretName) -> Result<bool, Problem> {
        self.blocking(move |inner| {
            inner.store.remove::<KeptSecret>(name.as_str()).map_err(|error| store_failed(&error))
        })
        .await
    }

    /// The ids of the keys that are here.
    async fn key_ids(&self) -> Vec<String> {
        let keys = self.blocking(|inner| inner.file.read()).await;
        keys.ok().flatten().map(|keys| keys.ids().map(str::to_owned).collect()).unwrap_or_default()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let inner = self.inner.clone();
        spawn_blocking(move || work(&inner)).await.map_err(|panic| store_failed(&panic))?
    }
}

impl SecretSource for Secrets {
    fn resolve<'a>(&'a self, place: &'a SecretPlace) -> Resolving<'a> {
        Box::pin(async move {
            match (place, &self.inner.vault) {
                (SecretPlace::Kept(name), _) => {
                    let name = name.clone();
                    self.blocking(move |inner| inner.open(&name)).await
                }
                (SecretPlace::Vault(_), Some(vault)) => vault.resolve(place).await,
                (SecretPlace::Vault(_), None) => Err(problem::no_vault(place)),
            }
        })
    }
}

/// What blocks: a small file, and the store.
impl Inner {
    fn open(&self, name: &SecretName) -> Result<Secret, Problem> {
        let kept = self.find(name)?.ok_or_else(|| problem::not_found(name, &[]))?;
        let keys = self.file.read()?.ok_or_else(|| problem::key_missing(self.file.path(), kept.key()))?;
        // A record that was put in the place of another one is whole, and not the one that was asked for.
        let opened = if kept.name == *name { keys.open(&kept) } else { Err(NotOpened::Damaged) };
        opened.map_err(|error| problem::not_opened(name, self.file.path(), &error))
    }

    fn set(&self, name: &SecretName, value: &Secret, author: &str) -> Result<KeptSecret, Problem> {
        let keys = self.keys_to_seal()?;
        let by = (author, self.clock.unix_us());
        let no_random = |error: aap_access::RandomError| problem::no_random(&error);
        loop {
            let changed = self.store.change(name.as_str(), |kept: &mut KeptSecret| {
                let sealed = keys.seal(name, value, Some(&*kept), by);
                sealed.map(|sealed| *kept = sealed)
            });
            if let Some((kept, sealed)) = changed.map_err(|error| store_failed(&error))? {
                return sealed.map(|()| kept).map_err(no_random);
            }
            let kept = keys.seal(name, value, None, by).map_err(no_random)?;
            if self.store.add(&kept).map_err(|error| store_failed(&error))? {
                return Ok(kept);
            }
        }
    }

    /// The keys, made where there are none and nothing is sealed yet: what is sealed wants the key that it was sealed under.
    fn keys_to_seal(&self) -> Result<SealingKeys, Problem> {
        if let Some(keys) = self.file.read()? {
            return Ok(keys);
        }
        let first = RowsAfter { owner: None, after: "", limit: 1 };
        let sealed: Vec<KeptSecret> = self.store.list(first).map_err(|error| store_failed(&error))?;
        match sealed.first() {
            Some(kept) => Err(problem::key_missing(self.file.path(), kept.key())),
            None => self.file.make(),
        }
    }

    fn find(&self, name: &SecretName) -> Result<Option<KeptSecret>, Problem> {
        self.store.find(name.as_str()).map_err(|error| store_failed(&error))
    }

    fn list(&self) -> Result<Vec<KeptSecret>, Problem> {
        let mut all: Vec<KeptSecret> = vec![];
        loop {
            let after = all.last().map(|last| last.name.to_string()).unwrap_or_default();
            let page = RowsAfter { owner: None, after: &after, limit: PAGE_ROWS_MAX };
            let rows: Vec<KeptSecret> = self.store.list(page).map_err(|error| store_failed(&error))?;
            if rows.is_empty() {
                return Ok(all);
            }
            all.extend(rows);
        }
    }

    /// Returns how many.
    fn reseal(&self) -> Result<usize, Problem> {
        let Some(keys) = self.file.read()? else { return Ok(0) };
        let mut resealed = 0;
        for before in self.list()? {
            let again = match keys.reseal(&before) {
                Ok(None) => continue,
                Ok(Some(again)) => again.map_err(|error| problem::no_random(&error))?,
                // The others are sealed anew all the same; whoever wants this one is told.
                Err(error) => {
                    warn!(secret = %before.name, %error, "a kept secret does not open");
                    continue;
                }
            };
            let swap = |kept: &mut KeptSecret| {
                let stands = *kept == before;
                if stands {
                    *kept = again.clone();
                }
                stands
            };
            let changed =
                self.store.change(before.name.as_str(), swap).map_err(|error| store_failed(&error))?;
            resealed += usize::from(changed.is_some_and(|(_, stands)| stands));
        }
        Ok(resealed)
    }
}
