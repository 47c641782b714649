//! Whom a certificate names: exactly one URI name, `spiffe://aap/node/ID` or `spiffe://aap/coordinator/NAME`.

use aap_types::{CoordinatorName, NameError, NodeId};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::Error;
use crate::request::Serial;

/// What stands before a node's name.
const NODE: &str = "spiffe://aap/node/";
/// What stands before a coordinator's name.
const COORDINATOR: &str = "spiffe://aap/coordinator/";

/// Who connects, by its verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A node: it may open sessions. With the generation of its certificate; 0 where it was issued without one.
    Node(NodeId, u64),
    /// A coordinator of the same cluster: it may call `Peer`.
    Coordinator(CoordinatorName),
}

/// The URI that names `node`.
pub(crate) fn node_uri(node: &NodeId) -> String {
    format!("{NODE}{node}")
}

/// The URI that names a coordinator.
pub(crate) fn coordinator_uri(name: &CoordinatorName) -> String {
    format!("{COORDINATOR}{name}")
}

/// Whom a verified client certificate chain belongs to.
pub(crate) fn identity_of(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, Error> {
    let refuse = |reason: &str| Error::NoNode { reason: reason.to_owned() };
    let leaf = chain.and_then(<[_]>::first).ok_or_else(|| refuse("there is no certificate"))?;
    let (_, leaf) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| refuse("it cannot be read as X.509"))?;
    let names = leaf.subject_alternative_name().map_err(|_| refuse("its names cannot be read"))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    // One name and no other: a certificate that also names a host or a second node is not one that we issue.
    let [GeneralName::URI(uri)] = names else {
        return Err(refuse("it must carry one URI name and no other"));
    };
    let bad = |error: NameError| refuse(&error.to_string());
    match (uri.strip_prefix(NODE), uri.strip_prefix(COORDINATOR)) {
        (Some(id), _) => {
            let generation = Serial::generation_in(leaf.raw_serial());
            id.parse().map(|node| Identity::Node(node, generation)).map_err(bad)
        }
        (None, Some(name)) => name.parse().map(Identity::Coordinator).map_err(bad),
        (None, None) => Err(refuse("its URI is not that of a node")),
    }
}

/// The node that a verified client certificate chain belongs to, and the generation of its certificate.
pub(crate) fn node_of(chain: Option<&[CertificateDer<'_>]>) -> Result<(NodeId, u64), Error> {
    match identity_of(chain)? {
        Identity::Node(node, generation) => Ok((node, generation)),
        Identity::Coordinator(_) => Err(Error::NoNode { reason: "it is that of a coordinator".to_owned() }),
    }
}
