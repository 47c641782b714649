//! Files of whoever types, and of a home on this machine: readable by those who need them, and by nobody else.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};

use aap_client::contexts::Contexts;
use aap_client::credentials::Source;
use aap_client::environment;
use aap_client::{Authority, Clock};
use camino::{Utf8Path, Utf8PathBuf};

use super::{Finding, Subject, Verdict};

/// What others may do.
const OTHERS_ANYTHING: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
/// Folders of every home.
const FOLDERS: [&str; 4] = ["config", "run", "log", "tmp"];
/// Folders of logins: in clear, sealed, and which store each is in.
const LOGINS: [&str; 3] = ["credentials", "sealed", "logins"];
/// How deep keys lie below `tls`.
const KEY_FOLDERS: [&str; 3] = ["tls", "tls/nodes", "coordinator"];

pub(super) fn contexts(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let folder = subject.environment.config_folder();
    let contexts = match Contexts::read(&folder) {
        Ok(contexts) => contexts,
        Err(problem) => return vec![Finding::of_problem(check, &problem)],
    };
    let mut findings = vec![];
    if let Some(lost) = &subject.lost {
        findings.push(Finding::of_problem(check, lost));
    }
    let names = contexts.names();
    for name in &names {
        let read =
            contexts.get(name).and_then(|(_, facts)| facts.ca.as_deref().map(Authority::read).transpose());
        findings.extend(read.err().map(|problem| Finding::of_problem(check, &problem)));
    }
    for path in [folder, contexts.path()] {
        findings.extend(exposed(check, subject, &path, OTHERS_WRITE, "can be changed by others"));
    }
    or_well(findings, check, || match names.len() {
        0 => "there are none: commands go to the home of this machine".to_owned(),
        count => format!("{count} can be used"),
    })
}

pub(super) fn credentials(check: &'static str, subject: &Subject) -> Vec<Finding> {
    if subject.lost.is_some() {
        return vec![Finding::skipped(check, "it is not known for which platform")];
    }
    let state = subject.environment.state_folder();
    let mut findings = vec![];
    findings.extend(exposed(check, subject, &state, OTHERS_ANYTHING, "can be looked into by others"));
    for folder in LOGINS.map(|name| state.join(name)) {
        findings.extend(exposed(check, subject, &folder, OTHERS_ANYTHING, "can be looked into by others"));
        for path in files(&folder) {
            findings.extend(exposed(check, subject, &path, OTHERS_ANYTHING, "can be read by others"));
        }
    }
    findings.extend(exposed(
        check,
        subject,
        &state.join("sealed.key"),
        OTHERS_ANYTHING,
        "can be read by others",
    ));
    if subject.environment.get(environment::TOKEN).is_some() {
        let seen =
            Finding::new(check, Verdict::Warn, "the token stands in AAP_TOKEN, where others may see it");
        findings.push(seen.hint("keep it in a file, and name that", "export AAP_TOKEN_FILE=FILE"));
    }
    let credentials = subject.platform.credentials();
    let (source, expires_us) = match credentials.find().map(|credential| credential.source) {
        Ok(Source::Login(facts)) => ("login", facts.expires_us),
        Ok(source) => (source.name(), 0),
        Err(problem) => {
            findings.push(Finding::of_problem(check, &problem));
            ("", 0)
        }
    };
    if expires_us != 0 && expires_us < subject.clock.unix_us() {
        let over = Finding::new(check, Verdict::Fail, "the stored login is over");
        findings.push(over.hint("log in again", "aap auth login"));
    }
    let place = credentials.store().map_or("", |(name, _)| name);
    or_well(findings, check, || match source {
        "login" => format!("the stored login is used ({place})"),
        "home" => "the operator's token of the home is used".to_owned(),
        variable => format!("{variable} is used"),
    })
}

