//! What operators wait for, a fleet that comes back at once, and strangers who want in: `cargo xtask bench cli`.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::flood::Flood;
use crate::input::Input;
use crate::limits::percentile_ms;
use crate::load::Load;
use crate::meter::memory;
use crate::scale::Scale;
use crate::site::{Setup, Site, landed};
use crate::table::{Figure, Goal};

/// Runs of a command of which the 95th percentile counts.
const RUNS: usize = 60;
/// Before a load counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// Agents that come back.
const AGENTS: usize = 1_000;

/// How long commands take, the start of their process included.
pub(crate) fn commands(_: &Scale) -> Vec<Figure> {
    let site = Site::started(&Setup { delivers: true, ..Setup::default() });
    let aap = |arguments: &[&str]| {
        let mut command = site.command("aap");
        let state = site.path("operator-state");
        command
            .args(arguments)
            .env("AAP_STATE_DIR", state)
            .env("AAP_CONFIG_DIR", site.path("operator-config"));
        command
    };
    let p95 = |make: &dyn Fn() -> Command| {
        // Once, so that programs lie in memory and names are kept.
        timed(make());
        let mut took: Vec<Duration> = (0..RUNS).map(|_| timed(make())).collect();
        percentile_ms(&mut took, 0.95)
    };
    let completion = || {
        let mut command = aap(&["--", "aap", "node", "show", ""]);
        command.env("AAP_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3").env("_CLAP_IFS", "\n");
        command
    };
    let offered = completion().output().unwrap();
    assert!(String::from_utf8_lossy(&offered.stdout).contains("bench"), "{offered:?}");
    vec![
        Figure::new("aap --version, p95", p95(&|| aap(&["--version"])), "ms").goal(Goal::AtMost(10.0)),
        Figure::new("aap node ls, p95", p95(&|| aap(&["node", "ls"])), "ms")
            .goal(Goal::AtMost(40.0))
            .note("over TLS, with a coordinator on this machine"),
        Figure::new("completion of a node, p95", p95(&completion), "ms")
            .goal(Goal::AtMost(60.0))
            .note("names kept from a moment ago"),
    ]
}

fn timed(mut command: Command) -> Duration {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    assert!(command.status().unwrap().success(), "{command:?}");
    began.elapsed()
}

/// A coordinator that was killed, and a thousand agents that all want back in.
pub(crate) fn reconnecting(_: &Scale) -> Vec<Figure> {
    let coordinator = "agents: { bind: '127.0.0.1:0' }";
    let mut site = Site::new(&Setup { delivers: true, coordinator, ..Setup::default() });
    site.start_coordinator();
    let bound = site.coordinator_address();
    site.bind_agents(bound);
    let idle = memory(site.coordinator_pid(), "VmRSS");
    let fleet = Fleet::of(&site, AGENTS);
    site.await_that("a fleet that is admitted", || fleet.sessions() == AGENTS);
    site.kill_coordinator();
    site.await_that("a fleet that is cut off", || fleet.sessions() == 0);
    let (refused, began) = (fleet.refused(), Instant::now());
    site.start_coordinator();
    site.await_that("a fleet that is back", || fleet.sessions() == AGENTS);
    let took = began.elapsed().as_secs_f64();
    let (peak, held) = (memory(site.coordinator_pid(), "VmHWM"), memory(site.coordinator_pid(), "VmRSS"));
    let each = |bytes: u64| bytes.saturating_sub(idle) as f64 / 1024.0 / AGENTS as f64;
    vec![
        Figure::new("1,000 agents back after a restart", took, "s").goal(Goal::AtMost(10.0)).note(format!(
            "from the start of the process; {} of {AGENTS} over QUIC, {} dials came to nothing; the agents run on the same cores",
            fleet.by_quic(),
            fleet.refused() - refused,
        )),
        Figure::new("coordinator, memory of an agent", each(held), "KiB")
            .goal(Goal::AtMost(256.0))
            .note(format!("at the peak of the rush {:.0} KiB; {:.0} MB without agents", each(peak), idle as f64 / 1e6)),
    ]
}

/// An agent that delivers, without and with strangers at the door.
pub(crate) fn flooded(scale: &Scale) -> Vec<Figure> {
    let site = Site::started(&Setup { delivers: true, ..Setup::default() });
    let input = Input::plain();
    let line = input.line_bytes();
    let load = Load::start(site.path("in/load.log"), Arc::new(input));
    std::thread::sleep(WARM_UP);
    let metrics = site.coordinator_metrics();
    // CPU seconds of the agent for a megabyte that landed, and megabytes a second.
    let measure = || {
        let (meter, before) = (site.agent_meter(), landed(&metrics));
        std::thread::sleep(scale.load);
        let megabytes = (landed(&metrics) - before) as f64 * line / 1e6;
        (meter.cpu() / megabytes, megabytes / meter.wall().as_secs_f64())
    };
    let (quiet, calm) = measure();
    let flood = Flood::of(&site);
    std::thread::sleep(WARM_UP);
    let (before, began) = (flood.handshakes(), Instant::now());
    let (flooded, rushed) = measure();
    let rate = (flood.handshakes() - before) as f64 / began.elapsed().as_secs_f64();
    drop(flood);
    load.stop();
    vec![
        Figure::new("CPU of a served agent under a flood", flooded / quiet, "x")
            .goal(Goal::AtMost(1.1))
            .note(format!(
                "{:.2} ms a MB without, {:.2} with {rate:.0} handshakes/s without a certificate",
                quiet * 1e3,
                flooded * 1e3
            )),
        Figure::new("its goodput under the flood", rushed, "MB/s")
            .beside("MB/s without", calm)
            .goal(Goal::AtLeast(0.9 * calm)),
    ]
}
