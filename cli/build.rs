//! Puts the pages of `docs/errors/` into the program, sorted by code, as `PAGES` in `error_pages.rs` of `OUT_DIR`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(name));
    let folder = variable("CARGO_MANIFEST_DIR")?.join("../docs/errors").canonicalize()?;
    println!("cargo:rerun-if-changed={}", folder.display());
    let pages = fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut pages: Vec<PathBuf> = pages.collect::<io::Result<_>>()?;
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.sort_by_key(|path| code(path));
    let mut text = String::from("const PAGES: &[(&str, &str)] = &[\n");
    for path in &pages {
        let line = writeln!(text, "    ({:?}, include_str!({:?})),", code(path), path.display().to_string());
        line.map_err(io::Error::other)?;
    }
    text.push_str("];\n");
    fs::write(variable("OUT_DIR")?.join("error_pages.rs"), text)
}

/// The file's name without its ending, which itself has a dot.
fn code(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
