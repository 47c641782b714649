//! The certificate authority as operators see it, and its rotation.

use aap_access::{Fingerprint, Kind, Object, Verb};
use aap_proto::v1;
use aap_transport::CertificateFacts;
use aap_types::{ExitCode, NodeId, Problem};

use super::{AccessService, Caller, usage};
use crate::identities::Confirmations;

/// Names of nodes that wait in a message; `aap ca show` has all.
const NAMED_MAX: usize = 10;

fn authority() -> Object<'static> {
    Object::named(Kind::Platform, "authority")
}

impl AccessService {
    pub(super) async fn show_authority_to(&self, caller: &Caller) -> Result<v1::AuthorityReply, Problem> {
        caller.require(Verb::Read, authority())?;
        let facts = self.certificates.facts().await?;
        let Confirmations { confirmed, waiting, by_hand } = self.identities.confirmations().await?;
        let roles = std::iter::once("root").chain(std::iter::repeat("former root"));
        let roots = facts.roots.iter().zip(roles).map(|(root, role)| wire(root, role));
        let may_see = |node: &NodeId| caller.may(Verb::Read, Object::named(Kind::Node, node.as_str()));
        let names =
            |nodes: &[NodeId]| nodes.iter().filter(|node| may_see(node)).map(NodeId::to_string).collect();
        Ok(v1::AuthorityReply {
            certificates: roots.chain([wire(&facts.intermediate, "intermediate")]).collect(),
            has_root_key: facts.has_root_key,
            nodes: confirmed + waiting.len() as u64,
            confirmed,
            waiting: names(&waiting),
            by_hand: names(&by_hand),
        })
    }

    /// Begins a rotation, or ends it: then no node may be left that believes only the former root.
    pub(super) async fn rotate_authority_for(
        &self,
        caller: &Caller,
        request: &v1::RotateAuthorityRequest,
    ) -> Result<v1::AuthorityReply, Problem> {
        caller.require(Verb::Write, authority())?;
        match request.step.as_str() {
            "begin" => {
                self.certificates.rotate().await?;
                let waiting = self.identities.confirmations().await?.waiting;
                self.identities.hasten(&waiting).await;
            }
            "finish" => {
                if !request.force && self.identities.is_rotating() {
                    refuse_early(&self.identities.confirmations().await?.waiting)?;
                }
                self.certificates.finish_rotation().await?;
            }
            other => {
                let message = format!("`{}` is no step of a rotation", other.escape_default());
                return Err(usage("ca.bad_step", message).hint("there are `begin` and `finish`"));
            }
        }
        self.show_authority_to(caller).await
    }
}

fn refuse_early(waiting: &[NodeId]) -> Result<(), Problem> {
    if waiting.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = waiting.iter().take(NAMED_MAX).map(|node| format!("`{node}`")).collect();
    let more = match waiting.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("not every node believes the new root yet: {}{more}", named.join(", "));
    Err(Problem::new("ca.nodes_wait", ExitCode::Conflict, message)
        .hint("a node confirms it when it is connected; one that is gone for good is shut out with `aap node ban`")
        .hint_command("see how far they are", "aap ca show")
        .hint_command("finish although they will have to be enrolled again", "aap ca rotate --finish --force"))
}

fn wire(facts: &CertificateFacts, role: &str) -> v1::AuthorityCertificate {
    v1::AuthorityCertificate {
        role: role.to_owned(),
        name: facts.name.clone(),
        fingerprint: Fingerprint(facts.fingerprint).to_string(),
        begins_us: facts.begins_us,
        expires_us: facts.ends_us,
    }
}
