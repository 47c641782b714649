//! Rows that arrive as Arrow: validated and stored as received.

use std::fs;
use std::process::Stdio;

use crate::input::Input;
use crate::meter::Meter;
use crate::scale::Scale;
use crate::site::{Setup, Site};
use crate::table::{Figure, Goal};

/// Rows of one HTTP request: below its 16 MiB.
const REQUEST_ROWS: u64 = 40_000;
const COLUMNS: &str = "ts, level, host, service, status, bytes, duration_ms, cached, message";

/// `aap ingest` of an Arrow file, and Arrow streams over HTTP.
pub(crate) fn arrow(scale: &Scale) -> Vec<Figure> {
    let input = Input::json();
    let setup = Setup { delivers: true, format: "json", ..Setup::default() };
    let source = Site::started(&setup);
    let (_, rows) = input.write(&source.path("in/input.log"), 1);
    source.await_landed(rows);
    let limit = |limit: u64| format!("select {COLUMNS} from logs limit {limit}");
    let (whole, request) = (source.path("whole.arrow"), source.path("request.arrow"));
    export(&source, &limit(rows), &whole);
    export(&source, &limit(REQUEST_ROWS), &request);

    let alone = Site::started(&Setup::default());
    let times = scale.bytes / input.bytes.len() as u64;
    let meter = alone.agent_meter();
    for time in 0..times {
        let name = format!("run-{time}");
        alone.aap(&["ingest", "rows", whole.to_str().unwrap(), "--name", &name, "--format", "arrow"]).ok();
    }
    let ingested = figure("Arrow file, aap ingest", rows * times, &meter, &alone);

    let (http, body) = (alone.http(), fs::read(&request).unwrap());
    let headers = [("content-type", "application/vnd.apache.arrow.stream")];
    let requests = (rows * times / REQUEST_ROWS).max(1);
    let meter = alone.agent_meter();
    for _ in 0..requests {
        let answer = http.post("posts", &headers, &body).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    vec![ingested, figure("Arrow stream, HTTP", requests * REQUEST_ROWS, &meter, &alone)]
}

fn figure(name: &str, rows: u64, meter: &Meter, site: &Site) -> Figure {
    let wall = rows as f64 / meter.wall().as_secs_f64();
    let stored = site.agent_metrics()("aap_agent_buffer_stored_bytes").unwrap_or(0.0);
    Figure::new(name, rows as f64 / meter.cpu(), "rows/core-s").goal(Goal::AtLeast(2e6)).note(format!(
        "the agent's CPU; {wall:.0} rows/s on the wall, one at a time; {:.0} MB stored so far",
        stored / 1e6
    ))
}

fn export(site: &Site, sql: &str, path: &std::path::Path) {
    let file = fs::File::create(path).unwrap();
    let mut command = site.command("aap");
    command.args(["query", "-q", "-o", "arrow", "--limit", "0", sql]).stdout(Stdio::from(file));
    assert!(command.status().unwrap().success(), "{sql}");
}
