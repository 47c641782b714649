//! Lines through a followed file until they are durable on the node, and until they lie in the lake.

use std::fs;

use crate::input::Input;
use crate::limits::{median, zstd};
use crate::scale::Scale;
use crate::site::{Setup, Site};
use crate::table::{Figure, Goal};

/// Lines of one batch of the file source, about.
const BATCH_ROWS: usize = 4000;

/// What one run used.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// 10^6 bytes of input.
    megabytes: f64,
    /// Seconds on a core.
    cpu: f64,
    /// Seconds on the wall.
    wall: f64,
    /// Bytes written to the disk for each byte of input.
    written: f64,
}

/// Puts a file before an agent that works alone, and waits until its lines are durable.
fn ingest(input: &Input, setup: &Setup<'_>, bytes: u64) -> Run {
    let site = Site::started(setup);
    let (bytes, rows) = input.write(&site.path("input"), bytes);
    let meter = site.agent_meter();
    fs::rename(site.path("input"), site.path("in/input.log")).unwrap();
    site.await_durable("logs", rows);
    Run {
        megabytes: bytes as f64 / 1e6,
        cpu: meter.cpu(),
        wall: meter.wall().as_secs_f64(),
        written: meter.written() as f64 / bytes as f64,
    }
}

fn median_of(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    median(runs.iter().map(value).collect())
}

fn per_core(run: &Run) -> f64 {
    run.megabytes / run.cpu
}

fn on_the_wall(run: &Run) -> f64 {
    run.megabytes / run.wall
}

/// Plain lines: the agent alone, fsync before they count.
pub(crate) fn plain_lines(scale: &Scale) -> Vec<Figure> {
    durable(&Input::plain(), scale, "plain lines", "text", 300.0)
}

/// JSON of nine fields, parsed into typed columns.
pub(crate) fn json_lines(scale: &Scale) -> Vec<Figure> {
    durable(&Input::json(), scale, "JSON lines", "json", 200.0)
}

fn durable(input: &Input, scale: &Scale, what: &str, format: &str, goal: f64) -> Vec<Figure> {
    let setup = Setup { format, ..Setup::default() };
    let runs: Vec<Run> = (0..scale.runs).map(|_| ingest(input, &setup, scale.bytes)).collect();
    let limit = zstd(input, 1, BATCH_ROWS).rate;
    let rate = median_of(&runs, per_core);
    let name = |text: &str| format!("{what}, {text}");
    vec![
        Figure::new(&name("durable"), rate, "MB/core-s").goal(Goal::AtLeast(goal)).note(format!(
            "{:.0} bytes a line; {:.0} MB/s on the wall",
            input.line_bytes(),
            median_of(&runs, on_the_wall)
        )),
        Figure::new(&name("beside zstd level 1"), rate, "MB/core-s")
            .beside("zstd-1 of the same", limit)
            .goal(Goal::AtLeast(limit / 2.0)),
        Figure::new(&name("rows"), rate * 1e6 / input.line_bytes(), "rows/core-s"),
        Figure::new(&name("written per byte read"), median_of(&runs, |run| run.written), "B")
            .note("a new store: every segment is filled with zeros once, before it is recycled"),
    ]
}

/// What fsync costs beside `durability: os`.
pub(crate) fn durability(scale: &Scale) -> Vec<Figure> {
    let input = Input::plain();
    let [mut fsync, mut os] = [const { Vec::<Run>::new() }; 2];
    for _ in 0..scale.runs {
        let run = |agent| ingest(&input, &Setup { agent, ..Setup::default() }, scale.bytes);
        fsync.push(run("durability: fsync"));
        os.push(run("durability: os"));
    }
    let cost = |rate: fn(&Run) -> f64| (1.0 - median_of(&fsync, rate) / median_of(&os, rate)) * 100.0;
    vec![
        Figure::new("fsync instead of os, throughput lost", cost(on_the_wall), "%")
            .goal(Goal::AtMost(35.0))
            .note(format!(
                "{:.0} and {:.0} MB/s on the wall; CPU per byte costs {:.0} % more",
                median_of(&fsync, on_the_wall),
                median_of(&os, on_the_wall),
                cost(per_core)
            )),
    ]
}

/// From the file to the lake, through agent and coordinator, with retention on the node.
pub(crate) fn end_to_end(scale: &Scale) -> Vec<Figure> {
    let input = Input::plain();
    let setup = Setup {
        delivers: true,
        agent: "retain: 32MiB",
        coordinator: "lake: { age_seconds: 1 }",
        ..Setup::default()
    };
    let site = Site::started(&setup);
    let (bytes, rows) = input.write(&site.path("input"), scale.bytes);
    let (agent, coordinator) = (site.agent_meter(), site.coordinator_meter());
    fs::rename(site.path("input"), site.path("in/input.log")).unwrap();
    site.await_landed(rows);
    let (agent_cpu, landed_cpu) = (agent.cpu(), coordinator.cpu());
    let landed = agent.wall().as_secs_f64();
    site.await_that("rows in the lake", || in_lake(&site) >= rows);
    let wall = agent.wall().as_secs_f64();
    let (megabytes, lake_cpu) = (bytes as f64 / 1e6, coordinator.cpu());
    vec![
        Figure::new("file → lake, agent", megabytes / agent_cpu, "MB/core-s").note("reads, stores and ships"),
        Figure::new("file → lake, coordinator lands", megabytes / landed_cpu, "MB/core-s"),
        Figure::new("file → lake, coordinator with lake", megabytes / lake_cpu, "MB/core-s"),
        Figure::new("file → lake, all together", megabytes / (agent.cpu() + lake_cpu), "MB/core-s").note(
            format!(
                "{:.0} MB/s on the wall to landed, {:.0} MB/s to the lake",
                megabytes / landed,
                megabytes / wall
            ),
        ),
        Figure::new("written per byte read, agent, retention", agent.written() as f64 / bytes as f64, "B")
            .goal(Goal::AtMost(0.4)),
        Figure::new(
            "written per byte read, coordinator, lake",
            coordinator.written() as f64 / bytes as f64,
            "B",
        ),
    ]
}

fn in_lake(site: &Site) -> u64 {
    let ran = site.aap(&["stream", "show", "logs", "-o", "json"]);
    let found = (ran.code == 0).then(|| ran.json()["item"]["rows_in_lake"].as_u64());
    found.flatten().unwrap_or(0)
}
