//! `/metrics` in the Prometheus text form. No token: it is loopback, and holds figures only.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Api;

/// Every figure with its kind and meaning; what can fill up has a gauge of used and of capacity.
const FAMILIES: [(&str, &str, &str); 15] = [
    ("aap_agent_rows_read_total", "counter", "rows that sources read"),
    ("aap_agent_bytes_read_total", "counter", "bytes that sources read"),
    ("aap_agent_rows_durable_total", "counter", "rows that are durable"),
    ("aap_agent_rows_dropped_total", "counter", "rows not in their stream, by reason"),
    ("aap_agent_bytes_cut_total", "counter", "bytes beyond the record limit"),
    ("aap_agent_bytes_lost_total", "counter", "bytes that rotated away unread"),
    ("aap_agent_utf8_replaced_total", "counter", "invalid UTF-8 sequences that became U+FFFD"),
    (
        "aap_agent_buffer_rows_dropped_total",
        "counter",
        "rows that the buffer gave up before they were delivered",
    ),
    ("aap_agent_buffer_stored_bytes", "gauge", "bytes in the buffer"),
    ("aap_agent_buffer_waiting_bytes", "gauge", "bytes not delivered yet"),
    ("aap_agent_buffer_waiting_batches", "gauge", "batches not delivered yet"),
    ("aap_agent_buffer_capacity_bytes", "gauge", "budget of the buffer"),
    ("aap_agent_buffer_blocked", "gauge", "1 while sources wait for room"),
    ("aap_agent_uplink_connected", "gauge", "1 while a session with the coordinator stands"),
    ("aap_agent_problems", "gauge", "conditions that need attention"),
];

/// Answers `GET /metrics`.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let text = render(&api);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn render(api: &Api) -> String {
    let (counts, stats) = (api.deps.ingress.counters.snapshot(), api.deps.ingress.buffer.stats());
    let uplink = api.deps.board.uplink_entry();
    let mut out = String::new();
    for (name, kind, meaning) in FAMILIES {
        line(&mut out, format_args!("# HELP {name} {meaning}"));
        line(&mut out, format_args!("# TYPE {name} {kind}"));
        let single = match name {
            "aap_agent_buffer_stored_bytes" => Some(stats.stored_bytes),
            "aap_agent_buffer_waiting_bytes" => Some(stats.waiting_bytes),
            "aap_agent_buffer_waiting_batches" => Some(stats.waiting_batches),
            "aap_agent_buffer_capacity_bytes" => Some(stats.capacity_bytes),
            "aap_agent_buffer_blocked" => Some(u64::from(stats.blocked)),
            "aap_agent_uplink_connected" => Some(u64::from(uplink.connected)),
            "aap_agent_problems" => Some((api.deps.board.problems().len() + stats.problems.len()) as u64),
            _ => None,
        };
        if let Some(value) = single {
            line(&mut out, format_args!("{name} {value}"));
            continue;
        }
        if name == "aap_agent_buffer_rows_dropped_total" {
            for (stream, stored) in &stats.streams {
                line(&mut out, format_args!("{name}{{stream=\"{stream}\"}} {}", stored.dropped_rows));
            }
            continue;
        }
        for (stream, count) in &counts {
            let value = match name {
                "aap_agent_rows_read_total" => count.rows_read,
                "aap_agent_bytes_read_total" => count.bytes_read,
                "aap_agent_rows_durable_total" => count.rows_durable,
                "aap_agent_bytes_cut_total" => count.bytes_cut,
                "aap_agent_bytes_lost_total" => count.bytes_lost,
                "aap_agent_utf8_replaced_total" => count.replaced,
                _ => {
                    for (reason, rows) in &count.rows_dropped {
                        let reason = reason.label();
                        line(
                            &mut out,
                            format_args!("{name}{{stream=\"{stream}\",reason=\"{reason}\"}} {rows}"),
                        );
                    }
                    continue;
                }
            };
            line(&mut out, format_args!("{name}{{stream=\"{stream}\"}} {value}"));
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(format_args!("{text}\n")).expect("writing to memory cannot fail");
}
