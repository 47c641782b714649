//! Who may do what: who calls, which rule their calls need, and what operators see and change of it.
//!
//! | file | owns |
//! |---|---|
//! | `rules.rs` | what each call needs |
//! | `guard.rs` | [`Guard`], [`Caller`]: who calls, and whether they may |
//! | `gate.rs` | [`Gate`]: what calls come through; what is recorded of them |
//! | `denials.rs` | [`Denials`]: refusals as they are recorded |
//! | `scope.rs` | [`Scope`]: what a caller sees in a query |
//! | `statements.rs` | [`Statement`]: the record of who was answered which rows |
//! | `people.rs` | [`People`]: users, passwords, sessions, API tokens; who comes from a provider of identities |
//! | `logins.rs` | logging in, in each way that there is |
//! | `credentials.rs`, `asked.rs` | sessions and tokens of callers and others; questions about rights |
//! | `authority.rs` | the certificate authority, and its rotation |
//! | `enrolment_tokens.rs`, `nodes.rs` | machines that become nodes, and their standing |
//! | `wire.rs` | records on the wire |
//!
//! This file is the service `Access`: each method looks at the objects that the call is about, and has the work done elsewhere.

mod asked;
mod authority;
mod credentials;
mod denials;
mod enrolment_tokens;
mod gate;
mod guard;
mod logins;
mod nodes;
mod people;
mod rules;
mod scope;
mod statements;
mod wire;

use aap_access::{Address, EnrolmentToken, Kind, NodeIdentity, Object, Principal, PrincipalKind, Verb};
use aap_proto::status_of_problem;
use aap_proto::v1::{self, access_server::Access};
use aap_runtime::Secret;
use aap_store::{PAGE_ROWS_MAX, RowsAfter};
use aap_types::{ExitCode, NodeId, Problem, SiteName};
use asked::words;
use enrolment_tokens::nodes_of;
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

use crate::asking::unknown_node;
use crate::certificates::Certificates;
use crate::identities::Identities;
use crate::oidc::ExternalLogins;

pub(crate) use denials::Denials;
pub(crate) use gate::{Gate, REQUEST_ID, address_of, bearer, pass_gate, request_id};
pub(crate) use guard::{Caller, Guard, facts_of};
pub(crate) use nodes::{DRAINED, DRAINING, wire_identity};
pub(crate) use people::{External, People};
pub(crate) use scope::{Named, Scope, Scoped};
pub(crate) use statements::Statement;

/// The kind of documents that declare roles.
pub(crate) const ROLE: &str = "Role";
/// Kinds of objects that are declared by documents.
const DECLARED: [Kind; 5] = [Kind::Sink, Kind::Source, Kind::Catalog, Kind::Route, Kind::Role];
/// Letters of a reason, which people read on one line.
const REASON_LETTERS_MAX: usize = 200;
/// Who is meant by everybody.
const EVERYBODY: &str = "*";

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct AccessService {
    identities: Identities,
    people: People,
    /// At the provider of identities, where there is one.
    logins: Option<ExternalLogins>,
    certificates: Certificates,
    /// Where machines that enrol dial coordinators.
    addresses: Vec<Address>,
}

fn refuse(problem: Problem) -> Status {
    status_of_problem(&problem)
}

fn usage(code: &str, message: impl Into<String>) -> Problem {
    Problem::new(code, ExitCode::Usage, message)
}

/// `access.store`, or `auth.sessions_unavailable`: whoever shows a session is not told where sessions lie, the log says it.
pub(crate) fn store_failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    if matches!(error.downcast_ref(), Some(aap_store::Error::Sessions(_))) {
        return Problem::new(
            "auth.sessions_unavailable",
            ExitCode::Unavailable,
            "sessions cannot be checked: where they are kept does not answer",
        )
        .hint("API tokens go on working, and on the coordinator's machine its `run/operator.token`")
        .hint("try again in a moment; the coordinator's log says why")
        .retry_after_ms(1000);
    }
    Problem::new("access.store", ExitCode::Unavailable, "who may do what cannot be looked up")
        .caused_by(error)
        .retry_after_ms(1000)
}

