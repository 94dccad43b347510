//! Messages of one channel (Redis Pub/Sub), on a connection of their own: one
//! that listens can ask nothing.

use std::time::Duration;

use ::redis::aio::{PubSub, PubSubSink, PubSubStream};
use ::redis::{RedisConnectionInfo, RedisError as CrateError};
use futures_util::StreamExt as _;

use super::bound::Bounded;
use super::{RedisError, refused};

/// A channel that is listened to. Redis keeps no message for who is not there:
/// what was said before, or while the connection was gone, is never heard.
pub struct Channel {
    sink: PubSubSink,
    messages: PubSubStream,
    timeout: Duration,
}

impl Channel {
    /// Logs in on `stream` and listens to `name`; the caller has the time.
    pub(super) async fn open(
        stream: Bounded,
        login: &RedisConnectionInfo,
        name: &str,
        timeout: Duration,
    ) -> Result<Channel, RedisError> {
        let failed = |error: CrateError| refused(&error);
        let (mut sink, messages) = PubSub::new(login, stream).await.map_err(failed)?.split();
        sink.subscribe(name).await.map_err(failed)?;
        Ok(Channel { sink, messages, timeout })
    }

    /// The next message; none once the connection has ended.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.next().await?;
        Some(message.get_payload_bytes().to_vec())
    }

    /// Asks whether the connection still lives: one that nobody speaks on may be
    /// gone without a word.
    ///
    /// # Errors
    /// [`RedisError`]; no message will come then.
    pub async fn ping(&mut self) -> Result<(), RedisError> {
        let pinging = self.sink.ping::<::redis::Value>();
        match tokio::time::timeout(self.timeout, pinging).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(RedisError::TimedOut),
        }
    }
}
