//! `bench`: figures, each beside a limit or a peer measured in the same run.
//!
//! First the programs that measure one crate each, then `tests/bench`, which measures the release programs end to end and
//! prints the table, of which `bench cli` is what operators and a fleet of agents wait for; `bench sinks` measures delivery
//! to real servers, `bench query` what pushdown saves. `AAP_BENCH_QUICK=1` makes it small (five to fifteen minutes on two cores); `AAP_BENCH_OUT=FILE` appends JSON lines.

use std::process::Command;

use anyhow::Result;

use crate::services::Servers;
use crate::{build, tools};

/// The measuring programs: (crate, example).
const EXAMPLES: [(&str, &str); 3] =
    [("aap-decode", "decode_rate"), ("aap-buffer", "append_rate"), ("aap-transport", "carrier_rate")];

/// Runs the measuring programs whose name contains `filter`, then the end-to-end measurements.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    if filter == Some("sinks") {
        return sinks();
    }
    if filter == Some("query") {
        return query();
    }
    let programs = build::release()?;
    for (package, example) in EXAMPLES.into_iter().filter(|(_, example)| wanted(example)) {
        tools::run(tools::cargo().args([
            "run",
            "--release",
            "--locked",
            "--package",
            package,
            "--example",
            example,
        ]))?;
    }
    let mut command = tests("bench");
    tools::run(command.arg("--nocapture").args(filter).env("AAP_TEST_BIN", programs.as_str()))
}

/// Questions to real servers with what they can do themselves, and without.
fn query() -> Result<()> {
    build::release()?;
    let servers = Servers::start(false)?;
    tools::run(measurements("it").args(["pushdown"]).envs(servers.environment()))
}

/// Each sink beside the plainest client of its real server.
fn sinks() -> Result<()> {
    let servers = Servers::start(false)?;
    tools::run(measurements("throughput").envs(servers.environment()))
}

/// Tests called `name` of all crates that are measurements, one after the other.
fn measurements(name: &str) -> Command {
    let mut command = tests(name);
    command.args(["--ignored", "--nocapture", "--test-threads", "1"]);
    command
}

/// Tests called `name` of all crates, optimised; arguments that follow are for them. Of the whole workspace, so that what crates have in
/// common is built once.
fn tests(name: &str) -> Command {
    let mut command = tools::cargo();
    command.args([
        "test",
        "--release",
        "--locked",
        "--no-fail-fast",
        "--workspace",
        "--exclude",
        "aap-proto-gen",
    ]);
    command.args(["--test", name, "--"]);
    command
}
