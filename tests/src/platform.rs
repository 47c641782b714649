//! One platform on this machine, made of the real programs, in a home of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::Http;
use crate::wait::{PATIENCE, eventually, wait_until};

/// Where the programs with deliberate faults lie, below the real ones: both daemons under their real names, because
/// `aap up` starts what is beside it.
const MUTANTS: &str = "mutants/bin";

/// The folder of the end-to-end tests. Not as it was when they were built: checkouts share what is built.
pub(crate) fn own_folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| std::env::current_dir().unwrap(), PathBuf::from)
}

/// A program of ours: in `AAP_TEST_BIN`, else beside this test in `target/release`.
///
/// # Panics
/// If it is not there: build with `cargo xtask build`, and programs with faults with `cargo xtask test`.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("AAP_TEST_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let root = own_folder().parent().unwrap().to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        target.join("release")
    });
    let path = folder.join(name);
    assert!(path.exists(), "`{}` is missing: run `cargo xtask build`, or `test` for mutants", path.display());
    path
}

/// A finished command.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

impl Ran {
    /// From what the system says.
    pub fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Its stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error that `-o json` put on stderr.
    #[track_caller]
    pub fn problem(&self) -> Value {
        let line = self.err.lines().rfind(|line| line.starts_with("{\"error\""));
        let line = line.unwrap_or_else(|| panic!("no error in JSON: {self:?}"));
        serde_json::from_str::<Value>(line).unwrap()["error"].clone()
    }

    /// It was refused with exit code `exit` and error code `code`, in the form that the contract states, and nothing on
    /// stdout. The command must have had `-o json`.
    #[track_caller]
    pub fn refused(&self, exit: i32, code: &str) -> Value {
        let problem = self.problem();
        assert_eq!((problem["code"].as_str(), self.code), (Some(code), exit), "{self:?}");
        assert_eq!(problem["exit"], exit, "{problem}");
        assert!(problem["message"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        for key in ["class", "causes", "hints", "retryable", "retry_after_ms", "request_id", "docs"] {
            assert!(problem.get(key).is_some(), "`{key}` is missing: {problem}");
        }
        problem
    }

    /// It ended well, or the test fails.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// It ended with `code`, or the test fails.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

/// The variable by which tests name the password of the real servers, and that password. Every program sees it, whoever runs the tests.
const SERVICE_PASSWORD: [&str; 2] = ["AAP_TEST_SECRET", "aap"];

/// One home with its processes.
#[derive(Debug)]
pub struct Platform {
    directory: TempDir,
    /// Where its programs lie, below the usual place.
    programs: &'static str,
    environment: BTreeMap<String, String>,
}

impl Platform {
    /// A home in which nothing runs.
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// A home within `folder`, such as a file system of its own.
    pub fn within(folder: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("aap-it-").tempdir_in(folder).unwrap();
        let environment = BTreeMap::from([SERVICE_PASSWORD.map(str::to_owned).into()]);
        Self { directory, programs: "", environment }
    }

    /// A home in which nothing runs, whose daemons will make the deliberate fault `mutant`: see `aap_buffer::mutant`.
    pub fn with_mutant(mutant: &str) -> Self {
        let mut platform = Self::new();
        platform.programs = MUTANTS;
        platform.set_env("AAP_MUTANT", mutant);
        platform
    }

    /// A running platform: `aap up --detach` with more arguments.
    #[track_caller]
    pub fn started(arguments: &[&str]) -> Self {
        let platform = Self::new();
        platform.up(arguments).ok();
        platform
    }

    /// A variable that programs started from now on see, such as `AAP_FAIL`. Empty removes it.
    pub fn set_env(&mut self, name: &str, value: &str) {
        match value {
            "" => self.environment.remove(name),
            value => self.environment.insert(name.to_owned(), value.to_owned()),
        };
    }

    /// The home's directory.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// A path beside the home, for input.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command with one of our programs and this home.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(Path::new(self.programs).join(name).to_str().unwrap()));
        // Contexts and logins of whoever runs the tests are not meant.
        command.env("AAP_CONFIG_DIR", self.beside("operator-config"));
        command.env("AAP_STATE_DIR", self.beside("operator-state"));
        // What keeps secrets on this machine neither; a test that means it says so.
        command.env("AAP_CREDENTIAL_STORE", "file");
        command.env("AAP_HOME", self.home()).env("NO_COLOR", "1").envs(&self.environment);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs `aap`.
    pub fn aap(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command("aap").args(arguments).output().unwrap())
    }

    /// Runs `aap` with bytes on its standard input.
    pub fn aap_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        use std::io::Write;
        let mut command = self.command("aap");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || pipe.write_all(&input));
        let output = child.wait_with_output().unwrap();
        // A program that refuses its input closes the pipe; what it says of that is what counts.
        writer.join().unwrap().ok();
        Ran::of(output)
    }

