//! What a node is known by: its key, its state, the generation of its certificate.
//!
//! ```text
//!  pending ──approve──► approved ◄──► cordoned          a node that shows a generation that is not its newest is locked,
//!                          │ ▲                          because somebody else has its key
//!                          ▼ │
//!                    banned, locked                     both stay until an operator says otherwise
//! ```
//! Each renewal raises the generation by one. An answer may be lost, so a node names each renewal by a number that it writes down
//! before it asks: asked again under the same number, it gets the same generation. A copy of the node does not know the number.

use std::fmt;

use aap_types::{NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::{Fingerprint, Labels, NodeFacts};

/// How often a node whose certificate expired may get a new one by its key alone, before an operator has to look.
pub const RECOVERIES_MAX: u32 = 3;

/// What stands for the key of a node that never enrolled.
pub const NO_KEY: Fingerprint = Fingerprint([0; 32]);

/// What a node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It waits for an operator.
    Pending,
    /// It belongs to the platform.
    Approved,
    /// It belongs to it, and gets nothing new to do.
    Cordoned,
    /// An operator has shut it out.
    Banned,
    /// It was shut out because its identity is in two places.
    Locked,
}

impl NodeState {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Cordoned => "cordoned",
            Self::Banned => "banned",
            Self::Locked => "locked",
        }
    }

    /// Whether a node in it is served.
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Approved | Self::Cordoned)
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A certificate that a node was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Until when it holds.
    pub expires_us: i64,
    /// The root that it leads to; none where an earlier version issued it.
    #[serde(default)]
    pub root: Option<Fingerprint>,
}

/// The record of a node that was enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Its name.
    pub node: NodeId,
    /// Where it belongs.
    pub site: SiteName,
    /// Labels that it was given.
    pub labels: Labels,
    /// What it may do.
    pub state: NodeState,
    /// Why it is in that state, for whoever reads it.
    pub reason: String,
    /// Its public key.
    pub key: Fingerprint,
    /// The generation of its newest certificate; 0: it has none yet.
    pub generation: u64,
    /// The newest generation that it has shown.
    pub shown: u64,
    /// The number under which it asked for the newest.
    pub renewal: String,
    /// The newest certificate.
    pub certificate: Option<Certificate>,
    /// The root of the newest certificate that it is known to have. A node keeps the roots that come with a certificate before the
    /// certificate itself, so it believes this one.
    #[serde(default)]
    pub trusts: Option<Fingerprint>,
    /// Whether it shall take no new rows.
    #[serde(default)]
    pub draining: bool,
    /// How often it came back with an expired one since an operator last approved it.
    pub recoveries: u32,
    /// When it was enrolled.
    pub created_us: i64,
    /// When this record was changed last.
    pub updated_us: i64,
}

/// What becomes of a request for a new certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It gets one of this generation.
    Granted(u64),
    /// It gets one of this generation again: the answer was lost.
    Again(u64),
    /// It showed a generation that is not its newest, so it is locked now.
    Cloned,
    /// It may have none in its state.
    Refused(NodeState),
    /// Its certificate expired once too often: an operator has to approve it anew.
    RecoveriesUsedUp,
}

/// What becomes of a node that connects with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Admitted,
    /// It showed a generation that is not its newest, so it is locked now.
    Cloned,
    /// It is not served in its state.
    Refused(NodeState),
}

impl NodeIdentity {
    /// What decides who may see it.
    pub fn facts(&self) -> NodeFacts<'_> {
        NodeFacts { node: &self.node, site: Some(&self.site), labels: &self.labels }
    }

    /// Gives it a new certificate in the place of the one of the generation `presented` (0: it has none yet), asked for under the
    /// number `renewal`.
    pub fn renew(
        &mut self,
        presented: u64,
        renewal: &str,
        certificate: &Certificate,
        now_us: i64,
    ) -> Renewal {
        if !self.state.is_served() {
            return Renewal::Refused(self.state);
        }
        let is_again = presented.checked_add(1) == Some(self.generation) && self.renewal == renewal;
        if presented != self.generation && !is_again {
            self.lock(presented, now_us);
            return Renewal::Cloned;
        }
        // Another number, so the answer to the former one has arrived and was kept.
        if !is_again && self.renewal != renewal {
            self.has(presented);
        }
        let expired = self.certificate.as_ref().is_some_and(|known| known.expires_us <= now_us);
        if expired && self.recoveries >= RECOVERIES_MAX {
            return Renewal::RecoveriesUsedUp;
        }
        self.recoveries += u32::from(expired);
        self.certificate = Some(certificate.clone());
        self.updated_us = now_us;
        if is_again {
            return Renewal::Again(self.generation);
        }
        self.generation += 1;
        renewal.clone_into(&mut self.renewal);
        Renewal::Granted(self.generation)
    }

    /// Whether its certificate was issued by hand, so that its key is not known and no generation stands in it.
    pub fn never_enrolled(&self) -> bool {
        self.generation == 0 && self.key == NO_KEY
    }

    /// Lets it in with a certificate of the generation `presented`. The one before the newest is as good, until it has shown the
    /// newest: its answer may be lost or under way.
    pub fn admit(&mut self, presented: u64, now_us: i64) -> Admission {
        if !self.state.is_served() {
            return Admission::Refused(self.state);
        }
        if presented == 0 && self.never_enrolled() {
            return Admission::Admitted;
        }
        let is_before = presented.checked_add(1) == Some(self.generation) && self.shown < self.generation;
        if presented == 0 || (presented != self.generation && !is_before) {
            self.lock(presented, now_us);
            return Admission::Cloned;
        }
        self.has(presented);
        self.shown = self.shown.max(presented);
        Admission::Admitted
    }

    /// It has the certificate of this generation.
    fn has(&mut self, generation: u64) {
        if generation == self.generation {
            self.trusts = self.certificate.as_ref().and_then(|known| known.root);
        }
    }

    /// Puts it into another state, as an operator decides. One who approves it has looked: it may recover anew.
    pub fn set_state(&mut self, state: NodeState, reason: &str, now_us: i64) {
        if state == NodeState::Approved {
            self.recoveries = 0;
        }
        self.state = state;
        reason.clone_into(&mut self.reason);
        self.updated_us = now_us;
    }

    /// Lets it take no new rows, or take them again. Its state stays: what it has is still taken from it.
    pub fn set_draining(&mut self, draining: bool, reason: &str, now_us: i64) {
        self.draining = draining;
        reason.clone_into(&mut self.reason);
        self.updated_us = now_us;
    }

    fn lock(&mut self, presented: u64, now_us: i64) {
        let reason = format!(
            "a certificate of generation {presented} was shown, and the newest is {}: the node's key is in two places",
            self.generation
        );
        self.set_state(NodeState::Locked, &reason, now_us);
    }
}
