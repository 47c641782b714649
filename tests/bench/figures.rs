//! All figures, by name. A filter selects those whose name contains it.

mod arrow;
mod history;
mod latency;
mod operators;
mod outage;
mod resident;
mod throughput;
mod wire;

use crate::scale::Scale;
use crate::table::Figure;

/// Measures something at a scale.
pub(crate) type Measure = fn(&Scale) -> Vec<Figure>;

/// In the order of the table.
pub(crate) const ALL: [(&str, Measure); 17] = [
    ("plain_lines", throughput::plain_lines),
    ("json_lines", throughput::json_lines),
    ("durability", throughput::durability),
    ("end_to_end", throughput::end_to_end),
    ("arrow", arrow::arrow),
    ("wire", wire::wire),
    ("cpu_at_10_mb_s", latency::cpu_at_load),
    ("latency", latency::latency),
    ("idle", resident::idle),
    ("recovery", resident::recovery),
    ("outage", outage::outage),
    ("history", history::group_by),
    ("carriers", wire::carriers),
    ("lossy", wire::lossy),
    ("cli", operators::commands),
    ("cli_reconnect", operators::reconnecting),
    ("cli_flood", operators::flooded),
];
