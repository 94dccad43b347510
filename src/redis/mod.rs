//! A connection to Redis (RESP2): opened when it is first needed, shared by
//! everybody who asks, opened anew when it is gone.
//!
//! What a command means is for those who ask. This room bounds it: in time, and
//! in what is read of an answer. An error never holds anything of the URL, a key
//! or a value.

mod bound;
mod channel;
mod url;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo};
pub use ::redis::{Cmd, Pipeline, Value, cmd, pipe};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::bound::{Bounded, bounded};
pub use self::channel::Channel;
pub use self::url::UrlError;
use self::url::{Address, Location};
use crate::dial::{self, FirstWord};
use crate::secret::Secret;
use crate::stream::Stream;
use crate::tls::{self, ClientFiles, TlsError};

/// The largest answer that is read, in bytes as on the wire.
const ANSWER_BYTES: usize = 1 << 20;

/// How a Redis is reached, beside its URL.
#[derive(Clone, Debug)]
pub struct Options {
    /// The authorities of `rediss:`; the system's if none.
    pub ca: Option<PathBuf>,
    /// How long a question may take, connecting included.
    pub timeout: Duration,
}

/// Why a Redis cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL is not one.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Authorities without TLS.
    #[error("`ca` has no effect without TLS: write rediss://")]
    CaWithoutTls,
}

/// Why there is no answer. None of these says anything about the key, but for an
/// answer that is too large.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// It cannot be connected to.
    #[error("cannot connect to Redis: {0}")]
    Unreachable(io::ErrorKind),
    /// It was not done in time.
    #[error("Redis does not answer in time")]
    TimedOut,
    /// The connection ended, or what came is no RESP.
    #[error("the connection to Redis broke: {0}")]
    Broken(io::ErrorKind),
    /// The answer to this very question is too large to be read.
    #[error("the answer of Redis is too large")]
    TooLarge,
    /// Redis refuses: the code of its error, such as `NOAUTH` or `WRONGTYPE`.
    #[error("Redis refuses: {0}")]
    Refused(Box<str>),
}

/// One Redis server, or what stands in for one.
pub struct Redis {
    location: Location,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    timeout: Duration,
    /// The connection; whoever finds none dials while the others wait.
    live: Mutex<Option<Arc<Live>>>,
}

