//! Readiness for systemd: one datagram to `$NOTIFY_SOCKET` (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager that the daemon serves. Does nothing where there is none.
pub fn notify_ready() -> std::io::Result<()> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(b"READY=1\n", &address).map(drop)
}
