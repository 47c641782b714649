//! A node and a coordinator as child processes in a home of their own, configured for measuring, with no supervisor between.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aap_tests::{Http, Ran, program, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::meter::Meter;

/// Nothing that is measured takes longer; what does is stuck.
const DEADLINE: Duration = Duration::from_secs(300);

/// What a site is made of.
#[derive(Debug, Default)]
pub(crate) struct Setup<'a> {
    /// `spec` of the agent's document, beside the coordinator.
    pub(crate) agent: &'a str,
    /// Whether the node has a coordinator.
    pub(crate) delivers: bool,
    /// More fields of the agent's `coordinator`, such as `, carrier: grpc`.
    pub(crate) uplink: &'a str,
    /// Format of the followed files `in/*.log`, which feed the stream `logs`.
    pub(crate) format: &'a str,
    /// `spec` of the coordinator's document.
    pub(crate) coordinator: &'a str,
}

/// A home and what runs in it.
#[derive(Debug)]
pub(crate) struct Site {
    directory: TempDir,
    http: SocketAddr,
    agent: Option<Child>,
    coordinator: Option<Child>,
    /// Words before the agent's command line, such as `ip netns exec NAME`.
    pub(crate) agent_prefix: Vec<String>,
}

impl Site {
    /// A home in which nothing runs yet.
    pub(crate) fn new(setup: &Setup<'_>) -> Self {
        let directory = tempfile::Builder::new().prefix("aap-bench-").tempdir().unwrap();
        let http = free_address();
        let site = Self { directory, http, agent: None, coordinator: None, agent_prefix: vec![] };
        let made = site.command("aap-coordinator").args(["init", "--node", "bench"]).output().unwrap();
        Ran::of(made).ok();
        fs::create_dir(site.path("in")).unwrap();
        site.configure(setup);
        site
    }

    /// A site whose programs run.
    pub(crate) fn started(setup: &Setup<'_>) -> Self {
        let mut site = Self::new(setup);
        if setup.delivers {
            site.start_coordinator();
        }
        site.start_agent();
        site
    }

    fn configure(&self, setup: &Setup<'_>) {
        let address = if setup.uplink.contains("address:") { "" } else { "address: auto" };
        let uplink = match setup.delivers {
            true => format!("coordinator: {{ {address}{} }}", setup.uplink),
            false => String::new(),
        };
        let format = if setup.format.is_empty() { "text" } else { setup.format };
        let (agent, http) = (setup.agent, self.http);
        let include = self.path("in/*.log").display().to_string();
        let document = |kind: &str, name: &str, spec: &str| {
            format!("apiVersion: aap/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n{spec}\n---\n")
        };
        let node = document("Agent", "bench", &format!("  {uplink}\n  buffer: {{ {agent} }}"));
        let http = format!("  {{ type: http, token_file: run/operator.token, listen: '{http}' }}");
        let file = format!("  {{ type: file, stream: logs, format: {format}, include: ['{include}'] }}");
        let text = node + &document("Source", "http", &http) + &document("Source", "files", &file);
        fs::write(self.home().join("config/agent.yaml"), text.trim_end_matches("---\n")).unwrap();
        let spec = format!("  {{ {} }}", setup.coordinator);
        let text = document("Coordinator", "c", &spec);
        fs::write(self.home().join("config/coordinator.yaml"), text.trim_end_matches("---\n")).unwrap();
    }

