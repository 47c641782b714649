//! What the node says about itself: to the coordinator every second while something changes, and to its own CLI.

use std::collections::BTreeSet;

use aap_buffer::Buffer;
use aap_proto::v1::{NodeReport, StreamCounters, StreamTail};
use aap_runtime::Clock;
use aap_types::{Sequence, StreamKey, StreamName};

use crate::board::Board;
use crate::counters::Counters;
use crate::drain::Drain;

/// The report as of now.
pub fn node_report(
    buffer: &Buffer,
    counters: &Counters,
    (board, drain): (&Board, &Drain),
    clock: &dyn Clock,
) -> NodeReport {
    // Before the buffer is looked at: what was on its way until now is in what it holds.
    let draining = drain.is_quiet();
    let stats = buffer.stats();
    let counted = counters.snapshot();
    let names: BTreeSet<&StreamName> = counted.keys().chain(stats.streams.keys()).collect();
    let streams = names
        .into_iter()
        .map(|name| {
            let count = counted.get(name);
            let stored = stats.streams.get(name);
            StreamCounters {
                stream: name.to_string(),
                rows_read: count.map_or(0, |count| count.rows_read),
                rows_dropped: count.map_or(0, |count| count.rows_dropped_total())
                    + stored.map_or(0, |stored| stored.dropped_rows),
                bytes_read: count.map_or(0, |count| count.bytes_read),
                rows_durable: count.map_or(0, |count| count.rows_durable),
            }
        })
        .collect();
    let mut problems = board.problems();
    problems.extend(stats.problems);
    NodeReport {
        streams,
        waiting_bytes: stats.waiting_bytes,
        waiting_batches: stats.waiting_batches,
        stored_bytes: stats.stored_bytes,
        capacity_bytes: stats.capacity_bytes,
        clock_unix_us: clock.unix_us(),
        problems,
        draining,
    }
}

/// Keys and sequences as they go over the wire.
pub fn tails(keys: Vec<(StreamKey, Sequence)>) -> Vec<StreamTail> {
    let tail = |(key, sequence): (StreamKey, Sequence)| StreamTail {
        epoch: key.epoch.0,
        stream: key.stream.to_string(),
        sequence: sequence.0,
        ..StreamTail::default()
    };
    keys.into_iter().map(tail).collect()
}