impl AccessService {
    pub(crate) fn new(
        identities: Identities,
        people: People,
        logins: Option<ExternalLogins>,
        certificates: Certificates,
        addresses: Vec<Address>,
    ) -> Self {
        Self { identities, people, logins, certificates, addresses }
    }

    /// Blocking work of the store.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn aap_store::AccessStore) -> Result<T, aap_store::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = self.identities.store().clone();
        let worked = spawn_blocking(move || work(store.as_ref())).await;
        worked.map_err(|panic| store_failed(&panic))?.map_err(|error| store_failed(&error))
    }

    /// The node of that name, if the caller may do that to it.
    async fn node_for(&self, caller: &Caller, verb: Verb, name: &str) -> Result<NodeId, Problem> {
        let node: NodeId = name.parse().map_err(|_| unknown_node(name))?;
        let known = self.identities.list(Some(node.clone())).await?;
        caller.require_of(verb, facts_of(&node, known.first()), || unknown_node(name))?;
        Ok(node)
    }

    /// Lets on who may give these roles to a user.
    fn require_giving(caller: &Caller, roles: &[String]) -> Result<(), Problem> {
        roles.iter().try_for_each(|role| caller.require(Verb::Approve, Object::named(Kind::Role, role)))
    }

    async fn change_user(
        &self,
        caller: &Caller,
        request: v1::ChangeUserRequest,
    ) -> Result<v1::UserReply, Problem> {
        let v1::ChangeUserRequest {
            name,
            display,
            add_roles,
            remove_roles,
            disabled,
            reset_password,
            password,
        } = request;
        caller.require_of(Verb::Write, Object::named(Kind::User, &name), || people::unknown_user(&name))?;
        Self::require_giving(caller, &add_roles)?;
        // Whoever has somebody's password has their roles.
        Self::require_giving(caller, &self.people.user(&name).await?.roles)?;
        let password = reset_password.then(|| (!password.is_empty()).then(|| Secret::from(password)));
        let change = people::Change { display, add_roles, remove_roles, disabled, password };
        let (user, made_up) = self.people.change(&name, change).await?;
        Ok(user_reply(&user, made_up))
    }
}

/// Whether somebody of that name is the caller.
fn is_own(caller: &Caller, user: &str) -> bool {
    caller.principal.kind != PrincipalKind::Operator && caller.name() == user
}

/// The caller as a user.
fn own(caller: &Caller) -> Result<&str, Problem> {
    if caller.principal.kind != PrincipalKind::Operator {
        return Ok(caller.name());
    }
    Err(usage("auth.not_a_user", "the token of the platform's home is no user's")
        .hint("say whose with --user, or log in")
        .hint_command("log in", "aap auth login"))
}

fn user_reply(user: &aap_access::User, made_up: Option<Secret>) -> v1::UserReply {
    let password = made_up.map(|made_up| made_up.reveal().to_owned()).unwrap_or_default();
    v1::UserReply { user: Some(wire::user(user)), password }
}

/// Who a request is from. Only calls that come past [`Guard::admit`] get here.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    Caller::of(request).map_err(refuse)
}

fn reply<T>(made: Result<T, Problem>) -> Result<Response<T>, Status> {
    made.map(Response::new).map_err(refuse)
}

#[tonic::async_trait]
impl Access for AccessService {
    async fn create_enrolment_token(
        &self,
        request: Request<v1::CreateEnrolmentTokenRequest>,
    ) -> Result<Response<v1::CreateEnrolmentTokenReply>, Status> {
        let caller = caller(&request)?;
        let (token, text) = self.create_enrolment(&caller, request.into_inner()).await.map_err(refuse)?;
        Ok(Response::new(v1::CreateEnrolmentTokenReply { token: Some(self.view(&token)), text }))
    }

