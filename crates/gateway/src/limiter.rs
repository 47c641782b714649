//! What is decided here, and what coordinators decide together.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_runtime::Clock;
use futures::future::BoxFuture;
use tracing::{info, warn};

use crate::{Key, LocalLimiter, Rate, Taken};

/// Longest wait for what is shared: every call waits for it, and a server on the same network answers within a millisecond.
const ANSWER_MAX: Duration = Duration::from_millis(250);
/// So long nobody asks a server that did not answer, so that one call a second waits for it and not all.
const REST: Duration = Duration::from_secs(1);

/// Why what is shared did not decide.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SharedError(String);

impl SharedError {
    /// With the reason.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// A limiter that coordinators have in common. It decides as this crate does, by a clock of its own.
pub trait SharedLimiter: Debug + Send + Sync {
    /// Takes one of a key. Cancel-safe: one that was broken off may have been taken or not.
    fn take<'a>(&'a self, key: &'a Key, rate: Rate) -> BoxFuture<'a, Result<Taken, SharedError>>;
}

/// How it stands with what is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// There is nothing that is shared.
    Unused,
    /// It decides.
    There,
    /// It does not answer: each coordinator counts alone.
    Away,
}

/// Both. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limiter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: LocalLimiter,
    shared: Option<Arc<dyn SharedLimiter>>,
    clock: Arc<dyn Clock>,
    /// When what is shared was last asked in vain; `None` while it answers.
    away: Mutex<Option<Duration>>,
}

impl Limiter {
    /// Of at most `keys_max` keys, and of `shared`, where there is one.
    pub fn new(clock: Arc<dyn Clock>, keys_max: usize, shared: Option<Arc<dyn SharedLimiter>>) -> Self {
        let local = LocalLimiter::new(clock.clone(), keys_max);
        Self { inner: Arc::new(Inner { local, shared, clock, away: Mutex::default() }) }
    }

    /// Takes one of a key. What is refused here nobody else is asked about. Where what is shared does not answer, what was decided here
    /// counts: a server of limits that is away must not stop the platform.
    pub async fn take(&self, key: &Key, rate: Rate) -> Taken {
        let inner = &self.inner;
        let here = inner.local.take(key, rate);
        let Some(shared) = inner.shared.as_ref().filter(|_| here.is_allowed() && inner.may_ask()) else {
            return here;
        };
        let answer = tokio::time::timeout(ANSWER_MAX, shared.take(key, rate)).await;
        let answer = answer.unwrap_or_else(|_elapsed| {
            Err(SharedError::new(format!("no answer within {} ms", ANSWER_MAX.as_millis())))
        });
        match answer {
            Ok(taken) => {
                inner.note_there();
                taken
            }
            Err(error) => {
                inner.note_away(&error);
                here
            }
        }
    }

    /// What is kept here.
    pub fn local(&self) -> &LocalLimiter {
        &self.inner.local
    }

    /// How it stands with what is shared.
    pub fn shared(&self) -> Shared {
        match (&self.inner.shared, *self.inner.away()) {
            (None, _) => Shared::Unused,
            (Some(_), None) => Shared::There,
            (Some(_), Some(_)) => Shared::Away,
        }
    }
}

impl Inner {
    /// While it is away, one call in each [`REST`] finds out whether it still is.
    fn may_ask(&self) -> bool {
        let now = self.clock.monotonic();
        match self.away().as_mut() {
            None => true,
            Some(asked) if now.saturating_sub(*asked) >= REST => {
                *asked = now;
                true
            }
            Some(_) => false,
        }
    }

    fn note_there(&self) {
        if self.away().take().is_some() {
            info!("limits are shared with other coordinators again");
        }
    }

    fn note_away(&self, error: &SharedError) {
        let was_away = self.away().replace(self.clock.monotonic()).is_some();
        if !was_away {
            warn!(%error, "limits cannot be shared with other coordinators; this one counts alone");
        }
    }

    fn away(&self) -> MutexGuard<'_, Option<Duration>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aap_runtime::ManualClock;
    use futures::FutureExt;

    use super::*;

    const RATE: Rate = Rate::per_second(10, 3);

    /// What two limiters have in common, unless it is away.
    #[derive(Debug)]
    struct Common {
        decides: LocalLimiter,
        is_away: Mutex<bool>,
        asked: AtomicUsize,
    }

    impl SharedLimiter for Common {
        fn take<'a>(&'a self, key: &'a Key, rate: Rate) -> BoxFuture<'a, Result<Taken, SharedError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let answer = match *self.is_away.lock().unwrap() {
                true => Err(SharedError::new("gone")),
                false => Ok(self.decides.take(key, rate)),
            };
            std::future::ready(answer).boxed()
        }
    }

    fn two() -> (Arc<ManualClock>, Arc<Common>, Limiter, Limiter) {
        let clock = Arc::new(ManualClock::at(1));
        let decides = LocalLimiter::new(clock.clone(), 8);
        let common = Arc::new(Common { decides, is_away: Mutex::new(false), asked: AtomicUsize::new(0) });
        let limiter = || Limiter::new(clock.clone(), 8, Some(common.clone()));
        let (one, other) = (limiter(), limiter());
        (clock, common, one, other)
    }

    async fn takes(limiter: &Limiter, times: usize) -> usize {
        let mut taken = 0;
        for _ in 0..times {
            taken += usize::from(limiter.take(&Key::named("t", "ana"), RATE).await.is_allowed());
        }
        taken
    }

    #[tokio::test]
    async fn two_coordinators_together_let_as_much_through_as_one() {
        let (_, _, one, other) = two();
        assert_eq!((takes(&one, 2).await, takes(&other, 5).await, takes(&one, 5).await), (2, 1, 0));
    }

    #[tokio::test]
    async fn what_is_refused_here_is_not_asked_elsewhere() {
        let (_, common, one, _) = two();
        assert_eq!(takes(&one, 20).await, 3);
        assert_eq!(common.asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn while_what_is_shared_is_away_each_counts_alone_and_asks_once_a_second() {
        let (clock, common, one, other) = two();
        *common.is_away.lock().unwrap() = true;
        assert_eq!((takes(&one, 5).await, takes(&other, 5).await), (3, 3));
        assert_eq!((one.shared(), common.asked.load(Ordering::Relaxed)), (Shared::Away, 2));
        clock.advance(Duration::from_secs(1));
        *common.is_away.lock().unwrap() = false;
        assert_eq!(takes(&one, 3).await, 3);
        assert_eq!(one.shared(), Shared::There);
        assert_eq!(takes(&other, 5).await, 0, "what it finds out first is that the others have taken it all");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_server_that_says_nothing() {
        #[derive(Debug)]
        struct Silent;
        impl SharedLimiter for Silent {
            fn take<'a>(&'a self, _: &'a Key, _: Rate) -> BoxFuture<'a, Result<Taken, SharedError>> {
                std::future::pending().boxed()
            }
        }
        let limiter = Limiter::new(Arc::new(ManualClock::at(1)), 8, Some(Arc::new(Silent)));
        assert_eq!(takes(&limiter, 3).await, 3);
        assert_eq!(limiter.shared(), Shared::Away);
    }
}
