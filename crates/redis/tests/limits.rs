//! Limits that coordinators share, at a real Redis.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

#[path = "support/place.rs"]
mod place;

use aap_gateway::{Key, Rate, SharedLimiter};
use aap_redis::RedisLimiter;
use place::{Needs, Place};
use serde_json::json;

async fn takes(limiter: &RedisLimiter, key: &Key, rate: Rate, times: usize) -> usize {
    let mut taken = 0;
    for _ in 0..times {
        taken += usize::from(limiter.take(key, rate).await.unwrap().is_allowed());
    }
    taken
}

#[tokio::test]
async fn two_who_ask_one_server_let_as_much_through_as_one_and_it_forgets_who_has_paid() {
    let Some(place) = Place::new("limits", Needs::Shared).await else { return };
    let (one, other) = (RedisLimiter::new(place.server()), RedisLimiter::new(place.server()));
    let (key, rate) = (Key::named("t", &place.key), "60/h burst 5".parse().unwrap());
    let name = format!("aap:limit:{key}");
    place.cli(&["DEL", &name]);
    assert_eq!(takes(&one, &key, rate, 3).await, 3);
    assert_eq!(takes(&other, &key, rate, 4).await, 2);
    let refused = one.take(&key, rate).await.unwrap();
    assert_eq!((refused.limit, refused.remaining), (5, 0));
    let minute = 59_000..=60_000;
    assert!(minute.contains(&refused.retry_after.unwrap().as_millis()), "{refused:?}");
    let lives_ms = place.cli(&["PTTL", &name]).as_i64().unwrap();
    assert!((290_000..=300_000).contains(&lives_ms), "{lives_ms}");
    // Somebody set the clock of the server back by a day, as far as the entry can tell.
    let tomorrow = "9007199254740000";
    place.cli(&["SET", &name, tomorrow]);
    let refused = one.take(&key, rate).await.unwrap();
    assert_eq!(refused.reset, rate.window(), "never longer than a window");
    place.cli(&["DEL", &name]);
    assert_eq!(takes(&other, &key, rate, 1).await, 1);
    place.cli(&["DEL", &name]);
}

#[tokio::test]
async fn a_server_that_is_not_there_or_does_not_know_us_is_an_error_and_no_decision() {
    let Some(place) = Place::new("limits-away", Needs::Shared).await else { return };
    let (key, rate) = (Key::named("t", "x"), Rate::per_second(1, 1));
    let spec = |more| serde_json::from_value(more).unwrap();
    let away = RedisLimiter::new(spec(json!({"url": "redis://127.0.0.1:1"})));
    assert!(away.take(&key, rate).await.unwrap_err().to_string().contains("connect to `127.0.0.1:1`"));
    let stranger = RedisLimiter::new(aap_redis::RedisServer { password: None, ..place.server() });
    let told = stranger.take(&key, rate).await.unwrap_err().to_string();
    assert!(told.contains("NOAUTH") || told.to_lowercase().contains("auth"), "{told}");
}
