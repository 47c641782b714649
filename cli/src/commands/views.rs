//! Messages of the platform as objects with the fields of the registry.

use aap_client::v1::{NodeStatus, SourceStatus, StreamCounters, StreamStatus};
use serde_json::{Value, json};

use crate::listing::{Object, object};
use crate::text::rfc3339;

pub(crate) fn node(node: &NodeStatus) -> Object {
    object(json!({
        "node": node.node,
        "connected": node.connected,
        "transport": node.transport,
        "last_seen": rfc3339(node.last_seen_us),
        "rows_per_second": node.rows_per_second,
        "waiting_batches": node.waiting_batches,
        "waiting_bytes": node.waiting_bytes,
        "lag_ms": node.lag_ms,
        "stored_bytes": node.stored_bytes,
        "capacity_bytes": node.capacity_bytes,
        // A 64-bit number that JavaScript and jq would round.
        "epoch": node.epoch.to_string(),
        "clock_offset_us": node.clock_offset_us,
        "agent_version": node.agent_version,
        "problems": node.problems,
        "streams": node.streams.iter().map(counters).collect::<Vec<_>>(),
    }))
}

fn counters(counters: &StreamCounters) -> Value {
    json!({
        "stream": counters.stream,
        "rows_read": counters.rows_read,
        "rows_durable": counters.rows_durable,
        "rows_dropped": counters.rows_dropped,
        "bytes_read": counters.bytes_read,
    })
}

pub(crate) fn stream(stream: &StreamStatus) -> Object {
    object(json!({
        "stream": stream.stream,
        "rows": stream.rows,
        "rows_per_second": stream.rows_per_second,
        "bytes": stream.bytes,
        "raw_bytes": stream.raw_bytes,
        "batches": stream.batches,
        "rows_skipped": stream.rows_skipped,
        "newest": rfc3339(stream.newest_us),
        "landed": rfc3339(stream.landed_us),
        "files": stream.files,
        "rows_in_lake": stream.rows_in_lake,
    }))
}

pub(crate) fn source(source: &SourceStatus) -> Object {
    object(json!({
        "name": source.name,
        "kind": source.kind,
        "stream": source.stream,
        "guarantee": source.guarantee,
        "state": source.state,
        "detail": source.detail,
    }))
}

#[cfg(test)]
mod tests {
    use aap_client::operations::{Id, of};

    use super::*;

    #[test]
    fn objects_have_exactly_the_fields_of_the_registry() {
        let check = |id: Id, object: Object, also: &[&str]| {
            let mut expected: Vec<&str> = of(id).output.fields().iter().map(|field| field.name).collect();
            expected.sort_unstable();
            let mut found: Vec<&str> =
                object.keys().map(String::as_str).chain(also.iter().copied()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{id:?}");
        };
        check(Id::NodeLs, node(&NodeStatus::default()), &[]);
        check(Id::NodeShow, node(&NodeStatus::default()), &[]);
        check(Id::StreamLs, stream(&StreamStatus::default()), &[]);
        check(Id::StreamShow, stream(&StreamStatus::default()), &["columns", "origins"]);
    }
}
