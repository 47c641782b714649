//! A link with delay and loss between this network namespace and one of its own, for packets of any protocol.
//!
//! Not every kernel has netem, so the link is a pair of TUN devices, one in each namespace, with this process between them: it
//! reads IP packets from one, loses some, and hands the others to the other one when their time has come. TCP and UDP meet the
//! same wire. Needs root.

#![expect(unsafe_code, reason = "a TUN device is attached by an ioctl that no safe interface has")]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aap_tests::Random;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// `TUNSETIFF`, `_IOW('T', 202, int)`.
const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54CA;
/// `IFF_TUN | IFF_NO_PI`: bare IP packets.
const TUN_WITHOUT_HEADER: i16 = 0x1001;
/// Packets under way in one direction; a router drops what is beyond.
const QUEUE_PACKETS: usize = 10_000;
/// Between two looks at whether the link is taken down.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The address of this side, and of the other.
pub(crate) const HERE: &str = "10.213.77.1";
const THERE: &str = "10.213.77.2";

/// What the link does to packets, in each direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// One way.
    pub(crate) delay: Duration,
    /// Packets lost out of a thousand.
    pub(crate) lost_of_1000: u64,
    /// Decides which.
    pub(crate) seed: u64,
}

/// A link that is up until it is dropped, and the namespace at its other end.
#[derive(Debug)]
pub(crate) struct Link {
    namespace: String,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Whether this process may make one.
    pub(crate) fn possible() -> bool {
        rustix::process::geteuid().is_root() && std::path::Path::new("/dev/net/tun").exists()
    }

    /// Makes namespace, devices and the wire between them.
    pub(crate) fn up(weather: Weather) -> Self {
        let namespace = format!("aap-bench-{}", std::process::id());
        ip(&["netns", "add", &namespace]);
        let (here, there) = (tun("aapbench0"), tun("aapbench1"));
        ip(&["link", "set", "aapbench1", "netns", &namespace]);
        ip(&["addr", "add", HERE, "peer", THERE, "dev", "aapbench0"]);
        ip(&["link", "set", "aapbench0", "up"]);
        let inside = |words: &[&str]| ip(&[&["-n", &namespace], words].concat());
        inside(&["addr", "add", THERE, "peer", HERE, "dev", "aapbench1"]);
        inside(&["link", "set", "aapbench1", "up"]);
        inside(&["link", "set", "lo", "up"]);
        // The sender's; QUIC brings its own. What the system prefers is not what is compared.
        inside(&["route", "replace", HERE, "dev", "aapbench1", "congctl", "cubic"]);
        let stop = Arc::new(AtomicBool::new(false));
        let (from, to) = (here.try_clone().unwrap(), there.try_clone().unwrap());
        let mut threads = wire(from, to, weather, 2 * weather.seed, &stop);
        threads.extend(wire(there, here, weather, 2 * weather.seed + 1, &stop));
        Self { namespace, stop, threads }
    }

    /// The words before a command that is to run at the other end.
    pub(crate) fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace].map(str::to_owned).to_vec()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
        ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// `struct ifreq`, as this ioctl reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

fn tun(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = InterfaceRequest { name: [0; 16], flags: TUN_WITHOUT_HEADER, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the ioctl reads a `struct ifreq` of 40 bytes, which `request` is, and keeps no pointer to it.
    unsafe {
        let attach = rustix::ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(&file, attach).unwrap();
    }
    file
}

/// Packets under way, oldest first, each with the moment at which it arrives.
type UnderWay = Arc<(Mutex<VecDeque<(Instant, Vec<u8>)>>, Condvar)>;

/// One direction: a thread that takes packets in and one that lets them out.
fn wire(
    mut from: File,
    mut to: File,
    weather: Weather,
    seed: u64,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<()>> {
    let under_way = UnderWay::default();
    let (queue, stopped) = (under_way.clone(), stop.clone());
    let taking = thread::spawn(move || {
        let mut random = Random::seeded(seed);
        let mut packet = vec![0; 2048];
        while !stopped.load(Ordering::Relaxed) {
            if poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&LOOK_EVERY)).unwrap_or(0) == 0 {
                continue;
            }
            let Ok(length) = from.read(&mut packet) else { continue };
            let lost = random.below(1000) < weather.lost_of_1000;
            let mut packets = queue.0.lock().unwrap();
            if !lost && packets.len() < QUEUE_PACKETS {
                packets.push_back((Instant::now() + weather.delay, packet[..length].to_vec()));
                queue.1.notify_one();
            }
        }
    });
    let stopped = stop.clone();
    let letting_out = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let mut packets = under_way.0.lock().unwrap();
            let Some((at, packet)) = packets.pop_front() else {
                drop(under_way.1.wait_timeout(packets, Duration::from_millis(100)).unwrap());
                continue;
            };
            drop(packets);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // A device that goes down loses what is under way.
            to.write_all(&packet).ok();
        }
    });
    vec![taking, letting_out]
}
