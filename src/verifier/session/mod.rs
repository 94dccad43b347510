//! `session`: the login that an application keeps for its users, found by the id
//! in the credential, or held by the credential itself.
//!
//! In this order: the signature around the id, if there is one; the record
//! ([`store`]), or the signed session ([`signed`]); whose it is; whether it still
//! lasts. The application writes, sockgate only reads.
//!
//! `identity.session` has one spelling for one session, whatever a client writes:
//! else a revocation by session would miss who writes another. Where a store would
//! take several for the same, it gives its own, or finds nothing:
//! - Redis: the key, byte for byte, without the text that `key` has around it;
//! - PostgreSQL: `$1` as the server prints a value of that type;
//! - SQLite: `$1` as bound; a number in another spelling than SQLite's is refused.

mod build;
mod config;
mod postgres;
mod redis;
mod signed;
mod sql;
mod sqlite;
mod store;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

pub(super) use self::build::build;
pub use self::config::{
    CookieFormat, CookieFormatConfig, CookieSignatureConfig, DjangoValueConfig, SecretsConfig,
    SessionConfig, SignatureFormat, StoreConfig, ValueConfig, ValueFormat,
};
use self::signed::Unsigned;
use self::signed::django::Django;
use self::signed::express::Express;
use self::signed::flask::Flask;
use self::signed::keygrip::Keygrip;
use self::store::{Record, Store};
use super::lookup::{Key, Lookups};
use super::{Credential, Occasion, Recheck, Verification, Verifier, VerifyError, timestamp};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::credential::Place;
use crate::expression::{Expression, Variables};
use crate::identity::{Identity, Method, Proof};
use crate::telemetry::{LogLevel, Telemetry};

/// Verifies sessions of one application.
struct Session {
    name: Arc<str>,
    source: Source,
    rules: Arc<Rules>,
}

/// Where a session comes from.
enum Source {
    Stored(Box<Stored>),
    Cookie(Format),
}

/// A session that a store has.
struct Stored {
    signature: Option<Express>,
    key: Expression,
    store: Arc<dyn Store>,
    lookups: Lookups,
    unending: Arc<Unending>,
    /// Whether the store could not answer the last time that it was asked.
    degraded: Arc<AtomicBool>,
}

/// A session that the cookie itself holds.
enum Format {
    Flask { flask: Flask, max_age: i64 },
    Django { django: Django, max_age: i64 },
    Keygrip(Keygrip),
}

/// What a session comes to.
struct Rules {
    verifier: Arc<str>,
    subject: Expression,
    ends: Ends,
}

/// When a session ends.
enum Ends {
    /// When its store forgets it, or its signature is too old. One that would never
    /// end is none.
    ByItself,
    /// Not before it is gone.
    Never,
    /// Then, or earlier by itself where the cookie says so.
    At(Expression),
}

/// A session before anybody has asked whose it is.
struct Found {
    value: Value,
    /// The members of the value that are bytes.
    bytes: Vec<String>,
    /// When it ends by itself.
    ends: Option<UnixSeconds>,
    /// The id in the store.
    id: Option<String>,
}

impl Session {
    async fn judge(
        &self,
        credential: &Credential<'_>,
        occasion: &Occasion<'_>,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, VerifyError> {
        match &self.source {
            Source::Stored(stored) => {
                self.look_up(stored, credential.value, occasion.again, now).await
            }
            Source::Cookie(format) => {
                let (session, max_age) = format.unsign(credential.value, occasion)?;
                format.refuse_the_future(&session, now)?;
                let ends = match (session.signed_at, max_age) {
                    (Some(at), Some(age)) => Some(at.saturating_add(age).min(timestamp::LAST)),
                    _ => None,
                };
                self.rules
                    .judge(Found { value: session.value, bytes: Vec::new(), ends, id: None }, now)
            }
        }
    }

    async fn look_up(
        &self,
        stored: &Stored,
        credential: &[u8],
        again: bool,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, VerifyError> {
        let key = stored.key(credential)?;
        let rules = Arc::clone(&self.rules);
        let store = Arc::clone(&stored.store);
        let place = Key::of(&[key.as_bytes()]);
        let degraded = Arc::clone(&stored.degraded);
        let unending = Arc::clone(&stored.unending);
        let inner = stored.key.inner(&key).to_owned();
        let look_up = || async move {
            let mut outcome = Outcome { degraded, answered: false };
            let fetched = store.fetch(&key, now).await;
            outcome.answered = !matches!(fetched, Err(VerifyError::Unavailable(_)));
            let Some(record) = fetched? else { return Err(Reason::InvalidCredential.into()) };
            let Record { id, value, bytes, ends } = record;
            if ends.is_none() && matches!(rules.ends, Ends::ByItself) {
                unending.tell(&rules.verifier);
                return Err(Reason::InvalidCredential.into());
            }
            rules.judge(Found { value, bytes, ends, id: Some(id.unwrap_or(inner)) }, now)
        };
        stored.lookups.find(place, now, again, look_up).await
    }
}

/// Sessions that no store will ever forget, and no `expires` ends: the operator is
/// told of the first after each (re)load.
#[derive(Default)]
struct Unending {
    /// Whom to tell: nobody after the first.
    telemetry: Mutex<Option<Arc<Telemetry>>>,
}

impl Unending {
    fn telemetry(&self) -> MutexGuard<'_, Option<Arc<Telemetry>>> {
        self.telemetry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, verifier: &str) {
        if let Some(telemetry) = self.telemetry().take() {
            let message = "a session in Redis has no time to live and is refused; write it with \
                           one (SET key value EX seconds), or say when it ends with `expires`, \
                           which may be `never`";
            let fields = [("verifier", Value::from(verifier))];
            telemetry.log.event(LogLevel::Warn, message, &fields);
        }
    }
}

