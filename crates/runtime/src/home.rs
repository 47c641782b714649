//! Where a platform keeps its files.
//!
//! ```text
//! HOME/
//!   config/       agent.yaml, coordinator.yaml      written by `aap up`, edited by people
//!   run/          agent.pid coordinator.pid agent.sock endpoints.json operator.token
//!   log/          agent.log coordinator.log
//!   tls/          the embedded certificate authority and the certificates it issued
//!   agent/buffer/         the agent's store       agent/http-keys
//!   coordinator/landing/  the coordinator's store coordinator/meta.db
//!   lake/<stream>/date=…/
//!   tmp/          scratch of queries; emptied at start
//! ```

use camino::{Utf8Path, Utf8PathBuf};

/// A file of this name in the directory of a store says that it was put back from a backup. What was numbered after the backup
/// may be known elsewhere under the numbers that the store would give next, so it begins a new epoch when it is opened.
pub const RESTORED: &str = "RESTORED";

/// The root of one platform's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(Utf8PathBuf);

impl Home {
    /// A home at `root`.
    pub fn at(root: impl Into<Utf8PathBuf>) -> Self {
        Self(root.into())
    }

    /// `--home`, else `AAP_HOME`, else `$XDG_STATE_HOME/aap`, else `~/.local/state/aap`.
    pub fn find(flag: Option<&Utf8Path>) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        if let Some(path) = flag {
            return Self(path.to_owned());
        }
        if let Some(path) = var("AAP_HOME") {
            return Self(path.into());
        }
        let state = var("XDG_STATE_HOME")
            .unwrap_or_else(|| format!("{}/.local/state", var("HOME").unwrap_or_else(|| "/root".to_owned())));
        Self(Utf8PathBuf::from(state).join("aap"))
    }

    /// The root itself.
    pub fn root(&self) -> &Utf8Path {
        &self.0
    }
    /// Configuration files.
    pub fn config(&self) -> Utf8PathBuf {
        self.0.join("config")
    }
    /// Process ids, sockets, endpoints, the operator's token.
    pub fn run(&self) -> Utf8PathBuf {
        self.0.join("run")
    }
    /// Logs of supervised daemons.
    pub fn log(&self) -> Utf8PathBuf {
        self.0.join("log")
    }
    /// Certificates and keys.
    pub fn tls(&self) -> Utf8PathBuf {
        self.0.join("tls")
    }
    /// The agent's own state.
    pub fn agent(&self) -> Utf8PathBuf {
        self.0.join("agent")
    }
    /// The coordinator's own state.
    pub fn coordinator(&self) -> Utf8PathBuf {
        self.0.join("coordinator")
    }
    /// The lake on local disk.
    pub fn lake(&self) -> Utf8PathBuf {
        self.0.join("lake")
    }
    /// Scratch space.
    pub fn tmp(&self) -> Utf8PathBuf {
        self.0.join("tmp")
    }
    /// The agent's socket for its CLI.
    pub fn agent_socket(&self) -> Utf8PathBuf {
        self.run().join("agent.sock")
    }
    /// Where the running daemons listen (`{"operator":"127.0.0.1:7401","agents":"127.0.0.1:7400","http":…}`).
    pub fn endpoints_file(&self) -> Utf8PathBuf {
        self.run().join("endpoints.json")
    }
    /// The operator's bearer token, mode 0600.
    pub fn operator_token_file(&self) -> Utf8PathBuf {
        self.run().join("operator.token")
    }
}
