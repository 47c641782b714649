//! Documents that are applied: their kinds, what is wrong with them, who may apply them, and what changes by them.

use aap_access::{Kind, Object, Role, Verb};
use aap_proto::v1;
use aap_runtime::documents::Document;
use aap_runtime::{SecretPlace, SecretRef};
use aap_store::ResourceRecord;
use aap_types::{ExitCode, Problem, StreamName, nearest};
use camino::Utf8Path;

use crate::access::{self, Caller};
use crate::catalogs::{self, CatalogSpec};
use crate::gateway;
use crate::sinks::{self, SinkSpec, Start};
use crate::sources::{self, SourceSpec};

/// Every kind that can be applied.
const KINDS: [&str; 5] = [sinks::KIND, sources::KIND, catalogs::KIND, gateway::KIND, access::ROLE];

/// A document that was checked.
pub(super) struct Wanted {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) text: String,
    /// Where it begins, of a new sink.
    pub(super) start: Option<Start>,
    /// Of a sink, what it takes.
    pub(super) streams: Vec<String>,
    /// What it refers to.
    pub(super) secrets: Vec<SecretRef>,
}

/// Lets on who may declare that. A sink carries rows out of the platform: only who sees them all may send them.
pub(super) fn may_apply(caller: &Caller, wanted: &Wanted, home: &Utf8Path) -> Result<(), Problem> {
    caller.require(Verb::Write, object(wanted.kind, &wanted.name))?;
    wanted.secrets.iter().try_for_each(|secret| may_use(caller, secret, home))?;
    if wanted.kind != sinks::KIND {
        return Ok(());
    }
    let sees_all = |stream: &String| caller.policy.rows(&caller.principal, stream).is_all();
    let is_name = |stream: &String| stream.parse::<StreamName>().is_ok();
    let may = match caller.policy.sees_all_rows(&caller.principal) {
        true => true,
        // Which streams a glob will match is not known.
        false => wanted.streams.iter().all(|stream| is_name(stream) && sees_all(stream)),
    };
    if may {
        return Ok(());
    }
    let message =
        format!("{} does not see all rows that the sink `{}` would deliver", caller.principal, wanted.name);
    Err(Problem::new("auth.denied", ExitCode::Denied, message)
        .hint("name the streams, each one that you may query whole, rather than globs"))
}

/// A document sends its secrets to the server that it names: only who may use them may say which server that is. What is in the platform's
/// own home is for nobody: the token of its operator stands there, and keys.
fn may_use(caller: &Caller, secret: &SecretRef, home: &Utf8Path) -> Result<(), Problem> {
    if let SecretRef::File(path) = secret
        && is_within(path, home)
    {
        let message = format!("`{path}` is one of the platform's own files, or none that a secret stands in");
        return Err(Problem::new("secret.own_file", ExitCode::Denied, message)
            .hint_command("keep the secret in the platform instead", "aap secret set NAME"));
    }
    let name = match secret.place() {
        Some(SecretPlace::Kept(name)) => name.to_string(),
        _ => secret.to_string(),
    };
    caller.require(Verb::Operate, Object::named(Kind::Secret, &name))
}

/// Folders of the kernel, where memory and the environment of processes can be read.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Whether a path leads into a folder or one of the kernel's, by whatever links. What cannot be told is taken to.
fn is_within(path: &Utf8Path, folder: &Utf8Path) -> bool {
    let whole = |path: &Utf8Path| path.canonicalize_utf8().ok();
    let file = || Some(whole(path.parent()?)?.join(path.file_name()?));
    let Some(real) = whole(path).or_else(file) else { return true };
    let real_folder = whole(folder).unwrap_or_else(|| folder.to_owned());
    real.starts_with(&real_folder) || KERNEL.iter().any(|kernel| real.starts_with(kernel))
}

/// What a declared object refers to; nothing where its document is one of an earlier version that this one does not take.
pub(crate) fn secrets_of(record: &ResourceRecord) -> Vec<SecretRef> {
    let document = Document::of_record(&record.name, &record.document);
    let secrets = match record.kind.as_str() {
        sinks::KIND => SinkSpec::read(&document).map(|spec| spec.secrets()),
        sources::KIND => SourceSpec::read(&document).map(|spec| spec.secrets()),
        catalogs::KIND => CatalogSpec::read(&document, &record.name).map(|spec| spec.secrets()),
        gateway::KIND => gateway::Routes::read(&document).map(|(spec, _)| spec.secrets()),
        _ => return vec![],
    };
    secrets.unwrap_or_default()
}

/// What a role speaks of.
pub(crate) fn object<'a>(kind: &str, name: &'a str) -> Object<'a> {
    let kind = match kind {
        sinks::KIND => Kind::Sink,
        sources::KIND => Kind::Source,
        catalogs::KIND => Kind::Catalog,
        gateway::KIND => Kind::Route,
        _ => Kind::Role,
    };
    Object::named(kind, name)
}

