//! Bytes between node and coordinator, and what each carrier makes of the same data.

use std::fs;
use std::time::Duration;

use crate::input::Input;
use crate::limits::{median, zstd};
use crate::link::{HERE, Link, Weather};
use crate::load::{Mark, Watch};
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
const LOSSY: Weather = Weather { delay: Duration::from_millis(25), lost_of_1000: 20, seed: 0 };

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

/// QUIC beside gRPC on loopback: the same backlog shipped by each, in turns.
pub(crate) fn carriers(scale: &Scale) -> Vec<Figure> {
    let input = Input::plain();
    let (quic, grpc) = in_turns(scale.runs, |carrier, _| ship(&input, carrier, scale.bytes));
    let median_of = |runs: &[Shipped], value: fn(&Shipped) -> f64| median(runs.iter().map(value).collect());
    let per_core = |runs: &[Shipped]| median_of(runs, |run| run.per_core);
    let on_the_wall = |runs: &[Shipped]| median_of(runs, |run| run.on_the_wall);
    let tcp = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    vec![
        Figure::new("QUIC, clean, per core of both ends", per_core(&quic), "MB/core-s")
            .beside("gRPC", per_core(&grpc))
            .goal(Goal::AtLeast(0.7 * per_core(&grpc)))
            .note(format!(
                "a stored backlog shipped over loopback; MB as read, landing included; QUIC with CUBIC, TCP with {}",
                tcp.trim()
            )),
        Figure::new("QUIC, clean, on the wall", on_the_wall(&quic), "MB/s").beside("gRPC", on_the_wall(&grpc)),
    ]
}

/// Runs of QUIC and of gRPC, one after the other, so that both meet the same machine.
fn in_turns<T>(runs: usize, mut run: impl FnMut(&str, u64) -> T) -> (Vec<T>, Vec<T>) {
    (0..runs as u64).map(|number| (run("quic", number), run("grpc", number))).unzip()
}

/// 10^6 bytes of input per core-second of both programs, and per second.
#[derive(Debug)]
struct Shipped {
    per_core: f64,
    on_the_wall: f64,
}

fn ship(input: &Input, carrier: &str, bytes: u64) -> Shipped {
    let uplink = format!(", carrier: {carrier}");
    let mut site = Site::new(&Setup { delivers: true, uplink: &uplink, ..Setup::default() });
    site.start_agent();
    let (bytes, rows) = input.write(&site.path("input"), bytes);
    fs::rename(site.path("input"), site.path("in/input.log")).unwrap();
    site.await_durable("logs", rows);
    site.start_coordinator();
    let watch = Watch::landing(&site);
    let (agent, coordinator) = (site.agent_meter(), site.coordinator_meter());
    site.await_landed(rows);
    let per_core = bytes as f64 / 1e6 / (agent.cpu() + coordinator.cpu());
    Shipped { per_core, on_the_wall: rate(&watch.stop(), input) }
}

/// 10^6 bytes of input that landed in a second, from the first batch on.
fn rate(marks: &[Mark], input: &Input) -> f64 {
    let landing: Vec<_> = marks.iter().filter(|(_, rows)| *rows > 0).collect();
    let ((first, before), (last, after)) = (landing[0], landing[landing.len() - 1]);
    (after - before) as f64 * input.line_bytes() / 1e6 / last.duration_since(*first).as_secs_f64()
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
    let (quic, grpc) = in_turns(scale.runs, |carrier, seed| over_link(&input, carrier, scale, seed));
    let text = |runs: &[f64]| runs.iter().map(|rate| format!("{rate:.2}")).collect::<Vec<_>>().join(", ");
    let runs = format!("QUIC {}; gRPC {}", text(&quic), text(&grpc));
    let (quic, grpc) = (median(quic), median(grpc));
    vec![
        Figure::new("QUIC, 2 % loss and 50 ms", quic, "MB/s")
            .beside("gRPC", grpc)
            .goal(Goal::AtLeast(grpc))
            .note(format!(
                "MB as read, both with CUBIC; delay and loss are made by this program between two TUN devices (no netem): \
                 25 ms and 2 % of the packets in each direction, whatever the protocol; the runs: {runs}"
            )),
    ]
}

/// 10^6 bytes of input that land in a second.
fn over_link(input: &Input, carrier: &str, scale: &Scale, seed: u64) -> f64 {
    let link = Link::up(Weather { seed, ..LOSSY });
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
    rate(&watch.stop(), input)
}
