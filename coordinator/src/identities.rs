//! Which machines are nodes: enrolment with a token, certificates and their renewal, and who is let in.
//!
//! ```text
//! enrol ──► token taken ──► identity, pending or approved ──► certificate of generation 1
//! session ── shows generation g ──► admitted, or refused and told why
//!         ── asks for a new one ──► generation g + 1; the former counts until the new one was shown
//! ```
//! Every decision is a method of a record in `aap-access`, and every change a compare-and-set in the store, so that any coordinator may
//! answer. A node that never enrolled, because its coordinator's home issued its certificate, has no identity until somebody changes
//! its standing: its certificate shows generation 0.

mod confirmations;
mod enrolling;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aap_access::{Admission, Certificate, Fingerprint, HashKey, NO_KEY, NodeIdentity, NodeState, Renewal};
use aap_runtime::Clock;
use aap_store::{AccessStore, RowsAfter};
use aap_transport::{Authority, CertificateRequest, IssuedCertificate};
use aap_types::{ExitCode, NodeId, Problem, SiteName};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::enrolment::NotEnrolled;
use crate::nodes::Nodes;

pub(crate) use confirmations::Confirmations;

/// The site of nodes that were never told theirs.
pub(crate) const DEFAULT_SITE: &str = "default";
/// How often other coordinators' decisions about nodes are looked for, so that a node that is shut out is cut off within five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What a node that enrols is given.
#[derive(Debug, Clone)]
pub(crate) struct Enrolled {
    pub(crate) identity: NodeIdentity,
    /// Certificate and what leads to the authority; none while an operator has not approved the node.
    pub(crate) certificate: Option<String>,
}

/// What a machine asks for.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) token: String,
    pub(crate) node: NodeId,
    pub(crate) request: CertificateRequest,
    pub(crate) from: IpAddr,
}

/// Why a node's session is refused: a code for the agent, and a sentence for whoever reads its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// A node that is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// It has no certificate below the newest root yet.
    pub(crate) renews: bool,
    /// It shall take no new rows.
    pub(crate) draining: bool,
}

/// The identities of nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Identities {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn AccessStore>,
    authority: Authority,
    key: HashKey,
    /// How long a certificate holds.
    life: Duration,
    nodes: Nodes,
    clock: Arc<dyn Clock>,
}

impl Identities {
    pub(crate) fn new(
        store: Arc<dyn AccessStore>,
        (authority, key): (Authority, HashKey),
        life: Duration,
        nodes: Nodes,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { inner: Arc::new(Inner { store, authority, key, life, nodes, clock }) }
    }

    /// Where records are.
    pub(crate) fn store(&self) -> &Arc<dyn AccessStore> {
        &self.inner.store
    }

    /// How secrets that are issued are hashed.
    pub(crate) fn key(&self) -> &HashKey {
        &self.inner.key
    }

    /// What enrolment tokens name the authority by: its newest root.
    pub(crate) fn authority(&self) -> Fingerprint {
        Fingerprint(self.inner.authority.fingerprint())
    }

