//! `test` and `test --long`.

use anyhow::Result;

use crate::services::Servers;
use crate::{build, tools};

/// What the names of tests against real servers contain.
const SERVICE_TESTS: [&str; 15] = [
    "sinks::",
    "elsewhere::",
    "cluster::",
    "telemetry::",
    "oidc::",
    "sessions::",
    "discovery::",
    "gateway::",
    "keyring::",
    "secrets::",
    "kafka",
    "postgres",
    "cassandra",
    "redis",
    "object",
];

/// Builds the release programs, and both daemons with deliberate faults, then runs unit, property, model and end-to-end
/// tests.
///
/// Tests against other systems run against real servers, which this starts and stops; `services` asks for those tests alone,
/// with every server that there is a script for, and with as many rows and kills as the promise is stated for.
pub(crate) fn run(long: bool, services: bool, filter: Option<&str>) -> Result<()> {
    let programs = build::release()?;
    build::mutants(&programs)?;
    let servers = Servers::start(services)?;
    let mut command = tools::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--exclude", "aap-proto-gen"]);
    command.env("AAP_TEST_BIN", programs.as_str());
    if long {
        command.env("AAP_TEST_LONG", "1").env("AAP_MODEL_SEEDS", "10000");
    }
    command.envs(servers.environment());
    if services || long {
        command.env("AAP_TEST_SINK_KILLS", "10").env("AAP_TEST_SINK_ROWS", "1000000");
        command.env("AAP_TEST_CLUSTER_KILLS", "10").env("AAP_TEST_CLUSTER_PAUSES", "3");
    }
    command.arg("--").args(filter);
    if services && filter.is_none() {
        command.args(SERVICE_TESTS);
    }
    tools::run(&mut command)
}
