//! The package for Debian and its descendants: an `ar` archive of a version, of what the package says of itself, and of
//! the files.
//!
//! ```text
//! debian-binary     2.0
//! control.tar.zst   control, conffiles, md5sums, postinst, prerm, postrm
//! data.tar.zst      the files, from / on
//! ```

use std::fmt::Write;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use md5::{Digest, Md5};

use super::programs::{Needs, debian_architecture};
use super::tree::Tree;
use crate::tools;

/// Which package of Debian has a library. One that is not here, programs must not need.
const PACKAGES: [(&str, &str); 8] = [
    ("libc.so.6", "libc6"),
    ("libdl.so.2", "libc6"),
    ("libm.so.6", "libc6"),
    ("libpthread.so.0", "libc6"),
    ("ld-linux-x86-64.so.2", "libc6"),
    ("ld-linux-aarch64.so.1", "libc6"),
    ("libgcc_s.so.1", "libgcc-s1"),
    ("libstdc++.so.6", "libstdc++6"),
];
/// What makes the users at installation.
const USERS: &str = "systemd | systemd-standalone-sysusers | systemd-sysusers";
/// Scripts of the package, in `packaging/debian`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

const DESCRIPTION: &str = "Advanced Analytics Platform: agent, coordinator and command line
 Agents read logs, files and metrics of machines, keep them in a durable buffer,
 answer SQL from it, and stream it to a coordinator that lands every row exactly
 once. Neither daemon is started by the installation.";

/// Name and bytes of the package of `files`, which need `needs` of the system.
pub(super) fn package(files: &Tree, needs: &Needs, time: u64) -> Result<(String, Vec<u8>)> {
    // A version with a hyphen, such as 1.0.0-rc.1, stands before the one without.
    let version = env!("CARGO_PKG_VERSION").replace('-', "~");
    let architecture = debian_architecture()?;
    let mut control = Tree::default();
    control.text("control", fields(files, needs, &version, architecture)?);
    control.text("conffiles", configuration(files).map(|path| format!("/{path}\n")).collect::<String>());
    control.text("md5sums", md5sums(files));
    for script in SCRIPTS {
        let path = tools::root().join("packaging/debian").join(script);
        control.program(script, std::fs::read(&path).with_context(|| format!("read `{path}`"))?);
    }
    let root = Utf8Path::new("");
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.zst", control.archive(root, time)?),
        ("data.tar.zst", files.archive(root, time)?),
    ];
    Ok((format!("aap_{version}_{architecture}.deb"), ar(&members, time)))
}

fn fields(files: &Tree, needs: &Needs, version: &str, architecture: &str) -> Result<String> {
    let bytes: usize = files.files().map(|(_, bytes)| bytes.len()).sum();
    Ok(format!(
        "Package: aap\nVersion: {version}\nArchitecture: {architecture}\n\
         Maintainer: AAP developers <developers@aap.invalid>\nInstalled-Size: {}\nDepends: {}\n\
         Section: admin\nPriority: optional\nDescription: {DESCRIPTION}\n",
        bytes.div_ceil(1024),
        depends(needs)?,
    ))
}

/// What the package depends on: whatever has the libraries that the programs need.
fn depends(needs: &Needs) -> Result<String> {
    let mut packages = std::collections::BTreeSet::new();
    for library in needs.libraries.iter().filter(|name| *name != "libduckdb.so") {
        match PACKAGES.iter().find(|(name, _)| name == library) {
            Some((_, package)) => packages.insert(*package),
            None => bail!("a program needs `{library}`, and no package is known that has it"),
        };
    }
    let (major, minor) = needs.glibc;
    let versioned = packages.into_iter().map(|package| match package {
        "libc6" => format!("libc6 (>= {major}.{minor})"),
        other => other.to_owned(),
    });
    Ok(versioned.chain([USERS.to_owned()]).collect::<Vec<_>>().join(", "))
}

/// Files that a user may change and an upgrade leaves alone.
fn configuration(files: &Tree) -> impl Iterator<Item = &Utf8Path> {
    files.files().map(|(path, _)| path).filter(|path| path.starts_with("etc"))
}

fn md5sums(files: &Tree) -> String {
    let kept: Vec<&Utf8Path> = configuration(files).collect();
    let mut lines = String::new();
    for (path, bytes) in files.files().filter(|(path, _)| !kept.contains(path)) {
        lines.extend(Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")));
        lines.push_str(&format!("  {path}\n"));
    }
    lines
}

/// The archive that holds a package together: 60 bytes before each member, which begins at an even place.
fn ar(members: &[(&str, Vec<u8>)], time: u64) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        let mut head = String::new();
        writeln!(head, "{name:<16}{time:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, "100644", bytes.len())
            .expect("a text takes whatever is written to it");
        archive.extend(head.bytes());
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(2), b'\n');
    }
    archive
}

/// The files of a package as a tar archive, read by Debian's own program.
pub(super) fn contents(package: &Utf8Path) -> Result<Vec<u8>> {
    let mut command = std::process::Command::new("dpkg-deb");
    let output = command.args(["--fsys-tarfile", package.as_str()]).output().context("start dpkg-deb")?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => bail!("dpkg-deb refuses `{package}`: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_depends_on_what_its_programs_need() {
        let needs = |libraries: &[&str]| Needs {
            libraries: libraries.iter().map(|name| (*name).to_owned()).collect(),
            glibc: (2, 34),
        };
        let found = depends(&needs(&["libm.so.6", "libc.so.6", "libduckdb.so", "libstdc++.so.6"])).unwrap();
        assert_eq!(found, format!("libc6 (>= 2.34), libstdc++6, {USERS}"));
        assert!(depends(&needs(&["libssl.so.3"])).unwrap_err().to_string().contains("libssl.so.3"));
    }

    #[test]
    fn members_of_an_archive_begin_at_even_places() {
        let archive = ar(&[("a", b"1".to_vec()), ("b", b"22".to_vec())], 7);
        assert_eq!(archive.len(), 8 + 60 + 2 + 60 + 2);
        assert_eq!(&archive[8..24], b"a               ");
        assert_eq!(&archive[66..70], b"`\n1\n");
        assert_eq!(&archive[70..72], b"b ");
    }
}
