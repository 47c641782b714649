//! Records of access in Redis: sessions of people, where a configuration names a server for them.
//!
//! ```text
//!  aap:{NAMESPACE}:session:ID            string      the row, as JSON; goes some time after it is over
//!  aap:{NAMESPACE}:session-of:OWNER      sorted set  the keys of what an owner has, all of score 0: by their bytes
//!  aap:{NAMESPACE}:session-all           sorted set  all keys
//! ```
//! The braces make a cluster keep all of it in one place, so that a row and its entries are written as one. Entries outlive what they name:
//! whoever lists takes them out. They are never missing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_store::{AccessKind, AccessRow, AccessStore, Error, PAGE_ROWS_MAX, RowsAfter};
use redis::{Cmd, FromRedisValue, cmd};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::fail::LinkError;
use crate::link::Link;
use crate::spec::RedisServer;

/// Longest time for a record, with a connection if there is none: every call of somebody with a session waits as long while the server is
/// away. An answer takes less than a millisecond on the same network.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long after a failure only one call tries whether it is there again, and all others fail at once: each would hold a thread for
/// [`ANSWER_MAX`] otherwise, and those are shared with everything else.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// Connections: each has one call at a time.
const LINKS: usize = 8;
/// How much longer than it counts a row is kept. Its end is judged by whoever reads it, so that a clock of the server that goes some minutes
/// ahead ends nothing early.
const KEPT_LONGER: Duration = Duration::from_secs(10 * 60);

/// Puts `ARGV[2]` in the place of the row whose record is `ARGV[1]`, or of none where that is empty, and enters its key `ARGV[4]` in two
/// indexes, which live as long as what lives longest in them. `ARGV[3]`: when it is over, in milliseconds of Unix time, or nothing; `ARGV[5]`:
/// how much longer it is kept, and how long it is in any case.
const SWAP: &str = r"
local found = redis.call('GET', KEYS[1])
local stands = found and cjson.decode(found).record or ''
if stands ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local goes = math.max(tonumber(ARGV[3]), now) + tonumber(ARGV[5])
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', string.format('%.0f', goes))
end
local left = redis.call('PTTL', KEYS[1])
for at = 2, 3 do
  local lives = redis.call('PTTL', KEYS[at])
  redis.call('ZADD', KEYS[at], 0, ARGV[4])
  if left == -1 then
    redis.call('PERSIST', KEYS[at])
  elseif lives ~= -1 and lives < left then
    redis.call('PEXPIRE', KEYS[at], left)
  end
end
return 1
";

/// Records at a server. Connects when it is first asked.
///
/// # Invariants
/// Its methods block, and are called where that is allowed: not by a task of the runtime.
pub struct RedisAccess {
    server: RedisServer,
    /// What all keys begin with, and by which a cluster finds the place of all.
    place: String,
    runtime: Handle,
    /// Taken out for a call, so that one that was broken off leaves none behind it.
    links: [Mutex<Option<Link>>; LINKS],
    calls: AtomicUsize,
    away: StdMutex<Option<Away>>,
}

/// That it did not answer, or not what it was asked.
struct Away {
    tried: Instant,
    why: String,
    /// It may be back in a moment, and until then each call might wait. Others it refuses at once, and each for itself.
    passes: bool,
}

impl std::fmt::Debug for RedisAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisAccess").field("url", &self.server.url).finish_non_exhaustive()
    }
}

impl RedisAccess {
    /// At a server, apart from whoever has another namespace there. `runtime` drives the connections.
    pub fn new(server: RedisServer, namespace: &str, runtime: Handle) -> Self {
        let (links, calls, away) = Default::default();
        let place = format!("aap:{{{namespace}}}");
        Self { server, place, runtime, links, calls, away }
    }

    /// Whether it answered when it was asked last.
    pub fn is_there(&self) -> bool {
        self.away().is_none()
    }

    fn ask<T: FromRedisValue>(&self, doing: &'static str, command: &Cmd) -> Result<T, Error> {
        if let Some(why) = self.is_known_to_be_away() {
            return Err(Error::Server { doing, source: why.into() });
        }
        let asked = self.runtime.block_on(async { timeout(ANSWER_MAX, self.call(command)).await });
        let answer = asked.unwrap_or(Err(LinkError::Late(ANSWER_MAX)));
        let why = answer.as_ref().err().map(|error| {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        });
        let passes = answer.as_ref().is_err_and(LinkError::is_away);
        let away = why.clone().map(|why| Away { tried: Instant::now(), why, passes });
        match (std::mem::replace(&mut *self.away(), away), why) {
            (None, Some(cause)) => {
                warn!(url = self.server.url, cause, "records of access cannot be had from Redis");
            }
            (Some(_), None) => info!(url = self.server.url, "records of access are had from Redis again"),
            _ => {}
        }
        answer.map_err(|source| Error::Server { doing, source: source.into() })
    }

