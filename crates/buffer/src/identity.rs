//! The file `STORE`: who this store is. One line of JSON, one line with its checksum; replaced durably at every open.

use std::hash::{BuildHasher, RandomState};

use aap_types::{Epoch, NodeId};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use crate::fs::{FileSystem, read_file, replace_file};
use crate::{Error, FORMAT_VERSION};

/// The file is a few hundred bytes.
const STORE_BYTES_MAX: usize = 64 << 10;

/// Who a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Minted with the store.
    pub store_id: [u8; 16],
    /// Counts the openings, durably; a coordinator that saw a larger one knows of a roll-back or a clone.
    pub generation: u64,
    /// The present life.
    pub epoch: Epoch,
    /// Whose it is.
    pub node: NodeId,
}

#[derive(Serialize, Deserialize)]
struct StoreFile {
    format: u32,
    store_id: String,
    generation: u64,
    epoch: Epoch,
    node: NodeId,
}

/// What stands in `STORE`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Damaged,
    Newer(u32),
    Known(Identity),
}

pub(crate) fn read(fs: &dyn FileSystem, directory: &Utf8Path) -> Result<Found, Error> {
    let path = directory.join("STORE");
    match read_file(fs, &path, STORE_BYTES_MAX) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

pub(crate) fn write(fs: &dyn FileSystem, directory: &Utf8Path, identity: &Identity) -> Result<(), Error> {
    let path = directory.join("STORE");
    let file = StoreFile {
        format: FORMAT_VERSION,
        store_id: hex(&identity.store_id),
        generation: identity.generation,
        epoch: identity.epoch,
        node: identity.node.clone(),
    };
    let line = serde_json::to_string(&file).expect("plain fields always serialize");
    let text = format!("{line}\ncrc32c {:08x}\n", crc32c::crc32c(line.as_bytes()));
    replace_file(fs, &path, text.as_bytes()).map_err(|error| Error::io("write", &path, error))
}

fn parse(bytes: &[u8]) -> Found {
    let checked = || {
        let text = std::str::from_utf8(bytes).ok()?;
        let (line, rest) = text.split_once('\n')?;
        let crc = u32::from_str_radix(rest.strip_suffix('\n')?.strip_prefix("crc32c ")?, 16).ok()?;
        (crc == crc32c::crc32c(line.as_bytes())).then_some(line)
    };
    let Some(line) = checked() else { return Found::Damaged };
    // The version first: a newer file may have other fields.
    let version =
        serde_json::from_str::<serde_json::Value>(line).ok().and_then(|v| v.get("format")?.as_u64());
    match version.and_then(|v| u32::try_from(v).ok()) {
        Some(version) if version > FORMAT_VERSION => return Found::Newer(version),
        _ => {}
    }
    let known = serde_json::from_str::<StoreFile>(line).ok().and_then(|file| {
        Some(Identity {
            store_id: unhex(&file.store_id)?,
            generation: file.generation,
            epoch: file.epoch,
            node: file.node,
        })
    });
    known.map_or(Found::Damaged, Found::Known)
}

/// Random bits of the system, by the way the standard library seeds its hash maps.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

pub(crate) fn new_store_id() -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random().to_le_bytes());
    id[8..].copy_from_slice(&random().to_le_bytes());
    id
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}
