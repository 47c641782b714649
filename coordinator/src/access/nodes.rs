//! The standing of nodes as operators see and change it.

use std::collections::HashMap;

use aap_access::{Labels, NO_KEY, NodeIdentity, NodeState};
use aap_proto::v1;
use aap_types::Problem;

use super::usage;

/// What a served node is called that takes no new rows, and once all that it had is here.
pub(crate) const DRAINING: &str = "draining";
pub(crate) const DRAINED: &str = "drained";
/// As long as a name.
const LABEL_BYTES_MAX: usize = 63;

/// What an operator decides about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is in this state.
    Is(NodeState),
    /// It takes new rows, or none.
    Draining(bool),
}

impl Standing {
    pub(super) fn of(word: &str) -> Result<Self, Problem> {
        Ok(match word {
            "approved" => Self::Is(NodeState::Approved),
            "cordoned" => Self::Is(NodeState::Cordoned),
            "banned" => Self::Is(NodeState::Banned),
            DRAINING => Self::Draining(true),
            "resumed" => Self::Draining(false),
            other => {
                let message = format!("`{}` is no state that a node is put into", other.escape_default());
                return Err(usage("node.bad_state", message));
            }
        })
    }

    pub(super) fn take(self, known: &mut NodeIdentity, reason: &str, now_us: i64) {
        match self {
            Self::Is(state) => known.set_state(state, reason, now_us),
            Self::Draining(draining) => known.set_draining(draining, reason, now_us),
        }
    }
}

/// Labels that can be typed, and stand in a line.
pub(super) fn checked(labels: HashMap<String, String>) -> Result<Labels, Problem> {
    let is_word = |text: &str| {
        (1..=LABEL_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
    };
    match labels.iter().find(|(key, value)| !is_word(key) || !is_word(value) || *key == "site") {
        Some((key, _)) if key == "site" => {
            Err(usage("label.bad", "`site` is no label: a node has one site").hint("use --site"))
        }
        Some((key, value)) => {
            let label = format!("{key}={value}").escape_default().to_string();
            Err(usage("label.bad", format!("`{label}` is no label")).hint(format!(
                "keys and values are up to {LABEL_BYTES_MAX} letters of a-z, A-Z, 0-9, `.`, `_`, `-`, `/`"
            )))
        }
        None => Ok(labels.into_iter().collect()),
    }
}

/// Labels on the wire.
pub(super) fn wire(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// An identity as it is told to operators.
pub(crate) fn wire_identity(known: &NodeIdentity) -> v1::NodeIdentity {
    v1::NodeIdentity {
        node: known.node.to_string(),
        site: known.site.to_string(),
        labels: wire(&known.labels),
        state: match known.state {
            NodeState::Approved if known.draining => DRAINING.to_owned(),
            state => state.to_string(),
        },
        reason: known.reason.clone(),
        key: if known.key == NO_KEY { String::new() } else { known.key.to_string() },
        generation: known.generation,
        certificate_expires_us: known.certificate.as_ref().map(|known| known.expires_us).unwrap_or_default(),
        created_us: known.created_us,
        updated_us: known.updated_us,
        draining: known.draining,
    }
}
