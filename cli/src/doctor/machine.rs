//! The machine: room for data, limits of the system, the programs, and where they listen.

use std::time::Duration;

use aap_client::v1::StatusReply;
use camino::Utf8Path;
use rustix::fs::{statfs, statvfs};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;

use super::{ANSWER_WITHIN, Finding, Subject, Verdict};
use crate::text::bytes;
use crate::up::programs;

/// Below this the buffers soon make producers wait.
const FREE_WARN: u64 = 2 << 30;
/// Below this a segment of a buffer does not fit any more.
const FREE_FAIL: u64 = 256 << 20;
/// File systems that keep nothing through a restart, or whose fsync says more than it does: `f_type` of statfs(2).
const UNSAFE_FILE_SYSTEMS: [(u64, &str, &str); 6] = [
    (0x0102_1994, "tmpfs", "which is memory: everything is gone after a restart of the machine"),
    (0x8584_58f6, "ramfs", "which is memory: everything is gone after a restart of the machine"),
    (0x794c_7630, "overlayfs", "which belongs to a container: everything is gone with it; mount a volume"),
    (0x6969, "NFS", "whose locks and fsync depend on the server; use a disk of this machine"),
    (0xff53_4d42, "CIFS", "whose locks and fsync depend on the server; use a disk of this machine"),
    (0x6573_5546, "FUSE", "whose fsync is only as good as the program behind it"),
];
/// Files that a daemon opens under load, with room: segments, connections, files of the lake.
const FILES_WARN: u64 = 16_384;
/// Below this it does not even start with many nodes.
const FILES_FAIL: u64 = 1_024;
/// All programs of a release are of one version.
const PROGRAMS: [&str; 3] = ["aap-agent", "aap-coordinator", "aap-engine"];
/// Nodes of another version that are named.
const NAMED_MAX: usize = 5;

pub(super) fn disk(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let Some(home) = subject.home() else {
        return vec![Finding::skipped(check, "the platform keeps no files on this machine")];
    };
    let (room, kind) = match (statvfs(home.root().as_std_path()), statfs(home.root().as_std_path())) {
        (Ok(room), Ok(kind)) => (room, kind),
        (Err(error), _) | (_, Err(error)) => {
            let unknown =
                Finding::new(check, Verdict::Fail, format!("`{}` cannot be looked at", home.root()));
            return vec![unknown.cause(error.to_string())];
        }
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let mut findings = vec![free_space(check, home.root(), free)];
    // The type is a number of 32 bits, whatever the word of the machine.
    let number = u64::from(u32::try_from(i128::from(kind.f_type) & 0xffff_ffff).unwrap_or_default());
    findings.extend(file_system(check, home.root(), number));
    findings
}

fn free_space(check: &'static str, root: &Utf8Path, free: u64) -> Finding {
    let verdict = match free {
        ..FREE_FAIL => Verdict::Fail,
        FREE_FAIL..FREE_WARN => Verdict::Warn,
        _ => return Finding::ok(check, format!("{} are free at `{root}`", bytes(free))),
    };
    Finding::new(check, verdict, format!("only {} are free at `{root}`", bytes(free)))
        .hint("see what takes the room", format!("du -xh --max-depth=2 {root}"))
}

fn file_system(check: &'static str, root: &Utf8Path, number: u64) -> Option<Finding> {
    let (_, name, why) = UNSAFE_FILE_SYSTEMS.iter().find(|(unsafe_one, ..)| *unsafe_one == number)?;
    let found = Finding::new(check, Verdict::Warn, format!("`{root}` lies on {name}, {why}"));
    Some(found.hint("keep the home on a disk of this machine", "aap up --home DIR --detach"))
}

pub(super) fn limits(check: &'static str) -> Vec<Finding> {
    // Daemons raise their own limit to the hard one when they start.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let verdict = match files {
        ..FILES_FAIL => Verdict::Fail,
        FILES_FAIL..FILES_WARN => Verdict::Warn,
        u64::MAX => return vec![Finding::ok(check, "a process may open any number of files")],
        _ => return vec![Finding::ok(check, format!("a process may open {files} files"))],
    };
    let found = Finding::new(check, verdict, format!("a process may open {files} files only"));
    vec![
        found.hint("raise the hard limit before the platform is started", format!("ulimit -Hn {FILES_WARN}")),
    ]
}

