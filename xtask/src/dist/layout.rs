//! Where everything is on a machine, by the Filesystem Hierarchy Standard.

use std::fs;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::notices;
use super::programs::Programs;
use super::tree::Tree;
use crate::build::PROGRAMS;
use crate::tools;

/// The programs find each other beside themselves, and DuckDB's library in `../lib`: so they have a folder of their own.
const OWN: &str = "usr/lib/aap";
/// Programs for people; `aap-engine` is for daemons.
const FOR_PEOPLE: [&str; 3] = ["aap", "aap-agent", "aap-coordinator"];
/// Where each shell looks for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/aap"),
    ("zsh", "usr/share/zsh/vendor-completions/_aap"),
    ("fish", "usr/share/fish/vendor_completions.d/aap.fish"),
];
/// Folders of `packaging`, as they are.
const FOLDERS: [(&str, &str); 5] = [
    ("etc", "etc/aap"),
    ("systemd", "usr/lib/systemd/system"),
    ("sysusers.d", "usr/lib/sysusers.d"),
    ("tmpfiles.d", "usr/lib/tmpfiles.d"),
    ("examples", "usr/share/doc/aap/examples"),
];
/// What is to be read.
const DOC: &str = "usr/share/doc/aap";

/// The whole installation.
pub(super) fn tree(programs: &Programs, library: &Utf8Path) -> Result<Tree> {
    let mut tree = Tree::default();
    for name in PROGRAMS {
        tree.program(format!("{OWN}/bin/{name}"), programs.stripped(name)?);
    }
    tree.text(format!("{OWN}/lib/libduckdb.so"), read(library)?);
    for name in FOR_PEOPLE {
        tree.link(format!("usr/bin/{name}"), &format!("../lib/aap/bin/{name}"));
    }
    for (shell, path) in COMPLETIONS {
        tree.text(path, programs.completion(shell)?);
    }
    match programs.manual()? {
        Some(folder) => tree.copy(&folder, Utf8Path::new("usr/share/man/man1"))?,
        None => println!("no manual pages: this `aap` writes none"),
    }
    for (from, to) in FOLDERS {
        tree.copy(&packaging(from), Utf8Path::new(to))?;
    }
    documents(&mut tree)?;
    Ok(tree)
}

fn documents(tree: &mut Tree) -> Result<()> {
    let doc = Utf8Path::new(DOC);
    tree.copy(&tools::root().join("docs"), &doc.join("docs"))?;
    for name in ["LICENSE", "README.md"] {
        tree.text(doc.join(name), read(&tools::root().join(name))?);
    }
    tree.text(doc.join("copyright"), read(&packaging("licences/copyright"))?);
    tree.text(doc.join("licences/duckdb.txt"), read(&packaging("licences/duckdb.txt"))?);
    tree.text(doc.join("licences/crates.txt"), notices::page()?);
    Ok(())
}

fn packaging(path: &str) -> Utf8PathBuf {
    tools::root().join("packaging").join(path)
}

fn read(path: &Utf8Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read `{path}`"))
}
