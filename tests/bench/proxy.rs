//! A relay for UDP and TCP on one port that counts the bytes of each direction.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What passed, in bytes of TCP and UDP payload.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    up: AtomicU64,
    down: AtomicU64,
}

impl Passed {
    /// From the agent to the coordinator, and back.
    pub(crate) fn both(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Relays `from` to `to` until the program ends.
pub(crate) fn start(from: SocketAddr, to: SocketAddr) -> Arc<Passed> {
    let passed = Arc::new(Passed::default());
    let (listener, socket) = (TcpListener::bind(from).unwrap(), UdpSocket::bind(from).unwrap());
    let counts = passed.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            client.set_nodelay(true).and(server.set_nodelay(true)).unwrap();
            let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let (up, down) = (counts.clone(), counts.clone());
            thread::spawn(move || relay(client, server, &up.up));
            thread::spawn(move || relay(back, forth, &down.down));
        }
    });
    let counts = passed.clone();
    thread::spawn(move || relay_datagrams(&socket, to, &counts));
    passed
}

fn relay(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other direction may have closed it already.
    to.shutdown(Shutdown::Both).ok();
}

/// One client, which is all that a measurement has.
fn relay_datagrams(socket: &UdpSocket, to: SocketAddr, passed: &Arc<Passed>) {
    let outward = UdpSocket::bind("127.0.0.1:0").unwrap();
    outward.connect(to).unwrap();
    outward.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut answering = false;
    while let Ok((read, client)) = socket.recv_from(&mut buffer) {
        passed.up.fetch_add(read as u64, Ordering::Relaxed);
        // A lost datagram is what the carrier is made for.
        outward.send(&buffer[..read]).ok();
        if !std::mem::replace(&mut answering, true) {
            let (socket, outward) = (socket.try_clone().unwrap(), outward.try_clone().unwrap());
            let passed = passed.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    if let Ok(read) = outward.recv(&mut buffer) {
                        passed.down.fetch_add(read as u64, Ordering::Relaxed);
                        socket.send_to(&buffer[..read], client).ok();
                    }
                }
            });
        }
    }
}
