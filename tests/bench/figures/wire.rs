//! Bytes between node and coordinator, and what each carrier makes of the same data.

use std::fs;
use std::time::Duration;

use crate::input::Input;
use crate::limits::zstd;
use crate::link::{HERE, Link, Weather};
use crate::load::Watch;
use crate::proxy;
use crate::scale::Scale;
use crate::site::{Setup, Site, free_address, landed};
use crate::table::{Figure, Goal};

/// Rows of the batches that the goal is stated for.
const SMALL_BATCH: usize = 1000;
/// Rows of a batch while a file is read, about.
const LARGE_BATCH: usize = 4000;
const REQUESTS: usize = 100;
/// 2 % and a round trip of 50 ms.
const LOSSY: Weather = Weather { delay: Duration::from_millis(25), lost_of_1000: 20 };

/// Bytes of TCP and UDP payload for a JSON line, counted by a relay between the two.
pub(crate) fn wire(_: &Scale) -> Vec<Figure> {
    let input = Input::json();
    let relay = free_address();
    let uplink = format!("address: '{relay}'");
    let mut site = Site::new(&Setup { delivers: true, uplink: &uplink, format: "json", ..Setup::default() });
    site.start_coordinator();
    let passed = proxy::start(relay, site.coordinator_address());
    site.start_agent();

    let http = site.http();
    let headers = [("content-type", "application/x-ndjson")];
    let mut rows = 0;
    let (before, _) = passed.both();
    for body in input.pieces(SMALL_BATCH).take(REQUESTS) {
        assert_eq!(http.post("posts", &headers, body).unwrap().status, 200);
        rows += SMALL_BATCH as u64;
        site.await_landed(rows);
    }
    let (between, _) = passed.both();
    input.write(&site.path("in/input.log"), 1);
    site.await_landed(rows + input.rows);
    let (after, _) = passed.both();
    let figure = |name, bytes: u64, rows: u64, goal, batch| {
        let peer = zstd(&input, 3, batch).line_bytes;
        Figure::new(name, bytes as f64 / rows as f64, "B")
            .beside("zstd-3 of the text", peer)
            .goal(Goal::AtMost(goal))
            .note(format!("of {:.0}; payload of UDP, agent to coordinator", input.line_bytes()))
    };
    vec![
        figure("wire, JSON line, 1,000 a batch", between - before, rows, 29.0, SMALL_BATCH),
        figure("wire, JSON line, draining", after - between, input.rows, 24.0, LARGE_BATCH),
    ]
}

/// QUIC beside gRPC on loopback: the same backlog shipped by each.
pub(crate) fn carriers(scale: &Scale) -> Vec<Figure> {
    let input = Input::plain();
    let [quic, grpc] = ["quic", "grpc"].map(|carrier| ship(&input, carrier, scale.bytes));
    vec![
        Figure::new("QUIC, clean, per core of both ends", quic.0, "MB/core-s")
            .beside("gRPC", grpc.0)
            .goal(Goal::AtLeast(0.7 * grpc.0))
            .note("a stored backlog shipped over loopback, both with CUBIC; MB as read, landing included"),
        Figure::new("QUIC, clean, on the wall", quic.1, "MB/s").beside("gRPC", grpc.1),
    ]
}

/// 10^6 bytes of input per core-second of both programs, and per second.
fn ship(input: &Input, carrier: &str, bytes: u64) -> (f64, f64) {
    let uplink = format!(", carrier: {carrier}");
    let mut site = Site::new(&Setup { delivers: true, uplink: &uplink, ..Setup::default() });
    site.start_agent();
    let (bytes, rows) = input.write(&site.path("input"), bytes);
    fs::rename(site.path("input"), site.path("in/input.log")).unwrap();
    site.await_durable("logs", rows);
    site.start_coordinator();
    let (agent, coordinator) = (site.agent_meter(), site.coordinator_meter());
    site.await_landed(rows);
    let megabytes = bytes as f64 / 1e6;
    (megabytes / (agent.cpu() + coordinator.cpu()), megabytes / agent.wall().as_secs_f64())
}

/// Both carriers over a link with loss and delay, between two network namespaces.
pub(crate) fn lossy(scale: &Scale) -> Vec<Figure> {
    if !Link::possible() {
        println!(
            "QUIC and gRPC at loss are not measured: that needs root, for network namespaces and TUN devices"
        );
        return vec![];
    }
    let input = Input::plain();
    let [quic, grpc] = ["quic", "grpc"].map(|carrier| over_link(&input, carrier, scale));
    vec![
        Figure::new("QUIC, 2 % loss and 50 ms", quic, "MB/s")
            .beside("gRPC", grpc)
            .goal(Goal::AtLeast(grpc))
            .note(
                "MB as read, both with CUBIC; delay and loss are made by this program between two TUN devices (no netem): \
                 25 ms and 2 % of the packets in each direction, whatever the protocol",
            ),
    ]
}

/// 10^6 bytes of input that land in a second.
fn over_link(input: &Input, carrier: &str, scale: &Scale) -> f64 {
    let link = Link::up(LOSSY);
    let port = free_address().port();
    let uplink = format!("address: '{HERE}:{port}', carrier: {carrier}");
    let listen = format!("agents: {{ bind: '{HERE}:{port}', names: ['{HERE}'] }}");
    let mut site =
        Site::new(&Setup { delivers: true, uplink: &uplink, coordinator: &listen, ..Setup::default() });
    site.agent_prefix = link.prefix();
    input.write(&site.path("in/input.log"), 1);
    site.start_coordinator();
    let metrics = site.coordinator_metrics();
    site.start_agent();
    site.await_that("the first batch over a bad link", || landed(&metrics) > 0);
    let watch = Watch::of(Duration::from_millis(5), move || landed(&metrics));
    std::thread::sleep(scale.lossy);
    let marks = watch.stop();
    let ((first, before), (last, after)) = (marks[0], marks[marks.len() - 1]);
    (after - before) as f64 * input.line_bytes() / 1e6 / (last - first).as_secs_f64()
}
