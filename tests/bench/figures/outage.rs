//! The coordinator is away while 10 MB/s go on: memory meanwhile, and how fast the node catches up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::input::Input;
use crate::load::Load;
use crate::meter::memory;
use crate::scale::Scale;
use crate::site::{Setup, Site, landed};
use crate::table::{Figure, Goal};

/// Samples before this may show what the first seconds of an outage need once.
const SETTLE: Duration = Duration::from_secs(15);
/// The node has caught up when less than this much of the load is on its way.
const CAUGHT_UP_ROWS: u64 = 20_000;

/// Memory while the coordinator is down, and the drain after it, beside the live load.
pub(crate) fn outage(scale: &Scale) -> Vec<Figure> {
    let mut site = Site::started(&Setup { delivers: true, ..Setup::default() });
    let input = Arc::new(Input::plain());
    let load = Load::start(site.path("in/load.log"), input.clone());
    std::thread::sleep(Duration::from_secs(3));
    site.kill_coordinator();
    let samples = resident(&site, scale.outage);
    let settled: Vec<_> = samples.iter().copied().filter(|(at, _)| *at >= SETTLE.as_secs_f64()).collect();
    let most = samples.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);

    site.start_coordinator();
    let (agent, coordinator) = (site.agent_meter(), site.coordinator_meter());
    let metrics = site.coordinator_metrics();
    let missing = load.rows() - site.value("select count(*) from logs") as u64;
    let mut first = None;
    site.await_that("a node that catches up", || {
        let rows = landed(&metrics);
        if rows > 0 {
            first.get_or_insert_with(|| (Instant::now(), rows));
        }
        // What was written since counts as well, but for a moment's worth.
        rows + CAUGHT_UP_ROWS >= missing
    });
    // From the first batch on: how soon the node dials again is another matter.
    let (began, before) = first.unwrap();
    let took = began.elapsed().as_secs_f64();
    let rows = landed(&metrics);
    let megabytes = |rows: u64| rows as f64 * input.line_bytes() / 1e6;
    let (rate, megabytes) = (megabytes(rows - before) / took, megabytes(rows));
    load.stop();
    vec![
        Figure::new("coordinator down, memory of the agent grows", slope(&settled) * 60.0 / 1e6, "MB/min")
            .goal(Goal::AtMost(1.0))
            .note(format!("10 MB/s for {} s", scale.outage.as_secs())),
        Figure::new("coordinator down, most memory", most / 1e6, "MB").goal(Goal::AtMost(60.0)),
        Figure::new("drain beside the live load", rate, "MB/s").goal(Goal::AtLeast(100.0)).note(format!(
            "{megabytes:.0} MB; per core-second {:.0} MB of the agent and {:.0} MB of the coordinator",
            megabytes / agent.cpu(),
            megabytes / coordinator.cpu()
        )),
    ]
}

/// Seconds and resident bytes, once a second.
fn resident(site: &Site, lasting: Duration) -> Vec<(f64, f64)> {
    let began = Instant::now();
    let mut samples = vec![];
    while began.elapsed() < lasting {
        samples.push((began.elapsed().as_secs_f64(), memory(site.agent_pid(), "VmRSS") as f64));
        std::thread::sleep(Duration::from_secs(1));
    }
    samples
}

/// Least squares: bytes a second.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let covariance: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    covariance / samples.iter().map(|sample| (sample.0 - x).powi(2)).sum::<f64>()
}