    /// Why it did not answer just now. Whoever is told nothing asks it, and the others need not wait for that.
    fn is_known_to_be_away(&self) -> Option<String> {
        let mut away = self.away();
        let away = away.as_mut()?;
        if away.passes && away.tried.elapsed() < ASKED_AGAIN {
            return Some(away.why.clone());
        }
        away.tried = Instant::now();
        None
    }

    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        // All of it is in one place, and one name of it leads there: that of each record would be remembered.
        let key = &self.place;
        let at = self.calls.fetch_add(1, Ordering::Relaxed) % LINKS;
        let mut slot = self.links[at].lock().await;
        if let Some(mut link) = slot.take() {
            match link.call(key, command).await {
                Ok(answer) => {
                    *slot = Some(link);
                    return Ok(answer);
                }
                // The server was started anew since then: once more, on a new line. What is asked may be asked twice.
                Err(error) if error.is_away() => {}
                Err(error) => return Err(error),
            }
        }
        let mut link = Link::to(&self.server).await?;
        let answer = link.call(key, command).await?;
        *slot = Some(link);
        Ok(answer)
    }

    fn name(&self, kind: AccessKind, key: &str) -> String {
        format!("{}:{}:{key}", self.place, kind.as_str())
    }

    fn index(&self, kind: AccessKind, owner: Option<&str>) -> String {
        match owner {
            Some(owner) => format!("{}:{}-of:{owner}", self.place, kind.as_str()),
            None => format!("{}:{}-all", self.place, kind.as_str()),
        }
    }

    /// The next keys of an index, with what stands there now.
    fn page(
        &self,
        kind: AccessKind,
        which: RowsAfter<'_>,
    ) -> Result<Vec<(String, Option<AccessRow>)>, Error> {
        const DOING: &str = "list records of access";
        let index = self.index(kind, which.owner);
        let from = if which.after.is_empty() { "-".to_owned() } else { format!("({}", which.after) };
        let mut command = cmd("ZRANGEBYLEX");
        command.arg(&index).arg(from).arg("+").arg("LIMIT").arg(0).arg(which.limit());
        let keys: Vec<String> = self.ask(DOING, &command)?;
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let names: Vec<String> = keys.iter().map(|key| self.name(kind, key)).collect();
        let texts: Vec<Option<String>> = self.ask(DOING, cmd("MGET").arg(names))?;
        let rows = keys.into_iter().zip(texts).map(|(key, text)| {
            let row = text.map(|text| read(kind, &key, &text)).transpose()?;
            let is_theirs = |row: &AccessRow| which.owner.is_none_or(|owner| row.owner == owner);
            Ok((key, row.filter(is_theirs)))
        });
        rows.collect()
    }

    /// Takes keys out of an index that name nothing there any more.
    fn take_out(&self, kind: AccessKind, owner: Option<&str>, keys: &[&String]) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let index = self.index(kind, owner);
        self.ask("list records of access", cmd("ZREM").arg(&index).arg(keys))
    }

    fn delete(&self, kind: AccessKind, keys: &[&String]) -> Result<u64, Error> {
        if keys.is_empty() {
            return Ok(0);
        }
        let names: Vec<String> = keys.iter().map(|key| self.name(kind, key)).collect();
        self.ask("delete records of access", cmd("DEL").arg(names))
    }
}

/// The error names the record and never repeats it: it holds hashes.
fn read(kind: AccessKind, key: &str, text: &str) -> Result<AccessRow, Error> {
    serde_json::from_str(text).map_err(|_| Error::Unreadable(format!("the {} {key}", kind.as_str())))
}

impl AccessStore for RedisAccess {
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error> {
        let name = self.name(kind, key);
        let text: Option<String> = self.ask("read a record of access", cmd("GET").arg(&name))?;
        text.map(|text| read(kind, key, &text)).transpose()
    }

    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error> {
        let (mut rows, mut after) = (vec![], which.after.to_owned());
        while rows.len() < which.limit() {
            let limit = which.limit() - rows.len();
            let page = self.page(kind, RowsAfter { after: &after, limit, ..which })?;
            let gone: Vec<&String> =
                page.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| key).collect();
            self.take_out(kind, which.owner, &gone)?;
            let is_last = page.len() < limit;
            page.last().map(|(key, _)| key.as_str()).unwrap_or_default().clone_into(&mut after);
            rows.extend(page.into_iter().filter_map(|(_, row)| row));
            if is_last {
                break;
            }
        }
        Ok(rows)
    }

    fn swap_access_row(
        &self,
        kind: AccessKind,
        before: Option<&str>,
        row: &AccessRow,
    ) -> Result<bool, Error> {
        let name = self.name(kind, &row.key);
        let text = serde_json::to_string(row).expect("texts and numbers are JSON");
        let over_ms = row.expires_us.map(|expires_us| (expires_us / 1_000).to_string()).unwrap_or_default();
        let indexes = [self.index(kind, Some(&row.owner)), self.index(kind, None)];
        let kept_ms = KEPT_LONGER.as_secs() * 1_000;
        let mut command = cmd("EVAL");
        command.arg(SWAP).arg(3).arg(&name).arg(&indexes).arg(before.unwrap_or_default());
        command.arg(text).arg(over_ms).arg(&row.key).arg(kept_ms);
        self.ask("change a record of access", &command)
    }

    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error> {
        Ok(self.delete(kind, &[&key.to_owned()])? > 0)
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        let mut deleted = 0;
        loop {
            let first = RowsAfter { owner: Some(owner), after: "", limit: PAGE_ROWS_MAX };
            let rows = self.access_rows(kind, first)?;
            let keys: Vec<&String> = rows.iter().map(|row| &row.key).collect();
            deleted += self.delete(kind, &keys)?;
            if keys.len() < PAGE_ROWS_MAX {
                return Ok(deleted);
            }
        }
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        let mut forgotten = 0;
        for kind in AccessKind::ALL {
            let mut after = String::new();
            loop {
                // Listing takes out what names nothing.
                let rows =
                    self.access_rows(kind, RowsAfter { owner: None, after: &after, limit: PAGE_ROWS_MAX })?;
                let is_over =
                    |row: &&AccessRow| row.expires_us.is_some_and(|expires_us| expires_us <= now_us);
                let over: Vec<&String> = rows.iter().filter(is_over).map(|row| &row.key).collect();
                forgotten += self.delete(kind, &over)?;
                let Some(last) = rows.last().filter(|_| rows.len() == PAGE_ROWS_MAX) else { break };
                last.key.clone_into(&mut after);
            }
        }
        Ok(forgotten)
    }
}
