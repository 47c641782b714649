//! Names of objects, for whoever completes a command line: what the platform says, and what it said a moment ago.
//!
//! ```text
//!  STATE/names/<platform>-<objects>     JSON list, mode 0600, written by rename; its age is that of the file
//! ```
//! A name is offered only if a shell takes it as it stands: whoever presses a key must not type something that a stranger wrote.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use aap_types::Problem;
use camino::{Utf8Path, Utf8PathBuf};

use crate::v1::{
    GetRequest, ListNodesRequest, ListRolesRequest, ListSinksRequest, ListStreamsRequest, ListUsersRequest,
};
use crate::{Platform, files};

/// More than anybody reads after a press of the key, and a bound for what a platform makes us keep.
const NAMES_MAX: usize = 1_000;
/// Longest name that is offered.
const NAME_BYTES_MAX: usize = 128;
/// How long a platform may take to answer. Whoever waits for less looks away earlier.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What has names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Nodes.
    Nodes,
    /// Streams.
    Streams,
    /// Sinks.
    Sinks,
    /// Users.
    Users,
    /// Roles.
    Roles,
    /// Declared objects of a kind, in any case, singular or plural; empty: of all kinds.
    Declared(String),
}

impl Named {
    /// As a part of the name of a file.
    fn word(&self) -> String {
        match self {
            Self::Nodes => "nodes".to_owned(),
            Self::Streams => "streams".to_owned(),
            Self::Sinks => "sinks".to_owned(),
            Self::Users => "users".to_owned(),
            Self::Roles => "roles".to_owned(),
            Self::Declared(kind) => format!("declared-{}", &blake3::hash(kind.as_bytes()).to_hex()[..16]),
        }
    }
}

/// Asks the platform.
///
/// # Errors
/// Whatever keeps it from answering.
pub async fn ask(platform: &Platform, named: &Named) -> Result<Vec<String>, Problem> {
    let within = ANSWER_WITHIN;
    let names: Vec<String> = match named {
        Named::Nodes => {
            let mut api = platform.operator().await?;
            let reply = crate::call(within, api.list_nodes(ListNodesRequest::default())).await?;
            reply.nodes.into_iter().map(|node| node.node).collect()
        }
        Named::Streams => {
            let mut api = platform.operator().await?;
            let reply = crate::call(within, api.list_streams(ListStreamsRequest {})).await?;
            reply.streams.into_iter().map(|stream| stream.stream).collect()
        }
        Named::Sinks => {
            let mut api = platform.resources().await?;
            let reply = crate::call(within, api.list_sinks(ListSinksRequest::default())).await?;
            reply.sinks.into_iter().map(|sink| sink.name).collect()
        }
        Named::Users => {
            let mut api = platform.access().await?;
            let reply = crate::call(within, api.list_users(ListUsersRequest::default())).await?;
            reply.users.into_iter().map(|user| user.name).collect()
        }
        Named::Roles => {
            let mut api = platform.access().await?;
            let reply = crate::call(within, api.list_roles(ListRolesRequest::default())).await?;
            reply.roles.into_iter().map(|role| role.name).collect()
        }
        Named::Declared(kind) => {
            let mut api = platform.resources().await?;
            let request = GetRequest { kind: kind.clone(), ..GetRequest::default() };
            let reply = crate::call(within, api.get(request)).await?;
            reply.resources.into_iter().map(|resource| resource.name).collect()
        }
    };
    Ok(names.into_iter().filter(|name| is_harmless(name)).take(NAMES_MAX).collect())
}

/// Whether a shell takes a name as it stands.
fn is_harmless(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/@+-".contains(c);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_plain) && !name.starts_with('-')
}

/// Names that were asked for before.
#[derive(Debug, Clone)]
pub struct KeptNames {
    folder: Utf8PathBuf,
}

impl KeptNames {
    /// Those of a folder for state.
    pub fn within(state_folder: &Utf8Path) -> Self {
        Self { folder: state_folder.join("names") }
    }

    /// Names of a platform and how old they are, if there are any that can be read.
    pub fn get(&self, platform: &Platform, named: &Named, now_us: i64) -> Option<(Vec<String>, Duration)> {
        let path = self.file(platform, named);
        let written = std::fs::metadata(&path).ok()?;
        let written_us =
            written.mtime().saturating_mul(1_000_000).saturating_add(written.mtime_nsec() / 1_000);
        let names: Vec<String> = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        let names = names.into_iter().filter(|name| is_harmless(name)).take(NAMES_MAX).collect();
        let age_us = u64::try_from(now_us.saturating_sub(written_us)).unwrap_or(0);
        Some((names, Duration::from_micros(age_us)))
    }

    /// Keeps names in the place of the former. Where that fails, they are asked for again.
    pub fn keep(&self, platform: &Platform, named: &Named, names: &[String]) -> std::io::Result<()> {
        let path = self.file(platform, named);
        files::make_private(&self.folder)?;
        let draft = self.folder.join(format!(".{}-{}", std::process::id(), named.word()));
        let bytes = serde_json::to_vec(names).map_err(std::io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&bytes)?;
        std::fs::rename(&draft, &path)
    }

    fn file(&self, platform: &Platform, named: &Named) -> Utf8PathBuf {
        self.folder.join(format!("{}-{}", platform.key(), named.word()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use aap_runtime::Home;

    use super::*;

    #[test]
    fn what_a_shell_would_run_is_never_offered() {
        for good in ["web-01", "orders.eu", "ana@example", "a/b", "x_1"] {
            assert!(is_harmless(good), "{good}");
        }
        for bad in ["", "-rf", "$(id)", "`id`", "a b", "a\nb", "a;b", "\x1b[2J", "a'b", "é", &"x".repeat(129)]
        {
            assert!(!is_harmless(bad), "{bad:?}");
        }
    }

    #[test]
    fn names_are_kept_for_their_owner_and_their_platform_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let kept = KeptNames::within(folder);
        let (one, other) = (Platform::at(Home::at("/one")), Platform::at(Home::at("/other")));
        let names = vec!["web-01".to_owned(), "$(id)".to_owned()];
        assert_eq!(kept.get(&one, &Named::Nodes, 0), None);
        kept.keep(&one, &Named::Nodes, &names).unwrap();
        let (found, _age) = kept.get(&one, &Named::Nodes, 0).unwrap();
        assert_eq!(found, ["web-01"], "what was written by somebody else is not believed");
        assert_eq!(kept.get(&other, &Named::Nodes, 0), None);
        assert_eq!(kept.get(&one, &Named::Streams, 0), None);
        let mode = |path: &Utf8Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&kept.file(&one, &Named::Nodes)), mode(&kept.folder)), (0o600, 0o700));
        std::fs::write(kept.file(&one, &Named::Nodes), "{").unwrap();
        assert_eq!(kept.get(&one, &Named::Nodes, 0), None, "what cannot be read is asked for again");
    }
}
