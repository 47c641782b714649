//! A steady 10 MB/s: what it costs, and how long after it was written a line is durable at the coordinator and queryable.

use std::sync::Arc;
use std::time::Duration;

use crate::input::Input;
use crate::limits::{bare_fdatasync, median, percentile_ms};
use crate::load::{Load, Watch, latencies};
use crate::scale::Scale;
use crate::site::{Setup, Site};
use crate::table::{Figure, Goal};

/// Runs of which the median counts.
const RUNS: usize = 5;
/// Before the figures count: the first segments are made and the connection has found its pace.
const WARM_UP: Duration = Duration::from_secs(2);

fn delivering() -> Site {
    Site::started(&Setup { delivers: true, ..Setup::default() })
}

/// CPU of the agent while it reads, stores and ships 10 MB/s.
pub(crate) fn cpu_at_load(scale: &Scale) -> Vec<Figure> {
    let site = delivering();
    let load = Load::start(site.path("in/load.log"), Arc::new(Input::plain()));
    std::thread::sleep(WARM_UP);
    let (agent, coordinator) = (site.agent_meter(), site.coordinator_meter());
    std::thread::sleep(scale.load);
    let share = |cpu: f64| cpu / agent.wall().as_secs_f64() * 100.0;
    let figures = vec![
        Figure::new("CPU at 10 MB/s, agent", share(agent.cpu()), "% of a core")
            .goal(Goal::AtMost(8.0))
            .note("durable and delivered to a coordinator"),
        Figure::new("CPU at 10 MB/s, coordinator", share(coordinator.cpu()), "% of a core"),
    ];
    load.stop();
    figures
}

/// Line written → durable at the coordinator, and → in the answer of a query.
pub(crate) fn latency(scale: &Scale) -> Vec<Figure> {
    let input = Arc::new(Input::plain());
    let each = scale.load / 2;
    let [mut bare50, mut bare99, mut p50, mut p99] = [const { Vec::new() }; 4];
    for _ in 0..RUNS {
        let site = delivering();
        let mut bare = bare_fdatasync(&site.path(""), Duration::from_secs(1));
        bare50.push(percentile_ms(&mut bare, 0.5));
        bare99.push(percentile_ms(&mut bare, 0.99));
        let mut found = landing(&site, &input, each);
        p50.push(percentile_ms(&mut found, 0.5));
        p99.push(percentile_ms(&mut found, 0.99));
    }
    let (bare50, bare99) = (median(bare50), median(bare99));
    let (median50, median99) = (median(p50.clone()), median(p99.clone()));
    let mut answered = querying(&delivering(), &input, each);
    let runs = |values: &[f64]| values.iter().map(|v| format!("{v:.0}")).collect::<Vec<_>>().join(", ");
    vec![
        Figure::new("written → at the coordinator, p50", median50, "ms")
            .beside("bare fdatasync", bare50)
            .goal(Goal::AtMost(40f64.max(3.0 * bare50)))
            .note(format!("at 10 MB/s, looked at every ms; the runs: {}", runs(&p50))),
        Figure::new("written → at the coordinator, p99", median99, "ms")
            .beside("bare fdatasync", bare99)
            .goal(Goal::AtMost(100f64.max(3.0 * bare99)))
            .note(format!("the runs: {}", runs(&p99))),
        Figure::new("written → in an answer, p50", percentile_ms(&mut answered, 0.5), "ms")
            .goal(Goal::AtMost(1000.0))
            .note("count(*) asked again and again at 10 MB/s; the time of the query included"),
        Figure::new("written → in an answer, p99", percentile_ms(&mut answered, 0.99), "ms")
            .goal(Goal::AtMost(2000.0)),
    ]
}

fn landing(site: &Site, input: &Arc<Input>, lasting: Duration) -> Vec<Duration> {
    let watch = Watch::landing(site);
    let load = Load::start(site.path("in/load.log"), input.clone());
    std::thread::sleep(WARM_UP + lasting);
    let written = load.stop();
    site.await_landed(written.last().unwrap().1);
    let began = written[0].0 + WARM_UP;
    let counted: Vec<_> = written.into_iter().filter(|(at, _)| *at >= began).collect();
    latencies(&counted, &watch.stop())
}

fn querying(site: &Site, input: &Arc<Input>, lasting: Duration) -> Vec<Duration> {
    let load = Load::start(site.path("in/load.log"), input.clone());
    std::thread::sleep(WARM_UP);
    let answers = {
        let began = std::time::Instant::now();
        let mut marks = vec![];
        while began.elapsed() < lasting {
            let rows = site.value("select count(*) from logs") as u64;
            marks.push((std::time::Instant::now(), rows));
        }
        marks
    };
    let written = load.stop();
    let from = answers[0].1;
    let counted: Vec<_> = written.into_iter().filter(|(_, rows)| *rows > from).collect();
    latencies(&counted, &answers)
}
