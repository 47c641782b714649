//! The settings of a buffer.

use aap_types::{ByteCount, NodeId};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::Error;

/// When an append counts as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// After fdatasync of its group. Nothing acknowledged is lost in a power cut.
    #[default]
    Fsync,
    /// After the write; synced every second. A power cut loses up to about a second; a killed process nothing.
    Os,
    /// After the write; never synced by us. A power cut loses what the kernel had not written by itself.
    Memory,
}

impl Durability {
    /// What may be lost, for the log line at start. `None` where nothing is.
    pub fn loss_window(self) -> Option<&'static str> {
        match self {
            Self::Fsync => None,
            Self::Os => Some("a power cut loses up to about a second of acknowledged data"),
            Self::Memory => Some("a power cut loses acknowledged data that the kernel had not written yet"),
        }
    }
}

/// What happens to new data when the budget is used up by data that is not delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The source waits.
    #[default]
    Block,
    /// The oldest undelivered data is dropped, counted, and replaced by a skip.
    DropOldest,
}

/// The settings of a buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BufferConfig {
    /// Where the store lies. Created if absent.
    pub directory: Utf8PathBuf,
    /// Whose store it is. A store of another node is refused.
    pub node: NodeId,
    /// Size of a segment file. Default: 16 MiB; 4 KiB to 1 GiB. A larger group gets a larger segment of its own.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: ByteCount,
    /// Most bytes on disk, delivered data included. Default: 10 GiB. At least twice `segment_bytes`.
    #[serde(default = "default_budget")]
    pub budget: ByteCount,
    /// Delivered data kept for queries, within `budget`. Default: 1 GiB.
    #[serde(default = "default_retain")]
    pub retain: ByteCount,
    /// When an append counts as done. Default: fsync.
    #[serde(default)]
    pub durability: Durability,
    /// What gives way when the budget is used up. Default: the source waits.
    #[serde(default)]
    pub when_full: WhenFull,
    /// The only consumer that reclaim waits for. Default: `uplink`.
    #[serde(default = "default_landing_consumer")]
    pub landing_consumer: String,
}

fn default_segment_bytes() -> ByteCount {
    ByteCount::mib(16)
}
fn default_budget() -> ByteCount {
    ByteCount::gib(10)
}
fn default_retain() -> ByteCount {
    ByteCount::gib(1)
}
fn default_landing_consumer() -> String {
    "uplink".to_owned()
}

impl BufferConfig {
    /// The defaults for a store of `node` at `directory`.
    pub fn new(directory: impl Into<Utf8PathBuf>, node: NodeId) -> Self {
        Self {
            directory: directory.into(),
            node,
            segment_bytes: default_segment_bytes(),
            budget: default_budget(),
            retain: default_retain(),
            durability: Durability::default(),
            when_full: WhenFull::default(),
            landing_consumer: default_landing_consumer(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |setting, reason: &str| Err(Error::Setting { setting, reason: reason.to_owned() });
        if !(ByteCount::kib(4)..=ByteCount::gib(1)).contains(&self.segment_bytes) {
            return wrong("segment_bytes", "must lie between 4KiB and 1GiB");
        }
        if self.budget.0 < 2 * self.segment_bytes.0 {
            return wrong("budget", "must be at least twice `segment_bytes`");
        }
        if self.landing_consumer.is_empty() || self.landing_consumer.len() > 255 {
            return wrong("landing_consumer", "must have 1 to 255 characters");
        }
        Ok(())
    }
}
