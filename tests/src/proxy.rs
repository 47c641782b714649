//! A network between agent and coordinator that can fail: UDP and TCP on one port, forwarded by threads.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::ports::free_port;
use crate::random::Random;

/// How often threads look whether they are still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Larger than any datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Where the coordinator listens now; asked for each connection.
type Upstream = Arc<dyn Fn() -> Option<SocketAddr> + Send + Sync>;

/// The network. It ends when dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Upstream,
    ended: AtomicBool,
    udp_blocked: AtomicBool,
    tcp_blocked: AtomicBool,
    answers_lost: AtomicBool,
    /// Of a thousand datagrams so many vanish, and as many come twice.
    damaged_per_mille: AtomicU64,
    random: Mutex<Random>,
    /// Connections of earlier numbers carry nothing any more, though they stand.
    dead_before: AtomicU64,
    connections_made: AtomicU64,
    /// Datagrams and bytes that reached the coordinator.
    udp_passed: AtomicU64,
    tcp_passed: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
    /// The socket towards the coordinator, by the agent's address.
    flows: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A network without faults.
    pub fn new(upstream: impl Fn() -> Option<SocketAddr> + Send + Sync + 'static) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        let shared = Arc::new(Shared {
            upstream: Arc::new(upstream),
            ended: AtomicBool::new(false),
            udp_blocked: AtomicBool::new(false),
            tcp_blocked: AtomicBool::new(false),
            answers_lost: AtomicBool::new(false),
            damaged_per_mille: AtomicU64::new(0),
            random: Mutex::new(Random::seeded(u64::from(port))),
            dead_before: AtomicU64::new(0),
            connections_made: AtomicU64::new(0),
            udp_passed: AtomicU64::new(0),
            tcp_passed: AtomicU64::new(0),
            connections: Mutex::default(),
            flows: Mutex::default(),
        });
        let (of_tcp, of_udp) = (shared.clone(), shared.clone());
        thread::spawn(move || of_tcp.accept(&listener));
        thread::spawn(move || of_udp.receive(&Arc::new(socket)));
        Self { port, shared }
    }

    /// What the agent dials.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Datagrams vanish, or pass again.
    pub fn block_udp(&self, blocked: bool) {
        self.shared.udp_blocked.store(blocked, Ordering::SeqCst);
    }

    /// Connections are refused and those that stand are cut, or pass again.
    pub fn block_tcp(&self, blocked: bool) {
        self.shared.tcp_blocked.store(blocked, Ordering::SeqCst);
        if blocked {
            self.cut();
        }
    }

    /// Of a thousand datagrams so many vanish from now on, in either direction, and as many come twice.
    pub fn damage_datagrams(&self, per_mille: u64) {
        self.shared.damaged_per_mille.store(per_mille, Ordering::SeqCst);
    }

    /// The connections that stand carry nothing any more, and nobody is told. New ones pass.
    pub fn go_silent(&self) {
        let made = self.shared.connections_made.load(Ordering::SeqCst);
        self.shared.dead_before.store(made, Ordering::SeqCst);
    }

    /// From now on nothing that the coordinator says reaches the agent. Ends with [`Proxy::cut`].
    pub fn lose_answers(&self) {
        self.shared.answers_lost.store(true, Ordering::SeqCst);
    }

    /// Cuts what stands, over both carriers; what is dialled from now on passes.
    pub fn cut(&self) {
        for connection in lock(&self.shared.connections).drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
        // A new address towards the coordinator, as after a NAT that forgot: QUIC may survive it, and may.
        lock(&self.shared.flows).clear();
        self.shared.answers_lost.store(false, Ordering::SeqCst);
    }

    /// Datagrams that went to the coordinator.
    pub fn udp_passed(&self) -> u64 {
        self.shared.udp_passed.load(Ordering::Relaxed)
    }

    /// Bytes of connections that went to the coordinator.
    pub fn tcp_passed(&self) -> u64 {
        self.shared.tcp_passed.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
    }
}

impl Shared {
    fn is(&self, flag: &AtomicBool) -> bool {
        flag.load(Ordering::SeqCst)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        listener.set_nonblocking(true).unwrap();
        while !self.is(&self.ended) {
            match listener.accept() {
                Ok((agent, _)) if !self.is(&self.tcp_blocked) => self.clone().join(agent),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_EVERY / 10),
                Err(error) => panic!("accept: {error}"),
            }
        }
    }

    /// Forwards both ways until one end closes.
    fn join(self: Arc<Self>, agent: TcpStream) {
        let Some(coordinator) = (self.upstream)().and_then(|address| TcpStream::connect(address).ok()) else {
            return;
        };
        agent.set_nonblocking(false).unwrap();
        for connection in [&agent, &coordinator] {
            connection.set_nodelay(true).unwrap();
            lock(&self.connections).push(connection.try_clone().unwrap());
        }
        let back = (coordinator.try_clone().unwrap(), agent.try_clone().unwrap());
        let number = self.connections_made.fetch_add(1, Ordering::SeqCst);
        let (up, down) = (self.clone(), self);
        thread::spawn(move || up.forward(number, agent, coordinator, false));
        thread::spawn(move || down.forward(number, back.0, back.1, true));
    }

    fn forward(&self, number: u64, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let is_dead = number < self.dead_before.load(Ordering::SeqCst);
            if is_dead || (is_answer && self.is(&self.answers_lost)) {
                continue;
            }
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
            if !is_answer {
                self.tcp_passed.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
        from.shutdown(Shutdown::Both).ok();
        to.shutdown(Shutdown::Both).ok();
    }

    fn receive(self: Arc<Self>, socket: &Arc<UdpSocket>) {
        socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        while !self.is(&self.ended) {
            let Ok((length, agent)) = socket.recv_from(&mut datagram) else { continue };
            if self.is(&self.udp_blocked) {
                continue;
            }
            let known = lock(&self.flows).get(&agent).cloned();
            let Some(flow) = known.or_else(|| self.clone().open_flow(agent, socket.clone())) else {
                continue;
            };
            // A coordinator that is down answers with ICMP, which comes out here; datagrams may get lost.
            for _ in 0..self.copies() {
                if flow.send(&datagram[..length]).is_ok() {
                    self.udp_passed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// How often a datagram arrives.
    fn copies(&self) -> u64 {
        let damaged = self.damaged_per_mille.load(Ordering::SeqCst);
        match lock(&self.random).below(1000) {
            fate if fate < damaged => 0,
            fate if fate < 2 * damaged => 2,
            _ => 1,
        }
    }

    fn open_flow(self: Arc<Self>, agent: SocketAddr, back: Arc<UdpSocket>) -> Option<Arc<UdpSocket>> {
        let flow = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).ok()?);
        flow.connect((self.upstream)()?).ok()?;
        flow.set_read_timeout(Some(LOOK_EVERY)).ok()?;
        lock(&self.flows).insert(agent, flow.clone());
        let answers = flow.clone();
        thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            let is_current = || lock(&self.flows).get(&agent).is_some_and(|now| Arc::ptr_eq(now, &answers));
            while is_current() && !self.is(&self.ended) {
                let Ok(length) = answers.recv(&mut datagram) else { continue };
                if self.is(&self.udp_blocked) || self.is(&self.answers_lost) {
                    continue;
                }
                for _ in 0..self.copies() {
                    back.send_to(&datagram[..length], agent).ok();
                }
            }
        });
        Some(flow)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
