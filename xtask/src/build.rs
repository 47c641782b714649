//! `build`, `up` and `dist`.

use std::fs;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use camino::Utf8PathBuf;

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

/// Builds what is missing and becomes `aap up`.
pub(crate) fn up(arguments: &[String]) -> Result<()> {
    let program = release()?.join("aap");
    let error = std::process::Command::new(&program).arg("up").args(arguments).exec();
    Err(error).with_context(|| format!("start `{program}`"))
}

/// Builds what is shipped: optimised across crates, DuckDB linked in.
pub(crate) fn dist() -> Result<()> {
    tools::require_build_tools()?;
    let library = duckdb::archive()?;
    tools::run(
        tools::cargo()
            .args(["build", "--profile", "dist", "--locked"])
            .env("DUCKDB_LIB_DIR", library.as_str()),
    )?;
    let name =
        format!("aap-{}-{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let folder = tools::target().join("dist-out").join(name);
    fs::create_dir_all(folder.join("bin")).with_context(|| format!("create `{folder}`"))?;
    for program in PROGRAMS {
        let from = tools::target().join("dist").join(program);
        fs::copy(&from, folder.join("bin").join(program)).with_context(|| format!("copy `{from}`"))?;
    }
    for text in ["LICENSE", "README.md"] {
        fs::copy(tools::root().join(text), folder.join(text)).with_context(|| format!("copy `{text}`"))?;
    }
    println!("{folder}");
    Ok(())
}
