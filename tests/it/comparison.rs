//! The comparison that the other tests end with is itself no empty gesture: it notices a row too few and a row too many.

use std::panic::{AssertUnwindSafe, catch_unwind};

use aap_tests::load::{exactly_once, post_until_taken};
use aap_tests::{Platform, Settings};

/// Whether the ids 0..`rows` of `posts` are taken for complete.
fn passes(platform: &Platform, rows: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| exactly_once(platform, "posts", "id", rows))).is_ok()
}

#[test]
fn the_comparison_notices_missing_and_doubled_rows() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    post_until_taken(&platform, 0, 50);
    post_until_taken(&platform, 51, 50);
    assert!(!passes(&platform, 101), "row 50 is missing");
    post_until_taken(&platform, 50, 1);
    assert!(passes(&platform, 101));
    assert!(!passes(&platform, 102), "row 101 is missing");

    // A client that repeats without a key.
    let headers = [("content-type", "application/x-ndjson")];
    let answer = platform.http().post("posts", &headers, b"{\"id\":100}\n");
    assert!(answer.is_ok_and(|answer| answer.status == 200));
    assert!(!passes(&platform, 101), "row 100 is doubled");
}
