//! The coordinator's metrics in Prometheus text form.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use crate::operator::OperatorService;

/// Name, type and meaning of a metric without labels.
type Described = (&'static str, &'static str, &'static str);

const BATCHES: Described = ("aap_landing_batches_total", "counter", "Batches landed since the start");
const ROWS: Described = ("aap_landing_rows_total", "counter", "Rows landed since the start");
const DUPLICATES: Described = ("aap_landing_duplicates_total", "counter", "Batches that had landed before");
const UNVERIFIED: Described =
    ("aap_landing_duplicates_unverified_total", "counter", "Of these, without a digest to compare");
const FORKS: Described = ("aap_landing_forks_total", "counter", "Batches refused because of a forked store");
const POISON: Described = ("aap_landing_poison_total", "counter", "Batches that became dead letters");
const SKIPPED: Described =
    ("aap_landing_rows_skipped_total", "counter", "Rows given up on the way, by skips");
const STORED: Described = ("aap_landing_stored_bytes", "gauge", "Bytes in the landing buffer");
const WAITING: Described = ("aap_landing_waiting_bytes", "gauge", "Of these, not in the lake yet");
const CAPACITY: Described = ("aap_landing_capacity_bytes", "gauge", "The landing buffer's budget");
const CONNECTED: Described = ("aap_nodes_connected", "gauge", "Nodes with a session");

/// All metrics. Blocking.
pub(crate) fn render(service: &OperatorService) -> String {
    let landing = &service.queries.inner.landing;
    let counters = landing.counters();
    let stats = landing.buffer().stats();
    let connected = service.board.nodes().iter().filter(|node| node.connected).count() as u64;
    let mut out = String::new();
    for (described, value) in [
        (BATCHES, counters.batches.load(Ordering::Relaxed)),
        (ROWS, counters.rows.load(Ordering::Relaxed)),
        (DUPLICATES, counters.duplicates.load(Ordering::Relaxed)),
        (UNVERIFIED, counters.duplicates_unverified.load(Ordering::Relaxed)),
        (FORKS, counters.forks.load(Ordering::Relaxed)),
        (POISON, counters.poison.load(Ordering::Relaxed)),
        (SKIPPED, counters.rows_skipped.load(Ordering::Relaxed)),
        (STORED, stats.stored_bytes),
        (WAITING, stats.waiting_bytes),
        (CAPACITY, stats.capacity_bytes),
        (CONNECTED, connected),
    ] {
        let (name, kind, help) = described;
        // Writing to a string does not fail.
        let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    out
}
