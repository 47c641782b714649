//! Samples of Prometheus: what it writes to remote storage, and what is scraped as it scrapes. One row a sample, under the names
//! that metrics have here: `ts, metric, value, unit, attributes` (the labels, as JSON), then `type`, `job`, `instance` and what few have.
//!
//! | file | owns |
//! |---|---|
//! | `prometheus/samples.rs` | [`Samples`]: the columns |
//! | `prometheus/write.rs` | [`decode_write`]: requests of remote write 1.0 |
//! | `prometheus/histogram.rs` | native histograms as JSON |
//! | `prometheus/text.rs` | [`decode_text`]: the text format 0.0.4 and OpenMetrics |

mod histogram;
mod samples;
#[cfg(test)]
mod tests;
mod text;
mod write;

use arrow_schema::ArrowError;

use crate::WireError;

pub use crate::otlp::Taken;
pub use samples::Samples;
pub use text::{Exposition, decode_text};
pub use write::decode_write;

/// Labels of one series, as they stand in the request: they stand beside each of its samples.
pub const LABELS_BYTES_MAX: usize = 64 << 10;

/// Why samples cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// Not the protobuf message.
    #[error("not a remote-write request: {0}")]
    Wire(#[from] WireError),
    /// Not the text format.
    #[error("line {line}: {what}")]
    Text {
        /// From 1.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A bug of ours: the columns do not form a batch.
    #[error("build the batch")]
    Build(#[from] ArrowError),
}
