//! Limits on calls, by address and by caller.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aap_access::{Principal, PrincipalKind};
use aap_gateway::{Key, Limiter, Rate, Shared, SharedLimiter, Taken};
use aap_proto::RATE_LIMITED;
use aap_redis::RedisLimiter;
use aap_runtime::Clock;
use aap_types::{ExitCode, Problem};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::config::{GatewayConfig, LimitsConfig};

/// Callers and addresses that are counted at once, each in some 100 bytes. More of them make room for each other.
const KEYS_MAX: usize = 65_536;

/// Fields of draft-ietf-httpapi-ratelimit-headers-06, which is what clients know; later drafts put all of it into one field.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// By what a call is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Address,
    LogIn,
    Principal,
    Operator,
    Route,
}

impl By {
    const ALL: [Self; 5] = [Self::Address, Self::LogIn, Self::Principal, Self::Operator, Self::Route];

    /// In keys and in figures.
    const fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::LogIn => "log_in",
            Self::Principal => "principal",
            Self::Operator => "operator",
            Self::Route => "route",
        }
    }
}

/// The limits. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limiter: Limiter,
    config: LimitsConfig,
    /// In the order of [`By::ALL`].
    refused: [AtomicU64; By::ALL.len()],
}

/// What the limit said that was asked last.
#[derive(Debug, Default)]
pub(crate) struct Quota(Option<Taken>);

impl Quota {
    /// Says it in the head of an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let Some(taken) = &self.0 else { return };
        headers.insert(LIMIT, HeaderValue::from(taken.limit));
        headers.insert(REMAINING, HeaderValue::from(taken.remaining));
        headers.insert(RESET, HeaderValue::from(seconds(taken.reset)));
        if let Some(wait) = taken.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
    }
}

/// Whole ones, so that whoever waits as long has waited long enough.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Whether a call was refused because it came too often.
pub(crate) fn is_limited(problem: &Problem) -> bool {
    problem.code == RATE_LIMITED
}

impl Limits {
    pub(crate) fn new(config: &GatewayConfig, clock: Arc<dyn Clock>) -> Self {
        let shared =
            config.redis.clone().map(|server| Arc::new(RedisLimiter::new(server)) as Arc<dyn SharedLimiter>);
        let limiter = Limiter::new(clock, KEYS_MAX, shared);
        let (config, refused) = (config.limits.clone(), Default::default());
        Self { inner: Arc::new(Inner { limiter, config, refused }) }
    }

    /// Lets on a call from an address.
    ///
    /// # Errors
    /// `gateway.rate_limited` (7).
    pub(crate) async fn admit_address(&self, from: IpAddr, quota: &mut Quota) -> Result<(), Problem> {
        let key = Key::address(By::Address.word(), from);
        let who = || format!("calls from the address {from}");
        self.admit(By::Address, self.inner.config.per_address, &key, quota, who).await
    }

    /// Lets on somebody who wants to log in.
    ///
    /// # Errors
    /// As [`Self::admit_address`].
    pub(crate) async fn admit_log_in(&self, from: IpAddr, quota: &mut Quota) -> Result<(), Problem> {
        let key = Key::address(By::LogIn.word(), from);
        let who = || format!("log-ins from the address {from}");
        self.admit(By::LogIn, self.inner.config.log_in, &key, quota, who).await
    }

    /// Lets on a call of somebody. A program with a token of theirs does not keep a user from calling: their tokens count apart.
    ///
    /// # Errors
    /// As [`Self::admit_address`].
    pub(crate) async fn admit_principal(
        &self,
        principal: &Principal,
        quota: &mut Quota,
    ) -> Result<(), Problem> {
        let (by, rate) = match principal.kind {
            PrincipalKind::Operator => (By::Operator, self.inner.config.operator),
            _ => (By::Principal, self.inner.config.per_principal),
        };
        let key = Key::named(by.word(), &format!("{}/{}", principal.kind.as_str(), principal.name));
        self.admit(by, rate, &key, quota, || format!("calls of {principal}")).await
    }

    /// Lets on a request for a route with a limit of its own, of somebody who is known or of an address.
    ///
    /// # Errors
    /// As [`Self::admit_address`].
    pub(crate) async fn admit_route(
        &self,
        (route, rate): (&str, Rate),
        principal: Option<&Principal>,
        from: IpAddr,
        quota: &mut Quota,
    ) -> Result<(), Problem> {
        let what = format!("{}/{route}", By::Route.word());
        let key = match principal {
            Some(principal) => Key::named(&what, &format!("{}/{}", principal.kind.as_str(), principal.name)),
            None => Key::address(&what, from),
        };
        self.admit(By::Route, Some(rate), &key, quota, || format!("requests for the route `{route}`")).await
    }

