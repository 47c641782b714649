//! `--check`: the package is unpacked into a clean root and judged: what is in it, whom it belongs to, what systemd says of
//! its units, and whether its daemons work.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use tar::{Archive, Entry};

use super::unit::Unit;
use super::{Made, debian, trial};
use crate::tools;

/// What must be in the package.
const LIST: &str = "packaging/contents.txt";
/// Both services.
const UNITS: [&str; 2] = ["aap-coordinator", "aap-agent"];
/// The most exposed that a unit may be, in tenths, as `systemd-analyze security` counts: 100 is without any protection.
const EXPOSURE_MAX: &str = "15";

/// Judges what was made.
pub(super) fn run(made: &Made) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("aap-").tempdir().context("make a clean root")?;
    // The daemons run as users of their own, who must get here.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).context("open the clean root")?;
    let folder = Utf8Path::from_path(folder.path()).context("name a temporary folder")?;
    let root = folder.join("root");
    let found = unpack(made, &root)?;
    let list = fs::read_to_string(tools::root().join(LIST)).context("read the list of contents")?;
    compare(&found, &list)?;
    println!("contents: {} entries, as listed", found.len());
    let [coordinator, agent] = [Unit::read(&root, UNITS[0])?, Unit::read(&root, UNITS[1])?];
    for unit in [&coordinator, &agent] {
        analyse(unit, folder)?;
    }
    trial::run(&root, &coordinator, &agent)?;
    println!("dist: all good");
    Ok(())
}

/// Unpacks what was made below `root`; returns a line for each entry.
fn unpack(made: &Made, root: &Utf8Path) -> Result<Vec<String>> {
    fs::create_dir_all(root).with_context(|| format!("create `{root}`"))?;
    if !tools::has("dpkg-deb") {
        println!("skipped: the package, because dpkg-deb is not here; the archive is taken");
        let bytes = fs::read(&made.archive).with_context(|| format!("read `{}`", made.archive))?;
        let bytes = zstd::decode_all(bytes.as_slice()).context("decompress the archive")?;
        return unpack_tar(&bytes, Utf8Path::new(&made.top), root);
    }
    tools::output(Command::new("dpkg-deb").args(["--info", made.package.as_str()]))?;
    unpack_tar(&debian::contents(&made.package)?, Utf8Path::new(""), root)
}

/// Unpacks what lies below `top` in an archive.
fn unpack_tar(bytes: &[u8], top: &Utf8Path, root: &Utf8Path) -> Result<Vec<String>> {
    let mut archive = Archive::new(bytes);
    let mut lines = vec![];
    for entry in archive.entries().context("read the archive")? {
        let mut entry = entry.context("read the archive")?;
        let path = Utf8PathBuf::try_from(entry.path().context("read a path")?.into_owned())?;
        let path = path.strip_prefix(top).context("find everything in one folder")?.to_owned();
        if path.as_str().is_empty() {
            continue;
        }
        lines.push(describe(&entry, &path)?);
        entry.set_preserve_permissions(true);
        entry.unpack(root.join(&path)).with_context(|| format!("unpack `{path}`"))?;
    }
    Ok(lines)
}

/// The line of an entry in the list of contents. Everything is root's.
fn describe(entry: &Entry<'_, &[u8]>, path: &Utf8Path) -> Result<String> {
    let header = entry.header();
    let owner = (header.uid().context("read an owner")?, header.gid().context("read a group")?);
    ensure!(owner == (0, 0), "`{path}` belongs to {owner:?} in the archive");
    let mode = header.mode().context("read a mode")?;
    Ok(match entry.link_name().context("read a link")? {
        Some(to) => format!("link {path} -> {}", to.display()),
        None if header.entry_type().is_dir() => format!("{mode:04o} {path}/"),
        None => format!("{mode:04o} {path}"),
    })
}

/// Every entry is listed, and everything listed is there. A line that ends with `*` stands for any number of entries.
fn compare(found: &[String], list: &str) -> Result<()> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (open, exact): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.ends_with('*'));
    let is_open = |entry: &str| open.iter().any(|line| entry.starts_with(line.trim_end_matches('*')));
    let found: BTreeSet<&str> = found.iter().map(String::as_str).filter(|entry| !is_open(entry)).collect();
    let exact: BTreeSet<&str> = exact.into_iter().collect();
    let too_many: Vec<&str> = found.difference(&exact).copied().collect();
    let missing: Vec<&str> = exact.difference(&found).copied().collect();
    if !too_many.is_empty() || !missing.is_empty() {
        bail!(
            "what was packed is not what `{LIST}` says\n  not listed: {}\n  missing: {}",
            too_many.join(", "),
            missing.join(", ")
        );
    }
    Ok(())
}

/// What systemd says of a unit without running it.
fn analyse(unit: &Unit, folder: &Utf8Path) -> Result<()> {
    if !tools::has("systemd-analyze") {
        println!("skipped: {}.service by systemd-analyze, which is not here", unit.name);
        return Ok(());
    }
    let placed = folder.join(format!("{}.service", unit.name));
    unit.write_placed(&placed)?;
    tools::output(Command::new("systemd-analyze").args(["verify", "--man=no", placed.as_str()]))?;
    let arguments =
        ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX, placed.as_str()];
    let said = tools::output(Command::new("systemd-analyze").args(arguments))?;
    let score = said.lines().find(|line| line.contains("Overall exposure")).unwrap_or_default();
    println!("{}", score.trim_start_matches(['→', ' ']));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_and_what_is_missing_are_both_named() {
        let list = "# a comment\n0755 usr/\n0644 usr/share/doc/*\n";
        let check = |found: &[&str]| {
            compare(&found.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), list)
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(&["0755 usr/", "0644 usr/share/doc/a", "0644 usr/share/doc/b/c"]), Ok(()));
        assert!(check(&["0755 usr/", "0600 usr/x"]).unwrap_err().contains("not listed: 0600 usr/x"));
        assert!(check(&["0644 usr/share/doc/a"]).unwrap_err().contains("missing: 0755 usr/"));
    }
}
