//! Leases and what else a cluster's coordinators share, in memory.

use std::time::Duration;

use aap_runtime::Clock;
use aap_types::SourceKind;

use super::{MemoryStore, State};
use crate::{Acquired, ClusterStore, Error, LandedPosition, Lease, LeaseStore};

/// What stays of a lease for ever, so that no token comes twice.
#[derive(Debug, Default)]
pub(super) struct LeaseRow {
    holder: Option<String>,
    detail: String,
    token: u64,
    expires: Duration,
}

impl LeaseRow {
    fn is_of(&self, holder: &str, token: u64) -> bool {
        self.token == token && self.holder.as_deref() == Some(holder)
    }

    fn lease(&self, name: &str, now: Duration) -> Lease {
        Lease {
            name: name.to_owned(),
            holder: self.holder.clone().unwrap_or_default(),
            detail: self.detail.clone(),
            token: self.token,
            left: self.expires.saturating_sub(now),
        }
    }
}

impl State {
    fn now(&self) -> Duration {
        self.clock.monotonic() + self.ahead
    }

    /// Whether a lease stands at a token and has not expired.
    pub(super) fn is_held_at(&self, name: &str, token: u64) -> bool {
        let is_at = |row: &LeaseRow| row.holder.is_some() && row.token == token && row.expires > self.now();
        self.leases.get(name).is_some_and(is_at)
    }

    /// The rows of leases by name and token that are the holder's.
    fn rows_of<'a>(
        &'a mut self,
        holder: &'a str,
        leases: &'a [(String, u64)],
    ) -> impl Iterator<Item = (&'a String, &'a mut LeaseRow)> {
        self.leases.iter_mut().filter(move |(name, row)| {
            leases.iter().any(|(asked, token)| asked == *name && row.is_of(holder, *token))
        })
    }
}

impl MemoryStore {
    /// Another handle on the same metadata, with a fence of its own: as a second coordinator has it.
    pub fn beside(&self) -> Self {
        Self { shared: self.shared.clone(), ..Self::default() }
    }

    /// Lets time pass for leases.
    pub fn advance(&self, by: Duration) {
        self.state().ahead += by;
    }

    /// Takes the metadata for a landing buffer, as the embedded coordinator's `aap_postgres::PostgresStore` does.
    ///
    /// # Errors
    /// [`Error::Foreign`].
    pub fn claim(&self, owner: &str) -> Result<(), Error> {
        let mut state = self.state();
        state.claim = state.claim.clone().by_embedded(owner)?;
        Ok(())
    }
}

impl LeaseStore for MemoryStore {
    fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        detail: &str,
        ttl: Duration,
    ) -> Result<Acquired, Error> {
        let mut state = self.state();
        let now = state.now();
        let row = state.leases.entry(name.to_owned()).or_default();
        let is_own = row.holder.as_deref() == Some(holder);
        if !is_own && row.holder.is_some() && row.expires > now {
            return Ok(Acquired::Held(row.lease(name, now)));
        }
        let token = if is_own { row.token } else { row.token + 1 };
        *row = LeaseRow {
            holder: Some(holder.to_owned()),
            detail: detail.to_owned(),
            token,
            expires: now + ttl,
        };
        Ok(Acquired::Taken(row.lease(name, now)))
    }

    fn renew_leases(
        &self,
        holder: &str,
        leases: &[(String, u64)],
        ttl: Duration,
    ) -> Result<Vec<String>, Error> {
        let mut state = self.state();
        let expires = state.now() + ttl;
        let renew = |(name, row): (&String, &mut LeaseRow)| {
            row.expires = expires;
            name.clone()
        };
        Ok(state.rows_of(holder, leases).map(renew).collect())
    }

    fn release_leases(&self, holder: &str, leases: &[(String, u64)]) -> Result<(), Error> {
        for (_, row) in self.state().rows_of(holder, leases) {
            *row = LeaseRow { token: row.token, ..LeaseRow::default() };
        }
        Ok(())
    }

    fn leases(&self) -> Result<Vec<Lease>, Error> {
        let state = self.state();
        let held = state.leases.iter().filter(|(_, row)| row.holder.is_some());
        Ok(held.map(|(name, row)| row.lease(name, state.now())).collect())
    }
}

impl ClusterStore for MemoryStore {
    fn claim_cluster(&self, cluster: &str, authority: &str) -> Result<(), Error> {
        let mut state = self.state();
        state.claim = state.claim.clone().by_cluster(None, cluster, authority)?;
        Ok(())
    }

    fn convert_claim(&self, owner: &str, cluster: &str, authority: &str) -> Result<(), Error> {
        let mut state = self.state();
        state.claim = state.claim.clone().by_cluster(Some(owner), cluster, authority)?;
        Ok(())
    }

    fn save_positions(&self, positions: &[LandedPosition]) -> Result<(), Error> {
        let mut state = self.state();
        for position in positions {
            let (node, kind, key) = position.source();
            let source = (node.clone(), kind, key.to_owned());
            if !state.positions.get(&source).is_some_and(|known| known.is_newer_than(position)) {
                state.positions.insert(source, position.clone());
            }
        }
        Ok(())
    }

    fn positions(&self) -> Result<Vec<LandedPosition>, Error> {
        Ok(self.state().positions.values().cloned().collect())
    }

    fn forget_positions(&self, kind: SourceKind, before_us: i64) -> Result<u64, Error> {
        let mut state = self.state();
        let before = state.positions.len();
        state.positions.retain(|(_, of, _), known| *of != kind || known.updated_us >= before_us);
        Ok((before - state.positions.len()) as u64)
    }
}
