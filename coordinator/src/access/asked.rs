//! Questions about rights: who one is, whether somebody may do something, and by which rule.

use aap_access::{Decision, Kind, Object, Principal, PrincipalKind, Reach, UnknownWord, Verb};
use aap_proto::v1;
use aap_types::{NodeId, Problem};

use super::{AccessService, Caller, facts_of, is_own, people, usage, wire};

impl AccessService {
    pub(super) async fn who_am_i_of(&self, caller: &Caller) -> Result<v1::WhoAmIReply, Problem> {
        let principal = &caller.principal;
        let id = principal.credential.as_ref().map(ToString::to_string);
        let expires_us = match (principal.kind, &id) {
            (PrincipalKind::User, Some(id)) => self.people.session(id).await?.map(|known| known.expires_us),
            (_, Some(id)) => self.people.token(id).await?.map(|known| known.expires_us),
            _ => None,
        };
        Ok(v1::WhoAmIReply {
            kind: principal.kind.as_str().to_owned(),
            name: principal.name.clone(),
            roles: principal.roles.clone(),
            credential: id.unwrap_or_default(),
            expires_us: expires_us.unwrap_or_default(),
            must_change_password: principal.must_change_password,
            scope: principal.scope.as_ref().map(wire::rules).unwrap_or_default(),
            coordinator: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    pub(super) async fn may_they(
        &self,
        caller: &Caller,
        request: v1::CanIRequest,
    ) -> Result<v1::CanIReply, Problem> {
        let v1::CanIRequest { verb, kind, name, user } = request;
        let (verb, kind) = words(&verb, &kind)?;
        let principal = match user.as_str() {
            "" => (*caller.principal).clone(),
            name if is_own(caller, name) => (*caller.principal).clone(),
            name => {
                caller
                    .require_of(Verb::Read, Object::named(Kind::User, name), || people::unknown_user(name))?;
                let user = self.people.user(name).await?;
                if user.disabled {
                    let because = "the user is disabled".to_owned();
                    return Ok(v1::CanIReply { allowed: false, because });
                }
                Principal::user(&user)
            }
        };
        if name.is_empty() {
            let reach = caller.policy.reach(&principal, kind, verb);
            let (allowed, because) = match reach {
                Reach::All => (true, format!("every {kind}")),
                Reach::Where(_) => (true, format!("some of kind {kind}: name one to know")),
                Reach::None => (false, "no rule allows it".to_owned()),
            };
            return Ok(v1::CanIReply { allowed, because });
        }
        let made = self.decide(caller, &principal, verb, (kind, &name)).await?;
        Ok(v1::CanIReply { allowed: made.allowed, because: made.because.to_string() })
    }

    /// What is decided about an object by its name; a node has site and labels.
    pub(super) async fn decide(
        &self,
        caller: &Caller,
        principal: &Principal,
        verb: Verb,
        (kind, name): (Kind, &str),
    ) -> Result<Decision, Problem> {
        if let (Kind::Node, Ok(node)) = (kind, name.parse::<NodeId>()) {
            let known = self.identities.list(Some(node.clone())).await?;
            let facts = facts_of(&node, known.first());
            return Ok(caller.policy.decide(principal, verb, &facts.into()));
        }
        Ok(caller.policy.decide(principal, verb, &Object::named(kind, name)))
    }
}

/// The words of a question.
pub(super) fn words(verb: &str, kind: &str) -> Result<(Verb, Kind), Problem> {
    let unknown = |error: UnknownWord| usage("access.unknown_word", error.to_string());
    Ok((verb.parse().map_err(unknown)?, kind.parse().map_err(unknown)?))
}
