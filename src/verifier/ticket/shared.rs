//! Tickets in Redis, for all replicas that share it.
//!
//! A ticket is one key with a time to live, `sockgate:ticket:VERIFIER:ID`, whose
//! value is sealed. Issuing is a script, so that no other client comes between
//! its steps; redeeming is one GETDEL.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::config::TicketConfig;
use super::super::{Unavailable, VerifyError};
use super::sealed::{Holder, Ticket};
use super::{MOST_PER_HOLDER, Redeemed};
use crate::problem::Problem;
use crate::redis::{Options, Redis, RedisError, Value, pipe};
use crate::secret::Secret;

/// The largest sealed identity, in bytes.
const SEALED: usize = 256 << 10;

/// Puts a ticket (`KEYS[1]`) beside the others of its holder (`KEYS[2]`, a list of
/// keys, the oldest first), forgets those that are used or have ended, and drops
/// the oldest of more than `ARGV[3]`. The same a second time changes nothing.
const ISSUE: &str = "
local open = {}
for _, key in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  if key ~= KEYS[1] and redis.call('EXISTS', key) == 1 then open[#open + 1] = key end
end
while #open >= tonumber(ARGV[3]) do redis.call('DEL', table.remove(open, 1)) end
open[#open + 1] = KEYS[1]
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('RPUSH', KEYS[2], unpack(open))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return #open
";

/// The store of one verifier.
pub(super) struct Shared {
    name: Box<str>,
    redis: Redis,
    /// How long a holder's list is kept: as long as any ticket may be open.
    ttl: Duration,
    /// Whether the last question had no answer.
    down: AtomicBool,
}

impl Shared {
    /// The store at `url`; connects when it is first needed.
    pub(super) fn new(
        name: &str,
        url: String,
        config: &TicketConfig,
        base: &Path,
    ) -> Result<Shared, Problem> {
        if config.timeout.limit().is_none() {
            return Err(Problem::new("timeout", "must be more than 0"));
        }
        let ca = config.ca.as_ref().map(|ca| base.join(ca));
        let options = Options { ca, timeout: config.timeout.0 };
        let redis = Redis::new(&Secret::new(url), &options)
            .map_err(|error| Problem::new("store", format!("{error}; or write `memory`")))?;
        Ok(Shared { name: name.into(), redis, ttl: config.ttl.0, down: AtomicBool::new(false) })
    }

    /// Keeps a ticket for `open`; the eleventh of `holder` drops the oldest.
    pub(super) async fn put(
        &self,
        ticket: &Ticket,
        holder: &Holder,
        redeemed: &Redeemed,
        open: Duration,
    ) -> Result<(), VerifyError> {
        let sealed = ticket.seal(&self.name, redeemed).filter(|sealed| sealed.len() <= SEALED);
        let sealed = sealed.ok_or(Unavailable("the identity is too large for a ticket"))?;
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut issue = pipe();
        issue
            .cmd("EVAL")
            .arg(ISSUE)
            .arg(2)
            .arg(self.key(ticket))
            .arg(format!("sockgate:tickets:{}:{}", self.name, holder.text()))
            .arg(sealed)
            .arg(milliseconds(open))
            .arg(MOST_PER_HOLDER)
            .arg(milliseconds(self.ttl));
        self.noted(self.redis.ask(&issue).await)?;
        Ok(())
    }

    /// Takes a ticket out: nobody gets it again.
    pub(super) async fn take(&self, ticket: &Ticket) -> Result<Option<Redeemed>, VerifyError> {
        let mut take = pipe();
        take.cmd("GETDEL").arg(self.key(ticket));
        // Once: sent again after a connection broke, it would find nothing where
        // the first has taken the ticket out, and call a good ticket a bad one.
        let answers = self.noted(self.redis.ask_once(&take).await)?;
        match answers.into_iter().next() {
            Some(Value::Nil) => Ok(None),
            // What does not open was not put there by this ticket's issuer.
            Some(Value::BulkString(sealed)) => Ok(ticket.open(&self.name, sealed)),
            Some(_) | None => Err(Unavailable("Redis gives an odd answer").into()),
        }
    }

    /// Whether the last question had no answer.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    fn noted(&self, answer: Result<Vec<Value>, RedisError>) -> Result<Vec<Value>, VerifyError> {
        self.down.store(answer.is_err(), Ordering::Relaxed);
        answer.map_err(|error| unavailable(&error))
    }

    fn key(&self, ticket: &Ticket) -> String {
        format!("sockgate:ticket:{}:{}", self.name, ticket.id().text())
    }
}

fn unavailable(error: &RedisError) -> VerifyError {
    let why = match error {
        RedisError::Unreachable(_) => "Redis cannot be connected to",
        RedisError::TimedOut => "Redis does not answer in time",
        RedisError::Broken(_) | RedisError::TooLarge => "the connection to Redis broke",
        RedisError::Refused(_) => "Redis refuses the command",
    };
    Unavailable(why).into()
}
