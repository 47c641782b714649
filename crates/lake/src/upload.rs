//! The way of a lake from the disk of one coordinator into an object store, for a cluster.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use aap_store::{LakeFile, MetadataStore};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::{Error, LakeObjects};

/// Brings the files that the catalogue names from below `root` into an object store, and changes nothing else: not the files, which
/// may go when a cluster has begun with the store, and not the catalogue. No coordinator may have the lake meanwhile. What is
/// broken off is done again; files that are there stay. Returns how many were brought.
///
/// # Errors
/// A file that cannot be read, has another size than the catalogue says, or is not taken.
pub async fn upload(
    root: &Utf8Path,
    objects: &LakeObjects,
    store: Arc<dyn MetadataStore>,
) -> Result<u64, Error> {
    let (root, objects) = (root.to_owned(), objects.clone());
    spawn_blocking(move || upload_blocking(&root, &objects, store.as_ref())).await?
}

fn upload_blocking(
    root: &Utf8PathBuf,
    objects: &LakeObjects,
    store: &dyn MetadataStore,
) -> Result<u64, Error> {
    let runtime = Handle::current();
    // An object appears under its name when it is whole.
    let there: HashSet<String> = runtime.block_on(objects.list(None))?.into_iter().collect();
    let mut files = store.catalogue()?.files;
    files.retain(|file| !there.contains(&file.path));
    let mut brought = 0;
    for LakeFile { path, bytes, .. } in files {
        let place = root.join(&path);
        let mut file = File::open(&place).map_err(Error::file("open", &place))?;
        let found = file.metadata().map_err(Error::file("look at", &place))?.len();
        if found != bytes {
            return Err(Error::SizeDiffers { path, expected: bytes, found });
        }
        runtime.block_on(objects.put_file(&path, &mut file, bytes))?;
        brought += 1;
        info!(%path, bytes, "brought a lake file into the object store");
    }
    Ok(brought)
}
