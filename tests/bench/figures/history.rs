//! SQL over what a node has kept.

use std::time::Instant;

use serde_json::Value;

use crate::input::Input;
use crate::limits::median;
use crate::scale::Scale;
use crate::site::{Setup, Site};
use crate::table::{Figure, Goal};

const SQL: &str = "select status, level, count(*) n, avg(bytes) mean from logs group by 1, 2 order by 1, 2";
/// The goal is stated for so many rows.
const GOAL_ROWS: f64 = 10e6;
const RUNS: usize = 5;

/// A group-by over the node's own history, beside the same over the lake.
pub(crate) fn group_by(scale: &Scale) -> Vec<Figure> {
    let setup = Setup {
        delivers: true,
        agent: "retain: 8GiB",
        format: "json",
        coordinator: "lake: { age_seconds: 1 }",
        ..Setup::default()
    };
    let site = Site::started(&setup);
    let input = Input::json();
    let bytes = (scale.history_rows as f64 * input.line_bytes()) as u64;
    let (_, rows) = input.write(&site.path("in/history.log"), bytes);
    site.await_landed(rows);
    let node = seconds(&site, &["--node", "bench"], rows);
    let lake = seconds(&site, &[], rows);
    let scaled = |seconds: f64| seconds * GOAL_ROWS / rows as f64;
    vec![
        Figure::new("group-by, 10 M rows of a node's history", scaled(node.0), "s")
            .beside("the coordinator", scaled(lake.0))
            .goal(Goal::AtMost(1.0))
            .note(format!("median of {RUNS} over {rows} rows ({:.2} s), scaled to 10 M", node.0)),
        Figure::new("group-by, 10 M rows, CPU of the engines", scaled(node.1), "core-s")
            .beside("the coordinator", scaled(lake.1))
            .goal(Goal::AtMost(2.0))
            .note("one second on two cores"),
    ]
}

/// Seconds on the wall, and on a core, of one query.
fn seconds(site: &Site, place: &[&str], rows: u64) -> (f64, f64) {
    let (agent, coordinator) = (site.agent_meter(), site.coordinator_meter());
    let mut took = vec![];
    for _ in 0..RUNS {
        let began = Instant::now();
        let ran = site.aap(&[&["query", "-q", "-o", "ndjson"], place, &[SQL]].concat()).ok();
        took.push(began.elapsed().as_secs_f64());
        let lines = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let counted: u64 = lines.map(|row| row["n"].as_u64().unwrap()).sum();
        assert_eq!(counted, rows, "{}", ran.out);
    }
    let engines = agent.children() + coordinator.children();
    (median(took), engines / RUNS as f64)
}
