//! How fast rows arrive, beside `psql \copy` of the same rows as CSV into a table of the same shape. Run by hand:
//! `cargo test --release -p aap-postgres --test throughput -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "support/place.rs"]
mod place;

use std::process::Command;

use aap_runtime::SystemClock;
use aap_sinks::conformance::{self, Effort, Meter, key};
use aap_sinks::{Group, Sink};
use place::{Needs, Place};
use serde_json::json;

/// Batches of 7 rows in a group: as many rows as a group of the sink has at most.
const BATCHES: u64 = 14_000;
const GROUPS: u64 = 10;
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rows_arrive_about_as_fast_as_psql_copies_them() {
    let Some(place) = Place::new("throughput", Needs::Alone).await else { return };
    let clock = SystemClock::default();
    let events = key("edge-1", "events");
    let groups: Vec<Group> = (0..GROUPS)
        .map(|number| conformance::slice(&events, number * BATCHES, (number + 1) * BATCHES))
        .map(|slice| Group { slices: vec![slice] })
        .collect();
    let rows = (GROUPS * BATCHES * 7) as f64;
    let csv = place.file("rows.csv", "");
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..ROUNDS {
        // A place of its own in each round: the positions begin anew.
        let table = format!("{}.ours_{round}", place.schema);
        let mut sink = place.sink(
            json!({"create": true, "table": table, "ledger": format!("{}.ledger_{round}", place.schema)}),
        );
        sink.resume_point().await.unwrap();
        let meter = Meter::start(&clock);
        for group in &groups {
            sink.write(group).await.unwrap();
        }
        ours.push(meter.stop());
        if round == 0 {
            psql(&place, &format!("\\copy {table} TO '{}' CSV", csv.display()));
        }
        place.sql(&format!("CREATE TABLE theirs_{round} (LIKE {table})")).await;
        let meter = Meter::start(&clock);
        psql(&place, &format!("\\copy {}.theirs_{round} FROM '{}' CSV", place.schema, csv.display()));
        theirs.push(meter.stop());
        let counts = place
            .lines(&format!(
                "SELECT count(*) FROM ours_{round} UNION ALL SELECT count(*) FROM theirs_{round}"
            ))
            .await;
        assert_eq!(counts, [rows.to_string(), rows.to_string()]);
        place.sql(&format!("DROP TABLE ours_{round}, theirs_{round}; CHECKPOINT")).await;
    }
    let (ours, theirs) = (Effort::best(&ours), Effort::best(&theirs));
    println!(
        "{rows} rows of 10 columns, {:.0} MB of CSV",
        std::fs::metadata(&csv).unwrap().len() as f64 / 1e6
    );
    println!("{}", ours.line(&format!("sink, {GROUPS} transactions"), rows));
    println!("{}", theirs.line("psql \\copy, one transaction", rows));
    println!("PostgreSQL: sink / plain client = {:.2}", theirs.seconds / ours.seconds);
}

fn psql(place: &Place, command: &str) {
    let output = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &place.url(""), "-c", command])
        .env("PGPASSWORD", std::fs::read_to_string(place.file_named("password")).unwrap())
        .output()
        .expect("psql is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
