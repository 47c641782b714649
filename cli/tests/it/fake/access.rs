//! Users, sessions and tokens, from memory: as much of them as the commands show.

use aap_client::status_of_problem;
use aap_client::v1::access_server::Access;
use aap_client::v1::*;
use aap_types::{ExitCode, Problem};
use tonic::{Request, Response, Status};

use super::{DENIED, Fake, TOKEN};

/// The token of a session of `ana`, and the password that begins it.
pub(crate) const SESSION: &str = "aaps_7mKq03TzRw9e_session";
pub(crate) const PASSWORD: &str = "correct horse";
/// An API token of `ana`.
pub(crate) const API_TOKEN: &str = "aapt_Vd43xq9TzRwe_api";
/// The password that is made up.
pub(crate) const MADE_UP: &str = "tidal-otter-97";
const CREATED_US: i64 = 1_700_000_000_000_000;

/// What the fake platform knows of people.
#[derive(Default)]
pub(crate) struct People {
    /// The session of `ana` is over.
    pub(crate) session_is_over: bool,
    /// Calls that change something, such as `end-sessions ana`.
    pub(crate) calls: Vec<String>,
    pub(crate) last_user: Option<CreateUserRequest>,
    pub(crate) last_change: Option<ChangeUserRequest>,
    pub(crate) last_token: Option<CreateApiTokenRequest>,
    pub(crate) last_password: Option<ChangePasswordRequest>,
    /// What was asked: verb, kind, name, user.
    pub(crate) last_question: Option<CanIRequest>,
}

fn refused(code: &str, exit: ExitCode, message: &str) -> Status {
    status_of_problem(&Problem::new(code, exit, message).hint("as the platform says"))
}

fn missing(code: &str, what: &str, name: &str) -> Status {
    refused(code, ExitCode::NotFound, &format!("there is no {what} `{name}`"))
}

fn user(name: &str, roles: &[String]) -> User {
    User {
        name: name.to_owned(),
        origin: "local".into(),
        roles: roles.to_vec(),
        created_us: CREATED_US,
        updated_us: CREATED_US,
        revision: 1,
        ..User::default()
    }
}

fn api_token(id: &str) -> ApiToken {
    let rule = AccessRule {
        resources: vec!["stream".into()],
        verbs: vec!["query".into()],
        names: vec!["logs".into()],
        ..AccessRule::default()
    };
    ApiToken {
        id: id.to_owned(),
        user: "ana".into(),
        label: "report".into(),
        scope: vec![rule],
        created_us: CREATED_US,
        expires_us: CREATED_US + 1,
        state: "valid".into(),
        ..ApiToken::default()
    }
}

fn enrolment_token() -> EnrolmentToken {
    EnrolmentToken {
        id: "enrolment".into(),
        site: "lyon".into(),
        uses: 1,
        created_us: CREATED_US,
        expires_us: CREATED_US + 1,
        state: "valid".into(),
        ..EnrolmentToken::default()
    }
}

impl Fake {
    fn people<T>(&self, look: impl FnOnce(&mut People) -> T) -> T {
        look(&mut self.state.lock().unwrap().people)
    }

    /// Who asks, and with what.
    fn asks<T>(&self, request: Request<T>) -> Result<(&'static str, T), Status> {
        let given =
            request.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let who = match given.strip_prefix("Bearer ").unwrap_or_default() {
            TOKEN => "operator",
            SESSION if !self.people(|people| people.session_is_over) => "ana",
            API_TOKEN => "ana",
            DENIED => return Err(super::audit::denied()),
            SESSION => {
                return Err(refused("auth.token_refused", ExitCode::LoginNeeded, "the session is over"));
            }
            _ => return Err(Status::unauthenticated("wrong token")),
        };
        Ok((who, request.into_inner()))
    }

    /// What only the operator may.
    fn operator<T>(&self, request: Request<T>) -> Result<T, Status> {
        match self.asks(request)? {
            ("operator", request) => Ok(request),
            (who, _) => Err(refused("auth.denied", ExitCode::Denied, &format!("{who} may not"))),
        }
    }

