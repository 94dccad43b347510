//! What an issuer says when somebody has logged out there (OpenID Connect
//! Back-Channel Logout 1.0): who, and by which verifier they had logged in here.

use std::pin::Pin;
use std::sync::Arc;

use super::Unavailable;
use crate::clock::UnixSeconds;

/// A logout token that was judged, and is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logout {
    /// The verifier that judged it: it proved the logins that it is about.
    pub verifier: Arc<str>,
    /// `iss`.
    pub issuer: Box<str>,
    /// Who.
    pub who: LoggedOut,
    /// `jti`: it counts once.
    pub token_id: Box<str>,
    /// From when on it is refused as too old, in Unix seconds.
    pub until: UnixSeconds,
}

/// Who has logged out. Has no `Debug` but of its kind: a session id is a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum LoggedOut {
    /// One login: `sid`.
    Session(Box<str>),
    /// A user, of all logins.
    Subject(Box<str>),
}

impl std::fmt::Debug for LoggedOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            LoggedOut::Session(_) => "Session",
            LoggedOut::Subject(_) => "Subject",
        })
    }
}

/// Why nobody is logged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogoutError {
    /// The token was judged, and is not good: what is wrong; nothing of it.
    #[error("{0}")]
    Rejected(&'static str),
    /// The token could not be judged.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What judging a logout token gives.
pub type LoggingOut<'a> = Pin<Box<dyn Future<Output = Result<Logout, LogoutError>> + Send + 'a>>;
