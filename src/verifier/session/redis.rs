//! Sessions in Redis: a string or a hash under a key, whose time to live is the
//! session's unless the configuration says otherwise.

use serde_json::{Map, Value};

use super::super::{Unavailable, VerifyError};
use super::signed::django::Django;
use super::store::{Fetching, Record, Store, VALUE_BYTES};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::json;
use crate::redis::{self, Redis, RedisError};

/// How a value under a key reads.
pub(super) enum Reading {
    Json,
    Text,
    Hash,
    Django(Django),
}

/// Sessions in one Redis.
pub(super) struct RedisStore {
    pub(super) redis: Redis,
    pub(super) reading: Reading,
}

impl RedisStore {
    async fn record(&self, key: &str, now: UnixSeconds) -> Result<Option<Record>, VerifyError> {
        // Value and end in one round trip. A string is read up to a bound, so that
        // one that is too large costs nobody else the connection.
        let mut pipeline = redis::pipe();
        match self.reading {
            Reading::Hash => pipeline.cmd("HGETALL").arg(key),
            Reading::Json | Reading::Text | Reading::Django(_) => {
                pipeline.cmd("GETRANGE").arg(key).arg(0).arg(READ - 1)
            }
        };
        pipeline.cmd("PTTL").arg(key);
        let answers = match self.redis.ask(&pipeline).await {
            Ok(answers) => answers,
            // A client can name any key; this is one of another kind.
            Err(RedisError::Refused(code)) if &*code == "WRONGTYPE" => return Ok(None),
            Err(error) => return Err(unavailable(&error).into()),
        };
        let [value, redis::Value::Int(milliseconds)] = answers.as_slice() else {
            return Err(Unavailable("Redis gives an answer of another kind").into());
        };
        let ends = match milliseconds {
            // Gone, perhaps just now.
            -2 => return Ok(None),
            -1 => None,
            left => Some(now.saturating_add(left / 1000)),
        };
        Ok(Some(Record { value: self.read(value)?, ends }))
    }

    fn read(&self, value: &redis::Value) -> Result<Value, VerifyError> {
        let rejected = || VerifyError::from(Reason::InvalidCredential);
        if let Reading::Hash = self.reading {
            return fields(value).ok_or_else(rejected);
        }
        let redis::Value::BulkString(bytes) = value else {
            return Err(Unavailable("Redis gives an answer of another kind").into());
        };
        if bytes.len() >= READ {
            return Err(rejected());
        }
        match &self.reading {
            Reading::Json => json::parse(bytes).map_err(|_| rejected()),
            Reading::Django(django) => {
                django.session(bytes).map(|session| session.value).map_err(|_| rejected())
            }
            Reading::Text | Reading::Hash => text(bytes).map(Value::String).ok_or_else(rejected),
        }
    }
}

/// One byte more than a value may have, less what an answer has around it.
const READ: usize = VALUE_BYTES - 1024;

impl Store for RedisStore {
    fn fetch<'a>(&'a self, key: &'a str, now: UnixSeconds) -> Fetching<'a> {
        Box::pin(self.record(key, now))
    }
}

/// The fields of a hash; all of them text.
fn fields(value: &redis::Value) -> Option<Value> {
    let redis::Value::Array(items) = value else { return None };
    let mut fields = Map::new();
    for pair in items.chunks(2) {
        let [redis::Value::BulkString(name), redis::Value::BulkString(value)] = pair else {
            return None;
        };
        fields.insert(text(name)?, Value::String(text(value)?));
    }
    Some(Value::Object(fields))
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn unavailable(error: &RedisError) -> Unavailable {
    Unavailable(match error {
        RedisError::Unreachable(_) => "cannot connect to Redis",
        RedisError::TimedOut => "Redis does not answer in time",
        RedisError::Broken(_) => "the connection to Redis broke, or its answer is none of Redis",
        RedisError::Refused(code) => match &**code {
            "NOAUTH" => "Redis wants a password in the URL",
            "the login" | "WRONGPASS" => "Redis refuses the user name or password of the URL",
            "NOPERM" => "the user of the URL may not read the key in Redis",
            "LOADING" => "Redis is still loading its data",
            _ => "Redis refuses the command",
        },
    })
}
