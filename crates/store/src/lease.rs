//! Leases: rights that one coordinator has at a time, and the fence that keeps whoever lost one from writing on.
//!
//! ```text
//!  free ──acquire──► held (token 1) ──renew──► held (token 1)
//!    ▲                 │      │
//!    └────release──────┘      └─expires──► another one's acquire ──► held (token 2)
//! ```
//! A holder counts its time from before it asked, by its own clock, so it stops before the store lets another one in. Where that
//! is not enough, because a change may still be on its way, the token decides: a [`Fence`] for commits of the lake.

use std::fmt::Debug;
use std::time::Duration;

use crate::Error;

/// A right that one coordinator has at a time, until it expires by the store's own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is a right to.
    pub name: String,
    /// The name of the coordinator and the chance that tells its starts apart.
    pub holder: String,
    /// What others need to know of the holder, as JSON.
    pub detail: String,
    /// Grows with each change of holder, and is never used twice. The first is 1.
    pub token: u64,
    /// How long it still lasts, by the store's clock, when it was read. Zero: it has expired.
    pub left: Duration,
}

/// What became of an attempt to take a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// It is the caller's.
    Taken(Lease),
    /// It is another one's. With nothing left, somebody is taking it or a commit under it is still being written; its holder is
    /// empty where it was given up meanwhile. Ask again.
    Held(Lease),
}

/// Who has what. Implementations: `aap_postgres::PostgresStore` and, for tests, [`crate::MemoryStore`].
///
/// Every method is one transaction and durable when it returns. After an error a change may have been made all the same; doing it
/// again does no harm. None waits behind the methods of [`crate::MetadataStore`].
pub trait LeaseStore: Debug + Send + Sync + 'static {
    /// Takes a lease that is free, expired or this holder's own already (then it is renewed with the same token); else says who
    /// has it. Only a lease that can be had waits for anybody.
    fn acquire_lease(&self, name: &str, holder: &str, detail: &str, ttl: Duration)
    -> Result<Acquired, Error>;
    /// Renews those of these leases, by name and token, that are the holder's; returns the names of those. One that expired but
    /// that nobody took meanwhile is renewed all the same.
    fn renew_leases(
        &self,
        holder: &str,
        leases: &[(String, u64)],
        ttl: Duration,
    ) -> Result<Vec<String>, Error>;
    /// Gives leases up, by name and token: what is not this holder's is left alone.
    fn release_leases(&self, holder: &str, leases: &[(String, u64)]) -> Result<(), Error>;
    /// All that somebody has, expired ones included, by name. What was given up is left out.
    fn leases(&self) -> Result<Vec<Lease>, Error>;
}

/// The lease that whoever changes the lake must have at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Its name.
    pub lease: String,
    /// The token under which it was taken. None is 0, so with 0 nothing is written.
    pub token: u64,
}

/// What a store was told of its fence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fencing {
    /// Nothing ever: an embedded store, which writes freely.
    #[default]
    Never,
    /// It writes under this one.
    Under(Fence),
    /// It had one, of this lease, and writes no more.
    Lost(String),
}

impl Fencing {
    /// Takes what [`crate::MetadataStore::set_fence`] is told.
    pub fn set(&mut self, fence: Option<Fence>) {
        *self = match (fence, std::mem::take(self)) {
            (Some(fence), _) => Self::Under(fence),
            (None, Self::Never) => Self::Never,
            (None, Self::Under(Fence { lease, .. }) | Self::Lost(lease)) => Self::Lost(lease),
        };
    }

    /// The fence to check before a change, if there is one.
    ///
    /// # Errors
    /// [`Error::Fenced`] where nothing may be written any more.
    pub fn fence(&self) -> Result<Option<&Fence>, Error> {
        match self {
            Self::Never => Ok(None),
            Self::Under(fence) => Ok(Some(fence)),
            Self::Lost(lease) => Err(Error::Fenced { lease: lease.clone() }),
        }
    }
}
