//! Who may do what, as operators see and change it: enrolment tokens, and the standing of nodes.

use std::collections::HashMap;
use std::time::Duration;

use aap_access::{
    Address, ENROLMENT_BULK_LIFETIME_MAX, ENROLMENT_LIFETIME, ENROLMENT_USES_MAX, EnrolmentTicket,
    EnrolmentToken, IssuedId, IssuedKind, IssuedSecret, Labels, NO_KEY, NodeIdentity, NodeState, SecretHash,
};
use aap_proto::status_of_problem;
use aap_proto::v1::{self, access_server::Access};
use aap_store::{PAGE_ROWS_MAX, RowsAfter};
use aap_types::{ExitCode, NodeId, Problem, SiteName};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

use crate::asking::unknown_node;
use crate::identities::{DEFAULT_SITE, Identities};

/// Whoever holds the operator's token.
const AUTHOR: &str = "operator";
/// Letters of a reason, which people read on one line.
const REASON_LETTERS_MAX: usize = 200;
/// As long as a name.
const LABEL_BYTES_MAX: usize = 63;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct AccessService {
    identities: Identities,
    /// Where machines that enrol dial coordinators.
    addresses: Vec<Address>,
}

fn refuse(problem: Problem) -> Status {
    status_of_problem(&problem)
}

fn usage(code: &str, message: impl Into<String>) -> Problem {
    Problem::new(code, ExitCode::Usage, message)
}

impl AccessService {
    pub(crate) fn new(identities: Identities, addresses: Vec<Address>) -> Self {
        Self { identities, addresses }
    }

