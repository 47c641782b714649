//! The node's name in its certificate: exactly one URI name `spiffe://aap/node/<id>`.

use aap_types::NodeId;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::Error;

/// What stands before the node's name.
const PREFIX: &str = "spiffe://aap/node/";

/// The URI that names `node`.
pub(crate) fn node_uri(node: &NodeId) -> String {
    format!("{PREFIX}{node}")
}

/// The node that a verified client certificate chain belongs to.
pub(crate) fn node_of(chain: Option<&[CertificateDer<'_>]>) -> Result<NodeId, Error> {
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
    let id = uri.strip_prefix(PREFIX).ok_or_else(|| refuse("its URI is not that of a node"))?;
    id.parse().map_err(|error: aap_types::NameError| refuse(&error.to_string()))
}
