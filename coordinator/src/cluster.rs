//! The cluster: several coordinators over one metadata store, one landing topic and one lake.
//!
//! ```text
//!  agents ─▶ any coordinator ─▶ the owner of the node's shard ──one transaction──▶ topic ──▶ the view of every coordinator
//!                                                                                    lake ◀── the leader: loads, merges, expires
//!                                                                      other systems ◀──▶ the leader: sinks, sources
//! ```
//! Who owns what stands in leases in PostgreSQL. A lease that is over is taken by whoever needs it next: a shard by the
//! coordinator that one of its nodes comes to, the lead by any. Two owners at once are harmless: the transactional id of a
//! shard fences the earlier one in Kafka, and each commit of the lake checks the leader's token in its own transaction.
//!
//! | file | owns |
//! |---|---|
//! | `joined.rs` | a coordinator that has its place in it |
//! | `peers.rs`, `answering.rs` | calls to other coordinators, whose nodes they have; answering theirs |
//! | `config.rs` | the section `cluster` of the configuration |
//! | `leases.rs` | the leases of this coordinator |
//! | `record.rs` | what a record of the topic holds |
//! | `view.rs` | the topic in the coordinator's own buffer |
//! | `shards.rs` | which nodes land where; adding to a shard |
//! | `trim.rs` | which records of the topic may go |
//! | `migrate.rs` | from one machine into a cluster |
//! | `lead.rs` | what one coordinator does for all |

mod answering;
mod config;
mod joined;
mod lead;
mod leases;
pub(crate) mod migrate;
mod peers;
mod record;
mod shards;
mod trim;
mod view;

use std::sync::Arc;
use std::time::Duration;

use aap_kafka::LandingSpec;
use aap_runtime::Shutdown;
use aap_sinks::{Failure, FailureKind};
use aap_store::ClusterStore;
use aap_types::{ExitCode, Problem};
use serde::{Deserialize, Serialize};
use tracing::warn;

pub(crate) use answering::Answering;
pub use config::ClusterConfig;
pub(crate) use joined::{Joined, Shared};
pub(crate) use lead::{Lead, LeadDependencies};
pub(crate) use leases::{LAST, Leases, Taken};
pub(crate) use peers::{OtherCoordinator, Peers, Told};
pub(crate) use shards::{LEADERS_SHARD, Place, ShardTurn, Shards, is_sealer, lease_of, sealer, shard_of};
pub(crate) use view::View;

/// The lease of the coordinator that does what one does for all.
pub(crate) const LEADER: &str = "leader";
/// Before a server that does not answer at the start is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// What the holder of a lease says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// Its name.
    pub(crate) coordinator: String,
    /// Where agents find it.
    pub(crate) agents: String,
    /// Its version.
    pub(crate) version: String,
}

/// Where agents find the holder of a lease; empty where that cannot be read.
pub(crate) fn agents_address(detail: &str) -> String {
    serde_json::from_str::<Detail>(detail).map(|detail| detail.agents).unwrap_or_default()
}

/// The lease that says that a coordinator is there.
pub(crate) fn membership(coordinator: &str) -> String {
    format!("coordinator/{coordinator}")
}

/// Takes the place of this coordinator in the cluster: what an earlier start of this home still holds is given up first.
///
/// # Errors
/// Another coordinator has this name.
pub(crate) async fn join(
    store: &Arc<dyn ClusterStore>,
    leases: &Leases,
    coordinator: &str,
    home: &str,
) -> anyhow::Result<()> {
    let known = store.clone();
    let of_home = format!("{home}/");
    tokio::task::spawn_blocking(move || -> Result<(), aap_store::Error> {
        for lease in known.leases()?.into_iter().filter(|lease| lease.holder.starts_with(&of_home)) {
            known.release_leases(&lease.holder, &[(lease.name, lease.token)])?;
        }
        Ok(())
    })
    .await??;
    // One that died without its view is another holder now, and its name is free when its lease is over.
    let name = membership(coordinator);
    let mut waited = Duration::ZERO;
    loop {
        let lease = match leases.take(&name).await? {
            Taken::Ours(_) => return Ok(()),
            Taken::Theirs(lease) => lease,
        };
        if waited > LAST {
            let message = format!("another coordinator of this cluster is called `{coordinator}`");
            let at = agents_address(&lease.detail);
            return Err(Problem::new("cluster.name_taken", ExitCode::Conflict, message)
                .cause(format!("it serves agents at {at}"))
                .hint("give each coordinator a name of its own: `cluster.coordinator` in its configuration")
                .into());
        }
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
    }
}

/// Makes the landing topic, or checks it; waits for brokers that do not answer. `false` if `shutdown` came first.
///
/// # Errors
/// The topic, or the cluster of brokers, is none that data may land in.
pub(crate) async fn prepare(spec: &LandingSpec, shutdown: &Shutdown) -> Result<bool, Failure> {
    while !shutdown.is_requested() {
        match aap_kafka::prepare_landing(spec).await {
            Ok(()) => return Ok(true),
            Err(failure) if failure.kind == FailureKind::Retry => {
                warn!(%failure, causes = ?failure.problem.causes, "the landing topic cannot be reached yet");
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.requested() => {}
        }
    }
    Ok(false)
}

/// Renews the membership lease if it was lost: a coordinator that was paused is back.
pub(crate) async fn stay(leases: Leases, coordinator: String, shutdown: Shutdown) -> Result<(), Problem> {
    let name = membership(&coordinator);
    while !shutdown.is_requested() {
        match leases.take(&name).await {
            Ok(Taken::Ours(hold)) => tokio::select! {
                () = hold.lost.requested() => {}
                () = shutdown.requested() => {}
            },
            Ok(Taken::Theirs(lease)) => {
                let at = agents_address(&lease.detail);
                warn!(coordinator, at, "another coordinator has taken this one's name");
                pause(&shutdown).await;
            }
            Err(error) => {
                warn!(
                    error = crate::arrival::chain(&error),
                    "the cluster is not told that this coordinator is there"
                );
                pause(&shutdown).await;
            }
        }
    }
    Ok(())
}

async fn pause(shutdown: &Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(PAUSE) => {}
        () = shutdown.requested() => {}
    }
}
