//! Ports of one test: outside the range from which the system takes ports of outgoing connections, so that a daemon that
//! was killed finds its port free again, and no two tests share one.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const LAST: u16 = 30_000;

/// A port of 127.0.0.1 that is free for TCP and UDP and was given to nobody else.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    // Test binaries that run at the same time begin at different places.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id() % u32::from(LAST - FIRST)) as u16;
    let ports = (0..LAST - FIRST).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        FIRST + (begin + step) % (LAST - FIRST)
    });
    let is_free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    ports.into_iter().find(is_free).unwrap()
}
