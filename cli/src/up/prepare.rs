//! What a home needs before its daemons start: directories, certificates, token, configuration.
//!
//! Written only where absent: what people edited stays as it is.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::process::Command;

use aap_client::Home;
use aap_types::{ExitCode, NodeId, Problem};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::programs;

const AGENT_YAML: &str = "\
# The agent of this node. Written once by `aap up`; yours to edit, `aap up` never writes it again.
# Further sources go into `sources.d/*.yaml`. Check an edit with `aap-agent validate FILE`.
apiVersion: aap/v1
kind: Agent
metadata: { name: NODE }
spec:
  # `auto`: where the coordinator of this home listens.
  coordinator: { address: auto }
---
# Figures of this machine, into the stream `host_metrics`.
apiVersion: aap/v1
kind: Source
metadata: { name: host-metrics }
spec: { type: host_metrics }
---
# POST http://127.0.0.1:7410/v1/streams/NAME with `Authorization: Bearer` and the token of `run/operator.token`.
# Loopback only. If the port is taken another is used; `run/agent.json` says which.
apiVersion: aap/v1
kind: Source
metadata: { name: http }
spec: { type: http, token_file: run/operator.token }
";

const COORDINATOR_YAML: &str = "\
# The coordinator of this home. Written once by `aap up`; yours to edit, `aap up` never writes it again.
# Check an edit with `aap-coordinator validate`; it counts from the next start on (`aap down && aap up`).
apiVersion: aap/v1
kind: Coordinator
metadata: { name: coordinator }
# Everything has a default. Ports: agents 7400, operators 7401, another where these are taken; set here
# (`agents: { bind: 127.0.0.1:7400 }`) they are used or the start is refused.
spec: {}
";

/// The directories, readable by their owner only.
pub(crate) fn directories(home: &Home) -> Result<(), Problem> {
    let sources = home.config().join("sources.d");
    for path in [home.root().to_owned(), home.config(), sources, home.run(), home.log()] {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| failed(&path, "created", &error))?;
    }
    Ok(())
}

/// Everything else. Answers the node's name.
pub(crate) fn home(home: &Home, node: Option<&str>, tail: &[String]) -> Result<String, Problem> {
    let node = node_name(home, node)?;
    write_once(&home.config().join("agent.yaml"), &AGENT_YAML.replace("NODE", &node), 0o600)?;
    write_once(&home.config().join("coordinator.yaml"), COORDINATOR_YAML, 0o600)?;
    write_once(&home.operator_token_file(), &new_token()?, 0o600)?;
    add_tail(home, tail)?;
    init(home, &node)?;
    Ok(node)
}

/// The name in `agent.yaml`, else as wanted, else the host's.
pub(crate) fn node_name(home: &Home, wanted: Option<&str>) -> Result<String, Problem> {
    let path = home.config().join("agent.yaml");
    let known = match fs::read_to_string(&path) {
        Ok(text) => node_in(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&path, "read", &error)),
    };
    match (known, wanted) {
        (Some(known), Some(wanted)) if known != wanted => {
            let message = format!("this home is node `{known}`, not `{wanted}`");
            Err(Problem::new("up.other_node", ExitCode::Conflict, message)
                .hint(format!("leave out `--node`, or use another `--home`; the name stands in `{path}`")))
        }
        (Some(known), _) => Ok(known),
        (None, Some(wanted)) => Ok(wanted.to_owned()),
        (None, None) => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            Ok(NodeId::from_host_name(&host).to_string())
        }
    }
}

