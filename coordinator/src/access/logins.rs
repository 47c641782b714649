//! Logging in: by a password, or at the provider of identities.

use std::net::{IpAddr, Ipv4Addr};

use aap_access::Kind;
use aap_proto::v1;
use aap_runtime::Secret;
use aap_transport::{Asker, Client};
use aap_types::Problem;
use axum::extract::ConnectInfo;
use tonic::Request;

use super::AccessService;
use super::guard::Touched;
use super::people::LoggedIn;
use crate::oidc::{Browser, oidc_off};

impl AccessService {
    pub(super) async fn log_in_by_password(
        &self,
        request: Request<v1::LogInRequest>,
    ) -> Result<v1::LogInReply, Problem> {
        let (from, touched) = stranger(&request);
        let v1::LogInRequest { user, password } = request.into_inner();
        touched.note(Kind::User, &user);
        Ok(begun(self.people.log_in(&user, Secret::from(password), from).await?))
    }

    pub(super) async fn start_login_of(
        &self,
        request: Request<v1::StartLoginRequest>,
    ) -> Result<v1::StartLoginReply, Problem> {
        let (from, _) = stranger(&request);
        let logins = self.logins.as_ref().ok_or_else(oidc_off)?;
        let browser = request.into_inner().browser.map(|browser| Browser {
            redirect: browser.redirect,
            challenge: browser.challenge,
            state: browser.state,
        });
        let started = logins.start(browser, from).await?;
        let config = logins.config();
        let lasts_us = i64::try_from(started.lasts.as_micros()).unwrap_or(i64::MAX);
        Ok(v1::StartLoginReply {
            handle: started.handle,
            url: started.url,
            code: started.code,
            issuer: config.issuer.clone(),
            client_id: config.client_id.clone(),
            scopes: config.scopes.clone(),
            expires_us: self.identities.clock().unix_us().saturating_add(lasts_us),
        })
    }

    pub(super) async fn finish_login_of(
        &self,
        request: Request<v1::FinishLoginRequest>,
    ) -> Result<v1::LogInReply, Problem> {
        let (from, touched) = stranger(&request);
        let logins = self.logins.as_ref().ok_or_else(oidc_off)?;
        let asker = request.extensions().get::<Asker>().cloned();
        let v1::FinishLoginRequest { handle, code, verifier } = request.into_inner();
        // Whoever has been given the handle waits for as long as the code of the device lasts.
        if let Some(asker) = asker.filter(|_| logins.is_device(&handle)) {
            asker.mark_known();
        }
        touched.tell("issuer", &logins.config().issuer);
        let claims = logins.finish(&handle, &code, &verifier).await?;
        touched.tell("subject", claims.subject());
        let name = logins.name(&claims)?;
        touched.note(Kind::User, name.as_str());
        let external = logins.external(name, &claims)?;
        Ok(begun(self.people.log_in_external(external, from).await?))
    }
}

/// Where somebody calls from who is not known yet, and where is noted who they say they are.
fn stranger<T>(request: &Request<T>) -> (IpAddr, Touched) {
    let client = request.extensions().get::<ConnectInfo<Client>>();
    let from = client.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(client)| client.address.ip());
    (from, request.extensions().get::<Touched>().cloned().unwrap_or_default())
}

fn begun(begun: LoggedIn) -> v1::LogInReply {
    v1::LogInReply {
        token: begun.secret.reveal().to_owned(),
        user: begun.session.user.to_string(),
        expires_us: begun.session.expires_us,
        idle_us: begun.session.idle_us,
        must_change_password: begun.must_change_password,
    }
}
