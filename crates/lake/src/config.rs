//! The settings of the lake.

use std::collections::BTreeMap;

use aap_store::Retention;
use aap_types::{ByteCount, StreamName};
use serde::{Deserialize, Serialize};

/// The settings of the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// A stream goes to the lake when this much of it waits, in bytes as sources read them. Default: 64 MiB.
    pub file_bytes: ByteCount,
    /// A stream goes to the lake when its oldest waiting batch landed this many seconds ago. Default: 60.
    pub age_seconds: u64,
    /// Small files of one day are merged until they have this size in memory. Default: 256 MiB.
    pub compact_bytes: ByteCount,
    /// This many small files of one day are merged. Default: 8; at least 2.
    pub compact_files: usize,
    /// Retention of streams that are not named in `streams`. Default: kept for ever.
    pub retention: Retention,
    /// Retention of single streams.
    pub streams: BTreeMap<StreamName, Retention>,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self {
            file_bytes: ByteCount::mib(64),
            age_seconds: 60,
            compact_bytes: ByteCount::mib(256),
            compact_files: 8,
            retention: Retention::default(),
            streams: BTreeMap::new(),
        }
    }
}
