//! Sessions and API tokens: one's own, and those of others for whoever may.

use aap_access::{Kind, Object, Verb};
use aap_proto::v1;
use aap_types::{ExitCode, Problem};

use super::{AccessService, Caller, EVERYBODY, is_own, own, people, wire};

impl AccessService {
    /// Whose sessions or tokens are meant: the uid of the user, `None` for everybody's.
    pub(super) async fn owner(
        &self,
        caller: &Caller,
        kind: Kind,
        verb: Verb,
        user: &str,
    ) -> Result<Option<String>, Problem> {
        if user == EVERYBODY {
            caller.require(verb, Object::named(kind, EVERYBODY))?;
            return Ok(None);
        }
        let name = if user.is_empty() { own(caller)? } else { user };
        if !is_own(caller, name) {
            caller.require_of(verb, Object::named(kind, name), || people::unknown_user(name))?;
        }
        Ok(Some(self.people.user(name).await?.uid))
    }

    pub(super) async fn list_sessions_of(
        &self,
        caller: &Caller,
        user: &str,
    ) -> Result<v1::ListSessionsReply, Problem> {
        let uid = self.owner(caller, Kind::User, Verb::Read, user).await?;
        let sessions = self.people.sessions(uid).await?;
        let current = caller.principal.credential.as_ref();
        Ok(v1::ListSessionsReply {
            sessions: sessions.iter().map(|session| wire::session(session, current)).collect(),
        })
    }

    pub(super) async fn end_sessions_of(
        &self,
        caller: &Caller,
        request: v1::EndSessionsRequest,
    ) -> Result<u64, Problem> {
        caller.require_in_person()?;
        let v1::EndSessionsRequest { id, user } = request;
        if !id.is_empty() {
            let unknown = || {
                let message = format!("there is no session `{}`", id.escape_default());
                Problem::new("session.unknown", ExitCode::NotFound, message)
                    .hint_command("list them", "aap auth session ls")
            };
            let session = self.people.session(&id).await?.ok_or_else(unknown)?;
            let owner = session.user.as_str();
            if !is_own(caller, owner) {
                caller.require_of(Verb::Operate, Object::named(Kind::User, owner), unknown)?;
            }
            return Ok(u64::from(self.people.end_session(&id).await?));
        }
        let uid = self.owner(caller, Kind::User, Verb::Operate, &user).await?;
        let mut ended = 0;
        for session in self.people.sessions(uid).await? {
            ended += u64::from(self.people.end_session(session.id.as_str()).await?);
        }
        Ok(ended)
    }

    pub(super) async fn revoke_tokens(
        &self,
        caller: &Caller,
        request: v1::RevokeApiTokensRequest,
    ) -> Result<u64, Problem> {
        caller.require_in_person()?;
        let v1::RevokeApiTokensRequest { id, user } = request;
        if !id.is_empty() {
            let unknown = || {
                let message = format!("there is no token `{}`", id.escape_default());
                Problem::new("token.unknown", ExitCode::NotFound, message)
                    .hint_command("list them", "aap token ls")
            };
            let token = self.people.token(&id).await?.ok_or_else(unknown)?;
            let owner = token.user.as_str();
            if !is_own(caller, owner) {
                caller.require_of(Verb::Delete, Object::named(Kind::Token, owner), unknown)?;
            }
            return Ok(u64::from(self.people.revoke(&id).await?));
        }
        let uid = self.owner(caller, Kind::Token, Verb::Delete, &user).await?;
        let mut revoked = 0;
        for token in self.people.tokens(uid).await? {
            revoked += u64::from(self.people.revoke(token.id.as_str()).await?);
        }
        Ok(revoked)
    }

    pub(super) async fn create_token(
        &self,
        caller: &Caller,
        request: v1::CreateApiTokenRequest,
    ) -> Result<v1::CreateApiTokenReply, Problem> {
        caller.require_in_person()?;
        let v1::CreateApiTokenRequest { user, label, ttl_ms, scope } = request;
        let user = if user.is_empty() { own(caller)?.to_owned() } else { user };
        if !is_own(caller, &user) {
            caller
                .require_of(Verb::Write, Object::named(Kind::Token, &user), || people::unknown_user(&user))?;
            Self::require_giving(caller, &self.people.user(&user).await?.roles)?;
        }
        let (token, secret) = self.people.issue(&user, &label, ttl_ms, wire::scope(scope)?).await?;
        let now_us = self.identities.clock().unix_us();
        Ok(v1::CreateApiTokenReply {
            token: Some(wire::token(&token, now_us)),
            text: secret.reveal().to_owned(),
        })
    }
}
