//! What the sections of listeners share: where, and who may connect.

use std::net::SocketAddr;

use aap_transport::HttpLimits;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::load::Complaint;

/// TLS of a listener. Paths start at the home directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSpec {
    /// Certificate and what leads to its authority, PEM.
    pub certificate: Utf8PathBuf,
    /// Private key, PEM, mode 0600.
    pub key: Utf8PathBuf,
    /// Authority of the certificates that clients must show. Default: they need none.
    #[serde(default)]
    pub client_ca: Option<Utf8PathBuf>,
}

impl TlsSpec {
    /// The files, from the home on.
    pub fn files(&self, home: &Utf8Path) -> aap_transport::ListenerTls {
        aap_transport::ListenerTls {
            certificate: home.join(&self.certificate),
            key: home.join(&self.key),
            client_ca: self.client_ca.as_ref().map(|path| home.join(path)),
        }
    }
}

/// Refuses what would let anyone in: addresses beyond loopback need TLS, and a token or certificates of clients.
pub(super) fn check_guard(
    addresses: impl IntoIterator<Item = SocketAddr>,
    tls: Option<&TlsSpec>,
    token_file: Option<&Utf8PathBuf>,
) -> Result<(), Complaint> {
    let Some(remote) = addresses.into_iter().find(|address| !address.ip().is_loopback()) else {
        return Ok(());
    };
    let Some(tls) = tls else {
        let message =
            format!("`{remote}` is not a loopback address: it needs `tls:` with `certificate` and `key`");
        return Err(("tls", message));
    };
    if tls.client_ca.is_none() && token_file.is_none() {
        let message = format!(
            "`{remote}` is not a loopback address: it needs `token_file:`, or `tls.client_ca` for certificates of clients"
        );
        return Err(("token_file", message));
    }
    Ok(())
}

/// How many connections one address may have at once, unless it is said: as many as at every other port.
pub(super) fn connections_per_address() -> usize {
    HttpLimits::default().connections_per_address
}

/// Refuses a share of one address that is none, or more than there is.
pub(super) fn check_share(connections_per_address: usize) -> Result<(), Complaint> {
    let all = HttpLimits::default().connections;
    if (1..=all).contains(&connections_per_address) {
        return Ok(());
    }
    let message =
        format!("one address has 1 to {all} connections, which is what all addresses have together");
    Err(("connections_per_address", message))
}

/// Refuses a limit of bodies that is none.
pub(super) fn check_body_limit(bytes: u64, max: u64) -> Result<(), Complaint> {
    if (1024..=max).contains(&bytes) {
        return Ok(());
    }
    Err(("body_bytes_max", format!("the body limit is from 1KiB to {}MiB", max >> 20)))
}