    /// Blocking work of the store.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn aap_store::AccessStore) -> Result<T, aap_store::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = self.identities.store().clone();
        let worked = spawn_blocking(move || work(store.as_ref())).await;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Problem::new("access.store", ExitCode::Unavailable, "who may do what cannot be looked up")
                .caused_by(error)
                .retry_after_ms(1000)
        };
        worked.map_err(|panic| failed(&panic))?.map_err(|error| failed(&error))
    }

    async fn create(
        &self,
        request: v1::CreateEnrolmentTokenRequest,
    ) -> Result<(EnrolmentToken, String), Problem> {
        let now_us = self.identities.clock().unix_us();
        let secret = IssuedSecret::mint(IssuedKind::Enrolment).map_err(|error| {
            Problem::new("platform.random", ExitCode::Failed, "no token can be made").caused_by(&error)
        })?;
        let token = record(request, (secret.id().clone(), self.identities.key().hash(&secret)), now_us)?;
        let ticket = EnrolmentTicket::new(secret, self.identities.authority(), self.addresses.clone());
        let ticket = ticket.map_err(|error| {
            Problem::new("token.no_address", ExitCode::Failed, "no machine could find this coordinator")
                .caused_by(&error)
        })?;
        let record = token.clone();
        self.with_store(move |store| store.add(&record)).await?;
        Ok((token, ticket.reveal().to_string()))
    }

    fn view(&self, token: &EnrolmentToken) -> v1::EnrolmentToken {
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

/// The record of a token that is asked for.
fn record(
    request: v1::CreateEnrolmentTokenRequest,
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
        author: AUTHOR.to_owned(),
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

/// Labels that can be typed, and stand in a line.
fn checked(labels: HashMap<String, String>) -> Result<Labels, Problem> {
    let is_word = |text: &str| {
        (1..=LABEL_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
    };
    match labels.iter().find(|(key, value)| !is_word(key) || !is_word(value) || *key == "site") {
        Some((key, _)) if key == "site" => {
            Err(usage("label.bad", "`site` is no label: a node has one site").hint("use --site"))
        }
        Some((key, value)) => {
            let label = format!("{key}={value}").escape_default().to_string();
            Err(usage("label.bad", format!("`{label}` is no label")).hint(format!(
                "keys and values are up to {LABEL_BYTES_MAX} letters of a-z, A-Z, 0-9, `.`, `_`, `-`, `/`"
            )))
        }
        None => Ok(labels.into_iter().collect()),
    }
}

fn wire(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// An identity as it is told to operators.
pub(crate) fn wire_identity(known: &NodeIdentity) -> v1::NodeIdentity {
    v1::NodeIdentity {
        node: known.node.to_string(),
        site: known.site.to_string(),
        labels: wire(&known.labels),
        state: known.state.to_string(),
        reason: known.reason.clone(),
        key: if known.key == NO_KEY { String::new() } else { known.key.to_string() },
        generation: known.generation,
        certificate_expires_us: known.certificate.as_ref().map(|known| known.expires_us).unwrap_or_default(),
        created_us: known.created_us,
        updated_us: known.updated_us,
    }
}

fn named(node: &str) -> Result<NodeId, Problem> {
    node.parse().map_err(|_| unknown_node(node))
}

#[tonic::async_trait]
impl Access for AccessService {
    async fn create_enrolment_token(
        &self,
        request: Request<v1::CreateEnrolmentTokenRequest>,
    ) -> Result<Response<v1::CreateEnrolmentTokenReply>, Status> {
        let (token, text) = self.create(request.into_inner()).await.map_err(refuse)?;
        Ok(Response::new(v1::CreateEnrolmentTokenReply { token: Some(self.view(&token)), text }))
    }

    async fn list_enrolment_tokens(
        &self,
        _: Request<v1::ListEnrolmentTokensRequest>,
    ) -> Result<Response<v1::ListEnrolmentTokensReply>, Status> {
        let which = RowsAfter { owner: None, after: "", limit: PAGE_ROWS_MAX };
        let mut tokens: Vec<EnrolmentToken> =
            self.with_store(move |store| store.list(which)).await.map_err(refuse)?;
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created_us));
        Ok(Response::new(v1::ListEnrolmentTokensReply {
            tokens: tokens.iter().map(|token| self.view(token)).collect(),
        }))
    }

    async fn revoke_enrolment_token(
        &self,
        request: Request<v1::RevokeEnrolmentTokenRequest>,
    ) -> Result<Response<v1::RevokeEnrolmentTokenReply>, Status> {
        let id = request.into_inner().id;
        let (now_us, wanted) = (self.identities.clock().unix_us(), id.clone());
        let revoke = move |token: &mut EnrolmentToken| {
            token.revoked_us.get_or_insert(now_us);
        };
        let changed = self.with_store(move |store| store.change(&wanted, revoke)).await.map_err(refuse)?;
        let Some((token, ())) = changed else {
            let message = format!("there is no token `{}`", id.escape_default());
            let problem = Problem::new("token.unknown", ExitCode::NotFound, message);
            return Err(refuse(problem.hint_command("list them", "aap token ls")));
        };
        Ok(Response::new(v1::RevokeEnrolmentTokenReply { token: Some(self.view(&token)) }))
    }

    async fn list_node_identities(
        &self,
        request: Request<v1::ListNodeIdentitiesRequest>,
    ) -> Result<Response<v1::ListNodeIdentitiesReply>, Status> {
        let name = request.into_inner().node;
        let node = if name.is_empty() { None } else { Some(named(&name).map_err(refuse)?) };
        let nodes = self.identities.list(node).await.map_err(refuse)?;
        Ok(Response::new(v1::ListNodeIdentitiesReply { nodes: nodes.iter().map(wire_identity).collect() }))
    }

    async fn set_node_state(
        &self,
        request: Request<v1::SetNodeStateRequest>,
    ) -> Result<Response<v1::NodeIdentityReply>, Status> {
        let v1::SetNodeStateRequest { node, state, reason } = request.into_inner();
        let node = named(&node).map_err(refuse)?;
        let state = match state.as_str() {
            "approved" => NodeState::Approved,
            "cordoned" => NodeState::Cordoned,
            "banned" => NodeState::Banned,
            other => {
                let message = format!("`{}` is no state that a node is put into", other.escape_default());
                return Err(refuse(usage("node.bad_state", message)));
            }
        };
        let reason: String = reason.chars().take(REASON_LETTERS_MAX).collect();
        let change = move |known: &mut NodeIdentity, now_us| known.set_state(state, &reason, now_us);
        let changed = self.identities.change(&node, change).await.map_err(refuse)?;
        Ok(Response::new(v1::NodeIdentityReply { node: Some(wire_identity(&changed)) }))
    }

    async fn label_node(
        &self,
        request: Request<v1::LabelNodeRequest>,
    ) -> Result<Response<v1::NodeIdentityReply>, Status> {
        let v1::LabelNodeRequest { node, set, remove, site } = request.into_inner();
        let node = named(&node).map_err(refuse)?;
        let set = checked(set).map_err(refuse)?;
        let site = match site.as_str() {
            "" => None,
            name => Some(
                name.parse::<SiteName>()
                    .map_err(|error| refuse(usage("node.bad_site", error.to_string())))?,
            ),
        };
        let change = move |known: &mut NodeIdentity, now_us| {
            known.labels.retain(|key, _| !remove.contains(key));
            known.labels.extend(set.clone());
            if let Some(site) = &site {
                known.site = site.clone();
            }
            known.updated_us = now_us;
        };
        let changed = self.identities.change(&node, change).await.map_err(refuse)?;
        Ok(Response::new(v1::NodeIdentityReply { node: Some(wire_identity(&changed)) }))
    }
}
