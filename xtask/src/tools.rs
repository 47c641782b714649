//! Running commands, and what the machine must have before anything is built.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// The root of the workspace. Cargo names it at run time; what was compiled in serves a program that is started without
/// cargo. Two checkouts may share a target folder: then either's build of this program runs for both.
pub(crate) fn root() -> &'static Utf8Path {
    static ROOT: LazyLock<Utf8PathBuf> = LazyLock::new(|| {
        let package =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
        Utf8PathBuf::from(package).parent().expect("xtask lies in the workspace").to_owned()
    });
    &ROOT
}

/// Where build output that outlives a clone is kept.
pub(crate) fn cache() -> Result<Utf8PathBuf> {
    if let Some(path) = std::env::var("AAP_CACHE").ok().filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let home = std::env::var("HOME").context("read HOME to find the cache directory")?;
    Ok(Utf8PathBuf::from(home).join(".cache/aap"))
}

/// Where cargo builds.
pub(crate) fn target() -> Utf8PathBuf {
    std::env::var("CARGO_TARGET_DIR").map_or_else(|_| root().join("target"), Utf8PathBuf::from)
}

/// How the names of variables begin by which cargo tells a program of its own package.
const OF_THIS_PACKAGE: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PRIMARY_PACKAGE"];

/// A cargo command in the workspace root, as if it had been typed there. Build scripts of dependencies look at what cargo tells this program of
/// itself, and then half of them are built anew: in each checkout, and whenever somebody calls cargo by hand.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if OF_THIS_PACKAGE.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs to success, or says which command failed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs to success and returns stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of `{shown}`"))
}

fn show(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// What a build needs beside Rust: how to see that it is there, and the Debian packages. OpenSSL, which comes with
/// librdkafka, is configured by Perl with modules that a minimal system lacks.
const NEEDED: [(&[&str], &str); 5] = [
    (&["cc", "--version"], "gcc libc6-dev"),
    (&["c++", "--version"], "g++"),
    (&["pkg-config", "--version"], "pkg-config"),
    (&["make", "--version"], "make"),
    (&["perl", "-MFindBin", "-MIPC::Cmd", "-MFile::Compare", "-e", "1"], "perl"),
];

/// Makes sure that the machine can build: names what is missing and, as root on Debian, installs it.
pub(crate) fn require_build_tools() -> Result<()> {
    let is_there = |words: &[&str]| {
        Command::new(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success())
    };
    let missing: Vec<_> = NEEDED.iter().filter(|(words, _)| !is_there(words)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|(_, packages)| packages.split(' ')).collect();
    let names: Vec<&str> = missing.iter().map(|(words, _)| words[0]).collect();
    let by_hand = format!("apt-get install -y {}", packages.join(" "));
    if !has("apt-get") || !is_root()? {
        bail!(
            "missing: {}\n  hint: as root, run `{by_hand}` (or your system's equivalent)",
            names.join(", ")
        );
    }
    eprintln!("missing: {}; installing with `{by_hand}`", names.join(", "));
    run(Command::new("apt-get").args(["-q", "update"]))?;
    run(Command::new("apt-get").args(["-q", "install", "-y"]).args(packages))
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}
