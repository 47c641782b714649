//! `check`: everything that can be judged without running the programs.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use camino::Utf8PathBuf;

use crate::{duckdb, errors, structure, tools};

/// Format, structure, licences, pages of errors, generated code, lints, documentation; warnings are failures here.
pub(crate) fn run() -> Result<()> {
    tools::require_build_tools()?;
    duckdb::shared()?;
    tools::run(tools::cargo().args(["fmt", "--all", "--check"]))?;
    structure::check()?;
    errors::check()?;
    check_generated()?;
    tools::run(tools::cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "aap-proto-gen",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    tools::run(
        tools::cargo()
            .args(["doc", "--workspace", "--exclude", "aap-proto-gen", "--no-deps", "--locked", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    println!("check: all good");
    Ok(())
}

/// Regenerates the code made from the .proto files.
pub(crate) fn generate() -> Result<()> {
    tools::run(tools::cargo().args(["run", "--quiet", "--package", "aap-proto-gen", "--locked"]))
}

fn generated() -> Result<BTreeMap<Utf8PathBuf, Vec<u8>>> {
    let folder = tools::root().join("proto/src/generated");
    let mut files = BTreeMap::new();
    for entry in folder.read_dir_utf8().with_context(|| format!("list `{folder}`"))? {
        let path = entry?.into_path();
        let bytes = fs::read(&path).with_context(|| format!("read `{path}`"))?;
        files.insert(path, bytes);
    }
    Ok(files)
}

fn check_generated() -> Result<()> {
    let committed = generated()?;
    generate()?;
    if generated()? != committed {
        bail!(
            "the generated protobuf code is not what the .proto files say; commit what `cargo xtask gen` made"
        );
    }
    Ok(())
}
