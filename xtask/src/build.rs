//! `build` and `up`.

use std::fs;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{duckdb, tools};

/// The four programs.
pub(crate) const PROGRAMS: [&str; 4] = ["aap", "aap-agent", "aap-coordinator", "aap-engine"];

/// Builds the four programs for release; returns the folder they lie in.
pub(crate) fn release() -> Result<Utf8PathBuf> {
    tools::require_build_tools()?;
    duckdb::shared()?;
    tools::run(tools::cargo().args(["build", "--release", "--locked"]))?;
    Ok(tools::target().join("release"))
}

/// Builds both daemons with deliberate faults, for tests of the test harnesses, into `target/release/mutants/bin`, where they
/// have their real names and the other programs beside them. `programs` is the folder of the real ones.
pub(crate) fn mutants(programs: &Utf8Path) -> Result<()> {
    let daemons = ["aap-agent", "aap-coordinator"];
    let features = daemons.map(|name| format!("{name}/mutants")).join(",");
    let mut command = tools::cargo();
    // Of all members that `release` builds, so that what they have in common is not built with other features once more.
    command.args(["build", "--release", "--locked", "--features", &features]);
    for name in daemons {
        command.args(["--bin", &format!("{name}-mutant")]);
    }
    tools::run(&mut command)?;
    let folder = programs.join("mutants/bin");
    fs::create_dir_all(&folder).with_context(|| format!("create `{folder}`"))?;
    for name in PROGRAMS {
        let mutant = programs.join(format!("{name}-mutant"));
        let from = if daemons.contains(&name) { mutant } else { programs.join(name) };
        link(&from, &folder.join(name))?;
    }
    let library = folder.with_file_name("lib");
    if !library.is_symlink() {
        std::os::unix::fs::symlink("../../lib", &library).with_context(|| format!("make `{library}`"))?;
    }
    Ok(())
}

/// The file under one more name, whatever had that before. Not a link by name: programs look for each other beside the
/// file that they are.
fn link(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    if to.exists() {
        fs::remove_file(to).with_context(|| format!("remove `{to}`"))?;
    }
    fs::hard_link(from, to).with_context(|| format!("link `{from}` as `{to}`"))
}

/// Builds what is missing and becomes `aap up`.
pub(crate) fn up(arguments: &[String]) -> Result<()> {
    let program = release()?.join("aap");
    let error = std::process::Command::new(&program).arg("up").args(arguments).exec();
    Err(error).with_context(|| format!("start `{program}`"))
}