/// Notes down whether a store has answered, also of a look-up that is cut short.
struct Outcome {
    degraded: Arc<AtomicBool>,
    answered: bool,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.degraded.store(!self.answered, Ordering::Relaxed);
    }
}

impl Stored {
    /// The key under which the store has the session of `credential`.
    fn key(&self, credential: &[u8]) -> Result<String, Reason> {
        let id = match &self.signature {
            Some(express) => express.id(credential)?,
            None => {
                std::str::from_utf8(credential).map_err(|_| Reason::MalformedCredential)?.to_owned()
            }
        };
        // No id of any framework is empty or has one of these; a database may stumble.
        if id.is_empty() || id.chars().any(char::is_control) {
            return Err(Reason::MalformedCredential);
        }
        let variables = Variables::from([("credential", Value::String(id))]);
        match self.key.evaluate(&variables) {
            Ok(Value::String(key)) if !key.is_empty() => Ok(key),
            Ok(Value::Number(number)) => Ok(number.to_string()),
            Ok(_) | Err(_) => Err(Reason::MalformedCredential),
        }
    }
}

impl Format {
    /// The session in `cookie`, and how long it lasts, in seconds.
    fn unsign(
        &self,
        cookie: &[u8],
        occasion: &Occasion<'_>,
    ) -> Result<(Unsigned, Option<i64>), Reason> {
        match self {
            Format::Flask { flask, max_age } => Ok((flask.session(cookie)?, Some(*max_age))),
            Format::Django { django, max_age } => Ok((django.session(cookie)?, Some(*max_age))),
            Format::Keygrip(keygrip) => match occasion.place {
                Place::Cookie(name) => Ok((keygrip.session(name, cookie)?, None)),
                // What is signed is the name of a cookie, too.
                Place::Query(_) | Place::Header(..) | Place::Subprotocol | Place::Message => {
                    Err(Reason::MalformedCredential)
                }
            },
        }
    }

    /// Refuses what was signed later than now, as itsdangerous does, without leeway.
    /// Django asks for the age alone.
    fn refuse_the_future(&self, session: &Unsigned, now: UnixSeconds) -> Result<(), Reason> {
        match self {
            Format::Flask { .. } if session.signed_at.is_some_and(|at| at > now) => {
                Err(Reason::NotYetValid)
            }
            Format::Flask { .. } | Format::Django { .. } | Format::Keygrip(_) => Ok(()),
        }
    }
}

impl Rules {
    fn judge(&self, found: Found, now: UnixSeconds) -> Result<Arc<Identity>, VerifyError> {
        let mut variables = Variables::from([("value", found.value)]);
        let expires = match &self.ends {
            Ends::ByItself => found.ends,
            Ends::Never => None,
            Ends::At(expression) => {
                let at = if found.bytes.is_empty() {
                    expression.evaluate(&variables)
                } else {
                    expression.evaluate(&without(&variables, &found.bytes))
                };
                let at = at.map_err(|_| Reason::InvalidCredential)?;
                let at = timestamp::read(&at).ok_or(Reason::InvalidCredential)?;
                // A record that its store keeps longer or shorter ends when it says;
                // a signature that is too old is void all the same.
                match (found.ends, &found.id) {
                    (Some(ends), None) => Some(at.min(ends)),
                    _ => Some(at),
                }
            }
        };
        if expires.is_some_and(|at| at <= now) {
            return Err(Reason::Expired.into());
        }
        let subject = self.subject.evaluate(&variables).map_err(|_| Reason::InvalidCredential)?;
        let claims = match variables.remove("value") {
            Some(Value::Object(claims)) => claims,
            _ => Map::new(),
        };
        let identity = Identity::proven(Proof {
            subject,
            method: Method::Session,
            verifier: Arc::clone(&self.verifier),
            issuer: None,
            session: found.id,
            token_id: None,
            // When the store was asked: what it said then, it may not say later.
            issued_at: Some(now),
            expires,
            leeway: 0,
            claims: Value::Object(claims).to_string().into(),
        })?;
        Ok(Arc::new(identity))
    }
}

/// The variables in which `names` of the value are null.
fn without(variables: &Variables, names: &[String]) -> Variables {
    let mut variables = variables.clone();
    if let Some(Value::Object(columns)) = variables.get_mut("value") {
        for name in names {
            columns.insert(name.clone(), Value::Null);
        }
    }
    variables
}

impl Verifier for Session {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Anything: an id has no shape.
    fn recognises(&self, _: &Credential<'_>) -> bool {
        true
    }

    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        occasion: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        Box::pin(self.judge(credential, occasion, now))
    }

    fn start(&self, telemetry: &Arc<Telemetry>) {
        if let Source::Stored(stored) = &self.source {
            *stored.unending.telemetry() = Some(Arc::clone(telemetry));
        }
    }

    fn asks(&self) -> bool {
        matches!(self.source, Source::Stored(_))
    }

    /// What a cookie holds is no different the second time.
    fn recheck(&self) -> Recheck {
        match self.source {
            Source::Stored(_) => Recheck::Credential,
            Source::Cookie(_) => Recheck::Never,
        }
    }

    fn is_degraded(&self) -> bool {
        match &self.source {
            Source::Stored(stored) => stored.degraded.load(Ordering::Relaxed),
            Source::Cookie(_) => false,
        }
    }

    fn wants_signature_cookie(&self) -> bool {
        matches!(self.source, Source::Cookie(Format::Keygrip(_)))
    }
}