pub(super) async fn programs(check: &'static str, status: Option<&StatusReply>) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let mut findings = vec![];
    let found: Vec<_> =
        PROGRAMS.iter().filter_map(|name| Some((*name, programs::beside(name).ok()?))).collect();
    for (_, path) in &found {
        match version_of(path).await {
            Some(version) if version == own => {}
            Some(version) => findings.push(differs(check, &format!("`{path}` is of version {version}"), own)),
            None => findings.push(
                Finding::new(check, Verdict::Fail, format!("`{path}` does not say its version"))
                    .hint("see what it says", format!("{path} --version")),
            ),
        }
    }
    if !found.is_empty() && found.len() < PROGRAMS.len() {
        let is_missing = |wanted: &&&str| found.iter().all(|(name, _)| *name != **wanted);
        let missing: Vec<_> = PROGRAMS.iter().filter(is_missing).map(|name| format!("`{name}`")).collect();
        let text = format!("beside the others there is no {}", missing.join(" and no "));
        let missing = Finding::new(check, Verdict::Fail, text);
        findings.push(missing.hint("install all programs of one release", "aap version"));
    }
    if let Some(status) = status.filter(|status| status.coordinator_version != own) {
        let version = &status.coordinator_version;
        findings.push(differs(check, &format!("the coordinator is of version {version}"), own));
    }
    let nodes = status.map(|status| status.nodes.iter()).into_iter().flatten();
    let others: Vec<String> = nodes
        .filter(|node| !node.agent_version.is_empty() && node.agent_version != own)
        .map(|node| format!("{} ({})", node.node, node.agent_version))
        .collect();
    if !others.is_empty() {
        let named = others.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        let text = format!("{} nodes have agents of another version: {named}", others.len());
        findings.push(differs(check, &text, own));
    }
    match (findings.is_empty(), found.is_empty()) {
        (false, _) => findings,
        (true, true) => vec![Finding::ok(check, format!("only `aap` is on this machine, of version {own}"))],
        (true, false) => vec![Finding::ok(check, format!("all are of version {own}"))],
    }
}

fn differs(check: &'static str, text: &str, own: &str) -> Finding {
    Finding::new(check, Verdict::Warn, format!("{text}, and `aap` of {own}")).hint(
        "a coordinator reads what agents of the release before it send; upgrade it first",
        "aap node ls",
    )
}

/// The last word of what a program says of itself.
async fn version_of(path: &Utf8Path) -> Option<String> {
    let mut command = tokio::process::Command::new(path);
    let said = command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let said = tokio::time::timeout(ANSWER_WITHIN, said).await.ok()?.ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    text.split_whitespace().last().map(str::to_owned)
}

pub(super) async fn ports(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let endpoints = subject.home().and_then(|_| subject.platform.coordinator_endpoints().ok());
    let Some(endpoints) = endpoints else {
        return vec![Finding::skipped(check, "no coordinator ever ran in a home of this machine")];
    };
    let mut findings = vec![];
    for (whom, address) in [("operators", &endpoints.operator), ("agents", &endpoints.agents)] {
        let connected =
            tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address.as_str())).await;
        let cause = match connected {
            Ok(Ok(_)) => {
                findings.push(Finding::ok(check, format!("{address} takes connections of {whom}")));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_late) => "no answer within 2 s".to_owned(),
        };
        let closed = Finding::new(check, Verdict::Fail, format!("{address} takes no connections of {whom}"));
        findings
            .push(closed.cause(cause).hint("see why the coordinator does not run", "aap logs coordinator"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_and_memory_in_the_place_of_a_disk_are_found() {
        let root = Utf8Path::new("/srv/aap");
        for (free, verdict) in [(0, Verdict::Fail), (FREE_FAIL, Verdict::Warn), (FREE_WARN, Verdict::Ok)] {
            assert_eq!(free_space("disk", root, free).verdict, verdict, "{free}");
        }
        assert!(file_system("disk", root, 0x0102_1994).unwrap().text.contains("tmpfs"));
        assert!(file_system("disk", root, 0xef53).is_none(), "ext4");
    }
}
