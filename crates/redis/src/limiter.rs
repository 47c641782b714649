//! Limits that coordinators share: the decision of `aap-gateway` as one script, by the server's clock.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use aap_gateway::{Key, Rate, SharedError, SharedLimiter, Taken};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use crate::fail::LinkError;
use crate::link::Link;
use crate::spec::RedisServer;

/// Connections: each has one call at a time, which takes less than a millisecond on the same network.
const LINKS: usize = 8;

/// Takes one, if the key is paid for soon enough. `ARGV`: interval and window in microseconds, which is what the server's clock shows.
///
/// Numbers of Lua hold 53 bits, microseconds of this century 51. A clock that was set back must not shut anybody out for longer than a
/// window.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local paid = tonumber(redis.call('GET', KEYS[1]) or '0')
paid = math.min(math.max(paid, now), now + window)
local due = paid + interval
if due - now > window then return {0, paid - now} end
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
return {1, due - now}
";

/// Decides for every coordinator that asks the same server and database. Connects when it is first asked.
pub struct RedisLimiter {
    server: RedisServer,
    /// Taken out for a call, so that one that was broken off leaves none behind it.
    links: [Mutex<Option<Link>>; LINKS],
    /// By which keys are spread over the links.
    spread: RandomState,
}

impl std::fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLimiter").field("url", &self.server.url).finish_non_exhaustive()
    }
}

impl RedisLimiter {
    /// At a server.
    pub fn new(server: RedisServer) -> Self {
        Self { server, links: Default::default(), spread: RandomState::new() }
    }

    async fn ask(&self, key: &Key, rate: Rate) -> Result<Taken, LinkError> {
        let at = usize::try_from(self.spread.hash_one(key) % LINKS as u64).unwrap_or(0);
        let mut slot = self.links[at].lock().await;
        let mut link = match slot.take() {
            Some(link) => link,
            None => Link::to(&self.server).await?,
        };
        let name = format!("aap:limit:{key}");
        let interval = micros(rate.interval());
        let window = interval * u64::from(rate.burst());
        let take = redis::cmd("EVAL").arg(TAKE).arg(1).arg(&name).arg(interval).arg(window).to_owned();
        let (is_allowed, ahead_us): (u8, u64) = link.call(&name, &take).await?;
        *slot = Some(link);
        Ok(Taken::of(rate, ahead_us.saturating_mul(1_000), is_allowed == 1))
    }
}

/// Rounded, and 1 at least.
fn micros(duration: Duration) -> u64 {
    let nanoseconds = duration.as_nanos() + 500;
    u64::try_from(nanoseconds / 1_000).unwrap_or(u64::MAX).max(1)
}

impl SharedLimiter for RedisLimiter {
    fn take<'a>(&'a self, key: &'a Key, rate: Rate) -> BoxFuture<'a, Result<Taken, SharedError>> {
        let asked = async move {
            self.ask(key, rate).await.map_err(|error| {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                SharedError::new(format!("{error}{}", source.unwrap_or_default()))
            })
        };
        asked.boxed()
    }
}
