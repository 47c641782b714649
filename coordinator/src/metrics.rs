//! The coordinator's metrics in Prometheus text form.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use aap_proto::v1;

use crate::audit::AuditTrail;
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
const CONNECTED: Described = ("aap_nodes_connected", "gauge", "Nodes with a session here");
const AUDIT_LINES: Described = ("aap_audit_lines", "gauge", "Lines of the audit log so far");
const AUDIT_UNWRITTEN: Described = (
    "aap_audit_unwritten_total",
    "counter",
    "Audit records that could not be written since the start; the actions were refused, or had begun before",
);

/// All metrics. Blocking.
pub(crate) fn render(service: &OperatorService, audit: &AuditTrail) -> String {
    let landing = &service.queries.inner.landing;
    let counters = landing.counters();
    let stats = landing.buffer().stats();
    let connected = service.board.own_nodes().iter().filter(|node| node.connected).count() as u64;
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
        (AUDIT_LINES, audit.lines()),
        (AUDIT_UNWRITTEN, audit.unwritten()),
    ] {
        let (name, kind, help) = described;
        // Writing to a string does not fail.
        let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    write_sinks(&service.board.sinks(), &mut out);
    out.push_str(&service.board.beside().figures());
    out
}

/// How far each sink is, by name.
fn write_sinks(sinks: &[v1::SinkStatus], out: &mut String) {
    type Value = fn(&v1::SinkStatus) -> u64;
    const SINKS: [(Described, Value); 4] = [
        (("aap_sink_rows_total", "counter", "Rows written since the start"), |sink| sink.rows),
        (("aap_sink_waiting_batches", "gauge", "Batches that wait to be written"), |sink| {
            sink.waiting_batches
        }),
        (("aap_sink_dead_letters", "gauge", "Rows that the server refused"), |sink| sink.dead_letters),
        (("aap_sink_running", "gauge", "1 while it writes, 0 while it cannot"), |sink| {
            u64::from(sink.state == "running")
        }),
    ];
    for ((name, kind, help), value) in SINKS.into_iter().filter(|_| !sinks.is_empty()) {
        let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for sink in sinks {
            let _infallible = writeln!(out, "{name}{{sink=\"{}\"}} {}", sink.name, value(sink));
        }
    }
}