/// An open connection; it ends with the last who holds it.
struct Live {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    /// Whether it broke on an answer that was too large, whoever asked.
    too_large: Arc<AtomicBool>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Redis {
    /// The Redis at `url`: `redis://[user][:password@]host[:port][/db]`,
    /// `rediss://…` with TLS, `unix:/path[?db=…&user=…&password=…]`. Opens nothing.
    ///
    /// # Errors
    /// [`SetupError`]; holds nothing of the URL.
    pub fn new(url: &Secret, options: &Options) -> Result<Redis, SetupError> {
        let location = Location::parse(url.expose())?;
        let tls = match &location.address {
            Address::Tcp { host, tls: true, .. } => {
                let name = ServerName::try_from(host.clone()).map_err(|_| UrlError::Host)?;
                let files = ClientFiles { ca: options.ca.clone(), identity: None };
                let mut config = ClientConfig::clone(&tls::client(&files)?.config);
                config.alpn_protocols.clear();
                Some((Arc::new(config), name))
            }
            Address::Tcp { tls: false, .. } | Address::Unix(_) if options.ca.is_some() => {
                return Err(SetupError::CaWithoutTls);
            }
            Address::Tcp { tls: false, .. } | Address::Unix(_) => None,
        };
        Ok(Redis { location, tls, timeout: options.timeout, live: Mutex::new(None) })
    }

    /// Sends the commands of `pipeline` in one piece and gives one answer for
    /// each. If the connection breaks meanwhile, they are sent once more on a new
    /// one: a command may have been carried out twice. If it breaks on an answer that
    /// is too large, each who waited asks on a connection of their own, which shows
    /// whose it was.
    ///
    /// # Errors
    /// [`RedisError`]; also if Redis answers one of the commands with an error.
    pub async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match tokio::time::timeout(self.timeout, self.ask_twice(pipeline)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.forget().await;
                Err(RedisError::TimedOut)
            }
        }
    }

    /// The same, but never sent twice: for commands whose second answer would be
    /// another one. A connection that has ended before is still opened anew.
    ///
    /// # Errors
    /// As [`Redis::ask`].
    pub async fn ask_once(&self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let asking = async {
            let (live, _) = self.live().await?;
            self.ask_on(&live, pipeline).await
        };
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                self.forget().await;
                Err(RedisError::TimedOut)
            }
        }
    }

    async fn ask_twice(&self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let (live, fresh) = self.live().await?;
        match self.ask_on(&live, pipeline).await {
            Err(RedisError::Broken(_)) if live.too_large.load(Ordering::Relaxed) => {
                let alone = Arc::new(self.dial().await?);
                match self.ask_on(&alone, pipeline).await {
                    Err(RedisError::Broken(_)) if alone.too_large.load(Ordering::Relaxed) => {
                        Err(RedisError::TooLarge)
                    }
                    answer => answer,
                }
            }
            Err(RedisError::Broken(_)) if !fresh => {
                let (live, _) = self.live().await?;
                self.ask_on(&live, pipeline).await
            }
            answer => answer,
        }
    }

    async fn ask_on(
        &self,
        live: &Arc<Live>,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, RedisError> {
        let mut connection = live.connection.clone();
        let count = pipeline.len();
        let answers = match connection.send_packed_commands(pipeline, 0, count).await {
            Ok(answers) if answers.len() == count => answers,
            Ok(_) => {
                self.forget_this(live).await;
                return Err(RedisError::Broken(io::ErrorKind::InvalidData));
            }
            Err(error) => {
                self.forget_this(live).await;
                return Err(broken(&error));
            }
        };
        match answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error.code()),
            _ => None,
        }) {
            Some(code) => Err(RedisError::Refused(known_code(code))),
            None => Ok(answers),
        }
    }

    /// The open connection, or a new one; and whether it is new.
    async fn live(&self) -> Result<(Arc<Live>, bool), RedisError> {
        let mut slot = self.live.lock().await;
        if let Some(live) = &*slot
            && !live.driver.is_finished()
        {
            return Ok((Arc::clone(live), false));
        }
        *slot = None;
        let live = Arc::new(self.dial().await?);
        *slot = Some(Arc::clone(&live));
        Ok((live, true))
    }

    /// After a timeout nobody knows in what state the connection is.
    async fn forget(&self) {
        // Who dials holds the lock, and there is nothing to forget yet.
        if let Ok(mut slot) = self.live.try_lock() {
            *slot = None;
        }
    }

    async fn forget_this(&self, broken: &Arc<Live>) {
        let mut slot = self.live.lock().await;
        if slot.as_ref().is_some_and(|live| Arc::ptr_eq(live, broken)) {
            *slot = None;
        }
    }

    /// Listens to `channel`, on a connection of its own.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn listen(&self, channel: &str) -> Result<Channel, RedisError> {
        let opening = async {
            // A message that is too large ends the connection, as anything odd does.
            let stream = self.stream(&Arc::default()).await?;
            Channel::open(stream, &self.login(), channel, self.timeout).await
        };
        tokio::time::timeout(self.timeout, opening).await.unwrap_or(Err(RedisError::TimedOut))
    }

    async fn dial(&self) -> Result<Live, RedisError> {
        // `ask` has the time; the crate's own half second would cut it short.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let too_large = Arc::default();
        let stream = self.stream(&too_large).await?;
        let connecting =
            MultiplexedConnection::new_with_config(&self.login(), stream, config).await;
        let (connection, driver) = connecting.map_err(|error| refused(&error))?;
        Ok(Live { connection, driver: tokio::spawn(driver), too_large })
    }

    /// A new connection, of which nothing has been said yet.
    /// `too_large` tells whether an answer was more than may be read.
    async fn stream(&self, too_large: &Arc<AtomicBool>) -> Result<Bounded, RedisError> {
        let unreachable = |error: io::Error| RedisError::Unreachable(error.kind());
        let stream = match &self.location.address {
            Address::Unix(path) => {
                Stream::Unix(UnixStream::connect(path).await.map_err(unreachable)?)
            }
            Address::Tcp { host, port, .. } => {
                let addresses = dial::resolve(host, *port).await.map_err(unreachable)?;
                let tcp = dial::connect(&addresses, FirstWord::Ours).await;
                let tcp = tcp.map_err(unreachable)?;
                match &self.tls {
                    None => Stream::Tcp(tcp),
                    Some((config, name)) => {
                        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                        let stream = connector.connect(name.clone(), tcp).await;
                        Stream::TlsClient(Box::new(stream.map_err(unreachable)?))
                    }
                }
            }
        };
        Ok(bounded(stream, ANSWER_BYTES, Arc::clone(too_large)))
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login =
            RedisConnectionInfo::default().set_skip_set_lib_name().set_db(self.location.database);
        if let Some(user) = &self.location.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.location.password {
            login = login.set_password(password);
        }
        login
    }
}

/// Why a new connection cannot be used, without the text of the error.
fn refused(error: &::redis::RedisError) -> RedisError {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) => RedisError::Refused("the login".into()),
        (_, Some(code)) => RedisError::Refused(known_code(code)),
        (_, None) => broken(error),
    }
}

/// The crate's error without its text, which may quote what was read.
fn broken(error: &::redis::RedisError) -> RedisError {
    let kind = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map_or(io::ErrorKind::ConnectionAborted, io::Error::kind);
    RedisError::Broken(kind)
}

/// `WRONGTYPE` as it is; anything that is not a code, not.
fn known_code(code: &str) -> Box<str> {
    let sound = (1..=32).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase());
    if sound { code.into() } else { "an error".into() }
}

#[cfg(test)]
mod tests;
