//! Documents that are applied: their kinds, what is wrong with them, who may apply them, and what changes by them.

use aap_access::{Kind, Object, Role, Verb};
use aap_proto::v1;
use aap_runtime::documents::Document;
use aap_runtime::{SecretPlace, SecretRef};
use aap_store::ResourceRecord;
use aap_types::{ExitCode, Problem, StreamName, nearest};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

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
pub(super) fn may_apply(caller: &Caller, wanted: &Wanted, own: &[Utf8PathBuf]) -> Result<(), Problem> {
    caller.require(Verb::Write, object(wanted.kind, &wanted.name))?;
    wanted.secrets.iter().try_for_each(|secret| may_use(caller, secret, own))?;
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
fn may_use(caller: &Caller, secret: &SecretRef, own: &[Utf8PathBuf]) -> Result<(), Problem> {
    let may = |name: &str| caller.require(Verb::Operate, Object::named(Kind::Secret, name));
    match (secret, secret.place()) {
        (SecretRef::File(path), _) => {
            let file = own_or(path, own).ok_or_else(|| own_file(path))?;
            may(&secret.to_string())?;
            // Where a link leads is what is read.
            may(&format!("file:{file}"))
        }
        (_, Some(SecretPlace::Kept(name))) => may(name.as_str()),
        _ => may(&secret.to_string()),
    }
}

fn own_file(path: &Utf8Path) -> Problem {
    let message = format!("`{path}` is one of the platform's own files, or none that a secret stands in");
    Problem::new("secret.own_file", ExitCode::Denied, message)
        .hint_command("keep the secret in the platform instead", "aap secret set NAME")
}

/// Folders of the kernel, where memory and the environment of processes can be read.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Where a path leads by whatever links, unless that is one of these files and folders, or one of the kernel's. `None` too for a path that does
/// not begin at the root or goes back, and where it cannot be told.
fn own_or(path: &Utf8Path, own: &[Utf8PathBuf]) -> Option<Utf8PathBuf> {
    let is_straight = |part| matches!(part, Utf8Component::RootDir | Utf8Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_straight) || path.as_str().contains("/./") {
        return None;
    }
    let whole = |path: &Utf8Path| path.canonicalize_utf8().ok();
    let real = whole(path).or_else(|| Some(whole(path.parent()?)?.join(path.file_name()?)))?;
    let is_own = |own: &Utf8PathBuf| real.starts_with(whole(own).as_ref().unwrap_or(own));
    let is_kernels = KERNEL.iter().any(|kernel| real.starts_with(kernel));
    (!is_kernels && !own.iter().any(is_own)).then_some(real)
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
    fn files_of_the_platform_and_of_the_kernel_are_known_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().canonicalize_utf8().unwrap();
        let home = root.join("home");
        std::fs::create_dir_all(home.join("run")).unwrap();
        std::fs::create_dir_all(root.join("secrets")).unwrap();
        std::fs::write(home.join("run/operator.token"), "t").unwrap();
        for name in ["key", "sealing"] {
            std::fs::write(root.join("secrets").join(name), "k").unwrap();
        }
        std::os::unix::fs::symlink(home.join("run"), root.join("secrets/link")).unwrap();
        std::os::unix::fs::symlink(root.join("secrets/key"), root.join("other")).unwrap();
        let own = [home.clone(), root.join("secrets/sealing")];
        for refused in [
            home.join("run/operator.token"),
            home.join("run/not-yet"),
            root.join("secrets/sealing"),
            root.join("secrets/link/operator.token"),
            root.join("secrets/../secrets/key"),
            root.join("secrets/./key"),
            root.join("nowhere/at/all"),
            "secrets/key".into(),
            "/proc/self/environ".into(),
        ] {
            assert_eq!(own_or(&refused, &own), None, "{refused}");
        }
        assert_eq!(own_or(&root.join("secrets/key"), &own), Some(root.join("secrets/key")));
        assert_eq!(own_or(&root.join("secrets/not-yet"), &own), Some(root.join("secrets/not-yet")));
        assert_eq!(own_or(&root.join("other"), &own), Some(root.join("secrets/key")), "where it leads");
    }
}
