//! Records of access at a real Redis: sessions of people.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aap_redis::RedisAccess;
use aap_store::conformance::{Shared, run_access};
use aap_store::{AccessKind, AccessRow, AccessStore, Error, RowsAfter};
use place::{Needs, Place};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

const KIND: AccessKind = AccessKind::Session;

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

fn row(key: &str, owner: &str, expires_us: Option<i64>) -> AccessRow {
    AccessRow { key: key.to_owned(), owner: owner.to_owned(), expires_us, record: format!("\"{key}\"") }
}

fn store(place: &Place, namespace: &str) -> RedisAccess {
    RedisAccess::new(place.server(), namespace, Handle::current())
}

/// A namespace that nobody else has, at any time.
fn namespace(test: &str) -> String {
    format!("{test}-{}-{}", std::process::id(), now_us())
}

fn keys(store: &RedisAccess, owner: Option<&str>) -> Vec<String> {
    let rows = store.access_rows(KIND, RowsAfter { owner, after: "", limit: 100 }).unwrap();
    rows.into_iter().map(|row| row.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_promises_of_every_store() {
    let Some(place) = Place::new("access", Needs::Shared).await else { return };
    let (namespace, made) = (namespace("suite"), AtomicUsize::new(0));
    let (server, runtime) = (place.server(), Handle::current());
    spawn_blocking(move || {
        run_access(&mut || {
            let own = format!("{namespace}-{}", made.fetch_add(1, Ordering::Relaxed));
            let make = || Box::new(RedisAccess::new(server.clone(), &own, runtime.clone()));
            Shared { one: make(), other: make() }
        });
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_goes_by_itself_with_its_entries_and_whoever_lists_does_not_see_it() {
    let Some(place) = Place::new("access-ends", Needs::Shared).await else { return };
    let name = namespace("ends");
    let (store, other) = (store(&place, &name), store(&place, &namespace("stranger")));
    spawn_blocking(move || {
        let hour_us = 3_600_000_000;
        let lives_ms = |what: &str| place.cli(&["PTTL", &format!("aap:{{{name}}}:{what}")]).as_i64().unwrap();
        // Ten minutes longer than it counts, and indexes as long as what lives longest in them.
        let long_ms = 4_190_000..=4_200_000;
        for (key, hours) in [("a", 1), ("b", 0)] {
            let row = row(key, "ana", Some(now_us() + hours * hour_us));
            assert!(store.swap_access_row(KIND, None, &row).unwrap());
            for index in ["session:a", "session-of:ana", "session-all"] {
                assert!(long_ms.contains(&lives_ms(index)), "{index} after {key}: {}", lives_ms(index));
            }
        }
        assert!((590_000..=600_000).contains(&lives_ms("session:b")), "{}", lives_ms("session:b"));
        assert_eq!(keys(&store, Some("ana")), ["a", "b"]);
        assert_eq!(keys(&other, None), [""; 0], "another platform at the same server");

        // Its time came.
        place.cli(&["DEL", &format!("aap:{{{name}}}:session:a")]);
        for (index, owner) in [("session-of:ana", Some("ana")), ("session-all", None)] {
            let count = || place.cli(&["ZCARD", &format!("aap:{{{name}}}:{index}")]).as_i64().unwrap();
            assert_eq!(count(), 2);
            assert_eq!(keys(&store, owner), ["b"]);
            assert_eq!(count(), 1, "{index}: whoever lists takes out what is gone");
        }
        assert!(!store.delete_access_row(KIND, "a").unwrap());
        // Over long ago: it is there until somebody tidies up, as elsewhere.
        assert!(store.swap_access_row(KIND, None, &row("c", "ana", Some(1))).unwrap());
        assert!((590_000..=600_000).contains(&lives_ms("session:c")), "{}", lives_ms("session:c"));
        assert_eq!(keys(&store, None), ["b", "c"]);
        assert_eq!(store.forget_access_rows(now_us()).unwrap(), 2);
        assert_eq!(keys(&store, None), [""; 0]);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_page_is_ended_at_once_and_nobody_elses() {
    let Some(place) = Place::new("access-many", Needs::Shared).await else { return };
    let store = store(&place, &namespace("many"));
    spawn_blocking(move || {
        let ends = Some(now_us() + 60_000_000);
        for number in 0..1_100 {
            let owner = if number % 100 == 0 { "ben" } else { "ana" };
            assert!(store.swap_access_row(KIND, None, &row(&format!("{number:04}"), owner, ends)).unwrap());
        }
        assert_eq!(store.delete_access_rows(KIND, "ana").unwrap(), 1_089);
        assert_eq!(store.delete_access_rows(KIND, "ana").unwrap(), 0);
        assert_eq!(keys(&store, None).len(), 11);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_an_error_and_never_a_session_and_one_that_comes_back_is_used_again() {
    let Some(place) = Place::new("access-away", Needs::Alone).await else { return };
    let spec = |more| serde_json::from_value(more).unwrap();
    let away =
        Arc::new(RedisAccess::new(spec(json!({"url": "redis://127.0.0.1:1"})), "n", Handle::current()));
    let asked = away.clone();
    let told = spawn_blocking(move || asked.access_row(KIND, "a").unwrap_err()).await.unwrap();
    assert!(matches!(told, Error::Server { .. }), "{told:?}");
    assert!(!away.is_there());

    let store = Arc::new(store(&place, &namespace("back")));
    let ends = Some(now_us() + 600_000_000);
    let used = store.clone();
    spawn_blocking(move || {
        // Every connection is there before, and none is after.
        for number in 0..16 {
            assert!(used.swap_access_row(KIND, None, &row(&number.to_string(), "ana", ends)).unwrap());
        }
    })
    .await
    .unwrap();
    place.restart().await;
    spawn_blocking(move || {
        for number in 0..16 {
            assert!(store.access_row(KIND, &number.to_string()).unwrap().is_some(), "{number}");
        }
        assert!(store.is_there());
        assert_eq!(store.delete_access_rows(KIND, "ana").unwrap(), 16);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_given_up_after_two_seconds() {
    // Takes connections, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let server = serde_json::from_value(json!({"url": url, "password": "env:PATH"})).unwrap();
    let store = RedisAccess::new(server, "n", Handle::current());
    let began = Instant::now();
    let told = spawn_blocking(move || store.access_row(KIND, "a").unwrap_err()).await.unwrap();
    let source = std::error::Error::source(&told).unwrap().to_string();
    assert_eq!(source, "no answer within 2 s");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
