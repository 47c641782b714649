//! The HTTP sink, counted by a server that honours `Idempotency-Key`; and the sink that prints.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use aap_tests::Platform;
use serde_json::Value;

use super::{Place, apply, assert_each_once, each_once_through_kills, ingest, settles, sink};

/// Requests whose answers are lost when the server "dies".
const LOST_ANSWERS: u64 = 3;

/// A server that takes each name once, and sometimes says nothing of it.
struct Http {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What came under each name.
    taken: Mutex<HashMap<String, Vec<u8>>>,
    /// So many answers are still to be lost: the line is closed after the request was taken.
    loses: AtomicU64,
    /// Names that came again, and whether one came with another body.
    repeated: AtomicU64,
    differs: AtomicBool,
}

impl Http {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for line in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || state.serve(line));
            }
        });
        Self { address, state }
    }
}

impl State {
    /// One request after another, until the line ends or is closed.
    fn serve(&self, line: TcpStream) {
        let mut reader = BufReader::new(line.try_clone().unwrap());
        let mut writer = line;
        while let Some((name, body)) = request(&mut reader) {
            match self.taken.lock().unwrap().entry(name) {
                std::collections::hash_map::Entry::Vacant(new) => drop(new.insert(body)),
                std::collections::hash_map::Entry::Occupied(known) => {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                    self.differs.fetch_or(*known.get() != body, Ordering::Relaxed);
                }
            }
            let lost =
                self.loses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if lost.is_ok() || writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
                return;
            }
        }
    }
}

/// `Idempotency-Key` and body; `None` where the other side has closed, or died half way.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut name, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        match line.trim_end().split_once(": ") {
            Some((header, value)) if header.eq_ignore_ascii_case("idempotency-key") => {
                name = value.to_owned()
            }
            Some((header, value)) if header.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap()
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((name, body))
}

impl Place for Http {
    fn document(&self) -> String {
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: hook }}\nspec:\n  streams: [events]\n  \
             http: {{ url: 'http://{}/in', bearer: env:AAP_TEST_SECRET }}\n",
            self.address
        )
    }

    fn stored(&self) -> (u64, u64, u64) {
        let mut ids = vec![];
        for body in self.state.taken.lock().unwrap().values() {
            let rows = std::str::from_utf8(body).unwrap().lines();
            ids.extend(rows.map(|row| serde_json::from_str::<Value>(row).unwrap()["id"].as_u64().unwrap()));
        }
        let (rows, sum) = (ids.len() as u64, ids.iter().sum());
        ids.sort_unstable();
        ids.dedup();
        (rows, ids.len() as u64, sum)
    }

    fn kill_and_restart(&self) {
        self.state.loses.store(LOST_ANSWERS, Ordering::Relaxed);
    }
}

#[test]
fn a_server_that_honours_names_has_each_row_once_whoever_is_killed() {
    let place = Http::start();
    let (platform, rows) = each_once_through_kills(&place, Platform::new(), "hook");
    // On a fast machine everything may have been written before the last time that answers were lost.
    place.kill_and_restart();
    ingest(&platform, rows, rows + 1_000);
    assert_each_once(&platform, &place, "hook", rows + 1_000);
    assert!(place.state.repeated.load(Ordering::Relaxed) > 0, "no answer was lost in a way that mattered");
    assert!(!place.state.differs.load(Ordering::Relaxed), "a name came again with another body");
}

#[test]
fn the_sink_that_prints_prints_each_row_to_the_output_of_the_coordinator() {
    let platform = Platform::new();
    platform.up(&[]).ok();
    apply(
        &platform,
        "apiVersion: aap/v1\nkind: Sink\nmetadata: { name: out }\nspec: { streams: [events], stdout: {} }\n",
    );
    ingest(&platform, 0, 500);
    // Waits for what its agent has not sent yet.
    assert_eq!(platform.count("select count(*) from events"), 500, "in the lake");
    settles("everything is printed", || {
        let shown = sink(&platform, "out");
        shown["state"] == "running" && shown["waiting_batches"] == 0 && shown["guarantee"] == "at-least-once"
    });
    let log = platform.log("coordinator");
    let rows = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ids: Vec<u64> = rows.filter_map(|row| row["id"].as_u64()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..500).collect::<Vec<_>>());
}
