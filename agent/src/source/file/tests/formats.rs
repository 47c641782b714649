//! Formats whose records are more than lines.

use std::time::Duration;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn csv_from_the_end_knows_its_header() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "name,count\nold,1\n");
    let follower = follow(&rig, "start: end\nformat: csv\n");
    rig.until("the starting point is durable", |rig| !rig.deps.ingress.buffer.positions().is_empty()).await;
    append(&log, "new,2\nnewer,3\n");
    rig.expect("logs", "name", &["new", "newer"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_over_several_lines_gives_columns() {
    let rig = Rig::new();
    append(&rig.path("logs/a.log"), "{\n  \"a\": 1,\n  \"b\": \"x\"\n}\n{\n  \"a\": 2\n}\n{");
    let follower = follow(&rig, "format: json\nmultiline: { start: '^\\{' }\n");
    rig.expect("logs", "a", &["1", "2"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_separator_in_a_line_stays_what_it_is() {
    let rig = Rig::new();
    append(&rig.path("logs/a.log"), "one\u{1e}two\n");
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one\u{1e}two"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_of_several_lines_is_a_dead_letter_of_several_lines() {
    let rig = Rig::new();
    append(&rig.path("logs/a.log"), "<34>1 bad\n  second\n  third\n<34>good\n  too\n");
    let follower = follow(&rig, "format: syslog\nmultiline: { start: '^<' }\n");
    rig.expect("logs.dead", "text", &["<34>1 bad\n  second\n  third"]).await;
    rig.expect("logs", "body", &["good\n  too"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_container_line_does_not_hold_back_the_other_stream() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "2026-01-01T00:00:00Z stdout P never ended\n");
    let follower = follow(&rig, "format: cri\n");
    let mut written = 0;
    while !rig.texts("logs", "body").contains(&"error 0".to_owned()) {
        append(&log, &format!("2026-01-01T00:00:01Z stderr F error {written}\n"));
        written += 1;
        assert!(written < 200, "nothing came for ten seconds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.until("all", |rig| rig.texts("logs", "body").len() == written + 1).await;
    follower.stop().await;
}

/// A clock that fails now and then.
#[derive(Debug)]
struct Stumbling {
    clock: aap_runtime::SystemClock,
    left: std::sync::atomic::AtomicI64,
}

impl aap_runtime::Clock for Stumbling {
    fn unix_us(&self) -> i64 {
        let on_pool = std::thread::current().name().is_some_and(|name| name.starts_with("tokio"));
        let left = self.left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        assert!(left != 0 || !on_pool, "a bug");
        self.clock.unix_us()
    }
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_panics_doubles_nothing() {
    // Some of these hit a pass whose predecessor is being stored.
    for left in 1..6 {
        let mut rig = Rig::new();
        append(&rig.path("logs/a.log"), &numbered(0, 200_000));
        rig.deps.ingress.clock =
            std::sync::Arc::new(Stumbling { clock: aap_runtime::SystemClock::default(), left: left.into() });
        let follower = follow(&rig, "");
        let stored = |rig: &Rig| {
            let counts = rig.deps.ingress.counters.snapshot();
            counts.get(&"logs".parse().unwrap()).map_or(0, |count| count.rows_durable)
        };
        rig.until("all rows", |rig| stored(rig) >= 200_000).await;
        follower.stop().await;
        assert_eq!(stored(&rig), 200_000, "{left}");
    }
}