    /// Starts `aap` and leaves it running; it is killed when what this returns is dropped.
    pub fn begin(&self, arguments: &[&str]) -> Running {
        Running::of(self.command("aap").args(arguments))
    }

    /// Writes `config/sources.d/NAME.yaml` at once, whether an agent runs or not.
    pub fn configure(&self, name: &str, yaml: &str) {
        let folder = self.home().join("config/sources.d");
        std::fs::create_dir_all(&folder).unwrap();
        let draft = self.beside(&format!("{name}.draft"));
        std::fs::write(&draft, yaml).unwrap();
        std::fs::rename(draft, folder.join(format!("{name}.yaml"))).unwrap();
    }

    /// A figure of the agent's `/metrics`, such as `aap_agent_bytes_cut_total{stream="x"}`; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.http().get("/metrics").unwrap().body;
        let line = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// `aap up --detach` with more arguments.
    pub fn up(&self, arguments: &[&str]) -> Ran {
        self.aap(&[&["up", "--detach"], arguments].concat())
    }

    /// `aap down`.
    pub fn down(&self) -> Ran {
        self.aap(&["down"])
    }

    /// The process id of `agent`, `coordinator` or `up`, if its file names one.
    pub fn pid(&self, name: &str) -> Option<i32> {
        std::fs::read_to_string(self.home().join(format!("run/{name}.pid"))).ok()?.trim().parse().ok()
    }

    /// SIGKILLs `agent` or `coordinator` and returns at once.
    pub fn kill(&self, name: &str) {
        let pid = eventually("a process to kill", || self.pid(name).filter(|pid| lives(*pid)));
        signal(pid, Signal::KILL);
    }

    /// Sends a signal to `agent`, `coordinator` or `up`.
    pub fn signal(&self, name: &str, which: Signal) {
        signal(self.pid(name).unwrap(), which);
    }

    /// SIGKILLs a program and waits until the supervisor has brought it back; says how long that took.
    #[track_caller]
    pub fn kill_and_wait(&self, name: &str) -> Duration {
        let before = eventually("a process to kill", || self.pid(name).filter(|pid| lives(*pid)));
        signal(before, Signal::KILL);
        let began = std::time::Instant::now();
        eventually("a killed program that comes back", || {
            self.pid(name).filter(|pid| *pid != before && lives(*pid))
        });
        began.elapsed()
    }

    /// All rows of a statement, each a JSON object, after everything acknowledged has landed.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let ran = self.aap(&["query", "--wait-for-ingest", "--limit", "0", "-o", "ndjson", sql]).ok();
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The one value of a statement that answers one.
    #[track_caller]
    pub fn value(&self, sql: &str) -> Value {
        let rows = self.rows(sql);
        let row = rows.first().unwrap_or_else(|| panic!("no row: {sql}"));
        row.as_object().unwrap().values().next().unwrap().clone()
    }

    /// The one count of a statement; 0 while the stream does not exist.
    #[track_caller]
    pub fn count(&self, sql: &str) -> u64 {
        let ran = self.aap(&["query", "--wait-for-ingest", "-o", "ndjson", sql]);
        if ran.code == 3 {
            return 0;
        }
        let row: Value = serde_json::from_str(ran.ok().out.trim()).unwrap();
        row.as_object().unwrap().values().next().unwrap().as_u64().unwrap()
    }

