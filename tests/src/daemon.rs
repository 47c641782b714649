//! A platform whose daemons the test starts itself, each time with the environment that it chooses: the contract of
//! `aap up` with its programs, without its supervisor.

use std::fs::OpenOptions;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::platform::{Platform, Ran, log_tail, signal};
use crate::ports::free_port;
use crate::proxy::Proxy;
use crate::wait::{PATIENCE, eventually, wait_until};

/// What the daemons of a home are told. Everything has a default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where the agent finds the coordinator. Default: where it listens.
    pub coordinator_address: Option<String>,
    /// Where it finds several.
    pub coordinators: Vec<String>,
    /// Where this home's coordinator listens for agents. Default: a free port.
    pub agents_port: Option<u16>,
    /// Section `buffer` of the agent, in braces.
    pub buffer: String,
    /// More `Source` documents; the source `http` is always there.
    pub sources: Vec<String>,
    /// Sections of the coordinator, such as `landing: {…}, lake: {…}`.
    pub coordinator: String,
}

impl Settings {
    /// Follows `glob` into the stream `logs`, as `aap up --tail` does.
    pub fn tail(mut self, glob: &str) -> Self {
        self.sources.push(source("tail", &format!("type: file, stream: logs, include: ['{glob}']")));
        self
    }
}

/// A document of kind `Source`.
pub fn source(name: &str, spec: &str) -> String {
    format!("apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n")
}

/// A daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    pid_file: PathBuf,
    log: PathBuf,
}

impl Platform {
    /// Makes the home: certificates, token, configuration. Nothing runs yet.
    #[track_caller]
    pub fn prepare(&self, node: &str, settings: &Settings) {
        let home = self.home();
        let init = ["init", "--home", home.to_str().unwrap(), "--node", node];
        Ran::of(self.command("aap-coordinator").args(init).output().unwrap()).ok();
        let (agents, operators, http) =
            (settings.agents_port.unwrap_or_else(free_port), free_port(), free_port());
        let address = settings.coordinator_address.clone().unwrap_or_else(|| format!("127.0.0.1:{agents}"));
        let address = match settings.coordinators.as_slice() {
            [] => format!("address: '{address}'"),
            several => format!("addresses: ['{}']", several.join("', '")),
        };
        let buffer = if settings.buffer.is_empty() { "{}" } else { &settings.buffer };
        let agent = format!(
            "apiVersion: aap/v1\nkind: Agent\nmetadata: {{ name: {node} }}\n\
             spec: {{ coordinator: {{ {address} }}, buffer: {buffer} }}\n"
        );
        let listen = format!("type: http, token_file: run/operator.token, listen: '127.0.0.1:{http}'");
        let documents: Vec<String> =
            [agent, source("http", &listen)].into_iter().chain(settings.sources.iter().cloned()).collect();
        std::fs::write(home.join("config/agent.yaml"), documents.join("---\n")).unwrap();
        let coordinator = format!(
            "apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{ name: c }}\n\
             spec: {{ agents: {{ bind: '127.0.0.1:{agents}' }}, operators: {{ bind: '127.0.0.1:{operators}' }}, {} }}\n",
            settings.coordinator
        );
        std::fs::write(home.join("config/coordinator.yaml"), coordinator).unwrap();
    }

    /// A network in front of this platform's coordinator: give its address to the agent.
    pub fn network(&self) -> Proxy {
        let home = self.home();
        Proxy::new(move || endpoint(&home, "agents")?.parse().ok())
    }

    /// Starts `agent` or `coordinator`.
    pub fn start(&self, name: &str) -> Daemon {
        self.start_failing(name, "")
    }

    /// The same with crash points armed, as `AAP_FAIL` writes them.
    pub fn start_failing(&self, name: &str, fail: &str) -> Daemon {
        let mut command = self.command(&format!("aap-{name}"));
        self.start_command(name, command.env("AAP_FAIL", fail))
    }

