//! Sessions in Redis: a string or a hash under a key, whose time to live is the
//! session's unless the configuration says otherwise. Keys are bytes, and equal or
//! not: a session has one.

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
        // A value that is too large costs everybody the connection: a hash is counted
        // before it is read, a string is read up to a bound.
        if let Reading::Hash = self.reading
            && !self.has_few_fields(key).await?
        {
            return Ok(None);
        }
        // Value and end in one round trip.
        let mut pipeline = redis::pipe();
        match self.reading {
            Reading::Hash => pipeline.cmd("HGETALL").arg(key),
            Reading::Json | Reading::Text | Reading::Django(_) => {
                pipeline.cmd("GETRANGE").arg(key).arg(0).arg(READ - 1)
            }
        };
        pipeline.cmd("PTTL").arg(key);
        let Some(answers) = self.ask(&pipeline).await? else { return Ok(None) };
        let [value, redis::Value::Int(milliseconds)] = answers.as_slice() else {
            return Err(Unavailable("Redis gives an answer of another kind").into());
        };
        let ends = match milliseconds {
            // Gone, perhaps just now.
            -2 => return Ok(None),
            -1 => None,
            left => Some(now.saturating_add(left / 1000)),
        };
        Ok(Some(Record { id: None, value: self.read(value)?, bytes: Vec::new(), ends }))
    }

    /// Whether there is a hash under `key`.
    ///
    /// # Errors
    /// Also if it has more fields than are read.
    async fn has_few_fields(&self, key: &str) -> Result<bool, VerifyError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HLEN").arg(key);
        match self.ask(&pipeline).await?.as_deref() {
            None | Some([redis::Value::Int(0)]) => Ok(false),
            Some([redis::Value::Int(1..=FIELDS)]) => Ok(true),
            Some([redis::Value::Int(_)]) => Err(Reason::InvalidCredential.into()),
            Some(_) => Err(Unavailable("Redis gives an answer of another kind").into()),
        }
    }

    /// The answers; none if the key holds something of another kind.
    async fn ask(
        &self,
        pipeline: &redis::Pipeline,
    ) -> Result<Option<Vec<redis::Value>>, VerifyError> {
        match self.redis.ask(pipeline).await {
            Ok(answers) => Ok(Some(answers)),
            // A client can name any key; this is one of another kind.
            Err(RedisError::Refused(code)) if &*code == "WRONGTYPE" => Ok(None),
            // Of a string no more was asked for: what gives more is no Redis.
            Err(RedisError::TooLarge) if matches!(self.reading, Reading::Hash) => {
                Err(Reason::InvalidCredential.into())
            }
            Err(error) => Err(unavailable(&error).into()),
        }
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
/// The most fields of a hash that is read.
const FIELDS: i64 = 1 << 14;

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
        RedisError::Broken(_) | RedisError::TooLarge => {
            "the connection to Redis broke, or its answer is none of Redis"
        }
        RedisError::Refused(code) => match &**code {
            "NOAUTH" => "Redis wants a password in the URL",
            "the login" | "WRONGPASS" => "Redis refuses the user name or password of the URL",
            "NOPERM" => "the user of the URL may not read the key in Redis",
            "LOADING" => "Redis is still loading its data",
            _ => "Redis refuses the command",
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::redis::Options;
    use crate::secret::Secret;

    /// How a hash under the key is refused by a server that says `fields` to HLEN
    /// and `hash` to HGETALL; and how often it was asked for the hash.
    async fn refused(fields: i64, hash: &'static [u8]) -> (Option<VerifyError>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Secret::new(format!("redis://{}", listener.local_addr().unwrap()));
        let asked = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        let read = String::from_utf8_lossy(&buffer[..length]).into_owned();
                        let answer = if read.contains("HLEN") {
                            format!(":{fields}\r\n").into_bytes()
                        } else if read.contains("HGETALL") {
                            *counter.lock().unwrap() += 1;
                            [hash, b":-1\r\n"].concat()
                        } else {
                            b"+OK\r\n".to_vec()
                        };
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        let options = Options { ca: None, timeout: Duration::from_secs(2) };
        let redis = Redis::new(&url, &options).ok().unwrap();
        let store = RedisStore { redis, reading: Reading::Hash };
        let answer = store.record("key", 0).await;
        let asked = *asked.lock().unwrap();
        (answer.err(), asked)
    }

    #[tokio::test]
    async fn a_hash_of_too_many_fields_is_refused_before_it_is_read() {
        let rejected = VerifyError::from(Reason::InvalidCredential);
        assert_eq!(refused(70_000, b"*140000\r\n").await, (Some(rejected), 0));
        assert_eq!(refused(0, b"*0\r\n").await, (None, 0));
        assert_eq!(refused(1, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n").await, (None, 1));
    }

    #[tokio::test]
    async fn a_hash_of_few_fields_that_is_too_large_is_no_session() {
        let rejected = VerifyError::from(Reason::InvalidCredential);
        let (error, _) = refused(1, b"*2\r\n$1\r\na\r\n$9000000\r\nb").await;
        assert_eq!(error, Some(rejected));
    }
}
