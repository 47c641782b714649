//! Keys in the memory of this process, at most so many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aap_runtime::Clock;

use crate::gcra::take;
use crate::{Key, Rate, Taken};

/// What goes where nothing was idle: one in so many, those that come closest to it. So a table that is full is not gone through for each
/// key that comes new.
const EVICTED: usize = 8;

/// A limiter of its own. Whoever comes from ever new addresses pushes out keys that have little to pay, and never makes it larger.
#[derive(Debug)]
pub struct LocalLimiter {
    clock: Arc<dyn Clock>,
    /// Until when each is paid for, in nanoseconds of the monotonic clock. No entry is the same as one that lies behind.
    paid: Mutex<HashMap<Key, u64>>,
    keys_max: usize,
}

impl LocalLimiter {
    /// Keeps at most `keys_max` keys, at least one.
    pub fn new(clock: Arc<dyn Clock>, keys_max: usize) -> Self {
        Self { clock, paid: Mutex::default(), keys_max: keys_max.max(1) }
    }

    /// Takes one of a key.
    pub fn take(&self, key: &Key, rate: Rate) -> Taken {
        let now = self.now_ns();
        let mut paid = self.paid();
        if let Some(known) = paid.get_mut(key) {
            let (taken, next) = take(rate, *known, now);
            *known = next;
            return taken;
        }
        if paid.len() >= self.keys_max {
            make_room(&mut paid, now, self.keys_max);
        }
        let (taken, next) = take(rate, 0, now);
        paid.insert(key.clone(), next);
        taken
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.paid().len()
    }

    /// How many there may be.
    pub fn keys_max(&self) -> usize {
        self.keys_max
    }

    fn now_ns(&self) -> u64 {
        // Centuries after the start of the process.
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX / 2)
    }

    fn paid(&self) -> MutexGuard<'_, HashMap<Key, u64>> {
        self.paid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what is idle; where that is little, also those that will be soonest.
fn make_room(paid: &mut HashMap<Key, u64>, now: u64, keys_max: usize) {
    paid.retain(|_, until| *until > now);
    let room = (keys_max / EVICTED).max(1);
    if paid.len() + room <= keys_max {
        return;
    }
    let mut until: Vec<u64> = paid.values().copied().collect();
    let (_, last_to_go, _) = until.select_nth_unstable(room - 1);
    let last_to_go = *last_to_go;
    // Of those that are even, no more than there has to be room for.
    let mut left = room;
    paid.retain(|_, until| {
        let goes = *until <= last_to_go && left > 0;
        left -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aap_runtime::ManualClock;

    use super::*;

    const RATE: Rate = Rate::per_second(10, 5);

    fn limiter(keys_max: usize) -> (Arc<ManualClock>, LocalLimiter) {
        let clock = Arc::new(ManualClock::at(1));
        (clock.clone(), LocalLimiter::new(clock, keys_max))
    }

    fn key(who: &str) -> Key {
        Key::named("t", who)
    }

    #[test]
    fn one_who_comes_too_often_waits_and_the_others_do_not() {
        let (clock, limiter) = limiter(16);
        let greedy: Vec<bool> = (0..7).map(|_| limiter.take(&key("greedy"), RATE).is_allowed()).collect();
        assert_eq!(greedy, [true, true, true, true, true, false, false]);
        assert!(limiter.take(&key("other"), RATE).is_allowed());
        clock.advance(Duration::from_millis(100));
        assert!(limiter.take(&key("greedy"), RATE).is_allowed());
        assert!(!limiter.take(&key("greedy"), RATE).is_allowed());
    }

    #[test]
    fn a_flood_of_new_keys_makes_it_no_larger_and_does_not_free_who_has_most_to_pay() {
        let (_, limiter) = limiter(64);
        while limiter.take(&key("greedy"), RATE).is_allowed() {}
        for stranger in 0..10_000 {
            limiter.take(&key(&stranger.to_string()), RATE);
            assert!(limiter.keys() <= 64);
        }
        assert!(!limiter.take(&key("greedy"), RATE).is_allowed(), "forgotten, and so it begins anew");
    }

    #[test]
    fn what_is_idle_goes_first() {
        let (clock, limiter) = limiter(8);
        for stranger in 0..7 {
            limiter.take(&key(&stranger.to_string()), RATE);
        }
        clock.advance(Duration::from_secs(1));
        limiter.take(&key("now"), RATE);
        limiter.take(&key("and now"), RATE);
        assert_eq!(limiter.keys(), 2);
    }
}