    fn called(&self, call: String) {
        self.people(|people| people.calls.push(call));
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Access for Fake {
    async fn create_enrolment_token(
        &self,
        request: Request<CreateEnrolmentTokenRequest>,
    ) -> Answer<CreateEnrolmentTokenReply> {
        self.operator(request)?;
        let text = "aape_enrolment_text".into();
        Ok(Response::new(CreateEnrolmentTokenReply { token: Some(enrolment_token()), text }))
    }

    async fn list_enrolment_tokens(
        &self,
        request: Request<ListEnrolmentTokensRequest>,
    ) -> Answer<ListEnrolmentTokensReply> {
        self.operator(request)?;
        let keeps_nothing = self.state.lock().unwrap().keeps_nothing;
        let tokens = if keeps_nothing { vec![] } else { vec![enrolment_token()] };
        Ok(Response::new(ListEnrolmentTokensReply { tokens }))
    }

    async fn revoke_enrolment_token(
        &self,
        request: Request<RevokeEnrolmentTokenRequest>,
    ) -> Answer<RevokeEnrolmentTokenReply> {
        let id = self.operator(request)?.id;
        if id != "enrolment" {
            return Err(missing("token.unknown", "token", &id));
        }
        self.called("revoke-enrolment enrolment".into());
        Ok(Response::new(RevokeEnrolmentTokenReply { token: Some(enrolment_token()) }))
    }

    async fn list_node_identities(
        &self,
        _: Request<ListNodeIdentitiesRequest>,
    ) -> Answer<ListNodeIdentitiesReply> {
        Ok(Response::new(ListNodeIdentitiesReply::default()))
    }

    async fn set_node_state(&self, request: Request<SetNodeStateRequest>) -> Answer<NodeIdentityReply> {
        let request = self.operator(request)?;
        self.called(format!("{} {}", request.state, request.node));
        let node = NodeIdentity { node: request.node, state: request.state, ..NodeIdentity::default() };
        Ok(Response::new(NodeIdentityReply { node: Some(node) }))
    }

    async fn label_node(&self, request: Request<LabelNodeRequest>) -> Answer<NodeIdentityReply> {
        let node = self.operator(request)?.node;
        let node = NodeIdentity { node, state: "approved".into(), ..NodeIdentity::default() };
        Ok(Response::new(NodeIdentityReply { node: Some(node) }))
    }

    async fn show_authority(&self, request: Request<ShowAuthorityRequest>) -> Answer<AuthorityReply> {
        self.operator(request)?;
        Ok(Response::new(authority(false)))
    }

    async fn rotate_authority(&self, request: Request<RotateAuthorityRequest>) -> Answer<AuthorityReply> {
        let RotateAuthorityRequest { step, force } = self.operator(request)?;
        self.called(format!("rotate {step} force={force}"));
        Ok(Response::new(authority(step == "begin")))
    }

    async fn list_roots(&self, request: Request<ListRootsRequest>) -> Answer<ListRootsReply> {
        self.asks(request)?;
        Ok(Response::new(ListRootsReply { roots: b"-----BEGIN CERTIFICATE-----\n".to_vec().into() }))
    }

    async fn log_in(&self, request: Request<LogInRequest>) -> Answer<LogInReply> {
        let LogInRequest { user, password } = request.into_inner();
        if user != "ana" || password != PASSWORD {
            return Err(refused("auth.login_refused", ExitCode::LoginNeeded, "user or password is wrong"));
        }
        self.people(|people| people.session_is_over = false);
        let (token, expires_us) = (SESSION.into(), CREATED_US * 2);
        let idle_us = 3_600_000_000;
        Ok(Response::new(LogInReply { token, user, expires_us, idle_us, must_change_password: true }))
    }

    async fn start_login(&self, _: Request<StartLoginRequest>) -> Answer<StartLoginReply> {
        Err(refused("auth.oidc_off", ExitCode::Usage, "this platform knows no provider of identities"))
    }

    async fn finish_login(&self, _: Request<FinishLoginRequest>) -> Answer<LogInReply> {
        Err(refused("auth.login_over", ExitCode::LoginNeeded, "the log-in is over"))
    }

    async fn log_out(&self, request: Request<LogOutRequest>) -> Answer<LogOutReply> {
        let (who, _) = self.asks(request)?;
        self.called(format!("log-out {who}"));
        self.people(|people| people.session_is_over = true);
        Ok(Response::new(LogOutReply {}))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Answer<WhoAmIReply> {
        let (who, _) = self.asks(request)?;
        let kind = if who == "operator" { "operator" } else { "user" };
        let (kind, name, roles) = (kind.into(), who.into(), vec!["viewer".into()]);
        Ok(Response::new(WhoAmIReply { kind, name, roles, ..WhoAmIReply::default() }))
    }

    async fn change_password(&self, request: Request<ChangePasswordRequest>) -> Answer<ChangePasswordReply> {
        let (_, request) = self.asks(request)?;
        self.people(|people| people.last_password = Some(request));
        Ok(Response::new(ChangePasswordReply { sessions_ended: 2 }))
    }

    async fn list_sessions(&self, request: Request<ListSessionsRequest>) -> Answer<ListSessionsReply> {
        let (who, request) = self.asks(request)?;
        let user = if request.user.is_empty() { who.to_owned() } else { request.user };
        let session =
            Session { id: "7mKq03TzRw9e".into(), user, created_us: CREATED_US, ..Session::default() };
        Ok(Response::new(ListSessionsReply { sessions: vec![session] }))
    }

    async fn end_sessions(&self, request: Request<EndSessionsRequest>) -> Answer<EndSessionsReply> {
        let (who, request) = self.asks(request)?;
        let user = if request.user.is_empty() { who.to_owned() } else { request.user };
        let ended = u64::from(request.id != "gone");
        self.called(format!("end-sessions {user} {}", request.id));
        Ok(Response::new(EndSessionsReply { ended }))
    }

    async fn create_user(&self, request: Request<CreateUserRequest>) -> Answer<UserReply> {
        let request = self.operator(request)?;
        let made_up = if request.password.is_empty() { MADE_UP } else { "" };
        let reply = UserReply { user: Some(user(&request.name, &request.roles)), password: made_up.into() };
        self.people(|people| people.last_user = Some(request));
        Ok(Response::new(reply))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Answer<ListUsersReply> {
        let wanted = self.operator(request)?.name;
        let mut users = vec![user("ana", &["viewer".into()])];
        users.retain(|user| wanted.is_empty() || user.name == wanted);
        Ok(Response::new(ListUsersReply { users }))
    }

    async fn change_user(&self, request: Request<ChangeUserRequest>) -> Answer<UserReply> {
        let request = self.operator(request)?;
        let made_up = if request.reset_password && request.password.is_empty() { MADE_UP } else { "" };
        let reply =
            UserReply { user: Some(user(&request.name, &request.add_roles)), password: made_up.into() };
        self.people(|people| people.last_change = Some(request));
        Ok(Response::new(reply))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Answer<DeleteUserReply> {
        let name = self.operator(request)?.name;
        self.called(format!("delete-user {name}"));
        Ok(Response::new(DeleteUserReply { sessions_ended: 1, tokens_revoked: 2 }))
    }

    async fn list_roles(&self, request: Request<ListRolesRequest>) -> Answer<ListRolesReply> {
        let wanted = self.operator(request)?.name;
        let rule =
            AccessRule { resources: vec!["*".into()], verbs: vec!["read".into()], ..AccessRule::default() };
        let viewer =
            Role { name: "viewer".into(), built_in: true, rules: vec![rule], users: vec!["ana".into()] };
        let roles = if wanted.is_empty() || wanted == "viewer" { vec![viewer] } else { vec![] };
        Ok(Response::new(ListRolesReply { roles }))
    }

    async fn create_api_token(&self, request: Request<CreateApiTokenRequest>) -> Answer<CreateApiTokenReply> {
        let (_, request) = self.asks(request)?;
        self.people(|people| people.last_token = Some(request));
        Ok(Response::new(CreateApiTokenReply {
            token: Some(api_token("Vd43xq9TzRwe")),
            text: API_TOKEN.into(),
        }))
    }

    async fn list_api_tokens(&self, request: Request<ListApiTokensRequest>) -> Answer<ListApiTokensReply> {
        match self.asks(request)? {
            ("ana", request) if request.user == "*" => {
                Err(refused("auth.denied", ExitCode::Denied, "ana may not read the token `*`"))
            }
            _ => Ok(Response::new(ListApiTokensReply { tokens: vec![api_token("Vd43xq9TzRwe")] })),
        }
    }

    async fn revoke_api_tokens(
        &self,
        request: Request<RevokeApiTokensRequest>,
    ) -> Answer<RevokeApiTokensReply> {
        let (_, request) = self.asks(request)?;
        self.called(format!("revoke-api {}{}", request.id, request.user));
        let revoked = u64::from(request.id != "gone");
        Ok(Response::new(RevokeApiTokensReply { revoked }))
    }

    async fn can_i(&self, request: Request<CanIRequest>) -> Answer<CanIReply> {
        let (_, request) = self.asks(request)?;
        let allowed = request.verb != "delete";
        self.people(|people| people.last_question = Some(request));
        Ok(Response::new(CanIReply { allowed, because: "the role `viewer`".into() }))
    }

    async fn who_can(&self, request: Request<WhoCanRequest>) -> Answer<WhoCanReply> {
        self.operator(request)?;
        let who = who_can_reply::Who { user: "ana".into(), because: "the role `viewer`".into() };
        Ok(Response::new(WhoCanReply { who: vec![who] }))
    }
}

/// An authority whose rotation one node of two has confirmed.
fn authority(rotating: bool) -> AuthorityReply {
    let certificate = |role: &str| AuthorityCertificate {
        role: role.to_owned(),
        name: "AAP authority".to_owned(),
        fingerprint: "f0".repeat(32),
        begins_us: CREATED_US,
        expires_us: CREATED_US * 2,
    };
    let mut certificates = vec![certificate("root"), certificate("intermediate")];
    certificates.extend(rotating.then(|| certificate("former root")));
    let (nodes, confirmed, waiting) = (2, 1, vec!["edge-2".to_owned()]);
    AuthorityReply { certificates, has_root_key: true, nodes, confirmed, waiting, by_hand: vec![] }
}
