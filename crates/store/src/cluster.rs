//! What the coordinators of a cluster share beside metadata and leases: whose the metadata is, and how far sources were read.

use aap_types::{Epoch, NodeId, SourceKind, SourcePosition};

use crate::{Error, LeaseStore};

/// How far a source was read, as a batch that landed said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandedPosition {
    /// Whose batch it came with.
    pub node: NodeId,
    /// Which life of the node's store.
    pub epoch: Epoch,
    /// When the node sealed that batch, by its clock.
    pub sealed_us: i64,
    /// When it landed.
    pub updated_us: i64,
    /// The position.
    pub position: SourcePosition,
}

impl LandedPosition {
    /// Whether `other`, of the same source, is older and must not take this one's place: by its epoch; within one, if both the
    /// offset and the time of sealing are lower, because either alone may fall back. The rule of the landing buffer.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.epoch > other.epoch
            || (self.epoch == other.epoch
                && self.position.offset > other.position.offset
                && self.sealed_us > other.sealed_us)
    }

    /// Which source it is of.
    pub fn source(&self) -> (&NodeId, SourceKind, &str) {
        (&self.node, self.position.kind, &self.position.key)
    }
}

/// Whose metadata it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Claim {
    /// Nobody's yet.
    #[default]
    Nobody,
    /// Of one coordinator, with this landing buffer.
    Embedded(String),
    /// Of all coordinators of a cluster.
    Cluster {
        /// Its name.
        name: String,
        /// The fingerprint of its certificate authority.
        authority: String,
    },
}

impl Claim {
    /// What it becomes when the landing buffer `owner` takes the metadata.
    ///
    /// # Errors
    /// [`Error::Foreign`] where it is another one's.
    pub fn by_embedded(self, owner: &str) -> Result<Self, Error> {
        match self {
            Self::Nobody => Ok(Self::Embedded(owner.to_owned())),
            Self::Embedded(found) if found == owner => Ok(Self::Embedded(found)),
            Self::Embedded(found) | Self::Cluster { name: found, .. } => Err(Error::Foreign { found }),
        }
    }

    /// What it becomes when a coordinator of a cluster takes the metadata; `former`: the landing buffer that hands it over.
    ///
    /// # Errors
    /// [`Error::Foreign`] and [`Error::OtherAuthority`].
    pub fn by_cluster(self, former: Option<&str>, cluster: &str, authority: &str) -> Result<Self, Error> {
        match self {
            Self::Embedded(found) if former != Some(found.as_str()) => Err(Error::Foreign { found }),
            Self::Cluster { name: found, .. } if found != cluster => Err(Error::Foreign { found }),
            Self::Cluster { authority: found, .. } if found != authority => {
                Err(Error::OtherAuthority { found })
            }
            Self::Nobody | Self::Embedded(_) | Self::Cluster { .. } => {
                Ok(Self::Cluster { name: cluster.to_owned(), authority: authority.to_owned() })
            }
        }
    }
}

/// What a cluster's coordinators share. Implementations: those of [`LeaseStore`].
///
/// Every method is one transaction and durable when it returns.
pub trait ClusterStore: LeaseStore {
    /// Takes the metadata for a cluster, whose coordinators all say the same name and the same fingerprint of their certificate
    /// authority. The first records both.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another cluster or an embedded coordinator has it, [`Error::OtherAuthority`].
    fn claim_cluster(&self, cluster: &str, authority: &str) -> Result<(), Error>;
    /// The same for metadata of an embedded coordinator whose landing buffer is `owner`. Done twice, it is done.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another one has it, [`Error::OtherAuthority`].
    fn convert_claim(&self, owner: &str, cluster: &str, authority: &str) -> Result<(), Error>;
    /// Keeps positions; one that is older than what is known ([`LandedPosition::is_newer_than`]) changes nothing.
    fn save_positions(&self, positions: &[LandedPosition]) -> Result<(), Error>;
    /// All of them, by node, kind and key.
    fn positions(&self) -> Result<Vec<LandedPosition>, Error>;
    /// Forgets those of a kind that landed before `before_us`. Returns how many.
    fn forget_positions(&self, kind: SourceKind, before_us: i64) -> Result<u64, Error>;
}
