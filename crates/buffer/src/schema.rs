//! The schema of a frame: stored once per segment and once per connection, named by its fingerprint elsewhere.

use std::sync::Arc;

use arrow_ipc::convert::try_schema_from_ipc_buffer;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, write_message};
use arrow_schema::SchemaRef;
use bytes::Bytes;

use crate::Error;
use crate::codec::write_options;

/// Largest schema message taken from outside: 5,000 columns with long names fit well.
pub const SCHEMA_BYTES_MAX: usize = 4 << 20;

/// A schema in both forms, with the number that names it.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameSchema {
    fingerprint: u64,
    ipc: Bytes,
    arrow: SchemaRef,
}

impl FrameSchema {
    /// From an Arrow schema of ours.
    pub fn of(schema: SchemaRef) -> Arc<Self> {
        let mut tracker = DictionaryTracker::new(false);
        let options = write_options();
        let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            &schema,
            &mut tracker,
            &options,
        );
        let mut ipc = Vec::new();
        write_message(&mut ipc, encoded, &options).expect("writing to memory cannot fail");
        let ipc = Bytes::from(ipc);
        // Dictionary ids are given while encoding; the decoder needs the schema that knows them.
        let arrow = try_schema_from_ipc_buffer(&ipc).map_or(schema, Arc::new);
        Arc::new(Self { fingerprint: fingerprint(&ipc), ipc, arrow })
    }

    /// From an encapsulated IPC schema message of somebody else.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Arrow`] if the bytes are anything else; never panics.
    pub fn from_ipc(ipc: Bytes) -> Result<Arc<Self>, Error> {
        if ipc.len() > SCHEMA_BYTES_MAX {
            return Err(Error::Invalid(format!("a schema of {} bytes", ipc.len())));
        }
        let arrow = crate::codec::guarded("read schema", || {
            try_schema_from_ipc_buffer(&ipc).map_err(Error::arrow("read schema"))
        })?;
        Ok(Arc::new(Self { fingerprint: fingerprint(&ipc), ipc, arrow: Arc::new(arrow) }))
    }

    /// Names the schema in frame headers: the first 8 bytes of BLAKE3 over the IPC message.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
    /// The encapsulated IPC schema message.
    pub fn ipc(&self) -> &Bytes {
        &self.ipc
    }
    /// The Arrow schema.
    pub fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }
}

fn fingerprint(ipc: &[u8]) -> u64 {
    let hash = blake3::hash(ipc);
    let (head, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    u64::from_le_bytes(*head)
}
