//! Deterministic input: lines of 250 bytes as services write them, and files made of them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use aap_tests::Random;

/// Distinct bytes of an input; larger files repeat them, which no batch is large enough to notice.
const BLOCK_BYTES: usize = 64 << 20;
/// Every run of every version measures the same lines.
const SEED: u64 = 0x000A_A9BE_0C40;

/// Lines, and how many.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: u64,
}

impl Input {
    /// Lines of an access log.
    pub(crate) fn plain() -> Self {
        Self::of(plain_line, BLOCK_BYTES)
    }

    /// JSON objects of nine fields.
    pub(crate) fn json() -> Self {
        Self::of(json_line, BLOCK_BYTES)
    }

    /// Lines that hardly compress: to fill a disk quickly.
    pub(crate) fn noise() -> Self {
        Self::of(noise_line, BLOCK_BYTES)
    }

    fn of(line: fn(&mut Vec<u8>, u64, &mut Random), size: usize) -> Self {
        let mut random = Random::seeded(SEED);
        let (mut bytes, mut rows) = (Vec::with_capacity(size + 512), 0);
        while bytes.len() < size {
            line(&mut bytes, rows, &mut random);
            rows += 1;
        }
        Self { bytes, rows }
    }

    /// Mean length of a line.
    pub(crate) fn line_bytes(&self) -> f64 {
        self.bytes.len() as f64 / self.rows as f64
    }

    /// Pieces of `rows` lines; the last may be shorter.
    pub(crate) fn pieces(&self, rows: usize) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let ends = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').take(rows);
            let end = ends.last()?.0 + 1;
            let (piece, after) = rest.split_at(end);
            rest = after;
            Some(piece)
        })
    }

    /// A file of at least `bytes`, made of whole blocks, flushed to the disk. Answers its bytes and rows.
    pub(crate) fn write(&self, path: &Path, bytes: u64) -> (u64, u64) {
        let times = bytes.div_ceil(self.bytes.len() as u64);
        let mut file = File::create(path).unwrap();
        for _ in 0..times {
            file.write_all(&self.bytes).unwrap();
        }
        // Otherwise the kernel writes the input out while the measurement runs.
        file.sync_all().unwrap();
        (times * self.bytes.len() as u64, times * self.rows)
    }
}

const METHODS: [&str; 4] = ["GET", "GET", "GET", "POST"];
const PATHS: [&str; 8] = [
    "/api/v1/orders",
    "/api/v1/orders/search",
    "/api/v2/customers",
    "/static/app.8c1f.js",
    "/healthz",
    "/cart/checkout",
    "/images/products",
    "/login",
];
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0 ok",
    "okhttp/4.12.0 shop-android/9.31.2 (Android 15; SM-S921B; de_DE) build/20261101-4711",
];
const LEVELS: [&str; 8] = ["INFO", "INFO", "INFO", "DEBUG", "WARN", "INFO", "ERROR", "INFO"];

fn clock(n: u64) -> (u64, u64, u64) {
    let ms = n / 40;
    (ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

fn plain_line(out: &mut Vec<u8>, n: u64, random: &mut Random) {
    let (minute, second, _) = clock(n);
    let (a, b) = (random.number(), random.number());
    let method = METHODS[(a & 3) as usize];
    let path = PATHS[(a >> 2 & 7) as usize];
    let agent = AGENTS[(a >> 5 & 3) as usize];
    let status = [200, 200, 200, 200, 204, 304, 404, 500][(a >> 7 & 7) as usize];
    let (third, fourth, order, bytes) =
        (a >> 10 & 0x1f, a >> 15 & 0xff, a >> 23 & 0xf_ffff, a >> 44 & 0x7fff);
    let (ms, trace) = (b & 0x1ff, b >> 9);
    writeln!(
        out,
        r#"10.20.{third}.{fourth} - - [25/Nov/2026:22:{minute:02}:{second:02} +0000] "{method} {path}/{order} HTTP/1.1" {status} {bytes} "https://shop.example.com/" "{agent}" 0.{ms:03} upstream=10.0.3.{:<2} trace={trace:014x}"#,
        b >> 60,
    )
    .unwrap();
}

fn json_line(out: &mut Vec<u8>, n: u64, random: &mut Random) {
    let (minute, second, ms) = clock(n);
    let (a, b) = (random.number(), random.number());
    let level = LEVELS[(a & 7) as usize];
    let path = PATHS[(a >> 3 & 7) as usize];
    writeln!(
        out,
        r#"{{"ts":"2026-11-25T22:{minute:02}:{second:02}.{ms:03}Z","level":"{level}","host":"web-{:02}.example.com","service":"checkout","status":{},"bytes":{},"duration_ms":{}.{:03},"cached":{},"message":"handled GET {path} for customer {:08x} in session {:08x} without retry"}}"#,
        a >> 6 & 31,
        [200, 200, 204, 404][(a >> 11 & 3) as usize],
        a >> 13 & 0xf_ffff,
        a >> 33 & 0xff,
        a >> 41 & 0x3ff,
        a >> 51 & 1 == 1,
        b >> 32,
        b & 0xffff_ffff,
    )
    .unwrap();
}

fn noise_line(out: &mut Vec<u8>, _: u64, random: &mut Random) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for _ in 0..25 {
        let number = random.number();
        out.extend((0..10).map(|at| ALPHABET[(number >> (6 * at) & 63) as usize]));
    }
    out.push(b'\n');
}
