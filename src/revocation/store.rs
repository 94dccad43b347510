//! Revocations in Redis, for all replicas that share it.
//!
//! Two keys: the hash `PREFIXrevocations`, target → when and until when, and the
//! sorted set `PREFIXrevocations:ends`, by which what has ended is thrown out.
//! Both end with the last revocation in them. What is new is published on the
//! channel `PREFIXrevocations`. What counts once is a key of its own for a few
//! minutes, `PREFIXrevocations:once:HASH`. None holds a subject, session or token,
//! but their hashes.

use super::once::Once;
use super::set::Revocation;
use super::target::Target;
use crate::redis::{Channel, Redis, RedisError, Value, pipe};

/// How many revocations one question carries.
const BATCH: usize = 500;

/// How many one answer is asked to carry: far below what is read of one.
const PAGE: usize = 2000;

/// More pages than any set has.
const PAGES: usize = 100_000;

/// The last end that is believed, in milliseconds since the epoch: the year 9999.
const LAST: i64 = 253_402_300_799_000;

/// Stores each of `ARGV[2..]` (target, when, until) and publishes it on `ARGV[1]`,
/// unless that and more is known. The same a second time changes nothing.
const PUT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, over in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[2], over)
  redis.call('HDEL', KEYS[1], over)
end
for i = 2, #ARGV, 3 do
  local target, at, ends = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = redis.call('HGET', KEYS[1], target)
  if known then
    local was, ended = string.match(known, '^(%d+) (%d+)$')
    if was and tonumber(was) > tonumber(at) then at = was end
    if ended and tonumber(ended) > tonumber(ends) then ends = ended end
  end
  local written = at .. ' ' .. ends
  if known ~= written then
    redis.call('HSET', KEYS[1], target, written)
    redis.call('ZADD', KEYS[2], ends, target)
    redis.call('PUBLISH', ARGV[1], target .. ' ' .. written)
  end
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
if last then
  redis.call('PEXPIREAT', KEYS[1], last)
  redis.call('PEXPIREAT', KEYS[2], last)
end
";

/// The Redis that is shared.
pub(super) struct Store {
    redis: Redis,
    name: String,
}

impl Store {
    /// In `redis`, with names that begin with `prefix`; opens nothing.
    pub(super) fn new(redis: Redis, prefix: &str) -> Store {
        Store { redis, name: format!("{prefix}revocations") }
    }

    /// Stores `revocations` and tells everybody of those that are new.
    pub(super) async fn put(&self, revocations: &[Revocation]) -> Result<(), RedisError> {
        for batch in revocations.chunks(BATCH) {
            let mut put = pipe();
            let command = put.cmd("EVAL").arg(PUT).arg(2);
            command.arg(&self.name).arg(format!("{}:ends", self.name)).arg(&self.name);
            for Revocation { target, at, until } in batch {
                command.arg(target.to_string()).arg(*at).arg(*until);
            }
            self.redis.ask(&put).await?;
        }
        Ok(())
    }

    /// Has `found` see every revocation that is stored, some perhaps twice.
    pub(super) async fn load(&self, mut found: impl FnMut(Revocation)) -> Result<(), RedisError> {
        let odd = || RedisError::Broken(std::io::ErrorKind::InvalidData);
        let mut cursor = b"0".to_vec();
        // A scan shows all that is there from its beginning to its end.
        for _ in 0..PAGES {
            let mut scan = pipe();
            scan.cmd("HSCAN").arg(&self.name).arg(&cursor).arg("COUNT").arg(PAGE);
            let answers = self.redis.ask(&scan).await?;
            let Some(Value::Array(page)) = answers.into_iter().next() else {
                return Err(odd());
            };
            let Ok([Value::BulkString(next), Value::Array(pairs)]) = <[Value; 2]>::try_from(page)
            else {
                return Err(odd());
            };
            // What cannot be read was not written by any sockgate.
            pairs.chunks_exact(2).filter_map(read_pair).for_each(&mut found);
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
        Err(odd())
    }

    /// Those of `targets` that are revoked; writes nothing.
    pub(super) async fn find(&self, targets: &[Target]) -> Result<Vec<Revocation>, RedisError> {
        let mut get = pipe();
        let command = get.cmd("HMGET").arg(&self.name);
        for target in targets {
            command.arg(target.to_string());
        }
        let answers = self.redis.ask(&get).await?;
        let Some(Value::Array(times)) = answers.into_iter().next() else {
            return Err(RedisError::Broken(std::io::ErrorKind::InvalidData));
        };
        let found = targets.iter().zip(times).filter_map(|(target, times)| {
            let Value::BulkString(times) = times else { return None };
            read(&target.to_string(), std::str::from_utf8(&times).ok()?)
        });
        Ok(found.collect())
    }

    /// Whether no replica has seen `once`; from now on one has.
    pub(super) async fn see(&self, once: &Once, now: i64) -> Result<bool, RedisError> {
        let mut set = pipe();
        let left = once.until.saturating_sub(now).max(1);
        set.cmd("SET").arg(self.key_of(once)).arg(1).arg("NX").arg("PX").arg(left);
        // Asked twice it would have seen itself.
        let answers = self.redis.ask_once(&set).await?;
        Ok(answers.first() != Some(&Value::Nil))
    }

    /// Has all replicas forget `once`.
    pub(super) async fn forget(&self, once: &Once) -> Result<(), RedisError> {
        let mut delete = pipe();
        delete.cmd("DEL").arg(self.key_of(once));
        self.redis.ask(&delete).await.map(|_| ())
    }

    fn key_of(&self, once: &Once) -> String {
        format!("{}:once:{}", self.name, once.hex())
    }

    /// Listens to what is published.
    pub(super) async fn listen(&self) -> Result<Channel, RedisError> {
        self.redis.listen(&self.name).await
    }
}

fn read_pair(pair: &[Value]) -> Option<Revocation> {
    let [Value::BulkString(target), Value::BulkString(times)] = pair else { return None };
    read(std::str::from_utf8(target).ok()?, std::str::from_utf8(times).ok()?)
}

/// Reads a message: target, when and until when, each a blank apart.
pub(super) fn read_message(message: &[u8]) -> Option<Revocation> {
    let (target, times) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    read(target, times)
}

fn read(target: &str, times: &str) -> Option<Revocation> {
    let (at, until) = times.split_once(' ')?;
    let time = |text: &str| text.parse().ok().filter(|time| (0..=LAST).contains(time));
    Some(Revocation { target: Target::parse(target)?, at: time(at)?, until: time(until)? })
}

#[cfg(test)]
mod tests {
    use super::super::target::{Kind, Scope};
    use super::*;

    #[test]
    fn what_is_published_is_read_and_nothing_else() {
        let target = Target::new(Kind::Subject, "ada", Scope::Any);
        let message = format!("{target} 1800000000000 1800000060000");
        let read = read_message(message.as_bytes());
        let revocation = Revocation { target, at: 1_800_000_000_000, until: 1_800_000_060_000 };
        assert_eq!(read, Some(revocation));
        for bad in [
            format!("{target}"),
            format!("{target} 5"),
            format!("{target} -5 5"),
            format!("{target} 5 5 5"),
            format!("{target} 5 99999999999999999999"),
            format!("{target} 5 253402300799001"),
            "subject.any.ada 5 6".to_owned(),
            String::new(),
        ] {
            assert_eq!(read_message(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(read_message(b"\xff 5 6"), None);
    }
}
