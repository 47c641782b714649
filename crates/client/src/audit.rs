//! The audit log without a coordinator: a copy of its files, checked by a key that was kept elsewhere.

use aap_audit::{Checkpoint, PublicKey};
use aap_proto::audit_verification;
use aap_types::{ExitCode, Problem};
use camino::Utf8Path;

use crate::v1::VerifyAuditReply;

/// Longest file of keys or checkpoints that is read: ten years of a checkpoint a day have 1.5 MB.
const KEPT_BYTES_MAX: u64 = 16 << 20;

/// Checks the log in `directory` by a public key and checkpoints, as texts. Blocking: some seconds for a million records.
///
/// # Errors
/// `audit.no_log` (3), `audit.not_kept` (2) for a text that is no key or checkpoint, `audit.unavailable` (7) for files that cannot be read.
pub fn verify(directory: &Utf8Path, key: &str, checkpoints: &[String]) -> Result<VerifyAuditReply, Problem> {
    let key: PublicKey = key.parse().map_err(|error| not_kept("the public key", &error))?;
    let checkpoints: Result<Vec<Checkpoint>, _> = checkpoints.iter().map(|text| text.parse()).collect();
    let checkpoints = checkpoints.map_err(|error| not_kept("a checkpoint", &error))?;
    let verified = aap_audit::verify(directory, &key, &checkpoints);
    verified.map(audit_verification).map_err(|error| error.problem())
}

/// The lines of a file that was kept: a key, or checkpoints. Blocking.
///
/// # Errors
/// `audit.not_kept` (2) if it cannot be read or holds nothing.
pub fn read_kept(path: &Utf8Path) -> Result<Vec<String>, Problem> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(KEPT_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| not_kept(&format!("`{path}`"), &error))?;
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(not_kept(&format!("`{path}`"), &std::io::Error::other("there is nothing in it")));
    }
    Ok(lines)
}

fn not_kept(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("audit.not_kept", ExitCode::Usage, format!("{what} cannot be used"))
        .caused_by(error)
        .hint_command("keep key and checkpoint", "aap audit export --to DIR")
}