/// The name in the document of kind `Agent`. What is wrong with the file the agent itself will say.
fn node_in(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Document {
        kind: String,
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    let documents = serde_norway::Deserializer::from_str(text);
    documents
        .filter_map(|document| Document::deserialize(document).ok())
        .find(|document| document.kind == "Agent")
        .map(|document| document.metadata.name)
}

/// Lets the coordinator create the certificate authority and this node's certificate.
fn init(home: &Home, node: &str) -> Result<(), Problem> {
    let tls = home.tls();
    let needed = ["root.pem".to_owned(), format!("nodes/{node}.pem"), format!("nodes/{node}.key")];
    if needed.iter().all(|name| tls.join(name).is_file()) {
        // What is past half of its life the coordinator issues again when it starts.
        return Ok(());
    }
    let program = programs::beside("aap-coordinator")?;
    let output = Command::new(&program)
        .args(["init", "--home", home.root().as_str(), "--node", node])
        .output()
        .map_err(|error| failed(&program, "run", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let exit = output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::Failed, ExitCode::from_number);
    let problem = Problem::new("up.init", exit, format!("the certificates in `{tls}` could not be created"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said
        .lines()
        .rev()
        .take(5)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .fold(problem, Problem::cause)
        .hint("is the home writable, and the disk not full?"))
}

/// Adds patterns to `sources.d/tail.yaml`. Answers those that were not there.
pub(crate) fn add_tail(home: &Home, globs: &[String]) -> Result<Vec<String>, Problem> {
    let path = home.config().join("sources.d/tail.yaml");
    let known = match fs::read_to_string(&path) {
        Ok(text) => included(&text).ok_or_else(|| {
            Problem::new("up.tail", ExitCode::Usage, format!("`{path}` is not a source of files any more"))
                .hint("add the pattern to it by hand, or move it away")
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(failed(&path, "read", &error)),
    };
    let mut new: Vec<String> = globs.iter().filter(|glob| !known.contains(glob)).cloned().collect();
    new.sort();
    new.dedup();
    if !new.is_empty() {
        let all: Vec<&String> = known.iter().chain(&new).collect();
        replace(&path, &tail_yaml(&all), 0o600)?;
    }
    Ok(new)
}

fn tail_yaml(globs: &[&String]) -> String {
    let mut text = "\
# Files of `aap up --tail`, into the stream `logs`. `aap up --tail GLOB` adds to `include`.
apiVersion: aap/v1
kind: Source
metadata: { name: tail }
spec:
  type: file
  stream: logs
  start: beginning
  include:
"
    .to_owned();
    for glob in globs {
        // Single quotes take everything as it is, but themselves.
        text.push_str(&format!("    - '{}'\n", glob.replace('\'', "''")));
    }
    text
}

fn included(text: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Document {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        include: Vec<String>,
    }
    serde_norway::from_str::<Document>(text).ok().map(|document| document.spec.include)
}

/// The path as seen from `here`, without `.` and `..`.
pub(crate) fn absolute(here: &Utf8Path, path: &str) -> Utf8PathBuf {
    let mut out = Utf8PathBuf::from("/");
    for component in here.join(path).components() {
        match component {
            Utf8Component::ParentDir => {
                out.pop();
            }
            Utf8Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

/// The pattern as seen from `here`; a directory stands for the files in it.
pub(crate) fn absolute_glob(here: &Utf8Path, glob: &str) -> String {
    let path = absolute(here, glob);
    if path.is_dir() { path.join("*").into_string() } else { path.into_string() }
}

fn new_token() -> Result<String, Problem> {
    let mut bytes = [0u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
        Problem::new("cli.random", ExitCode::Failed, "no random number").caused_by(&error)
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_once(path: &Utf8Path, text: &str, mode: u32) -> Result<(), Problem> {
    if path.exists() { Ok(()) } else { replace(path, text, mode) }
}

/// Writes beside and renames, so that no reader sees half a file.
pub(crate) fn replace(path: &Utf8Path, text: &str, mode: u32) -> Result<(), Problem> {
    use io::Write;
    let temporary = Utf8PathBuf::from(format!("{path}.new"));
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| failed(path, "written", &error))
}

fn failed(path: &Utf8Path, what: &str, error: &io::Error) -> Problem {
    Problem::new("up.home", ExitCode::Failed, format!("`{path}` cannot be {what}"))
        .caused_by(error)
        .hint("choose a place that you may write to with `--home` or AAP_HOME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_absolute_and_are_added_once() {
        let here = Utf8Path::new("/data/x");
        assert_eq!(absolute(here, "../y/./*.log"), "/data/y/*.log");
        assert_eq!(absolute(here, "/a/../../b"), "/b");
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap());
        directories(&home).unwrap();
        let globs = ["/a/it's.log".to_owned(), "/b/*.log".to_owned()];
        assert_eq!(add_tail(&home, &globs).unwrap(), globs);
        assert_eq!(add_tail(&home, &globs).unwrap(), Vec::<String>::new());
        assert_eq!(add_tail(&home, &["/c".to_owned()]).unwrap(), ["/c"]);
        let text = fs::read_to_string(home.config().join("sources.d/tail.yaml")).unwrap();
        assert_eq!(included(&text).unwrap(), ["/a/it's.log", "/b/*.log", "/c"]);
    }

    #[test]
    fn a_home_keeps_its_node_name() {
        assert_eq!(node_in(&AGENT_YAML.replace("NODE", "web-01")).as_deref(), Some("web-01"));
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap());
        directories(&home).unwrap();
        assert_eq!(node_name(&home, Some("a")).unwrap(), "a");
        fs::write(home.config().join("agent.yaml"), AGENT_YAML.replace("NODE", "b")).unwrap();
        assert_eq!(node_name(&home, None).unwrap(), "b");
        assert_eq!(node_name(&home, Some("a")).unwrap_err().exit, ExitCode::Conflict);
    }
}
