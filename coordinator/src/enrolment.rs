//! What machines call that want to become nodes: `Enrolment`, on the operators' port under its own application protocol.

mod refusals;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_proto::status_of_problem;
use aap_proto::v1::{self, enrolment_server::Enrolment};
use aap_transport::{CertificateRequest, Client};
use aap_types::{ExitCode, NodeId, Problem, network_of};
use axum::extract::ConnectInfo;
use tonic::{Request, Response, Status};

pub(crate) use self::refusals::{NotEnrolled, Refusal, Refused, Why};
use crate::access::Denials;
use crate::cluster::Joined;
use crate::identities::{Application, Enrolled, Identities};

/// Bytes of a request: a token, a name, a key.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 << 10;
/// How long a node that waits for an operator waits before it asks again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Refusals that one address may have within [`REFUSALS_WITHIN`] (reliability-security E1). A guess has 2^-256 to be right; this spares
/// the work, and the log.
const REFUSALS_MAX: u32 = 10;
/// The same for a /64 of IPv6, in which one machine has as many addresses as it likes, and which may be a whole site that starts at once: one
/// that guesses must not keep out all others there with the first ten.
const REFUSALS_OF_NETWORK_MAX: u32 = 100;
const REFUSALS_WITHIN: Duration = Duration::from_secs(60);
/// Addresses that are remembered. Beyond that all of them are forgotten: whoever has so many is not held up by this.
const ADDRESSES_MAX: usize = 10_000;
/// A number of a renewal is a name that the node made.
const RENEWAL_BYTES_MAX: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct EnrolmentService {
    identities: Identities,
    /// Where this coordinator listens for agents, as nodes elsewhere dial it.
    address: String,
    /// In a cluster nodes are told of all.
    joined: Option<Joined>,
    refusals: Arc<Mutex<HashMap<IpAddr, Refusals>>>,
    denials: Denials,
    refused: Refused,
}

#[derive(Debug, Clone, Copy)]
struct Refusals {
    since: Duration,
    count: u32,
}

impl EnrolmentService {
    pub(crate) fn new(
        identities: Identities,
        address: String,
        joined: Option<Joined>,
        denials: Denials,
    ) -> Self {
        Self { identities, address, joined, refusals: Arc::default(), denials, refused: Refused::default() }
    }

    /// What was refused since the start.
    pub(crate) fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Records and counts that a machine is no node.
    async fn note(&self, from: IpAddr, not: Box<NotEnrolled>) -> Problem {
        if let Some(refusal) = &not.refusal {
            self.refused.count(refusal.why);
            self.denials.record(refusal.record(from, &not.problem), &not.problem, refusal.is_known()).await;
        }
        not.problem
    }

    /// This coordinator first.
    async fn addresses(&self) -> Result<Vec<String>, Problem> {
        let Some(joined) = &self.joined else { return Ok(vec![self.address.clone()]) };
        let mut coordinators = joined.show().await?.coordinators;
        coordinators.retain(|coordinator| coordinator.lease_left_ms > 0 && !coordinator.agents.is_empty());
        coordinators.sort_by_key(|coordinator| !coordinator.is_this);
        Ok(coordinators.into_iter().map(|coordinator| coordinator.agents).collect())
    }

    /// Answers, unless this address was refused too often.
    async fn answer(
        &self,
        from: IpAddr,
        work: impl Future<Output = Result<Enrolled, Problem>>,
    ) -> Result<Response<v1::EnrolReply>, Status> {
        self.refuse_eager(from).map_err(|problem| status_of_problem(&problem))?;
        let answer = async {
            let enrolled = work.await?;
            self.reply(enrolled, self.addresses().await?)
        };
        let reply = answer.await.inspect_err(|problem| {
            if problem.exit != ExitCode::Unavailable {
                self.count(from);
            }
        });
        reply.map(Response::new).map_err(|problem| status_of_problem(&problem))
    }