    /// The HTTP source of this platform's agent.
    pub fn http(&self) -> Http {
        let run = self.home().join("run");
        let (address, token) = eventually("the agent's HTTP address and token", || {
            let value: Value =
                serde_json::from_str(&std::fs::read_to_string(run.join("agent.json")).ok()?).ok()?;
            let token = std::fs::read_to_string(run.join("operator.token")).ok()?;
            Some((value["http"].as_str()?.to_owned(), token))
        });
        Http::new(&address, token.trim())
    }

    /// The operator's token.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.home().join("run/operator.token")).unwrap().trim().to_owned()
    }

    /// Panics of any program of this home, as the logs show them.
    pub fn panics(&self) -> Vec<String> {
        let logs = ["up", "agent", "coordinator"].map(|name| self.log(name));
        let lines = logs.iter().flat_map(|log| log.lines());
        lines.filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }

    /// An agent with no supervisor in this home, configured by `agent_spec` (of kind `Agent`) and an HTTP source.
    pub fn agent_alone(&self, agent_spec: &str) -> (Running, Http) {
        use std::os::unix::fs::PermissionsExt;
        let home = self.home();
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("token"), "t").unwrap();
        std::fs::set_permissions(home.join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let documents = [
            format!("apiVersion: aap/v1\nkind: Agent\nmetadata: {{ name: alone }}\nspec: {agent_spec}\n"),
            "apiVersion: aap/v1\nkind: Source\nmetadata: { name: http }\nspec: { type: http, token_file: token }\n".to_owned(),
            "apiVersion: aap/v1\nkind: Source\nmetadata: { name: m }\nspec: { type: host_metrics, every: 1s }\n".to_owned(),
        ];
        let config = home.join("alone.yaml");
        std::fs::write(&config, documents.join("---\n")).unwrap();
        let log = std::fs::File::create(self.beside("alone.log")).unwrap();
        let running = Running::quietly(self.command("aap-agent").arg("--config").arg(config).stderr(log));
        let http = eventually("the agent's HTTP source", || {
            let text = std::fs::read_to_string(home.join("run/agent.json")).ok()?;
            let endpoints: Value = serde_json::from_str(&text).ok()?;
            Some(Http::new(endpoints["http"].as_str()?, "t"))
        });
        (running, http)
    }

    /// A log of `agent` or `coordinator`.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.home().join(format!("log/{name}.log"))).unwrap_or_default()
    }

    /// Every process of this home ended, the supervisor first, without asking.
    pub fn kill_all(&self) {
        for name in ["up", "agent", "coordinator"] {
            if let Some(pid) = self.pid(name).filter(|pid| lives(*pid)) {
                signal(pid, Signal::KILL);
                assert!(wait_until(PATIENCE, || !lives(pid)), "{name} does not die");
            }
        }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["up", "coordinator", "agent"] {
                let log = self.home().join(format!("log/{name}.log"));
                eprintln!("---- end of {} ----\n{}", log.display(), log_tail(&log));
            }
        }
        for name in ["up", "agent", "coordinator"] {
            if let Some(pid) = self.pid(name).filter(|pid| lives(*pid)) {
                signal(pid, Signal::KILL);
                wait_until(PATIENCE, || !lives(pid));
            }
        }
    }
}

/// The end of a log, for whoever looks at a failed test.
pub(crate) fn log_tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(8_000)..]).into_owned()
}

/// A program of ours that runs beside the test.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    pid: i32,
}

impl Running {
    /// Starts `command` with its output kept.
    pub fn of(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        Self { child: Some(child), pid }
    }

    /// Starts `command` with its own standard error.
    pub fn quietly(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        Self { child: Some(child), pid }
    }

    /// Sends a signal.
    pub fn signal(&self, which: Signal) {
        signal(self.pid, which);
    }

    /// Reads its standard output up to the first line that holds `word`; what follows can no longer be read.
    #[track_caller]
    pub fn line_with(&mut self, word: &str) -> String {
        use std::io::BufRead;
        let out = self.child.as_mut().unwrap().stdout.as_mut().unwrap();
        let mut lines = std::io::BufReader::new(out).lines().map(Result::unwrap);
        lines.find(|line| line.contains(word)).unwrap_or_else(|| panic!("no line with `{word}`"))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        Ran::of(self.child.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Whether a process runs; a zombie does not.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    // It may be gone, which the caller finds out by looking.
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
}