/// Checks a document by its kind.
pub(super) fn check(document: &Document) -> Result<Wanted, Problem> {
    let envelope = document.envelope().map_err(|error| error.problem())?;
    let name = envelope.metadata.name;
    name.parse::<StreamName>().map_err(|_| {
        let message = format!("`{name}` is no name: use 1 to 63 of a-z, 0-9, `_`, `-`, `.`");
        document.error("name", message, None).problem()
    })?;
    match envelope.kind.as_str() {
        sinks::KIND => {
            let spec = SinkSpec::read(document).map_err(|error| error.problem())?;
            let (text, secrets) = (document.text().trim().to_owned() + "\n", spec.secrets());
            let (start, streams) = (Some(spec.start), spec.streams);
            Ok(Wanted { kind: sinks::KIND, name, text, start, streams, secrets })
        }
        access::ROLE => {
            Role::read(document, &name).map_err(|error| error.problem())?;
            let text = document.text().trim().to_owned() + "\n";
            Ok(Wanted { kind: access::ROLE, name, text, start: None, streams: vec![], secrets: vec![] })
        }
        catalogs::KIND => {
            let spec = CatalogSpec::read(document, &name).map_err(|error| error.problem())?;
            let (text, secrets) = (document.text().trim().to_owned() + "\n", spec.secrets());
            Ok(Wanted { kind: catalogs::KIND, name, text, start: None, streams: vec![], secrets })
        }
        gateway::KIND => {
            let (spec, _) = gateway::Routes::read(document).map_err(|error| error.problem())?;
            let (text, secrets) = (document.text().trim().to_owned() + "\n", spec.secrets());
            Ok(Wanted { kind: gateway::KIND, name, text, start: None, streams: vec![], secrets })
        }
        sources::KIND if SourceSpec::is_ours(document) => {
            let spec = SourceSpec::read(document).map_err(|error| error.problem())?;
            let (text, secrets) = (document.text().trim().to_owned() + "\n", spec.secrets());
            Ok(Wanted { kind: sources::KIND, name, text, start: None, streams: vec![], secrets })
        }
        "Source" | "Agent" => {
            let message =
                format!("kind `{}` is a node's own: it stands in the agent's configuration", envelope.kind);
            let hint = Some("put it into config/sources.d of the node's home".to_owned());
            Err(document.error("kind", message, hint).problem())
        }
        other => Err(document.unknown_kind(other, &KINDS).problem()),
    }
}

pub(super) fn change_of(wanted: &Wanted, known: Option<&ResourceRecord>) -> v1::Change {
    let revision = known.map_or(0, |known| known.revision);
    let (action, revision) = match known {
        None => ("created", 1),
        Some(known) if known.document == wanted.text => ("unchanged", revision),
        Some(_) => ("changed", revision + 1),
    };
    v1::Change {
        kind: wanted.kind.to_owned(),
        name: wanted.name.clone(),
        action: action.to_owned(),
        revision,
        before: known.map(|known| known.document.clone()).unwrap_or_default(),
        after: wanted.text.clone(),
        warnings: if action == "changed" && wanted.kind == sinks::KIND { warnings() } else { vec![] },
    }
}

/// What an operator should know who changes a sink.
fn warnings() -> Vec<String> {
    vec![
        "how far the sink is stands in its server: with another server or ledger it begins anew and delivers everything again"
            .to_owned(),
    ]
}

/// A kind as people write it.
pub(super) fn kind_of(text: &str) -> Result<&'static str, Problem> {
    let lower = text.to_lowercase();
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    KINDS.into_iter().find(|kind| kind.to_lowercase() == singular).ok_or_else(|| {
        let message = format!("kind `{text}` is not known here: {}", KINDS.join(", "));
        Problem::new("resource.unknown_kind", ExitCode::Usage, message)
            .hint_command("list what is declared", "aap get")
    })
}

pub(super) fn not_found(kind: &str, name: &str, known: &[ResourceRecord]) -> Problem {
    let names: Vec<&str> =
        known.iter().filter(|known| known.kind == kind).map(|known| known.name.as_str()).collect();
    let kind = kind.to_lowercase();
    let problem =
        Problem::new("resource.not_found", ExitCode::NotFound, format!("there is no {kind} `{name}`"));
    match nearest(name, &names).first() {
        Some(near) => {
            problem.hint_command(format!("did you mean `{near}`?"), format!("aap get {kind} {near}"))
        }
        None => problem.hint_command("list them", format!("aap get {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_home_and_of_the_kernel_are_known_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let home = root.join("home");
        std::fs::create_dir_all(home.join("run")).unwrap();
        std::fs::create_dir_all(root.join("secrets")).unwrap();
        std::fs::write(home.join("run/operator.token"), "t").unwrap();
        std::fs::write(root.join("secrets/key"), "k").unwrap();
        std::os::unix::fs::symlink(home.join("run"), root.join("secrets/link")).unwrap();
        for within in [
            home.join("run/operator.token"),
            home.join("run/../run/operator.token"),
            home.join("run/not-yet"),
            root.join("secrets/link/operator.token"),
            root.join("secrets/../home/run/operator.token"),
            root.join("nowhere/at/all"),
            "/proc/self/environ".into(),
        ] {
            assert!(is_within(&within, &home), "{within}");
        }
        assert!(!is_within(&root.join("secrets/key"), &home));
        assert!(!is_within(&root.join("secrets/not-yet"), &home));
    }
}