    fn reply(
        &self,
        Enrolled { identity, certificate }: Enrolled,
        addresses: Vec<String>,
    ) -> Result<v1::EnrolReply, Problem> {
        let retry_after_ms = if certificate.is_some() { 0 } else { ASK_AGAIN.as_millis() as u64 };
        Ok(v1::EnrolReply {
            node: identity.node.to_string(),
            site: identity.site.to_string(),
            certificate: certificate.unwrap_or_default().into_bytes().into(),
            authorities: self.identities.authorities()?.into(),
            addresses,
            retry_after_ms,
        })
    }

    fn refuse_eager(&self, from: IpAddr) -> Result<(), Problem> {
        let now = self.identities.clock().monotonic();
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let eager = counted(from).find_map(|(counted, most)| {
            let known = refusals.get(&counted).filter(|known| now - known.since < REFUSALS_WITHIN)?;
            (known.count >= most).then_some(known)
        });
        match eager {
            Some(known) => {
                let left = REFUSALS_WITHIN.saturating_sub(now - known.since);
                Err(Problem::new(
                    "enrolment.too_many",
                    ExitCode::Unavailable,
                    "too many enrolments of this address were refused",
                )
                .retry_after_ms(left.as_millis() as u64))
            }
            None => Ok(()),
        }
    }

    fn count(&self, from: IpAddr) {
        let now = self.identities.clock().monotonic();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= ADDRESSES_MAX {
            refusals.clear();
        }
        for (counted, _) in counted(from) {
            let known = refusals.entry(counted).or_insert(Refusals { since: now, count: 0 });
            if now - known.since >= REFUSALS_WITHIN {
                *known = Refusals { since: now, count: 0 };
            }
            known.count += 1;
        }
    }
}

/// What a refusal counts against, and how many it may have.
fn counted(from: IpAddr) -> impl Iterator<Item = (IpAddr, u32)> {
    let (address, network) = (from.to_canonical(), network_of(from));
    let network = (network != address).then_some((network, REFUSALS_OF_NETWORK_MAX));
    [(address, REFUSALS_MAX)].into_iter().chain(network)
}

fn address_of<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let client = request.extensions().get::<ConnectInfo<Client>>();
    client
        .map(|ConnectInfo(client)| client.address.ip())
        .ok_or_else(|| Status::internal("a call without a caller"))
}

fn node_of(name: &str) -> Result<NodeId, Problem> {
    name.parse().map_err(|error: aap_types::NameError| {
        Problem::new(
            "enrolment.bad_request",
            ExitCode::Usage,
            format!("`{}` is no name of a node", name.escape_default()),
        )
        .caused_by(&error)
        .hint_command("give it another", "aap-agent enroll --node NAME TOKEN")
    })
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let from = address_of(&request)?;
        let v1::EnrolRequest { token, node, csr, agent_version: _ } = request.into_inner();
        self.answer(from, async {
            let request = CertificateRequest::read(&csr).map_err(|error| error.problem())?;
            let application = Application { token, node: node_of(&node)?, request, from };
            match self.identities.enrol(application).await {
                Ok(enrolled) => Ok(enrolled),
                Err(not) => Err(self.note(from, not).await),
            }
        })
        .await
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverNodeRequest>,
    ) -> Result<Response<v1::EnrolReply>, Status> {
        let from = address_of(&request)?;
        let v1::RecoverNodeRequest { node, csr, renewal, generation } = request.into_inner();
        self.answer(from, async {
            let request = CertificateRequest::read(&csr).map_err(|error| error.problem())?;
            let node = node_of(&node)?;
            if renewal.len() > RENEWAL_BYTES_MAX {
                return Err(Problem::new(
                    "enrolment.bad_request",
                    ExitCode::Usage,
                    "the number of the renewal is too long",
                ));
            }
            self.identities.recover(node, request, generation, renewal).await
        })
        .await
    }
}
