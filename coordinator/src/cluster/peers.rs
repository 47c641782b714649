//! The other coordinators: who they are, which of them has a node, and calls to them.
//!
//! Who owns what is read of the leases, once a second at most. Where it has changed since, the call finds nothing there, and whoever
//! asked looks again. A coordinator answers for its own sessions alone, so that a call goes one hop and never round.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::{self, peer_client::PeerClient};
use aap_runtime::Clock;
use aap_store::Lease;
use aap_transport::{PeerChannel, TlsFiles, peer_channel};
use aap_types::NodeId;
use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::codec::Streaming;
use tonic::{Code, Response, Status};

use super::{Detail, Leases, lease_of, membership, shard_of};
use crate::arrival::chain;

/// For how long it counts who owns what: a query of a thousand nodes asks once.
const FRESH: Duration = Duration::from_secs(1);
/// How long the metadata store may take to say it; then what was known before counts.
const LEASES_DEADLINE: Duration = Duration::from_secs(2);
/// How long another coordinator may take to dial and to begin its answer, where it has all that it takes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// All other coordinators. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    leases: Leases,
    clock: Arc<dyn Clock>,
    /// As whom they are called.
    tls: TlsFiles,
    /// One reading of the leases at a time.
    known: tokio::sync::Mutex<Known>,
    /// One a coordinator, with its address.
    channels: Mutex<HashMap<String, (String, PeerChannel)>>,
}

#[derive(Debug, Default)]
struct Known {
    read: Option<Duration>,
    others: Arc<Others>,
}

/// Who is there, and who has which shard, this coordinator apart.
#[derive(Debug, Default)]
struct Others {
    members: BTreeMap<String, Detail>,
    /// By the lease of the shard.
    owners: HashMap<String, Detail>,
}

/// Another coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OtherCoordinator {
    name: String,
    client: PeerClient<PeerChannel>,
}

/// What the others tell of the nodes that have a session with them.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) nodes: Vec<v1::NodeStatus>,
    /// Coordinators that do not answer, with the reason.
    pub(crate) silent: BTreeMap<String, String>,
}

impl Peers {
    /// Those that `leases` name, called with the certificate in `tls`.
    pub(crate) fn new(leases: Leases, tls: TlsFiles, clock: Arc<dyn Clock>) -> Self {
        let (known, channels) = Default::default();
        Self { inner: Arc::new(Inner { leases, clock, tls, known, channels }) }
    }

    /// The coordinator that owns the shard of a node, if that is another one.
    ///
    /// # Errors
    /// Why it cannot be called.
    pub(crate) async fn owner(&self, node: &NodeId) -> Result<Option<OtherCoordinator>, String> {
        let others = self.look().await;
        others.owners.get(&lease_of(shard_of(node))).map(|detail| self.other(detail)).transpose()
    }

    /// The name of the coordinator that owns the shard of a node, if that is another one.
    pub(crate) async fn name_of_owner(&self, node: &NodeId) -> Option<String> {
        let others = self.look().await;
        others.owners.get(&lease_of(shard_of(node))).map(|detail| detail.coordinator.clone())
    }

    /// The nodes that have a session with another coordinator, asked of all of them at once.
    pub(crate) async fn nodes(&self) -> Told {
        let others = self.look().await;
        let asked = others.members.values().map(async |detail| {
            let told = match self.other(detail) {
                Ok(mut other) => other.nodes().await,
                Err(reason) => Err(reason),
            };
            (detail.coordinator.clone(), told)
        });
        let mut told = Told::default();
        for (coordinator, answer) in join_all(asked).await {
            match answer {
                Ok(nodes) => told.nodes.extend(nodes),
                Err(reason) => drop(told.silent.insert(coordinator, reason)),
            }
        }
        told
    }

    fn other(&self, detail: &Detail) -> Result<OtherCoordinator, String> {
        let Detail { coordinator, agents, .. } = detail;
        let mut channels = self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(coordinator).filter(|(address, _)| address == agents) {
            Some((_, channel)) => channel.clone(),
            None => {
                let channel = peer_channel(agents, self.inner.tls.clone()).map_err(|error| {
                    format!("coordinator `{coordinator}` cannot be called: {}", chain(&error))
                })?;
                channels.insert(coordinator.clone(), (agents.clone(), channel.clone()));
                channel
            }
        };
        let client = PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(OtherCoordinator { name: coordinator.clone(), client })
    }

