//! The programs as they are shipped, and what they say of themselves: completions, manual pages, libraries they need.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::tools;

/// The exit code of `aap` for a command line that it does not know.
const UNKNOWN_COMMAND: i32 = 2;

/// A folder of programs that were built.
#[derive(Debug)]
pub(super) struct Programs {
    /// Where they are.
    pub(super) folder: Utf8PathBuf,
    /// Where files are made on the way.
    pub(super) scratch: Utf8PathBuf,
}

impl Programs {
    /// The bytes of a program without what only debuggers need.
    pub(super) fn stripped(&self, name: &str) -> Result<Vec<u8>> {
        let (from, to) = (self.folder.join(name), self.scratch.join(name));
        tools::output(Command::new("strip").args(["--strip-debug", "-o", to.as_str(), from.as_str()]))?;
        fs::read(&to).with_context(|| format!("read `{to}`"))
    }

    /// The script with which `shell` completes commands of `aap`.
    pub(super) fn completion(&self, shell: &str) -> Result<String> {
        tools::output(Command::new(self.folder.join("aap")).args(["completion", shell]))
    }

    /// The folder with manual pages; `None` where this `aap` writes none.
    pub(super) fn manual(&self) -> Result<Option<Utf8PathBuf>> {
        let folder = self.scratch.join("man");
        fs::create_dir_all(&folder).with_context(|| format!("create `{folder}`"))?;
        let mut command = Command::new(self.folder.join("aap"));
        let output = command.args(["man", folder.as_str()]).output().context("ask `aap` for its manual")?;
        match output.status.code() {
            Some(0) => Ok(Some(folder)),
            Some(UNKNOWN_COMMAND) => Ok(None),
            _ => bail!("`aap man` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// What programs and libraries need of the system that they run on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Names of shared libraries.
    pub(super) libraries: BTreeSet<String>,
    /// The C library in this version, at least.
    pub(super) glibc: (u32, u32),
}

impl Needs {
    /// What the files need all together.
    pub(super) fn of(files: &[Utf8PathBuf]) -> Result<Self> {
        let mut needs = Self::default();
        for file in files {
            needs.add(&tools::output(Command::new("objdump").args(["-p", file.as_str()]))?);
        }
        Ok(needs)
    }

    /// Adds what `objdump -p` says of one file.
    fn add(&mut self, described: &str) {
        for line in described.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["NEEDED", library] => drop(self.libraries.insert(library.to_owned())),
                [.., version] => self.glibc = self.glibc.max(glibc(version).unwrap_or_default()),
                [] => {}
            }
        }
    }
}

/// The numbers of `GLIBC_2.34`.
fn glibc(symbol: &str) -> Option<(u32, u32)> {
    let mut numbers = symbol.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The file that a link leads to: a package holds no links to where it was built.
pub(super) fn library() -> Result<Utf8PathBuf> {
    let folder = tools::target().join("lib");
    let path = folder.join("libduckdb.so");
    path.canonicalize_utf8().with_context(|| format!("find DuckDB's library in `{folder}`"))
}

/// The name of the machine's architecture in Debian.
pub(super) fn debian_architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("Debian's name of the architecture `{other}` is not known here"),
    }
}

/// Whether every program is there.
pub(super) fn require(folder: &Utf8Path, names: &[&str]) -> Result<()> {
    match names.iter().find(|name| !folder.join(name).is_file()) {
        Some(missing) => bail!("`{missing}` is not in `{folder}`"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_and_every_library_are_found() {
        let mut needs = Needs::default();
        needs.add(
            "Dynamic Section:\n  NEEDED               libc.so.6\n  NEEDED               libm.so.6\n  RUNPATH  $ORIGIN/../lib\n\
             Version References:\n  required from libc.so.6:\n    0x069691b4 0x00 04 GLIBC_2.34\n\
             \x20   0x06969189 0x00 03 GLIBC_2.9\n    0x0 0x00 05 GLIBC_ABI_DT_RELR\n",
        );
        assert_eq!(needs.glibc, (2, 34));
        assert_eq!(needs.libraries.iter().collect::<Vec<_>>(), ["libc.so.6", "libm.so.6"]);
    }
}