    async fn admit(
        &self,
        by: By,
        rate: Option<Rate>,
        key: &Key,
        quota: &mut Quota,
        who: impl FnOnce() -> String,
    ) -> Result<(), Problem> {
        let Some(rate) = rate else { return Ok(()) };
        let taken = self.inner.limiter.take(key, rate).await;
        quota.0 = Some(taken);
        let Some(wait) = taken.retry_after else { return Ok(()) };
        self.inner.refused[by as usize].fetch_add(1, Ordering::Relaxed);
        Err(too_often(&who(), rate, wait))
    }

    /// In Prometheus text form.
    pub(crate) fn figures(&self) -> String {
        let inner = &self.inner;
        let local = inner.limiter.local();
        let mut out = String::new();
        let mut describe = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            // Writing to a string does not fail.
            let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _infallible = writeln!(out, "{name}{labels} {value}");
            }
        };
        let refused = By::ALL.map(|by| {
            (format!("{{by=\"{}\"}}", by.word()), inner.refused[by as usize].load(Ordering::Relaxed))
        });
        describe(
            "aap_gateway_limited_total",
            "counter",
            "Calls refused because they came too often",
            &refused,
        );
        let plain = |value: usize| [(String::new(), value as u64)];
        describe("aap_gateway_keys", "gauge", "Callers and addresses that are counted", &plain(local.keys()));
        let most = plain(local.keys_max());
        describe("aap_gateway_keys_capacity", "gauge", "How many can be counted at once", &most);
        if inner.limiter.shared() != Shared::Unused {
            let is_there = plain(usize::from(inner.limiter.shared() == Shared::There));
            let help = "1 while limits are counted with other coordinators, 0 while Redis is away";
            describe("aap_gateway_limits_shared", "gauge", help, &is_there);
        }
        out
    }
}

fn too_often(who: &str, rate: Rate, wait: Duration) -> Problem {
    let wait_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let message = format!("too many {who}: the limit is {rate}");
    Problem::new(RATE_LIMITED, ExitCode::Unavailable, message)
        .hint(format!("try again in {} s", seconds(wait)))
        .hint("whoever runs the coordinator sets the limits: `gateway.limits` of its configuration")
        .retry_after_ms(wait_ms)
}

#[cfg(test)]
mod tests {
    use aap_runtime::ManualClock;

    use super::*;

    fn limits(text: &str) -> (Arc<ManualClock>, Limits) {
        let clock = Arc::new(ManualClock::at(1));
        let config = serde_norway::from_str(&format!("limits: {text}")).unwrap();
        (clock.clone(), Limits::new(&config, clock))
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn who_comes_too_often_is_told_when_to_come_back_and_can() {
        let (clock, limits) = limits("{ per_principal: 1/s burst 2 }");
        let ana = Principal { kind: PrincipalKind::User, name: "ana".to_owned(), ..Principal::operator() };
        let mut quota = Quota::default();
        for _ in 0..2 {
            limits.admit_principal(&ana, &mut quota).await.unwrap();
        }
        clock.advance(Duration::from_millis(1));
        let problem = limits.admit_principal(&ana, &mut quota).await.unwrap_err();
        assert_eq!((problem.exit, problem.retry_after_ms), (ExitCode::Unavailable, Some(999)));
        assert!(problem.report().contains("try again in 1 s"), "{}", problem.report());
        let mut headers = HeaderMap::new();
        quota.write(&mut headers);
        let said = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"];
        assert_eq!(said.map(|name| headers[name].to_str().unwrap()), ["2", "0", "2", "1"]);
        assert!(limits.figures().contains("aap_gateway_limited_total{by=\"principal\"} 1\n"));

        let token = Principal { kind: PrincipalKind::ApiToken, ..ana.clone() };
        limits.admit_principal(&token, &mut quota).await.unwrap();
        limits.admit_principal(&Principal::operator(), &mut quota).await.unwrap();
        clock.advance(Duration::from_millis(999));
        limits.admit_principal(&ana, &mut quota).await.unwrap();
    }

    #[tokio::test]
    async fn log_ins_have_a_limit_of_their_own_and_a_limit_can_be_lifted() {
        let (_, limits) = limits("{ log_in: 2/min, per_address: null }");
        let mut quota = Quota::default();
        for _ in 0..5_000 {
            limits.admit_address(HERE, &mut quota).await.unwrap();
        }
        assert!(quota.0.is_none());
        limits.admit_log_in(HERE, &mut quota).await.unwrap();
        limits.admit_log_in(HERE, &mut quota).await.unwrap();
        let problem = limits.admit_log_in(HERE, &mut quota).await.unwrap_err();
        assert_eq!(problem.retry_after_ms, Some(30_000));
        limits.admit_log_in("10.0.0.1".parse().unwrap(), &mut quota).await.unwrap();
    }
}