    /// The home's directory.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A path beside the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command with one of our programs and this home.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        self.at_home(&mut command);
        command
    }

    fn at_home(&self, command: &mut Command) {
        command.env("AAP_HOME", self.home()).env("NO_COLOR", "1").stdin(Stdio::null());
    }

    fn spawn(&self, name: &str, prefix: &[String]) -> Child {
        let mut words = prefix.to_vec();
        words.push(program(name).display().to_string());
        let mut command = Command::new(&words[0]);
        self.at_home(command.args(&words[1..]));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// Starts the agent and waits until it is ready. Answers how long that took.
    pub(crate) fn start_agent(&mut self) -> Duration {
        let began = Instant::now();
        self.agent = Some(self.spawn("aap-agent", &self.agent_prefix));
        if self.agent_prefix.is_empty() {
            let http = self.http();
            self.await_that("an agent that is ready", || http.get("/readyz").is_ok_and(|a| a.status == 200));
        }
        began.elapsed()
    }

    /// Starts the coordinator and waits until it listens.
    pub(crate) fn start_coordinator(&mut self) {
        fs::remove_file(self.home().join("run/coordinator.json")).ok();
        self.coordinator = Some(self.spawn("aap-coordinator", &[]));
        self.await_that("a coordinator that listens", || self.addresses().is_some());
    }

    /// SIGKILL.
    pub(crate) fn kill_agent(&mut self) {
        end(&mut self.agent);
    }

    /// SIGKILL.
    pub(crate) fn kill_coordinator(&mut self) {
        end(&mut self.coordinator);
    }

    /// Lets the coordinator listen for agents there from its next start on, so that they find it again.
    pub(crate) fn bind_agents(&self, address: SocketAddr) {
        let path = self.home().join("config/coordinator.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("bind: '127.0.0.1:0'", &format!("bind: '{address}'"))).unwrap();
    }

    /// The coordinator's process.
    pub(crate) fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().unwrap().id()
    }

    /// The agent's process.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// What the agent uses from now on.
    pub(crate) fn agent_meter(&self) -> Meter {
        Meter::start(self.agent_pid())
    }

    /// What the coordinator uses from now on.
    pub(crate) fn coordinator_meter(&self) -> Meter {
        Meter::start(self.coordinator.as_ref().unwrap().id())
    }

    /// The agent's HTTP source.
    pub(crate) fn http(&self) -> Http {
        let token = fs::read_to_string(self.home().join("run/operator.token")).unwrap();
        Http::new(&self.http.to_string(), token.trim())
    }

    fn addresses(&self) -> Option<Value> {
        let text = fs::read_to_string(self.home().join("run/coordinator.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Where the coordinator listens for agents.
    pub(crate) fn coordinator_address(&self) -> SocketAddr {
        self.addresses().unwrap()["agents"].as_str().unwrap().parse().unwrap()
    }

    /// A reader of the coordinator's metrics.
    pub(crate) fn coordinator_metrics(&self) -> impl Fn(&str) -> Option<f64> + Send + use<> {
        let address = self.addresses().unwrap()["operator"].as_str().unwrap().to_owned();
        let http = Http::new(&address, "");
        move |name| metric(&http, name)
    }

    /// A reader of the agent's metrics.
    pub(crate) fn agent_metrics(&self) -> impl Fn(&str) -> Option<f64> + Send + use<> {
        let http = self.http();
        move |name| metric(&http, name)
    }

    /// Waits until so many rows of a stream are durable on the node.
    pub(crate) fn await_durable(&self, stream: &str, rows: u64) {
        let read = self.agent_metrics();
        let name = format!("aap_agent_rows_durable_total{{stream=\"{stream}\"}}");
        self.await_that("rows that are durable", || read(&name).unwrap_or(0.0) as u64 >= rows);
    }

    /// Waits until so many rows have landed since the coordinator started.
    pub(crate) fn await_landed(&self, rows: u64) {
        let read = self.coordinator_metrics();
        self.await_that("rows that landed", || landed(&read) >= rows);
    }

    /// Waits, or fails with the end of the logs.
    pub(crate) fn await_that(&self, what: &str, condition: impl FnMut() -> bool) {
        if wait_until(DEADLINE, condition) {
            return;
        }
        for name in ["aap-agent", "aap-coordinator"] {
            let log = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("---- {name} ----\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        panic!("waited {DEADLINE:?} in vain: {what}");
    }

    /// Runs `aap`.
    pub(crate) fn aap(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command("aap").args(arguments).output().unwrap())
    }

    /// The first value of the first row of a query.
    pub(crate) fn value(&self, sql: &str) -> f64 {
        let ran = self.aap(&["query", "-q", "-o", "ndjson", sql]).ok();
        let row: Value = serde_json::from_str(ran.out.lines().next().unwrap()).unwrap();
        row.as_object().unwrap().values().next().and_then(Value::as_f64).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        end(&mut self.agent);
        end(&mut self.coordinator);
    }
}

/// Rows landed since the coordinator started.
pub(crate) fn landed(metrics: &impl Fn(&str) -> Option<f64>) -> u64 {
    metrics("aap_landing_rows_total").unwrap_or(0.0) as u64
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself.
        child.kill().ok();
        child.wait().unwrap();
    }
}

fn metric(http: &Http, name: &str) -> Option<f64> {
    let answer = http.get("/metrics").ok()?;
    let value = answer.body.as_str()?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse().ok()
}

/// An address of loopback that nothing listens on now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