    async fn look(&self) -> Arc<Others> {
        let mut known = self.inner.known.lock().await;
        let now = self.inner.clock.monotonic();
        if known.read.is_some_and(|read| now.saturating_sub(read) < FRESH) {
            return known.others.clone();
        }
        let leases = self.inner.leases.clone();
        let read = timeout(LEASES_DEADLINE, spawn_blocking(move || leases.all())).await;
        // Where it cannot be read, `aap status` says so of this coordinator's own leases.
        if let Ok(Ok(Ok(leases))) = read {
            known.others = Arc::new(Others::of(leases, |holder| self.inner.leases.is_us(holder)));
            self.drop_channels(&known.others);
        }
        // Not again for each node while the store does not answer.
        known.read = Some(self.inner.clock.monotonic());
        known.others.clone()
    }

    /// Lets go of connections to coordinators that are gone.
    fn drop_channels(&self, others: &Others) {
        let mut channels = self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|coordinator, (address, _)| {
            let is_there = |detail: &Detail| detail.coordinator == *coordinator && detail.agents == *address;
            others.members.values().chain(others.owners.values()).any(is_there)
        });
    }
}

impl Others {
    fn of(leases: Vec<Lease>, is_us: impl Fn(&str) -> bool) -> Self {
        let prefix = membership("");
        let mut others = Self::default();
        for lease in leases.into_iter().filter(|lease| !lease.left.is_zero() && !is_us(&lease.holder)) {
            let Ok(detail) = serde_json::from_str::<Detail>(&lease.detail) else { continue };
            match lease.name.strip_prefix(&prefix) {
                Some(name) => drop(others.members.insert(name.to_owned(), detail)),
                None => drop(others.owners.insert(lease.name, detail)),
            }
        }
        others
    }
}

impl OtherCoordinator {
    /// The durable ends of a node with a session there, asked of the node. Takes as long as the node does; where the coordinator is
    /// silent, until the connection counts as broken.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn barrier(&mut self, node: &NodeId) -> Result<Vec<v1::StreamTail>, String> {
        let answer = self.client.barrier(v1::PeerBarrierRequest { node: node.to_string() }).await;
        answer.map(|reply| reply.into_inner().tails).map_err(|status| self.reason(&status))
    }

    /// A node's answer to a query. Dropping it cancels the query.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn query(
        &mut self,
        node: &NodeId,
        id: &str,
        sql: &str,
        limits: v1::QueryLimits,
    ) -> Result<Streaming<v1::QueryOutput>, String> {
        let (node, id, sql) = (node.to_string(), id.to_owned(), sql.to_owned());
        let request = v1::PeerQueryRequest { node, id, sql, limits: Some(limits) };
        let answer = timeout(ANSWER_DEADLINE, self.client.run_query(request)).await;
        self.in_time(answer)
    }

    async fn nodes(&mut self) -> Result<Vec<v1::NodeStatus>, String> {
        let answer = timeout(ANSWER_DEADLINE, self.client.nodes(v1::PeerNodesRequest {})).await;
        self.in_time(answer).map(|reply| reply.nodes)
    }

    fn in_time<T>(
        &self,
        answer: Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>,
    ) -> Result<T, String> {
        match answer {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.reason(&status)),
            Err(_elapsed) => Err(format!(
                "coordinator `{}`, which has its session, does not answer within {} s",
                self.name,
                ANSWER_DEADLINE.as_secs()
            )),
        }
    }

    /// What a status means to whoever asked for a node; empty where the node has no session there.
    pub(crate) fn reason(&self, status: &Status) -> String {
        let name = &self.name;
        match (status.code(), std::error::Error::source(status)) {
            (Code::NotFound, _) => String::new(),
            // It got there: the coordinator itself says what is wrong.
            (_, None) => format!("coordinator `{name}`: {}", status.message()),
            (_, Some(source)) => {
                format!("coordinator `{name}`, which has its session, does not answer: {}", chain(source))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, holder: &str, left: u64) -> Lease {
        let detail = Detail {
            coordinator: holder.to_owned(),
            agents: format!("{holder}.example:7400"),
            version: "1".to_owned(),
        };
        Lease {
            name: name.to_owned(),
            holder: holder.to_owned(),
            token: 1,
            detail: serde_json::to_string(&detail).unwrap(),
            left: Duration::from_secs(left),
        }
    }

    #[test]
    fn others_are_those_whose_lease_lasts_and_this_one_is_not_among_them() {
        let leases = vec![
            lease("coordinator/c1", "c1", 9),
            lease("coordinator/c2", "c2", 9),
            lease("coordinator/c3", "c3", 0),
            lease(&lease_of(4), "c2", 9),
            lease(&lease_of(5), "c1", 9),
            lease(&lease_of(6), "c3", 0),
        ];
        let others = Others::of(leases, |holder| holder == "c1");
        assert_eq!(others.members.keys().collect::<Vec<_>>(), ["c2"]);
        assert_eq!(others.owners.keys().collect::<Vec<_>>(), [&lease_of(4)]);
        assert_eq!(others.owners[&lease_of(4)].agents, "c2.example:7400");
    }
}