    async fn list_enrolment_tokens(
        &self,
        request: Request<v1::ListEnrolmentTokensRequest>,
    ) -> Result<Response<v1::ListEnrolmentTokensReply>, Status> {
        let caller = caller(&request)?;
        let which = RowsAfter { owner: None, after: "", limit: PAGE_ROWS_MAX };
        let mut tokens: Vec<EnrolmentToken> =
            self.with_store(move |store| store.list(which)).await.map_err(refuse)?;
        tokens.retain(|token| caller.may(Verb::Read, nodes_of(token)));
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created_us));
        Ok(Response::new(v1::ListEnrolmentTokensReply {
            tokens: tokens.iter().map(|token| self.view(token)).collect(),
        }))
    }

    async fn revoke_enrolment_token(
        &self,
        request: Request<v1::RevokeEnrolmentTokenRequest>,
    ) -> Result<Response<v1::RevokeEnrolmentTokenReply>, Status> {
        let caller = caller(&request)?;
        let id = request.into_inner().id;
        let (now_us, wanted) = (self.identities.clock().unix_us(), id.clone());
        let sought = id.clone();
        let found =
            self.with_store(move |store| store.find::<EnrolmentToken>(&sought)).await.map_err(refuse)?;
        if let Some(token) = &found {
            caller.require(Verb::Approve, nodes_of(token)).map_err(refuse)?;
        }
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
        let caller = caller(&request)?;
        let name = request.into_inner().node;
        let node = match name.as_str() {
            "" => None,
            name => Some(self.node_for(&caller, Verb::Read, name).await.map_err(refuse)?),
        };
        let mut nodes = self.identities.list(node).await.map_err(refuse)?;
        let reach = caller.reach(Kind::Node, Verb::Read);
        nodes.retain(|known| reach.admits(facts_of(&known.node, Some(known))));
        Ok(Response::new(v1::ListNodeIdentitiesReply { nodes: nodes.iter().map(wire_identity).collect() }))
    }

    async fn set_node_state(
        &self,
        request: Request<v1::SetNodeStateRequest>,
    ) -> Result<Response<v1::NodeIdentityReply>, Status> {
        let caller = caller(&request)?;
        let v1::SetNodeStateRequest { node, state, reason } = request.into_inner();
        let node = self.node_for(&caller, Verb::Approve, &node).await.map_err(refuse)?;
        let reason: String = reason.chars().take(REASON_LETTERS_MAX).collect();
        let standing = nodes::Standing::of(&state).map_err(refuse)?;
        let change = move |known: &mut NodeIdentity, now_us| standing.take(known, &reason, now_us);
        let changed = self.identities.change(&node, change).await.map_err(refuse)?;
        Ok(Response::new(v1::NodeIdentityReply { node: Some(wire_identity(&changed)) }))
    }

    async fn label_node(
        &self,
        request: Request<v1::LabelNodeRequest>,
    ) -> Result<Response<v1::NodeIdentityReply>, Status> {
        let caller = caller(&request)?;
        let v1::LabelNodeRequest { node, set, remove, site } = request.into_inner();
        let node = self.node_for(&caller, Verb::Write, &node).await.map_err(refuse)?;
        let set = nodes::checked(set).map_err(refuse)?;
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

    async fn show_authority(
        &self,
        request: Request<v1::ShowAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityReply>, Status> {
        reply(self.show_authority_to(&caller(&request)?).await)
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityReply>, Status> {
        let caller = caller(&request)?;
        reply(self.rotate_authority_for(&caller, &request.into_inner()).await)
    }

    async fn list_roots(
        &self,
        request: Request<v1::ListRootsRequest>,
    ) -> Result<Response<v1::ListRootsReply>, Status> {
        caller(&request)?;
        let roots = self.identities.authorities().map_err(refuse)?.into();
        Ok(Response::new(v1::ListRootsReply { roots }))
    }

    async fn log_in(&self, request: Request<v1::LogInRequest>) -> Result<Response<v1::LogInReply>, Status> {
        reply(self.log_in_by_password(request).await)
    }

    async fn start_login(
        &self,
        request: Request<v1::StartLoginRequest>,
    ) -> Result<Response<v1::StartLoginReply>, Status> {
        reply(self.start_login_of(request).await)
    }

    async fn finish_login(
        &self,
        request: Request<v1::FinishLoginRequest>,
    ) -> Result<Response<v1::LogInReply>, Status> {
        reply(self.finish_login_of(request).await)
    }

    async fn log_out(
        &self,
        request: Request<v1::LogOutRequest>,
    ) -> Result<Response<v1::LogOutReply>, Status> {
        let caller = caller(&request)?;
        caller.require_in_person().map_err(refuse)?;
        if let Some(id) = &caller.principal.credential {
            self.people.end_session(id.as_str()).await.map_err(refuse)?;
        }
        Ok(Response::new(v1::LogOutReply {}))
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIReply>, Status> {
        reply(self.who_am_i_of(&caller(&request)?).await)
    }

    async fn change_password(
        &self,
        request: Request<v1::ChangePasswordRequest>,
    ) -> Result<Response<v1::ChangePasswordReply>, Status> {
        let caller = caller(&request)?;
        caller.require_in_person().map_err(refuse)?;
        let v1::ChangePasswordRequest { before, after } = request.into_inner();
        let name = own(&caller).map_err(refuse)?;
        let keep = caller.principal.credential.as_ref().map(aap_access::IssuedId::as_str);
        let passwords = (Secret::from(before), Secret::from(after));
        let sessions_ended = self.people.change_password(name, keep, passwords).await.map_err(refuse)?;
        Ok(Response::new(v1::ChangePasswordReply { sessions_ended }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsReply>, Status> {
        let caller = caller(&request)?;
        reply(self.list_sessions_of(&caller, &request.into_inner().user).await)
    }

    async fn end_sessions(
        &self,
        request: Request<v1::EndSessionsRequest>,
    ) -> Result<Response<v1::EndSessionsReply>, Status> {
        let caller = caller(&request)?;
        let ended = self.end_sessions_of(&caller, request.into_inner()).await;
        reply(ended.map(|ended| v1::EndSessionsReply { ended }))
    }

    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Result<Response<v1::UserReply>, Status> {
        let caller = caller(&request)?;
        let v1::CreateUserRequest { name, display, roles, password } = request.into_inner();
        caller.require(Verb::Write, Object::named(Kind::User, &name)).map_err(refuse)?;
        Self::require_giving(&caller, &roles).map_err(refuse)?;
        let password = (!password.is_empty()).then(|| Secret::from(password));
        let (user, made_up) = self.people.create(&name, &display, roles, password).await.map_err(refuse)?;
        Ok(Response::new(user_reply(&user, made_up)))
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersReply>, Status> {
        let caller = caller(&request)?;
        let name = request.into_inner().name;
        let mut users = match name.as_str() {
            "" => self.people.users().await.map_err(refuse)?,
            name => vec![self.people.user(name).await.map_err(refuse)?],
        };
        users.retain(|user| caller.may(Verb::Read, Object::named(Kind::User, user.name.as_str())));
        if users.is_empty() && !name.is_empty() {
            return Err(refuse(people::unknown_user(&name)));
        }
        Ok(Response::new(v1::ListUsersReply { users: users.iter().map(wire::user).collect() }))
    }

    async fn change_user(
        &self,
        request: Request<v1::ChangeUserRequest>,
    ) -> Result<Response<v1::UserReply>, Status> {
        let caller = caller(&request)?;
        reply(Self::change_user(self, &caller, request.into_inner()).await)
    }

    async fn delete_user(
        &self,
        request: Request<v1::DeleteUserRequest>,
    ) -> Result<Response<v1::DeleteUserReply>, Status> {
        let caller = caller(&request)?;
        let name = request.into_inner().name;
        caller
            .require_of(Verb::Delete, Object::named(Kind::User, &name), || people::unknown_user(&name))
            .map_err(refuse)?;
        let (sessions_ended, tokens_revoked) = self.people.delete(&name).await.map_err(refuse)?;
        Ok(Response::new(v1::DeleteUserReply { sessions_ended, tokens_revoked }))
    }

    async fn list_roles(
        &self,
        request: Request<v1::ListRolesRequest>,
    ) -> Result<Response<v1::ListRolesReply>, Status> {
        let caller = caller(&request)?;
        let name = request.into_inner().name;
        let users = self.people.users().await.map_err(refuse)?;
        let sees =
            |user: &&aap_access::User| caller.may(Verb::Read, Object::named(Kind::User, user.name.as_str()));
        let known = caller.policy.roles();
        let chosen = known.iter().filter(|(role, _)| {
            (name.is_empty() || name == **role) && caller.may(Verb::Read, Object::named(Kind::Role, role))
        });
        let roles: Vec<v1::Role> = chosen
            .map(|(role, rules)| v1::Role {
                name: role.clone(),
                built_in: aap_access::BUILT_IN.contains(&role.as_str()),
                rules: wire::rules(rules),
                users: users
                    .iter()
                    .filter(|user| user.roles.contains(role))
                    .filter(sees)
                    .map(|user| user.name.to_string())
                    .collect(),
            })
            .collect();
        if roles.is_empty() && !name.is_empty() {
            return Err(refuse(people::unknown_role(&name, known.keys())));
        }
        Ok(Response::new(v1::ListRolesReply { roles }))
    }

    async fn create_api_token(
        &self,
        request: Request<v1::CreateApiTokenRequest>,
    ) -> Result<Response<v1::CreateApiTokenReply>, Status> {
        let caller = caller(&request)?;
        reply(self.create_token(&caller, request.into_inner()).await)
    }

    async fn list_api_tokens(
        &self,
        request: Request<v1::ListApiTokensRequest>,
    ) -> Result<Response<v1::ListApiTokensReply>, Status> {
        let caller = caller(&request)?;
        let user = request.into_inner().user;
        let uid = self.owner(&caller, Kind::Token, Verb::Read, &user).await.map_err(refuse)?;
        let (tokens, now_us) =
            (self.people.tokens(uid).await.map_err(refuse)?, self.identities.clock().unix_us());
        Ok(Response::new(v1::ListApiTokensReply {
            tokens: tokens.iter().map(|token| wire::token(token, now_us)).collect(),
        }))
    }

    async fn revoke_api_tokens(
        &self,
        request: Request<v1::RevokeApiTokensRequest>,
    ) -> Result<Response<v1::RevokeApiTokensReply>, Status> {
        let caller = caller(&request)?;
        let revoked = self.revoke_tokens(&caller, request.into_inner()).await;
        reply(revoked.map(|revoked| v1::RevokeApiTokensReply { revoked }))
    }

    async fn can_i(&self, request: Request<v1::CanIRequest>) -> Result<Response<v1::CanIReply>, Status> {
        let caller = caller(&request)?;
        reply(self.may_they(&caller, request.into_inner()).await)
    }

    async fn who_can(
        &self,
        request: Request<v1::WhoCanRequest>,
    ) -> Result<Response<v1::WhoCanReply>, Status> {
        let caller = caller(&request)?;
        let v1::WhoCanRequest { verb, kind, name } = request.into_inner();
        let (verb, kind) = words(&verb, &kind).map_err(refuse)?;
        let mut who = vec![];
        for user in self.people.users().await.map_err(refuse)? {
            let is_seen = caller.may(Verb::Read, Object::named(Kind::User, user.name.as_str()));
            if user.disabled || !is_seen {
                continue;
            }
            let principal = Principal::user(&user);
            let made = self.decide(&caller, &principal, verb, (kind, &name)).await.map_err(refuse)?;
            if made.allowed {
                let (user, because) = (user.name.to_string(), made.because.to_string());
                who.push(v1::who_can_reply::Who { user, because });
            }
        }
        Ok(Response::new(v1::WhoCanReply { who }))
    }
}
