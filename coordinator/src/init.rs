//! Making a home: directories, the certificate authority, the operator's token. Doing it again changes nothing.

use std::fs::DirBuilder;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::Arc;

use aap_access::HashKey;
use aap_runtime::{Clock, Home, write_durably};
use aap_transport::Authority;
use aap_types::NodeId;
use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use zeroize::Zeroizing;

use crate::arrival::chain;

/// The certificates of the roots, from the home on.
pub(crate) const AUTHORITY: &str = "tls/root.pem";
/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// Makes directories, authority and token where they are absent.
pub fn prepare_home(home: &Home, clock: Arc<dyn Clock>) -> Result<Authority> {
    aap_runtime::refuse_exposed(home)?;
    let folders =
        [home.config(), home.run(), home.log(), home.tls(), home.coordinator(), home.lake(), home.tmp()];
    for folder in std::iter::once(home.root().to_owned()).chain(folders) {
        make_private(&folder)?;
    }
    let authority =
        Authority::create_or_open(&home.tls(), clock).context("open the certificate authority")?;
    operator_token(home)?;
    Ok(authority)
}

/// Issues the certificate of a node: `tls/nodes/NODE.pem` and `.key`, where an agent of this home looks for them.
pub fn issue_node(authority: &Authority, node: &NodeId) -> Result<()> {
    authority.node_files(node).with_context(|| format!("issue the certificate of node `{node}`"))?;
    Ok(())
}

/// Issues the certificates of nodes again that are past half of their life. The agent of this home takes its own up at the next
/// connection.
pub fn renew_nodes(authority: &Authority) -> Result<()> {
    for node in authority.nodes().context("list the nodes with certificates")? {
        if let Err(error) = authority.node_files(&node) {
            tracing::warn!(%node, error = %chain(&error), "the certificate of a node cannot be looked after");
        }
    }
    Ok(())
}

/// The token that operators show; made when there is none.
pub fn operator_token(home: &Home) -> Result<String> {
    let path = home.operator_token_file();
    if path.exists() {
        let token =
            std::fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?.trim().to_owned();
        ensure!(token.len() >= 2 * TOKEN_BYTES, "`{path}` holds no token; remove it and start again");
        let mode = path.metadata().with_context(|| format!("look at `{path}`"))?.permissions().mode();
        ensure!(mode & 0o077 == 0, "others can read `{path}`; run `chmod 600 {path}`");
        return Ok(token);
    }
    let random = random()?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    write_durably(&path, format!("{token}\n").as_bytes(), 0o600)
        .with_context(|| format!("write `{path}`"))?;
    Ok(token)
}

/// The key under which secrets that this installation issues are hashed: `tls/installation.key`, made when there is none. Coordinators of a
/// cluster have the same one, as they have the same authority.
pub(crate) fn installation_key(home: &Home) -> Result<HashKey> {
    let path = home.tls().join("installation.key");
    if !path.exists() {
        let secret = Zeroizing::new(random()?);
        write_durably(&path, secret.as_slice(), 0o600).with_context(|| format!("write `{path}`"))?;
    }
    let secret = Zeroizing::new(std::fs::read(&path).with_context(|| format!("read `{path}`"))?);
    let mode = path.metadata().with_context(|| format!("look at `{path}`"))?.permissions().mode();
    ensure!(mode & 0o077 == 0, "others can read `{path}`; run `chmod 600 {path}`");
    ensure!(
        secret.len() == TOKEN_BYTES,
        "`{path}` is not a key of {TOKEN_BYTES} bytes; put it back from a backup"
    );
    Ok(HashKey::derive(&secret))
}

fn random() -> Result<[u8; TOKEN_BYTES]> {
    let mut random = [0; TOKEN_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("get randomness")?;
    Ok(random)
}

/// What coordinators of a cluster know their authority by: BLAKE3 over the file with its first root, in hexadecimal digits, whatever roots
/// there have been since (`tls/authority.id`).
pub fn authority_fingerprint(tls: &Utf8Path) -> Result<String> {
    let kept = tls.join("authority.id");
    if kept.exists() {
        let kept = std::fs::read_to_string(&kept).with_context(|| format!("read `{kept}`"))?;
        return Ok(kept.trim().to_owned());
    }
    let path = tls.join("root.pem");
    let certificate = std::fs::read(&path).with_context(|| format!("read `{path}`"))?;
    Ok(blake3::hash(&certificate).to_hex().to_string())
}

/// This machine's name, where a certificate can carry it.
pub fn local_host() -> Option<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    aap_transport::is_host_name(&host).then_some(host)
}

/// This machine's name as a node.
pub fn local_node() -> NodeId {
    let host = rustix::system::uname();
    NodeId::from_host_name(&host.nodename().to_string_lossy())
}

fn make_private(folder: &Utf8Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("create directory `{folder}`"))
}
