//! `test` and `test --long`.

use anyhow::Result;

use crate::{build, tools};

/// Builds the release programs, and both daemons with deliberate faults, then runs unit, property, model and end-to-end
/// tests.
pub(crate) fn run(long: bool, filter: Option<&str>) -> Result<()> {
    let programs = build::release()?;
    build::mutants(&programs)?;
    let mut command = tools::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--exclude", "aap-proto-gen"]);
    command.env("AAP_TEST_BIN", programs.as_str());
    if long {
        command.env("AAP_TEST_LONG", "1").env("AAP_MODEL_SEEDS", "10000");
    }
    command.arg("--").args(filter);
    tools::run(&mut command)
}
