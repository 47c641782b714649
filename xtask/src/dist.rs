//! `dist`: what is shipped, as a package for Debian and as an archive for every other system. Both hold the same tree.
//!
//! ```text
//! /usr/bin/{aap,aap-agent,aap-coordinator}      links to
//! /usr/lib/aap/bin/                             the four programs; in ../lib is DuckDB's library
//! /usr/lib/{systemd/system,sysusers.d,tmpfiles.d}/
//! /etc/aap/                                     coordinator.yaml, sources.d/: changes of the user stay
//! /usr/share/                                   completions, manual pages, doc/aap/{docs,examples,licences}
//! /var/lib/{aap,aap-coordinator}/               the homes, made at installation; in neither archive
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `dist/tree.rs` | files with their paths, and reproducible archives of them |
//! | `dist/layout.rs` | what goes where |
//! | `dist/programs.rs` | the programs, what they need, what they say of themselves |
//! | `dist/notices.rs` | licences of what the programs are made of |
//! | `dist/debian.rs` | the package for Debian |
//! | `dist/check.rs` | `--check`: what is in the package, and what systemd says of the units |
//! | `dist/trial.rs` | `--check`: both daemons from the package, as their units start them |
//! | `dist/unit.rs` | reading units |

mod check;
mod debian;
mod layout;
mod notices;
mod programs;
mod tree;
mod trial;
mod unit;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use self::programs::{Needs, Programs};
use crate::build::{self, PROGRAMS};
use crate::tools;

/// What was made.
#[derive(Debug)]
struct Made {
    package: Utf8PathBuf,
    archive: Utf8PathBuf,
    /// The folder in the archive that holds everything.
    top: String,
}

/// Makes package, archive and their checksums in `target/dist`. `programs` is a folder of programs to take instead of building them.
pub(crate) fn run(programs: Option<Utf8PathBuf>, check: bool) -> Result<()> {
    let folder = match programs {
        Some(folder) => {
            println!("for trial only: the programs are those in `{folder}`, and not a release build");
            folder
        }
        None => build::release()?,
    };
    programs::require(&folder, &PROGRAMS)?;
    let made = make(folder)?;
    if check { check::run(&made) } else { Ok(()) }
}

fn make(folder: Utf8PathBuf) -> Result<Made> {
    let scratch = tempfile::tempdir().context("make a folder for what comes on the way")?;
    let scratch = Utf8Path::from_path(scratch.path()).context("name a temporary folder")?.to_owned();
    let programs = Programs { folder, scratch: scratch.clone() };
    let library = programs::library()?;
    let tree = layout::tree(&programs, &library)?;
    let files: Vec<Utf8PathBuf> =
        PROGRAMS.map(|name| scratch.join(name)).into_iter().chain([library]).collect();
    let needs = Needs::of(&files)?;
    let time = time()?;
    let (package, bytes) = debian::package(&tree, &needs, time)?;
    let top =
        format!("aap-{}-{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let archive = format!("{top}.tar.zst");
    let out = tools::target().join("dist-out");
    fs::create_dir_all(&out).with_context(|| format!("create `{out}`"))?;
    let mut sums = String::new();
    for (name, bytes) in [(&package, bytes), (&archive, tree.archive(Utf8Path::new(&top), time)?)] {
        let path = out.join(name);
        fs::write(&path, &bytes).with_context(|| format!("write `{path}`"))?;
        sums.push_str(&format!("{}  {name}\n", sha256(&bytes)));
        println!("{path}: {:.1} MiB", bytes.len() as f64 / f64::from(1 << 20));
    }
    fs::write(out.join("SHA256SUMS"), sums).context("write the checksums")?;
    Ok(Made { package: out.join(package), archive: out.join(archive), top })
}

/// When everything in an archive was changed: as `SOURCE_DATE_EPOCH` says, else at the time of the commit.
fn time() -> Result<u64> {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    let text = match said {
        Some(text) => text,
        None => {
            tools::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(tools::root()))
                .context("ask git for the time of the commit\n  hint: without git, set SOURCE_DATE_EPOCH")?
        }
    };
    text.trim().parse().with_context(|| format!("read `{}` as seconds since 1970", text.trim()))
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
