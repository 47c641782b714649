//! What `--bundle` writes: an archive for whoever helps, without secrets.
//!
//! ```text
//!  aap-doctor/doctor.json        every finding
//!             versions.json      of program, coordinator and nodes
//!             status.json        nodes, streams, problems
//!             contexts.toml      } as they stand, redacted
//!             config/…           }
//!             log/NAME.log       the end of each, redacted
//! ```

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use aap_client::v1::StatusReply;
use aap_client::{Secret, SecretRef, environment};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use super::redact::Redactor;
use super::{Examination, Subject};
use crate::commands::views;
use crate::text::rfc3339;

/// Of each log the end: more is seldom looked at, and has to be sent.
const LOG_BYTES_MAX: u64 = 256 << 10;
/// Configuration is written by people; what is longer is something else.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The folder in the archive.
const FOLDER: &str = "aap-doctor";

/// Writes the archive, which must not be there yet.
///
/// # Errors
/// `doctor.bundle` (1), `doctor.bundle_exists` (6).
pub(crate) fn write(
    path: &Utf8Path,
    subject: &Subject,
    found: &Examination,
    as_of_us: i64,
) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        let message = format!("the bundle cannot be written to `{path}`");
        Problem::new("doctor.bundle", ExitCode::Failed, message).caused_by(&error).hint("name another file")
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Problem::new("doctor.bundle_exists", ExitCode::Conflict, format!("`{path}` is there already"))
                .hint("name another file, or remove it first")
        }
        _ => failed(error),
    })?;
    let mut archive = tar::Builder::new(file);
    for (name, text) in contents(subject, found, as_of_us) {
        add(&mut archive, &name, text.as_bytes(), as_of_us).map_err(failed)?;
    }
    archive.into_inner().and_then(|file| file.sync_all()).map_err(failed)
}

/// Names in the archive, and texts.
fn contents(subject: &Subject, found: &Examination, as_of_us: i64) -> Vec<(String, String)> {
    let redactor = Redactor::new(known_secrets(subject));
    let findings: Vec<Value> = found.findings.iter().map(|finding| Value::Object(finding.item())).collect();
    let status = found.status.clone().unwrap_or_default();
    let documents = [
        ("doctor.json", json!({ "as_of": rfc3339(as_of_us), "findings": findings })),
        ("versions.json", versions(&status)),
        ("status.json", status_of(&status)),
    ];
    let documents = documents.map(|(name, value)| (name.to_owned(), format!("{value:#}\n")));
    let texts = documents.into_iter().chain(files(subject));
    texts.map(|(name, text)| (name, redactor.text(&text))).collect()
}

fn versions(status: &StatusReply) -> Value {
    let nodes: Vec<Value> =
        status.nodes.iter().map(|node| json!({ "node": node.node, "version": node.agent_version })).collect();
    json!({
        "aap": env!("CARGO_PKG_VERSION"), "coordinator": status.coordinator_version, "nodes": nodes,
        "system": std::fs::read_to_string("/proc/version").unwrap_or_default().trim(),
    })
}

fn status_of(status: &StatusReply) -> Value {
    let nodes: Vec<Value> = status.nodes.iter().map(|node| Value::Object(views::node(node))).collect();
    let streams: Vec<Value> =
        status.streams.iter().map(|stream| Value::Object(views::stream(stream))).collect();
    json!({ "nodes": nodes, "streams": streams, "problems": status.problems })
}

/// Files of whoever types and of the home, by their names in the archive.
fn files(subject: &Subject) -> Vec<(String, String)> {
    let mut found = vec![];
    let contexts = subject.environment.config_folder().join("contexts.toml");
    found.extend(beginning(&contexts).map(|text| ("contexts.toml".to_owned(), text)));
    if let Some(home) = subject.home() {
        for folder in ["config", "config/sources.d"] {
            for path in plain_files(&home.root().join(folder)) {
                let name = format!("{folder}/{}", path.file_name().unwrap_or_default());
                found.extend(beginning(&path).map(|text| (name, text)));
            }
        }
        for path in plain_files(&home.log()) {
            let name = format!("log/{}", path.file_name().unwrap_or_default());
            found.extend(end(&path).ok().map(|text| (name, text)));
        }
    }
    found
}

/// Files that are no links: what they lead to was not meant.
fn plain_files(folder: &Utf8Path) -> Vec<Utf8PathBuf> {
    let entries = folder.read_dir_utf8().into_iter().flatten().filter_map(Result::ok);
    let is_file = |entry: &camino::Utf8DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    let mut paths: Vec<Utf8PathBuf> = entries.filter(is_file).map(|entry| entry.path().to_owned()).collect();
    paths.sort();
    paths
}

fn beginning(path: &Utf8Path) -> Option<String> {
    let mut bytes = vec![];
    std::fs::File::open(path).ok()?.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn end(path: &Utf8Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = vec![];
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Secrets that this machine knows, so that they are found whatever stands before them.
fn known_secrets(subject: &Subject) -> Vec<Secret> {
    let variable = |name| subject.environment.get(name);
    let of_file = |path: &Utf8Path| SecretRef::File(path.to_owned()).read().ok();
    let token = variable(environment::TOKEN).map(|token| Secret::from(token.to_owned()));
    let file = variable(environment::TOKEN_FILE).and_then(|path| of_file(Utf8Path::new(path)));
    let home = subject.home().and_then(|home| of_file(&home.operator_token_file()));
    let login = subject.platform.credentials().login().ok().flatten().map(|login| login.token);
    [token, file, home, login].into_iter().flatten().collect()
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8], as_of_us: i64) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(as_of_us / 1_000_000).unwrap_or(0));
    archive.append_data(&mut header, format!("{FOLDER}/{name}"), bytes)
}
