//! Enrolment tokens: who may become a node, how often, until when.
//!
//! Whoever used a token is written down with the key it asked for. So a machine whose answer was lost asks again and gets it, and
//! anybody else who shows a used token is told apart from one who shows none: somebody has copied it.

use std::time::Duration;

use aap_types::{NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::{Fingerprint, IssuedId, Labels, SecretHash, micros};

/// How long a token for one node lives, unless something else is said.
pub const ENROLMENT_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How long a token for many nodes may live.
pub const ENROLMENT_BULK_LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Most nodes that one token may be for: each use stands in its record.
pub const ENROLMENT_USES_MAX: u32 = 1_000;
/// How long the record of one is kept that is over, so that reuse is told apart from guessing.
const KEPT_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The record of an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// What it is known by.
    pub id: IssuedId,
    /// The hash of the secret.
    pub hash: SecretHash,
    /// The site that its nodes belong to.
    pub site: SiteName,
    /// The only node that it is for, if it is for one.
    pub node: Option<NodeId>,
    /// Labels that its nodes get.
    pub labels: Labels,
    /// Whether an operator has to approve each node.
    pub requires_approval: bool,
    /// How many nodes it is for.
    pub uses_max: u32,
    /// Who used it, in order.
    pub uses: Vec<EnrolmentUse>,
    /// Until when it can be used.
    pub expires_us: i64,
    /// When it was withdrawn.
    pub revoked_us: Option<i64>,
    /// Who issued it.
    pub author: String,
    /// When.
    pub created_us: i64,
}

/// One use of an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentUse {
    /// The node that came of it.
    pub node: NodeId,
    /// Its public key.
    pub key: Fingerprint,
    /// The address that it came from.
    pub from: String,
    /// When.
    pub at_us: i64,
}

/// What became of an attempt to use an enrolment token. Whoever asked is told no more than whether it worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is used now, and was not before.
    Granted,
    /// The same node used it before with the same key: its answer was lost.
    Again,
    /// There is none, or the secret is another.
    Unknown,
    /// It is for another node.
    OtherNode,
    /// All its uses are gone, to other keys.
    UsedUp,
    /// It was withdrawn.
    Revoked,
    /// Its time is over.
    Expired,
}

impl EnrolmentToken {
    /// How many nodes it is still for.
    pub fn uses_left(&self) -> u32 {
        self.uses_max.saturating_sub(u32::try_from(self.uses.len()).unwrap_or(u32::MAX))
    }

    /// Uses it. Changes nothing except where it is [`Taken::Granted`].
    pub fn take(&mut self, presented: &SecretHash, by: &EnrolmentUse) -> Taken {
        if self.hash != *presented {
            return Taken::Unknown;
        }
        if self.revoked_us.is_some() {
            return Taken::Revoked;
        }
        let is_over = by.at_us >= self.expires_us;
        if !is_over && self.uses.iter().any(|used| used.key == by.key && used.node == by.node) {
            return Taken::Again;
        }
        match self.uses_left() {
            0 => Taken::UsedUp,
            _ if is_over => Taken::Expired,
            _ if self.node.as_ref().is_some_and(|node| *node != by.node) => Taken::OtherNode,
            _ => {
                self.uses.push(by.clone());
                Taken::Granted
            }
        }
    }

    /// When its record may go.
    pub fn kept_until_us(&self) -> i64 {
        self.expires_us.saturating_add(micros(KEPT_AFTER))
    }
}
