//! The certificates of this coordinator: issued when it starts, looked after while it runs, and moved below another root when an operator
//! says so.
//!
//! In a cluster every coordinator has the same roots in `tls/` of its home, and each looks after its own certificates. What an operator
//! copies there from another coordinator, as after `aap ca rotate`, counts within [`LOOK_EVERY`].

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_transport::{Authority, AuthorityFacts, LiveTls, OwnFiles, TlsFiles};
use aap_types::{CoordinatorName, ExitCode, Problem};
use anyhow::{Context, Result};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::arrival::chain;
use crate::init::renew_nodes;

/// How often they are looked at, which costs reading some small files. Certificates live for a day at least.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The certificates. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    authority: Authority,
    names: Vec<String>,
    /// As whom it calls other coordinators, where this is one of several.
    caller: Option<(CoordinatorName, TlsFiles)>,
    live: LiveTls,
}

impl Certificates {
    /// Issues what is wanting: for those who come to `names`, for `caller`, and for the nodes of this home. Blocking.
    ///
    /// # Errors
    /// A name that no certificate can carry, or a file that cannot be used.
    pub(crate) fn issue(
        authority: Authority,
        names: Vec<String>,
        caller: Option<CoordinatorName>,
        own: Option<OwnFiles>,
    ) -> Result<Self> {
        let files = authority.server_files(&names).context("issue the coordinator's certificate")?;
        let caller = caller.map(|name| authority.coordinator_files(&name).map(|files| (name, files)));
        let caller =
            caller.transpose().context("issue the certificate with which other coordinators are called")?;
        renew_nodes(&authority)?;
        let live = LiveTls::open(files, own).context("open the certificates of the listeners")?;
        Ok(Self { inner: Arc::new(Inner { authority, names, caller, live }) })
    }

    /// Who issues them.
    pub(crate) fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// What listeners show.
    pub(crate) fn live(&self) -> &LiveTls {
        &self.inner.live
    }

    /// As whom other coordinators are called.
    pub(crate) fn caller(&self) -> Option<TlsFiles> {
        self.inner.caller.as_ref().map(|(_, files)| files.clone())
    }

    /// Looks after them until the request to stop.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        let mut told = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.requested() => return Ok(()),
            }
            let failure = match self.look_after().await {
                Ok(()) => String::new(),
                Err(problem) => {
                    problem.causes.iter().fold(problem.message, |text, cause| format!("{text}: {cause}"))
                }
            };
            if !failure.is_empty() && failure != told {
                warn!(
                    failure,
                    "the certificates of this coordinator cannot be looked after; those it has go on"
                );
            }
            told = failure;
        }
    }

    /// Takes up what lies in the home now, and renews what is past half of its life.
    async fn look_after(&self) -> Result<(), Problem> {
        self.with(|inner| {
            inner.authority.refresh()?;
            inner.look_after()
        })
        .await
    }

    /// Begins a rotation of the authority: from now on everything is issued below a new root.
    ///
    /// # Errors
    /// `ca.rotation_under_way` (6), `ca.root_offline` (6).
    pub(crate) async fn rotate(&self) -> Result<(), Problem> {
        self.with(|inner| {
            inner.authority.rotate()?;
            inner.look_after()
        })
        .await
    }

    /// Ends it: the former root is trusted no more.
    ///
    /// # Errors
    /// `ca.no_rotation` (6).
    pub(crate) async fn finish_rotation(&self) -> Result<(), Problem> {
        self.with(|inner| {
            inner.authority.finish_rotation()?;
            inner.look_after()
        })
        .await
    }

    /// What there is of the authority.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) async fn facts(&self) -> Result<AuthorityFacts, Problem> {
        self.with(|inner| inner.authority.facts()).await
    }

    /// Blocking work on them.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, aap_transport::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let inner = self.inner.clone();
        let worked = spawn_blocking(move || work(&inner)).await.map_err(|panic| {
            Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work")
                .caused_by(&panic)
        })?;
        worked.map_err(|error| error.problem())
    }
}

impl Inner {
    fn look_after(&self) -> Result<(), aap_transport::Error> {
        self.authority.server_files(&self.names)?;
        if let Some((name, _)) = &self.caller {
            self.authority.coordinator_files(name)?;
        }
        if let Err(error) = renew_nodes(&self.authority) {
            warn!(error = %chain(error.as_ref()), "the certificates of nodes cannot be looked after");
        }
        if self.live.reload()? {
            info!("listeners show a new certificate, or believe other roots");
        }
        Ok(())
    }
}
