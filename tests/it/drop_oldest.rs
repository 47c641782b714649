//! A buffer that may drop its oldest data does so only by choice, and says how much.

use aap_tests::{Platform, Random, Settings};

#[test]
fn what_a_full_buffer_drops_by_choice_is_counted_on_the_node_and_in_the_ledger() {
    const REQUESTS: u64 = 120;
    const ROWS: u64 = 50;
    let platform = Platform::new();
    let buffer = "{ segment_bytes: 1MiB, budget: 4MiB, when_full: drop-oldest }".to_owned();
    platform.prepare("n1", &Settings { buffer, ..Settings::default() });
    let _agent = platform.start("agent");
    let mut random = Random::seeded(1);
    for request in 0..REQUESTS {
        let rows = (0..ROWS).map(|row| {
            let noise: String = (0..128).map(|_| format!("{:016x}", random.number())).collect();
            format!("{{\"id\":{},\"noise\":\"{noise}\"}}\n", request * ROWS + row)
        });
        let headers = [("content-type", "application/x-ndjson")];
        let answer = platform.http().post("noise", &headers, rows.collect::<String>().as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    platform.await_delivered();
    let there = &platform.rows("select count(*) n, count(distinct id) ids, max(id) + 1 high from noise")[0];
    let stored = there["n"].as_u64().unwrap();
    assert_eq!(there, &serde_json::json!({"n": stored, "ids": stored, "high": REQUESTS * ROWS}));
    let skipped = platform.coordinator_metric("aap_landing_rows_skipped_total").unwrap() as u64;
    assert!(skipped > 0 && stored > 0, "{stored} stored, {skipped} skipped");
    assert_eq!(stored + skipped, REQUESTS * ROWS, "{stored} stored, {skipped} skipped");
}