    /// The authorities that nodes shall believe, PEM.
    pub(crate) fn authorities(&self) -> Result<Vec<u8>, Problem> {
        let path = self.inner.authority.root_path();
        std::fs::read(&path).map_err(|error| {
            Problem::new("transport.tls", ExitCode::Failed, format!("cannot read `{path}`")).caused_by(&error)
        })
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Makes a machine a node, if its token says so. Whoever is refused is told no more than that.
    pub(crate) async fn enrol(&self, application: Application) -> Result<Enrolled, Box<NotEnrolled>> {
        let inner = self.inner.clone();
        run(move || Ok(inner.enrol(&application))).await?
    }

    /// A certificate for a node whose last one expired, by the key that it was enrolled with.
    pub(crate) async fn recover(
        &self,
        node: NodeId,
        request: CertificateRequest,
        generation: u64,
        renewal: String,
    ) -> Result<Enrolled, Problem> {
        let inner = self.inner.clone();
        run(move || inner.renew(&node, &request, generation, &renewal)).await
    }

    /// A new certificate for a node that shows one of `generation` in its session.
    pub(crate) async fn renew(
        &self,
        node: &NodeId,
        csr: Vec<u8>,
        generation: u64,
        renewal: String,
    ) -> Result<Enrolled, Problem> {
        let (inner, wanted) = (self.inner.clone(), node.clone());
        let renewed = run(move || {
            let request = CertificateRequest::read(&csr).map_err(|error| error.problem())?;
            inner.renew(&wanted, &request, generation, &renewal)
        });
        let renewed = renewed.await;
        if renewed.as_ref().is_err_and(|problem| problem.exit == ExitCode::Denied) {
            self.cut(node);
        }
        renewed
    }

    /// Whether a node that shows a certificate of `generation` may have a session.
    pub(crate) async fn admit(&self, node: &NodeId, generation: u64) -> Result<Admitted, Refused> {
        let (inner, wanted) = (self.inner.clone(), node.clone());
        let admitted = run(move || inner.admit(&wanted, generation)).await;
        let unknown = |problem: Problem| Refused { code: "UNAVAILABLE", message: problem.message };
        let (admission, known) = admitted.map_err(unknown)?;
        match admission {
            Admission::Admitted => Ok(known),
            Admission::Cloned => {
                self.cut(node);
                Err(refused(node, NodeState::Locked))
            }
            Admission::Refused(state) => Err(refused(node, state)),
        }
    }

    /// Changes the record of a node, and cuts it off where it is not served any more. A node that never enrolled gets a record.
    pub(crate) async fn change(
        &self,
        node: &NodeId,
        change: impl Fn(&mut NodeIdentity, i64) + Send + 'static,
    ) -> Result<NodeIdentity, Problem> {
        let (inner, wanted) = (self.inner.clone(), node.clone());
        let changed = run(move || inner.change(&wanted, change)).await?;
        if !changed.state.is_served() {
            self.cut(node);
        }
        self.tell(&changed).await;
        Ok(changed)
    }

    /// Whether a node shall take no new rows; none where it is not on record, or cannot be looked up.
    pub(crate) async fn is_draining(&self, node: &NodeId) -> Option<bool> {
        let known = self.list(Some(node.clone())).await.ok()?;
        known.first().map(|known| known.draining)
    }

    /// One node, or all by name.
    pub(crate) async fn list(&self, node: Option<NodeId>) -> Result<Vec<NodeIdentity>, Problem> {
        let inner = self.inner.clone();
        run(move || match node {
            Some(node) => Ok(inner.find(&node)?.into_iter().collect()),
            None => inner.all(),
        })
        .await
    }

    /// All by name. Blocking.
    pub(crate) fn list_now(&self) -> Result<Vec<NodeIdentity>, Problem> {
        self.inner.all()
    }

    /// In a cluster other coordinators change the standing of nodes that have their session here.
    pub(crate) async fn watch(self, shutdown: aap_runtime::Shutdown) -> Result<(), std::convert::Infallible> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.requested() => return Ok(()),
            }
            match self.list(None).await {
                Ok(all) => {
                    all.iter()
                        .filter(|known| !known.state.is_served())
                        .for_each(|known| self.cut(&known.node));
                    for known in
                        all.iter().filter(|known| self.inner.nodes.is_draining(&known.node) != known.draining)
                    {
                        self.tell(known).await;
                    }
                }
                Err(problem) => warn!(%problem, "the standing of nodes cannot be looked up"),
            }
        }
    }

    /// Tells a node that has its session here whether it takes new rows.
    async fn tell(&self, known: &NodeIdentity) {
        if let Some(session) = self.inner.nodes.session(&known.node) {
            session.drain(known.draining).await;
        }
    }

    /// Ends the session of a node here.
    fn cut(&self, node: &NodeId) {
        if let Some(session) = self.inner.nodes.any_session(node) {
            info!(%node, "a node that is shut out is cut off");
            session.close.request();
        }
    }
}

fn refused(node: &NodeId, state: NodeState) -> Refused {
    let (code, message) = match state {
        NodeState::Pending => {
            ("PENDING", format!("node `{node}` waits for an operator: aap node approve {node}"))
        }
        NodeState::Banned => ("BANNED", format!("node `{node}` is banned; its data waits in its buffer")),
        NodeState::Locked => (
            "LOCKED",
            format!(
                "node `{node}` is locked, because its key was shown from two places: enrol it again with `aap-agent enroll --again TOKEN`"
            ),
        ),
        NodeState::Approved | NodeState::Cordoned => ("UNAVAILABLE", "ask again".to_owned()),
    };
    Refused { code, message }
}

/// Blocking work of the store.
async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work")
            .caused_by(&panic))
    })
}

fn store_failed(error: aap_store::Error) -> Problem {
    Problem::new("access.store", ExitCode::Unavailable, "who may do what cannot be looked up")
        .caused_by(&error)
        .retry_after_ms(1000)
}

/// Every refusal of an enrolment reads the same: a guess learns nothing.
fn denied() -> Problem {
    Problem::new("enrolment.denied", ExitCode::Denied, "the enrolment token is not accepted")
        .hint_command("ask for a new one where the coordinator is", "aap token create --site SITE")
}

