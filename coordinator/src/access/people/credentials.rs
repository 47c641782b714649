//! The records of sessions and API tokens.

use std::time::Duration;

use aap_access::{API_TOKEN_LIFETIME_MAX, ApiToken, IssuedKind, IssuedSecret, Role, Session};
use aap_types::Problem;

use super::{People, line, micros, no_random, usage};

/// How long an API token lives, unless something else is said.
const API_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl People {
    /// Sessions, of a user by uid or of everybody.
    pub(crate) async fn sessions(&self, uid: Option<String>) -> Result<Vec<Session>, Problem> {
        let now_us = self.now_us();
        let mut all = self.all::<Session>(uid).await?;
        all.retain(|session| {
            session.expires_us > now_us && now_us.saturating_sub(session.used_us) < session.idle_us
        });
        all.sort_by_key(|session| std::cmp::Reverse(session.created_us));
        Ok(all)
    }

    /// A session by its id.
    pub(crate) async fn session(&self, id: &str) -> Result<Option<Session>, Problem> {
        let id = id.to_owned();
        self.with_store(move |store| store.find::<Session>(&id)).await
    }

    /// Ends a session. Whether there was one.
    pub(crate) async fn end_session(&self, id: &str) -> Result<bool, Problem> {
        let id = id.to_owned();
        let ended = self.with_store(move |store| store.remove::<Session>(&id)).await?;
        self.inner.guard.forget();
        Ok(ended)
    }

    /// API tokens, of a user by uid or of everybody.
    pub(crate) async fn tokens(&self, uid: Option<String>) -> Result<Vec<ApiToken>, Problem> {
        let mut all = self.all::<ApiToken>(uid).await?;
        all.sort_by_key(|token| std::cmp::Reverse(token.created_us));
        Ok(all)
    }

    /// An API token by its id.
    pub(crate) async fn token(&self, id: &str) -> Result<Option<ApiToken>, Problem> {
        let id = id.to_owned();
        self.with_store(move |store| store.find::<ApiToken>(&id)).await
    }

    /// Issues an API token.
    ///
    /// # Errors
    /// `user.unknown` (3), `token.bad_request` (2).
    pub(crate) async fn issue(
        &self,
        user: &str,
        label: &str,
        ttl_ms: u64,
        scope: Option<Role>,
    ) -> Result<(ApiToken, IssuedSecret), Problem> {
        let ttl = if ttl_ms == 0 { API_TOKEN_LIFETIME } else { Duration::from_millis(ttl_ms) };
        if ttl > API_TOKEN_LIFETIME_MAX {
            let days = API_TOKEN_LIFETIME_MAX.as_secs() / 86_400;
            return Err(usage("token.bad_request", format!("an API token lives {days} days at most")));
        }
        let user = self.user(user).await?;
        let secret = IssuedSecret::mint(IssuedKind::ApiToken).map_err(|error| no_random(&error))?;
        let now_us = self.now_us();
        let token = ApiToken {
            id: secret.id().clone(),
            hash: self.inner.identities.key().hash(&secret),
            user: user.name,
            user_uid: user.uid,
            label: line(label),
            scope,
            created_us: now_us,
            expires_us: now_us.saturating_add(micros(ttl)),
            used_us: 0,
        };
        let record = token.clone();
        self.with_store(move |store| store.add(&record)).await?;
        Ok((token, secret))
    }

    /// Revokes an API token. Whether there was one.
    pub(crate) async fn revoke(&self, id: &str) -> Result<bool, Problem> {
        let id = id.to_owned();
        let revoked = self.with_store(move |store| store.remove::<ApiToken>(&id)).await?;
        self.inner.guard.forget();
        Ok(revoked)
    }

    /// Takes away, until `shutdown`, what is over: sessions, tokens, counted failures.
    pub(crate) async fn tidy(self, shutdown: aap_runtime::Shutdown) -> Result<(), std::convert::Infallible> {
        /// What is over is refused anyway: this only keeps the store small.
        const EVERY: Duration = Duration::from_secs(10 * 60);
        loop {
            let now_us = self.now_us();
            match self.with_store(move |store| store.forget_access_rows(now_us)).await {
                Ok(rows) if rows > 0 => tracing::debug!(rows, "records of access that are over were removed"),
                Ok(_) => {}
                Err(problem) => tracing::warn!(%problem, "records of access that are over cannot be removed"),
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }
}
