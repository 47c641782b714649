//! The standing of nodes as operators see and change it.

use std::collections::HashMap;

use aap_access::{Labels, NO_KEY, NodeIdentity};
use aap_proto::v1;
use aap_types::Problem;

use super::usage;

/// As long as a name.
const LABEL_BYTES_MAX: usize = 63;

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
        state: known.state.to_string(),
        reason: known.reason.clone(),
        key: if known.key == NO_KEY { String::new() } else { known.key.to_string() },
        generation: known.generation,
        certificate_expires_us: known.certificate.as_ref().map(|known| known.expires_us).unwrap_or_default(),
        created_us: known.created_us,
        updated_us: known.updated_us,
    }
}
