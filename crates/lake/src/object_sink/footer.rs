//! What the footer of an object says: whose it is, which attempt made it, and how far its stream stands after it.
//!
//! ```text
//!  key-value metadata of the Parquet file
//!   aap.sink       uid of the sink, 32 hexadecimal digits
//!   aap.attempt    unique: tells a writer whose answer was lost that it was its own attempt that succeeded
//!   aap.positions  {"edge-1":{"1844674407370955161":12}}    node, epoch, last batch; of all keys of the stream
//! ```

use std::collections::BTreeMap;

use aap_sinks::Positions;
use aap_types::{Epoch, NodeId, Sequence, StreamKey, StreamName};
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};

const SINK: &str = "aap.sink";
const ATTEMPT: &str = "aap.attempt";
const POSITIONS: &str = "aap.positions";

/// The length of the footer, and the magic number of Parquet.
const TAIL_BYTES: usize = 8;
const MAGIC: &[u8] = b"PAR1";

/// What an object says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) sink: String,
    pub(super) attempt: String,
    /// Of all keys of its stream.
    pub(super) positions: Positions,
}

impl Footer {
    /// As metadata of the file.
    pub(super) fn notes(&self) -> Vec<KeyValue> {
        let mut nodes: BTreeMap<&NodeId, BTreeMap<u64, u64>> = BTreeMap::new();
        for (key, through) in &self.positions {
            nodes.entry(&key.node).or_default().insert(key.epoch.0, through.0);
        }
        let positions = serde_json::to_string(&nodes).expect("names and numbers have a form in JSON");
        let note = |key: &str, value: &str| KeyValue::new(key.to_owned(), value.to_owned());
        vec![note(SINK, &self.sink), note(ATTEMPT, &self.attempt), note(POSITIONS, &positions)]
    }

    /// From the bytes at the end of a file, which begin with the footer.
    ///
    /// # Errors
    /// Why it is none of ours.
    pub(super) fn read(bytes: &[u8], stream: &StreamName) -> Result<Self, String> {
        let bytes = &bytes[..bytes.len() - TAIL_BYTES];
        let metadata = ParquetMetaDataReader::decode_metadata(bytes).map_err(|error| error.to_string())?;
        let notes = metadata.file_metadata().key_value_metadata();
        let note = |key: &str| {
            let found = notes.into_iter().flatten().find(|note| note.key == key);
            found.and_then(|note| note.value.clone()).ok_or_else(|| format!("its footer has no `{key}`"))
        };
        let nodes: BTreeMap<NodeId, BTreeMap<u64, u64>> = serde_json::from_str(&note(POSITIONS)?)
            .map_err(|error| format!("`{POSITIONS}` in its footer has another form: {error}"))?;
        let positions = nodes.into_iter().flat_map(|(node, epochs)| {
            epochs.into_iter().map(move |(epoch, through)| {
                let key = StreamKey { node: node.clone(), epoch: Epoch(epoch), stream: stream.clone() };
                (key, Sequence(through))
            })
        });
        Ok(Self { positions: positions.collect(), sink: note(SINK)?, attempt: note(ATTEMPT)? })
    }
}

/// How long the footer of a file is that ends so, with the tail behind it.
///
/// # Errors
/// Why there is none.
pub(super) fn length(end: &[u8]) -> Result<usize, String> {
    let tail = end.len().checked_sub(TAIL_BYTES).and_then(|tail| end[tail..].split_first_chunk::<4>());
    match tail {
        Some((length, MAGIC)) => Ok(u32::from_le_bytes(*length) as usize + TAIL_BYTES),
        _ => Err("it is no Parquet file".to_owned()),
    }
}
