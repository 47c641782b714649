//! Which upstream is asked: one after the other, or the same for the same, among those whose breaker lets one through.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::breaker::Breaker;
use super::spec::{BreakerSpec, Upstreams as Spec};

/// Places of each upstream on the ring: with so many, shares differ by some tenths, and a ring stays small.
const PLACES: usize = 64;

/// The upstreams of a route.
#[derive(Debug)]
pub(crate) struct Upstreams {
    all: Vec<Upstream>,
    next: AtomicUsize,
    /// Places, each with the upstream it belongs to, in order.
    ring: Vec<(u64, usize)>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Scheme, host and port, without a slash at the end.
    pub(crate) url: String,
    breaker: Mutex<Breaker>,
}

impl Upstreams {
    pub(crate) fn new(spec: &Spec, breaker: &BreakerSpec) -> Self {
        let rest = Duration::from_secs(breaker.open_seconds.get().into());
        let all: Vec<Upstream> = spec
            .urls
            .iter()
            .map(|url| Upstream {
                url: url.trim_end_matches('/').to_owned(),
                breaker: Mutex::new(Breaker::new(breaker.failures.get(), rest, breaker.probe.is_some())),
            })
            .collect();
        let places = |(at, upstream): (usize, &Upstream)| {
            let url = upstream.url.clone();
            (0..PLACES).map(move |place| (hash(format!("{url}#{place}").as_bytes()), at)).collect::<Vec<_>>()
        };
        let mut ring: Vec<(u64, usize)> = all.iter().enumerate().flat_map(places).collect();
        ring.sort_unstable();
        Self { all, next: AtomicUsize::new(0), ring }
    }

    /// The next that may be asked, and was not `asked` before. By `key` where there is one.
    pub(crate) fn choose(
        &self,
        key: Option<&[u8]>,
        asked: &[usize],
        now: Duration,
    ) -> Option<(usize, &Upstream)> {
        let order = match key {
            Some(key) => self.around(hash(key)),
            None => {
                let first = self.next.fetch_add(1, Ordering::Relaxed);
                (0..self.all.len()).map(|step| first.wrapping_add(step) % self.all.len()).collect()
            }
        };
        let may = |at: &usize| !asked.contains(at) && self.all[*at].breaker().admit(now);
        order.into_iter().find(may).map(|at| (at, &self.all[at]))
    }

    /// Upstreams in the order in which the ring has them from a place on.
    fn around(&self, place: u64) -> Vec<usize> {
        let begin = self.ring.partition_point(|(at, _)| *at < place);
        let mut order = vec![];
        for (_, upstream) in self.ring[begin..].iter().chain(&self.ring[..begin]) {
            if !order.contains(upstream) {
                order.push(*upstream);
            }
        }
        order
    }

    pub(crate) fn all(&self) -> &[Upstream] {
        &self.all
    }

    /// After how long the first of those that rest is tried again.
    pub(crate) fn rests_for(&self, now: Duration) -> Duration {
        self.all.iter().map(|upstream| upstream.breaker().rests_for(now)).min().unwrap_or_default()
    }
}

impl Upstream {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// It answered.
    pub(crate) fn succeed(&self, route: &str) {
        if self.breaker().succeed() {
            info!(route, upstream = self.url, "an upstream is asked again");
        }
    }

    /// It did not.
    pub(crate) fn fail(&self, route: &str, now: Duration, why: &str) {
        if self.breaker().fail(now) {
            warn!(route, upstream = self.url, why, "an upstream is left alone for a while");
        }
    }
}

/// FNV-1a, mixed at the end: the same in every process and every version.
fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (folded ^ (folded >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn upstreams(count: usize) -> Upstreams {
        let urls: Vec<String> = (0..count).map(|at| format!("http://u{at}:80")).collect();
        let spec = serde_json::from_value(serde_json::json!({ "urls": urls })).unwrap();
        Upstreams::new(&spec, &BreakerSpec::default())
    }

    fn chosen(upstreams: &Upstreams, key: &str) -> usize {
        upstreams.choose(Some(key.as_bytes()), &[], NOW).unwrap().0
    }

    #[test]
    fn each_has_its_turn_and_one_that_rests_is_passed_over() {
        let upstreams = upstreams(3);
        let turns: Vec<usize> = (0..6).map(|_| upstreams.choose(None, &[], NOW).unwrap().0).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        for _ in 0..5 {
            upstreams.all()[1].fail("r", NOW, "x");
        }
        assert!((0..9).all(|_| upstreams.choose(None, &[], NOW).unwrap().0 != 1));
        assert!(upstreams.choose(None, &[0, 2], NOW).is_none());
        assert_eq!(upstreams.choose(None, &[0, 2], Duration::from_secs(10)).unwrap().0, 1, "the trial");
    }

    #[test]
    fn the_same_key_goes_to_the_same_and_one_that_is_gone_moves_only_its_own() {
        let (four, three) = (upstreams(4), upstreams(3));
        let keys: Vec<String> = (0..2_000).map(|key| format!("key-{key}")).collect();
        let mut shares = [0; 4];
        for key in &keys {
            let at = chosen(&four, key);
            shares[at] += 1;
            assert_eq!(at, chosen(&four, key));
            // The fourth is not in the other ring.
            assert!(at == 3 || chosen(&three, key) == at, "{key} moved without need");
        }
        assert!(shares.iter().all(|share| (250..=800).contains(share)), "{shares:?}");
    }
}
