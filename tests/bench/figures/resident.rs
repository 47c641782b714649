//! An agent that does nothing, and one that was killed with much stored.

use std::time::Duration;

use crate::input::Input;
use crate::meter::memory;
use crate::scale::Scale;
use crate::site::{Setup, Site};
use crate::table::{Figure, Goal};

/// Until what the start needed is given back.
const SETTLE: Duration = Duration::from_secs(15);

/// Resident memory of an agent that is connected and idle.
pub(crate) fn idle(_: &Scale) -> Vec<Figure> {
    let site = Site::started(&Setup { delivers: true, ..Setup::default() });
    std::thread::sleep(SETTLE);
    let megabytes = |which| memory(site.agent_pid(), which) as f64 / 1e6;
    let meter = site.agent_meter();
    std::thread::sleep(Duration::from_secs(10));
    vec![
        Figure::new("idle, resident memory of the agent", megabytes("VmRSS"), "MB")
            .goal(Goal::AtMost(15.0))
            .note(format!(
                "of it {:.1} MB of its own and {:.1} MB of its program file",
                megabytes("RssAnon"),
                megabytes("RssFile")
            )),
        Figure::new(
            "idle, CPU of the agent",
            meter.cpu() / meter.wall().as_secs_f64() * 100.0,
            "% of a core",
        ),
    ]
}

/// SIGKILL with much stored and a load going on, then a start: until it takes data again.
pub(crate) fn recovery(scale: &Scale) -> Vec<Figure> {
    let mut site = Site::started(&Setup { agent: "budget: 20GiB", ..Setup::default() });
    let input = Input::noise();
    input.write(&site.path("in/fill.log"), scale.stored * 3 / 2);
    let read = site.agent_metrics();
    let stored = || read("aap_agent_buffer_stored_bytes").unwrap_or(0.0);
    site.await_that("a full buffer", || stored() >= scale.stored as f64);
    let bytes = stored();
    site.kill_agent();
    let took = site.start_agent().as_secs_f64();
    vec![Figure::new("SIGKILL → ready", took, "s").goal(Goal::AtMost(1.0)).note(format!(
        "{:.0} MB stored, killed while it wrote; the start of the process included",
        bytes / 1e6
    ))]
}
