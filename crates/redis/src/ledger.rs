//! The keys in which a sink's position stands, and the scripts that read and write them.

use std::collections::HashMap;

use aap_sinks::{Failure, Positions, Slice};
use aap_types::{Epoch, Sequence, StreamKey};
use redis::{Cmd, Value};

use crate::fail::LinkError;
use crate::link::Link;

/// Appends the rows of one key, if the place is ours and every slice goes on where the ledger stands.
///
/// `KEYS`: stream, ledger. `ARGV`: owner, most entries or 0, number of slices; for each its field, `after` and `through`; then
/// the entries. Nothing is written before the last check, and what comes after it cannot fail halfway: the first XADD finds out
/// whether the key is a stream, and memory is looked at before a script's first write only.
const APPEND: &str = r"
local owner = redis.call('HGET', KEYS[2], 'owner')
if owner and owner ~= ARGV[1] then return {'owner', owner} end
local slices = tonumber(ARGV[3])
for slice = 1, slices do
  local at = 3 * slice + 1
  local stands = redis.call('HGET', KEYS[2], ARGV[at]) or '0'
  if stands ~= ARGV[at + 1] then return {'stands', ARGV[at], stands} end
end
for row = 3 * slices + 4, #ARGV do
  local entry = cmsgpack.unpack(ARGV[row])
  if ARGV[2] == '0' then
    redis.call('XADD', KEYS[1], '*', unpack(entry))
  else
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(entry))
  end
end
redis.call('HSET', KEYS[2], 'owner', ARGV[1])
for slice = 1, slices do
  local at = 3 * slice + 1
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 2])
end
return {'done'}
";

/// Makes us the owner of one ledger, and reads it. Who came later stays.
const TAKE: &str = r"
local owner = tonumber(redis.call('HGET', KEYS[1], 'owner') or '0')
if owner > tonumber(ARGV[1]) then return {'owner'} end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
return redis.call('HGETALL', KEYS[1])
";

const OWNER: &str = "owner";
/// Before the names of streams in the head.
const KEY: &str = "key:";

/// The ledger of a sink.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    pub(crate) uid: &'a str,
}

/// A ledger that is ours.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) owner: i64,
    /// The keys of streams that have a ledger.
    pub(crate) keys: Vec<String>,
    pub(crate) positions: Positions,
}

impl Ledger<'_> {
    fn head(&self) -> String {
        format!("aap:sink:{}", self.uid)
    }

    fn of(&self, key: &str) -> String {
        format!("aap:ledger:{}:{{{key}}}", self.uid)
    }

    /// Makes us the owner; `None` if somebody was faster.
    pub(crate) async fn take_over(&self, link: &mut Link) -> Result<Option<Held>, LinkError> {
        let head = self.head();
        let owner: i64 = link.call(&head, redis::cmd("HINCRBY").arg(&head).arg(OWNER).arg(1)).await?;
        let keys = self.keys(link).await?;
        let mut positions = Positions::new();
        for key in &keys {
            let ledger = self.of(key);
            let take = redis::cmd("EVAL").arg(TAKE).arg(1).arg(&ledger).arg(owner).to_owned();
            let found: Vec<String> = link.call(&ledger, &take).await?;
            if found.len() == 1 {
                return Ok(None);
            }
            positions.extend(read(&found));
        }
        Ok(Some(Held { owner, keys, positions }))
    }

    /// Every position, without owning it.
    pub(crate) async fn look(&self, link: &mut Link) -> Result<Positions, LinkError> {
        let mut positions = Positions::new();
        for key in self.keys(link).await? {
            let ledger = self.of(&key);
            let found: HashMap<String, String> =
                link.call(&ledger, redis::cmd("HGETALL").arg(&ledger)).await?;
            positions
                .extend(read(&found.into_iter().flat_map(|(name, value)| [name, value]).collect::<Vec<_>>()));
        }
        Ok(positions)
    }

    async fn keys(&self, link: &mut Link) -> Result<Vec<String>, LinkError> {
        let head = self.head();
        let names: Vec<String> = link.call(&head, redis::cmd("HKEYS").arg(&head)).await?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(KEY)).map(str::to_owned).collect())
    }

    /// Notes that a stream has a ledger, before it does: one that is not noted is not found.
    pub(crate) async fn note(&self, link: &mut Link, key: &str) -> Result<(), LinkError> {
        let head = self.head();
        let note = redis::cmd("HSET").arg(&head).arg(format!("{KEY}{key}")).arg(1).to_owned();
        link.call::<Value>(&head, &note).await.map(drop)
    }

    /// The command that appends entries of some slices to `key`.
    pub(crate) fn append(
        &self,
        key: &str,
        owner: i64,
        maxlen: u64,
        slices: &[&Slice],
        entries: impl Iterator<Item = Vec<u8>>,
    ) -> Cmd {
        let mut append = redis::cmd("EVAL");
        append.arg(APPEND).arg(2).arg(key).arg(self.of(key)).arg(owner).arg(maxlen).arg(slices.len());
        for slice in slices {
            append.arg(slice.key.to_string()).arg(slice.after.0).arg(slice.through.0);
        }
        for entry in entries {
            append.arg(entry);
        }
        append
    }

    /// Runs what [`Self::append`] made.
    pub(crate) async fn run(
        &self,
        link: &mut Link,
        key: &str,
        append: &Cmd,
    ) -> Result<Result<(), Failure>, LinkError> {
        let answer: Vec<String> = link.call(key, append).await?;
        let answer: Vec<&str> = answer.iter().map(String::as_str).collect();
        match answer.as_slice() {
            ["done"] => Ok(Ok(())),
            ["owner", _other] => {
                Ok(Err(Failure::moved("another instance of the sink has taken the place over")))
            }
            ["stands", of, at] => Ok(Err(Failure::moved(format!(
                "the ledger stands at {at} for {of}, and the sink believed otherwise"
            )))),
            other => Err(LinkError::Answer(other.join(" "))),
        }
    }
}

/// Names and values of a ledger.
fn read(found: &[String]) -> Positions {
    let (pairs, _) = found.as_chunks::<2>();
    let positions = pairs.iter().filter_map(|[name, value]| {
        let mut parts = name.split('/');
        let (node, epoch, stream) = (parts.next()?, parts.next()?, parts.next()?);
        let key = StreamKey {
            node: node.parse().ok()?,
            epoch: Epoch(epoch.parse().ok()?),
            stream: stream.parse().ok()?,
        };
        Some((key, Sequence(value.parse().ok()?)))
    });
    positions.collect()
}
