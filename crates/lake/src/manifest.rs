//! `_manifest/<version>.json`: the catalogue as other programs read it, and its second copy.
//!
//! It is written after each commit and before the landing buffer may reclaim what the commit took over. So if the
//! metadata store is lost or older than the newest manifest, the manifest is the state to go on from, and nothing is
//! missing.

use aap_store::Catalogue;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::Error;
use crate::storage::Storage;

const FOLDER: &str = "_manifest";
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
    let folder = storage.locate(FOLDER);
    std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let path = place(storage, catalogue.version);
    let manifest = Manifest { format_version: "1.0".to_owned(), catalogue: catalogue.clone() };
    let json = serde_json::to_vec(&manifest)
        .map_err(|error| Error::file("describe the lake in", &path)(std::io::Error::other(error)))?;
    aap_runtime::write_durably(&path, &json, 0o640).map_err(Error::file("write", &path))?;
    for old in versions(storage)?.into_iter().filter(|version| version + KEPT <= catalogue.version) {
        let path = place(storage, old);
        if let Err(error) = std::fs::remove_file(&path) {
            warn!(%path, %error, "cannot remove an old manifest");
        }
    }
    Ok(())
}

/// The newest manifest that can be read. Blocking.
pub(crate) fn newest(storage: &Storage) -> Result<Option<Catalogue>, Error> {
    let mut versions = versions(storage)?;
    versions.sort_unstable();
    for version in versions.into_iter().rev() {
        let path = place(storage, version);
        let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
        match serde_json::from_slice::<Manifest>(&bytes) {
            Ok(manifest) => return Ok(Some(manifest.catalogue)),
            Err(error) => warn!(%path, %error, "a manifest cannot be read; the one before it is taken"),
        }
    }
    Ok(None)
}

fn place(storage: &Storage, version: u64) -> Utf8PathBuf {
    storage.locate(&format!("{FOLDER}/{version}.json"))
}

fn versions(storage: &Storage) -> Result<Vec<u64>, Error> {
    let folder = storage.locate(FOLDER);
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(Error::file("list", &folder)(error)),
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_owned());
    Ok(names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
}