pub(super) fn home(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let Some(home) = subject.home() else {
        return vec![Finding::skipped(check, "the platform keeps no files on this machine")];
    };
    let root = home.root();
    let mut findings = vec![];
    for path in [root.to_owned(), home.run(), home.tls(), home.config()] {
        findings.extend(linked(check, &path));
        findings.extend(exposed(check, subject, &path, OTHERS_WRITE, "can be changed by others"));
    }
    findings.extend(exposed(
        check,
        subject,
        &home.agent_socket(),
        OTHERS_ANYTHING,
        "can be called by others",
    ));
    for path in secrets(root) {
        findings.extend(exposed(check, subject, &path, OTHERS_ANYTHING, "can be read by others"));
    }
    findings.extend(FOLDERS.iter().filter_map(|name| missing(check, subject, &root.join(name))));
    or_well(findings, check, || format!("`{root}` and its keys are its owner's alone"))
}

/// Files with secrets that there are.
fn secrets(root: &Utf8Path) -> Vec<Utf8PathBuf> {
    let keys = KEY_FOLDERS.iter().flat_map(|folder| files(&root.join(folder)));
    let keys = keys.filter(|path| path.extension() == Some("key"));
    std::iter::once(root.join("run/operator.token")).chain(keys).collect()
}

/// What lies in a folder, in the order of names.
fn files(folder: &Utf8Path) -> Vec<Utf8PathBuf> {
    let entries = folder.read_dir_utf8().into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<Utf8PathBuf> = entries.map(|entry| entry.path().to_owned()).collect();
    paths.sort();
    paths
}

/// A link in the place of a folder of the home, which the daemons refuse.
fn linked(check: &'static str, path: &Utf8Path) -> Option<Finding> {
    let is_link = path.symlink_metadata().is_ok_and(|there| there.file_type().is_symlink());
    is_link.then(|| {
        let target = path.read_link_utf8().map(|target| target.to_string()).unwrap_or_default();
        Finding::new(check, Verdict::Fail, format!("`{path}` is a link"))
            .hint("name the directory itself", format!("export AAP_HOME={target}"))
    })
}

/// A file or folder that gives others more than it should; made right if that is wanted.
fn exposed(
    check: &'static str,
    subject: &Subject,
    path: &Utf8Path,
    too_much: u32,
    what: &str,
) -> Option<Finding> {
    let there = path.symlink_metadata().ok().filter(|there| !there.file_type().is_symlink())?;
    let mode = there.permissions().mode() & 0o7777;
    if mode & too_much == 0 {
        return None;
    }
    let right = mode & !too_much;
    let finding = Finding::new(check, Verdict::Fail, format!("`{path}` {what} (mode {:04o})", mode & 0o777));
    let finding = finding.hint("make it its owner's alone", format!("chmod {:04o} {path}", right & 0o777));
    if !subject.fix || there.uid() != rustix::process::geteuid().as_raw() {
        return Some(finding);
    }
    let changed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(right));
    Some(after_fix(finding, changed, format!("mode of `{path}` is {:04o}", right & 0o777)))
}

/// A folder that is not there; made if that is wanted.
fn missing(check: &'static str, subject: &Subject, path: &Utf8Path) -> Option<Finding> {
    if path.exists() {
        return None;
    }
    let finding = Finding::new(check, Verdict::Warn, format!("`{path}` is missing"));
    let finding = finding.hint("make it", format!("mkdir -m 0700 {path}"));
    if !subject.fix {
        return Some(finding);
    }
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    Some(after_fix(finding, made, format!("`{path}` was made")))
}

fn after_fix(finding: Finding, outcome: io::Result<()>, done: String) -> Finding {
    match outcome {
        Ok(()) => Finding { verdict: Verdict::Ok, fixed: Some(done), ..finding },
        Err(error) => finding.cause(error.to_string()),
    }
}

/// What was found, or that all is well.
fn or_well(findings: Vec<Finding>, check: &'static str, well: impl FnOnce() -> String) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(check, well())] } else { findings }
}
