//! How many records a second are durable, by how many wait at once, and how fast a log is verified.
//!
//! `cargo run --release --example audit_rate -- DIRECTORY`: on the disk that is to be measured; the directory must not exist.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::sync::Arc;

use aap_audit::{Actor, AuditLog, Object, Outcome, Record, SigningKey};
use aap_runtime::{Clock, SystemClock};
use camino::Utf8PathBuf;

/// Records of each round but the one of a single caller, which waits for an fsync each time.
const RECORDS: u64 = 50_000;
const RECORDS_ALONE: u64 = 500;

fn record() -> Record {
    let actor = Actor { kind: "user".into(), name: "ana".into(), credential: Some("7mKq03TzRw9e".into()) };
    let mut record = Record::new(actor, "token create", Outcome::Done).with("site", "lyon");
    record.permission = Some("node:approve".into());
    record.from = Some("10.0.0.9:4412".into());
    record.object = Some(Object { kind: "token".into(), name: "7mKq03TzRw9e".into() });
    record
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = Utf8PathBuf::from(std::env::args().nth(1).ok_or("name a directory")?);
    std::fs::create_dir(&directory)?;
    let clock = Arc::new(SystemClock::default());
    let key = SigningKey::open_or_create(&directory.join("audit.key"))?;
    let log = AuditLog::open(&directory.join("audit"), key, clock.clone())?.log;
    for waiting in [1, 8, 64, 512] {
        let records = if waiting == 1 { RECORDS_ALONE } else { RECORDS };
        let before = clock.monotonic();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..waiting {
            let log = log.clone();
            tasks.spawn(async move {
                for _ in 0..records / waiting {
                    log.append(record()).await?;
                }
                Ok::<(), aap_audit::Error>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let seconds = (clock.monotonic() - before).as_secs_f64();
        println!("{waiting:4} wait at once: {:8.0} records/s", records as f64 / seconds);
    }
    let before = clock.monotonic();
    let verified = log.verify(&[])?;
    let seconds = (clock.monotonic() - before).as_secs_f64();
    println!(
        "verify: {} lines, {} findings, {:.0} lines/s",
        verified.lines,
        verified.found,
        verified.lines as f64 / seconds
    );
    log.close();
    Ok(())
}