impl Inner {
    fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }

    fn find(&self, node: &NodeId) -> Result<Option<NodeIdentity>, Problem> {
        self.store.find(node.as_str()).map_err(store_failed)
    }

    fn all(&self) -> Result<Vec<NodeIdentity>, Problem> {
        let mut all: Vec<NodeIdentity> = vec![];
        loop {
            let after = all.last().map(|known| known.node.to_string()).unwrap_or_default();
            let which = RowsAfter { owner: None, after: &after, limit: aap_store::PAGE_ROWS_MAX };
            let page: Vec<NodeIdentity> = self.store.list(which).map_err(store_failed)?;
            let is_last = page.len() < aap_store::PAGE_ROWS_MAX;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Signs first, because the generation stands in the certificate, and records it if nobody was faster.
    fn renew(
        &self,
        node: &NodeId,
        request: &CertificateRequest,
        presented: u64,
        renewal: &str,
    ) -> Result<Enrolled, Problem> {
        let key = Fingerprint(request.fingerprint());
        loop {
            let Some(known) = self.find(node)?.filter(|known| known.key == key) else { return Err(denied()) };
            let is_again = known.renewal == renewal && known.generation > 0;
            let generation = if is_again { known.generation } else { known.generation + 1 };
            let issued = self
                .authority
                .sign_node(request, node, generation, self.life)
                .map_err(|error| error.problem())?;
            let IssuedCertificate { chain, serial, expires_us, root } = issued;
            let root = Some(Fingerprint(root));
            let certificate = Certificate { serial: serial.to_string(), expires_us, root };
            let now_us = self.now_us();
            let decide = |known: &mut NodeIdentity| known.renew(presented, renewal, &certificate, now_us);
            let Some((identity, renewed)) = self.store.change(node.as_str(), decide).map_err(store_failed)?
            else {
                return Err(denied());
            };
            match renewed {
                Renewal::Granted(given) | Renewal::Again(given) if given == generation => {
                    info!(%node, generation, "a certificate is issued");
                    return Ok(Enrolled { identity, certificate: Some(chain) });
                }
                // Somebody else renewed in between; what was signed is thrown away.
                Renewal::Granted(_) | Renewal::Again(_) => {}
                Renewal::Cloned => {
                    warn!(%node, presented, "a node is locked: its key is in two places");
                    return Err(not_served(node, NodeState::Locked));
                }
                Renewal::Refused(state) => return Err(not_served(node, state)),
                Renewal::RecoveriesUsedUp => {
                    let message = format!("the certificate of `{node}` expired once too often");
                    return Err(Problem::new("enrolment.recoveries", ExitCode::Denied, message)
                        .hint_command(
                            "let it in again where the coordinator is",
                            format!("aap node approve {node}"),
                        ));
                }
            }
        }
    }

    fn admit(&self, node: &NodeId, generation: u64) -> Result<(Admission, Admitted), Problem> {
        let now_us = self.now_us();
        let admit = |known: &mut NodeIdentity| known.admit(generation, now_us);
        if let Some((known, admission)) = self.store.change(node.as_str(), admit).map_err(store_failed)? {
            let trusts_newest = known.trusts == Some(Fingerprint(self.authority.fingerprint()));
            let renews = generation > 0 && !trusts_newest && self.authority.is_rotating();
            return Ok((admission, Admitted { renews, draining: known.draining }));
        }
        if generation > 0 {
            // Its certificate is ours and a day old at most, and the metadata was lost since. Its key is learned at its next renewal.
            warn!(%node, generation, "an enrolled node is not on record; it is let in");
        }
        Ok((Admission::Admitted, Admitted::default()))
    }

    fn change(
        &self,
        node: &NodeId,
        change: impl Fn(&mut NodeIdentity, i64),
    ) -> Result<NodeIdentity, Problem> {
        let now_us = self.now_us();
        loop {
            let changed = self.store.change(node.as_str(), |known| change(known, now_us));
            if let Some((changed, ())) = changed.map_err(store_failed)? {
                return Ok(changed);
            }
            if !self.nodes.is_known(node) {
                return Err(crate::asking::unknown_node(node.as_str()));
            }
            self.store.add(&unknown(node, now_us)).map_err(store_failed)?;
        }
    }
}

fn not_served(node: &NodeId, state: NodeState) -> Problem {
    let Refused { message, .. } = refused(node, state);
    Problem::new("enrolment.not_served", ExitCode::Denied, message)
}

/// A node of which nothing is known but that it is there.
fn unknown(node: &NodeId, now_us: i64) -> NodeIdentity {
    NodeIdentity {
        node: node.clone(),
        site: DEFAULT_SITE.parse::<SiteName>().expect("a site name"),
        labels: Default::default(),
        state: NodeState::Approved,
        reason: String::new(),
        key: NO_KEY,
        generation: 0,
        shown: 0,
        renewal: String::new(),
        certificate: None,
        trusts: None,
        draining: false,
        recoveries: 0,
        created_us: now_us,
        updated_us: now_us,
    }
}
