//! Both daemons from an unpacked installation, started with what their units say: a machine is enrolled, rows go in at the
//! agent and come out at the coordinator, and both stop when they are asked to.
//!
//! systemd does not run here, so what only it can do, such as its sandbox, is not tried.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use super::unit::Unit;
use crate::tools;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often something is looked for that should come within a second or two: half a minute.
const LOOKS: u32 = 150;
/// What goes in.
const ROWS: &str =
    "{\"id\":1,\"city\":\"Lyon\"}\n{\"id\":2,\"city\":\"Oslo\"}\n{\"id\":3,\"city\":\"Turin\"}\n";

/// Tries the installation below `root`.
pub(super) fn run(root: &Utf8Path, coordinator: &Unit, agent: &Unit) -> Result<()> {
    make_homes(root, &[coordinator, agent])?;
    let hub = Daemon::start(root, coordinator)?;
    let aap = |home: &Unit, arguments: &[&str]| -> Result<String> {
        let home = home.home()?;
        tools::output(Command::new(root.join("usr/bin/aap")).args(["--home", home.as_str()]).args(arguments))
    };
    let made = aap(coordinator, &["token", "create", "--site", "trial", "-o", "json"])?;
    let made: Value = serde_json::from_str(&made).context("read the token")?;
    let token = made["item"]["token"].as_str().context("find the token")?;
    let node = enrol(root, &agent.home()?, token)?;
    let reader = Daemon::start(root, agent)?;

    let rows = root.join("rows.ndjson");
    fs::write(&rows, ROWS).context("write rows")?;
    aap(agent, &["ingest", "trial", rows.as_str()])?;
    let question = |more: &[&str], sql: &str| {
        let fixed = ["query", "-o", "csv", "--no-headers"];
        aap(coordinator, &[&fixed, more, &[sql]].concat()).map(|answer| answer.trim().to_owned())
    };
    await_answer("the rows at the coordinator", "3,3", || {
        question(&["--wait-for-ingest"], "select count(*), count(distinct city) from trial")
    })?;
    await_answer("the rows at the node", "3", || question(&["--node", &node], "select count(*) from trial"))?;
    await_answer("figures, which /etc/aap/sources.d asks for", "true", || {
        question(&["--wait-for-ingest"], "select count(*) > 0 from host_metrics")
    })?;
    reader.stop()?;
    hub.stop()?;
    println!("trial: 3 rows from node `{node}` landed and were answered by coordinator and node");
    Ok(())
}

/// Makes the homes as an installation does, by its own files; without root or without systemd's programs, by hand.
fn make_homes(root: &Utf8Path, units: &[&Unit]) -> Result<()> {
    let programs = ["systemd-sysusers", "systemd-tmpfiles"];
    if !geteuid().is_root() || !programs.iter().all(|program| tools::has(program)) {
        println!("skipped: users of their own, which need root, {}", programs.join(" and "));
        for unit in units {
            let home = unit.home()?;
            fs::create_dir_all(&home).with_context(|| format!("create `{home}`"))?;
        }
        return Ok(());
    }
    let root_flag = format!("--root={root}");
    tools::output(Command::new(programs[0]).args([&root_flag, "aap.conf"]))?;
    tools::output(Command::new(programs[1]).args([&root_flag, "--create", "aap.conf"]))?;
    for unit in units {
        let home = unit.home()?;
        let made = home.metadata().with_context(|| format!("find `{home}`"))?;
        ensure!(
            made.uid() != 0 && made.mode() & 0o777 == 0o700,
            "`{home}` is not private to a user of its own"
        );
    }
    Ok(())
}

/// Enrols as an administrator does. Whoever the home belongs to must be able to read what comes of it.
fn enrol(root: &Utf8Path, home: &Utf8Path, token: &str) -> Result<String> {
    let mut command = Command::new(root.join("usr/bin/aap-agent"));
    let said = tools::output(command.args(["enroll", "--home", home.as_str(), "--output", "json", token]))?;
    let said: Value = serde_json::from_str(&said).context("read what the enrolment says")?;
    let node = said["node"].as_str().context("find the name of the node")?;
    let key = home.join(format!("tls/nodes/{node}.key"));
    let owner = |path: &Utf8Path| path.metadata().map(|found| (found.uid(), found.gid()));
    ensure!(owner(&key)? == owner(home)?, "`{key}` does not belong to whom the home belongs");
    Ok(node.to_owned())
}

fn await_answer(what: &str, expected: &str, ask: impl Fn() -> Result<String>) -> Result<()> {
    let mut last = None;
    for _ in 0..LOOKS {
        match ask() {
            Ok(answer) if answer == expected => return Ok(()),
            other => last = Some(other),
        }
        pause();
    }
    bail!("{what}: expected `{expected}`, and the last answer was {last:?}")
}

#[expect(clippy::disallowed_methods, reason = "other processes do their work in real time")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

/// A running daemon; it is killed when this is dropped.
struct Daemon {
    name: &'static str,
    child: Child,
    log: Utf8PathBuf,
}

impl Daemon {
    /// Starts a unit as the user whom its home belongs to, and waits until it says that it is ready.
    fn start(root: &Utf8Path, unit: &Unit) -> Result<Self> {
        let socket_path = root.join(format!("{}.notify", unit.name));
        let socket =
            UnixDatagram::bind(&socket_path).with_context(|| format!("listen at `{socket_path}`"))?;
        fs::set_permissions(&socket_path, fs::Permissions::from_mode(0o666)).context("open the socket")?;
        socket.set_read_timeout(Some(LOOK_EVERY)).context("limit the wait")?;
        let log = root.join(format!("{}.log", unit.name));
        let out = fs::File::create(&log).with_context(|| format!("create `{log}`"))?;
        let mut command = unit.command()?;
        if geteuid().is_root() {
            let owned = unit.home()?.metadata().context("look at a home")?;
            command.uid(owned.uid()).gid(owned.gid());
        }
        command.env("NOTIFY_SOCKET", &socket_path).current_dir("/").stdin(Stdio::null());
        command.stdout(out.try_clone().context("share the log")?).stderr(out);
        let child = command.spawn().with_context(|| format!("start {}", unit.name))?;
        let mut daemon = Self { name: unit.name, child, log };
        daemon.await_ready(&socket)?;
        Ok(daemon)
    }

    fn await_ready(&mut self, socket: &UnixDatagram) -> Result<()> {
        let mut buffer = [0; 256];
        for _ in 0..LOOKS {
            if let Ok(length) = socket.recv(&mut buffer)
                && buffer[..length].starts_with(b"READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().context("look at a daemon")? {
                bail!("{} ended with {status} before it was ready:\n{}", self.name, self.said());
            }
        }
        bail!("{} did not say that it is ready:\n{}", self.name, self.said())
    }

    /// Asks it to stop; it must end well.
    fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("name a process")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("ask {} to stop", self.name))?;
        for _ in 0..LOOKS {
            if let Some(status) = self.child.try_wait().context("look at a daemon")? {
                ensure!(status.success(), "{} ended with {status}:\n{}", self.name, self.said());
                return Ok(());
            }
            pause();
        }
        bail!("{} does not stop:\n{}", self.name, self.said())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            writeln!(std::io::stderr(), "{} cannot be ended: {error}", self.name).unwrap_or_default();
        }
    }
}
