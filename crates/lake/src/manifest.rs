//! `_manifest/<version>.json`: the catalogue as other programs read it, and its second copy.
//!
//! It is written after each commit and before the landing buffer may reclaim what the commit took over. So if the
//! metadata store is lost or older than the newest manifest, the manifest is the state to go on from, and nothing is
//! missing.
//!
//! In a cluster the database is the truth: its backups and replicas are the operator's, and nothing is restored from here. A
//! manifest that is newer than the catalogue, because the database went back, is put aside as `<version>.json.lost`, and while
//! one lies there nothing is swept: it may name files that nobody else knows any more.

use aap_store::Catalogue;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::Error;
use crate::lake::chain;
use crate::storage::Storage;

const FOLDER: &str = "_manifest";
const LOST: &str = ".json.lost";
/// Manifests kept: readers that opened an older list still find what it names for a while.
const KEPT: u64 = 16;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format_version: String,
    #[serde(flatten)]
    catalogue: Catalogue,
}

/// Writes the catalogue. An earlier attempt of the same version is replaced. Blocking.
pub(crate) fn write(storage: &Storage, catalogue: &Catalogue) -> Result<(), Error> {
    let path = place(catalogue.version);
    let manifest = Manifest { format_version: "1.0".to_owned(), catalogue: catalogue.clone() };
    let json = serde_json::to_vec(&manifest).map_err(|error| {
        Error::file("describe the lake in", &storage.locate(&path))(std::io::Error::other(error))
    })?;
    storage.write(&path, json)?;
    let mut old = Listed::of(storage)?.versions;
    old.retain(|version| version + KEPT <= catalogue.version);
    // What cannot be removed is among the old ones of the next.
    storage.remove(old.into_iter().map(place).collect());
    Ok(())
}

/// The newest manifest that can be read. Blocking.
pub(crate) fn newest(storage: &Storage) -> Result<Option<Catalogue>, Error> {
    for version in Listed::of(storage)?.versions.into_iter().rev() {
        let path = place(version);
        let bytes = storage.read(&path)?;
        match serde_json::from_slice::<Manifest>(&bytes) {
            Ok(manifest) => return Ok(Some(manifest.catalogue)),
            Err(error) => {
                warn!(%path, error = %chain(&error), "a manifest cannot be read; the one before it is taken");
            }
        }
    }
    Ok(None)
}

/// What lies in the folder.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Of the manifests, in order.
    pub(crate) versions: Vec<u64>,
    /// Of those that were put aside, in order.
    pub(crate) lost: Vec<u64>,
}

impl Listed {
    /// Blocking.
    pub(crate) fn of(storage: &Storage) -> Result<Self, Error> {
        let names = storage.names(FOLDER)?;
        let with = |ending: &str| {
            let numbers = names.iter().filter_map(|name| name.strip_suffix(ending)?.parse().ok());
            let mut numbers: Vec<u64> = numbers.collect();
            numbers.sort_unstable();
            numbers
        };
        Ok(Self { versions: with(".json"), lost: with(LOST) })
    }
}

/// Puts a manifest aside that knows more than the catalogue. Blocking.
pub(crate) fn put_aside(storage: &Storage, version: u64) -> Result<(), Error> {
    let path = place(version);
    storage.write(&lost(version), storage.read(&path)?)?;
    storage.remove(vec![path]);
    Ok(())
}

/// Where a manifest lies that was put aside.
pub(crate) fn lost(version: u64) -> String {
    format!("{FOLDER}/{version}{LOST}")
}

fn place(version: u64) -> String {
    format!("{FOLDER}/{version}.json")
}