    /// Starts a daemon by a command of its own: another environment, standard input, a tracer around it.
    pub fn start_command(&self, name: &str, command: &mut std::process::Command) -> Daemon {
        let log = self.home().join(format!("log/{name}.log"));
        std::fs::create_dir_all(self.home().join("log")).unwrap();
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let output = Stdio::from(file.try_clone().unwrap());
        let child = command.arg("--home").arg(self.home()).stdout(output).stderr(file).spawn().unwrap();
        let pid_file = self.home().join(format!("run/{name}.pid"));
        // A home may be full; the daemon is known by its handle too.
        std::fs::write(&pid_file, child.id().to_string()).ok();
        Daemon { name: name.to_owned(), child, pid_file, log }
    }

    /// Starts both and waits until the agent is connected.
    #[track_caller]
    pub fn start_both(&self) -> (Daemon, Daemon) {
        let coordinator = self.start("coordinator");
        let agent = self.start("agent");
        self.await_coordinator();
        self.await_connected();
        (coordinator, agent)
    }

    /// Waits until the coordinator answers operators.
    #[track_caller]
    pub fn await_coordinator(&self) {
        eventually("a coordinator that answers", || TcpStream::connect(self.endpoint("operator")?).ok());
    }

    /// Waits until the agent holds a session with the coordinator, and both know it.
    #[track_caller]
    pub fn await_connected(&self) {
        eventually("an agent that is connected", || {
            self.agent_metric("aap_agent_uplink_connected").filter(|connected| *connected == 1.0)?;
            Some(self.carrier()).filter(|carrier| !carrier.is_empty())
        });
    }

    /// Waits until the coordinator has everything that is durable on the node.
    #[track_caller]
    pub fn await_delivered(&self) {
        eventually("everything delivered", || {
            self.agent_metric("aap_agent_buffer_waiting_batches").filter(|waiting| *waiting == 0.0)
        });
    }

    /// What `run/coordinator.json` says: `operator` or `agents`.
    pub fn endpoint(&self, name: &str) -> Option<String> {
        endpoint(&self.home(), name)
    }

    /// What carries the session of the platform's node, as the coordinator says it; empty without a session.
    pub fn carrier(&self) -> String {
        let ran = self.aap(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_default();
        let node = &status["item"]["nodes"][0];
        if node["connected"] == true {
            node["transport"].as_str().unwrap_or_default().to_owned()
        } else {
            String::new()
        }
    }

    /// A figure of the agent's `/metrics`, with its labels as they stand there. Absent while nobody answers.
    pub fn agent_metric(&self, name: &str) -> Option<f64> {
        figure(self.http().get("/metrics").ok()?.body.as_str()?, name)
    }

    /// A figure of the coordinator's `/metrics`.
    pub fn coordinator_metric(&self, name: &str) -> Option<f64> {
        let token = std::fs::read_to_string(self.home().join("run/operator.token")).ok()?;
        let operator = crate::Http::new(&self.endpoint("operator")?, token.trim());
        figure(operator.get("/metrics").ok()?.body.as_str()?, name)
    }
}

fn endpoint(home: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(home.join("run/coordinator.json")).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    value[name].as_str().map(str::to_owned)
}

fn figure(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.trim().parse().ok()
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its standard input, if the command that started it piped it.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end within [`PATIENCE`].
    #[track_caller]
    pub fn await_end(&mut self, why: &str) -> ExitStatus {
        assert!(wait_until(PATIENCE, || self.ended().is_some()), "{} still runs: {why}", self.name);
        self.ended().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end well within `limit`.
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) {
        self.signal(Signal::TERM);
        assert!(wait_until(limit, || self.ended().is_some()), "{} does not stop within {limit:?}", self.name);
        let status = self.ended().unwrap();
        assert!(status.success(), "{} ended with {status}", self.name);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- end of {} ----\n{}", self.log.display(), log_tail(&self.log));
        }
        if self.ended().is_none() {
            self.kill();
        }
        // The number may be somebody else's from now on.
        std::fs::remove_file(&self.pid_file).ok();
    }
}
