//! How a machine becomes a node: what its token says, whose name it may have, and the identity that comes of it.

use aap_access::{
    EnrolmentToken, EnrolmentUse, Fingerprint, IssuedKind, IssuedSecret, NodeIdentity, NodeState, Taken,
};
use aap_types::{ExitCode, NodeId, Problem};
use tracing::{info, warn};

use super::{Application, Enrolled, Inner, denied, store_failed, unknown};
use crate::enrolment::{NotEnrolled, Refusal, Why};

impl Inner {
    pub(super) fn enrol(&self, application: &Application) -> Result<Enrolled, Box<NotEnrolled>> {
        let Application { token, node, request, from } = application;
        let secret = IssuedSecret::parse(IssuedKind::Enrolment, token).map_err(|_| denied())?;
        let hash = self.key.hash(&secret);
        let known = self.store.find::<EnrolmentToken>(secret.id().as_str()).map_err(store_failed)?;
        let refuse = |why: Why, node: &NodeId, used_from: Vec<String>, problem: Problem| {
            let refusal = Refusal { why, token: secret.id().to_string(), node: node.clone(), used_from };
            Box::new(NotEnrolled { problem, refusal: Some(refusal) })
        };
        // Before anything is said that only who has a token may know.
        let Some(known) = known.filter(|known| known.hash == hash) else {
            warn!(token = %secret.id(), %from, "an enrolment with a token that nobody issued is refused");
            return Err(refuse(Why::Unknown, node, vec![], denied()));
        };
        let bound = known.node;
        // A token that is for one node names it, whatever the machine is called.
        let node = bound.as_ref().unwrap_or(node).clone();
        let key = Fingerprint(request.fingerprint());
        let before = self.find(&node)?;
        let is_known = before.is_some() || self.nodes.is_known(&node);
        let is_same = before.as_ref().is_some_and(|before| before.key == key);
        if is_known && !is_same && bound.is_none() {
            // Only who may make tokens can give a name away that has data already.
            warn!(%node, %from, "a machine that wants the name of another node is refused");
            return Err(refuse(Why::NameTaken, &node, vec![], name_taken(&node)));
        }
        let by = EnrolmentUse { node: node.clone(), key, from: from.to_string(), at_us: self.now_us() };
        let (taken, record) =
            self.store.take_enrolment_token(secret.id(), &hash, &by).map_err(store_failed)?;
        let record = match (taken, record) {
            (Taken::Granted | Taken::Again, Some(record)) => record,
            (taken, record) => {
                let used = record.map(|record| record.uses).unwrap_or_default();
                let others: Vec<String> = used.into_iter().map(|used| used.from).collect();
                warn!(token = %secret.id(), %node, %from, ?taken, used_from = ?others, "an enrolment is refused");
                return Err(refuse(Why::of(taken), &node, others, denied()));
            }
        };
        let identity = self.record(&node, key, &record)?;
        if identity.state == NodeState::Pending {
            return Ok(Enrolled { identity, certificate: None });
        }
        Ok(self.renew(&node, request, identity.generation, &format!("enrol-{}", secret.id()))?)
    }

    /// The identity that came of an enrolment: new, or of a machine that takes the place of the former one.
    fn record(
        &self,
        node: &NodeId,
        key: Fingerprint,
        token: &EnrolmentToken,
    ) -> Result<NodeIdentity, Problem> {
        let now_us = self.now_us();
        let state = if token.requires_approval { NodeState::Pending } else { NodeState::Approved };
        let fresh = NodeIdentity {
            site: token.site.clone(),
            labels: token.labels.clone(),
            state,
            key,
            ..unknown(node, now_us)
        };
        loop {
            if self.store.add(&fresh).map_err(store_failed)? {
                info!(%node, site = %fresh.site, %state, "a node is enrolled");
                return Ok(fresh);
            }
            let change = |known: &mut NodeIdentity| {
                if known.key == key {
                    return;
                }
                // The generation goes on: certificates of the former key are of the past.
                *known = NodeIdentity {
                    generation: known.generation,
                    shown: known.generation,
                    created_us: known.created_us,
                    ..fresh.clone()
                };
            };
            if let Some((changed, ())) = self.store.change(node.as_str(), change).map_err(store_failed)? {
                return Ok(changed);
            }
        }
    }
}

fn name_taken(node: &NodeId) -> Problem {
    let message = format!("there is a node `{node}` already");
    Problem::new("enrolment.name_taken", ExitCode::Conflict, message)
        .hint_command("take another name", "aap-agent enroll --node NAME TOKEN")
        .hint_command(
            "or replace that machine, with a token of its own",
            format!("aap token create --node {node}"),
        )
}
