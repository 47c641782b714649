//! Enrolment tokens, with which machines become nodes.

use std::time::Duration;

use aap_access::{
    ENROLMENT_BULK_LIFETIME_MAX, ENROLMENT_LIFETIME, ENROLMENT_USES_MAX, EnrolmentTicket, EnrolmentToken,
    IssuedId, IssuedKind, IssuedSecret, Kind, Object, SecretHash, Verb,
};
use aap_proto::v1;
use aap_types::{ExitCode, NodeId, Problem, SiteName};

use super::nodes::{checked, wire};
use super::{AccessService, Caller, usage};
use crate::identities::DEFAULT_SITE;

impl AccessService {
    /// Makes a token, and its text.
    pub(super) async fn create_enrolment(
        &self,
        caller: &Caller,
        request: v1::CreateEnrolmentTokenRequest,
    ) -> Result<(EnrolmentToken, String), Problem> {
        let now_us = self.identities.clock().unix_us();
        let secret = IssuedSecret::mint(IssuedKind::Enrolment).map_err(|error| {
            Problem::new("platform.random", ExitCode::Failed, "no token can be made").caused_by(&error)
        })?;
        let token = record(
            request,
            caller.name(),
            (secret.id().clone(), self.identities.key().hash(&secret)),
            now_us,
        )?;
        let ticket = EnrolmentTicket::new(secret, self.identities.authority(), self.addresses.clone());
        let ticket = ticket.map_err(|error| {
            Problem::new("token.no_address", ExitCode::Failed, "no machine could find this coordinator")
                .caused_by(&error)
        })?;
        caller.require(Verb::Approve, nodes_of(&token))?;
        let record = token.clone();
        self.with_store(move |store| store.add(&record)).await?;
        Ok((token, ticket.reveal().to_string()))
    }

    /// A token as it is told to operators.
    pub(super) fn view(&self, token: &EnrolmentToken) -> v1::EnrolmentToken {
        let now_us = self.identities.clock().unix_us();
        let state = match token {
            token if token.revoked_us.is_some() => "revoked",
            token if token.uses_left() == 0 => "used",
            token if token.expires_us <= now_us => "expired",
            _ => "valid",
        };
        v1::EnrolmentToken {
            id: token.id.to_string(),
            site: token.site.to_string(),
            node: token.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            labels: wire(&token.labels),
            requires_approval: token.requires_approval,
            uses: token.uses_max,
            uses_left: token.uses_left(),
            nodes: token.uses.iter().map(|used| used.node.to_string()).collect(),
            created_us: token.created_us,
            expires_us: token.expires_us,
            revoked_us: token.revoked_us.unwrap_or_default(),
            author: token.author.clone(),
            state: state.to_owned(),
        }
    }
}

/// What a token is to whoever decides who may have to do with it: a node like those that come of it.
pub(super) fn nodes_of(token: &EnrolmentToken) -> Object<'_> {
    let name = token.node.as_ref().map_or("", NodeId::as_str);
    Object { kind: Kind::Node, name, site: Some(token.site.as_str()), labels: &token.labels }
}

/// The record of a token that is asked for.
fn record(
    request: v1::CreateEnrolmentTokenRequest,
    author: &str,
    (id, hash): (IssuedId, SecretHash),
    now_us: i64,
) -> Result<EnrolmentToken, Problem> {
    let v1::CreateEnrolmentTokenRequest { site, node, uses, ttl_ms, requires_approval, labels } = request;
    let uses_max = uses.max(1);
    let ttl = if ttl_ms == 0 { ENROLMENT_LIFETIME } else { Duration::from_millis(ttl_ms) };
    if uses_max > ENROLMENT_USES_MAX {
        return Err(usage(
            "token.bad_request",
            format!("a token is for {ENROLMENT_USES_MAX} machines at most, not {uses_max}"),
        ));
    }
    if ttl > ENROLMENT_BULK_LIFETIME_MAX {
        return Err(usage(
            "token.bad_request",
            format!("a token lives {} h at most", ENROLMENT_BULK_LIFETIME_MAX.as_secs() / 3600),
        ));
    }
    let node = match node.as_str() {
        "" => None,
        name => Some(name.parse::<NodeId>().map_err(|error| usage("token.bad_request", error.to_string()))?),
    };
    if node.is_some() && uses_max > 1 {
        return Err(usage("token.bad_request", "a token for one node is used once"));
    }
    let site = if site.is_empty() { DEFAULT_SITE } else { &site };
    let site = site.parse::<SiteName>().map_err(|error| usage("token.bad_request", error.to_string()))?;
    Ok(EnrolmentToken {
        id,
        hash,
        author: author.to_owned(),
        site,
        node,
        labels: checked(labels)?,
        requires_approval,
        uses_max,
        uses: vec![],
        expires_us: now_us.saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)),
        revoked_us: None,
        created_us: now_us,
    })
}
