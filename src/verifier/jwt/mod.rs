//! `jwt`: signed JSON Web Tokens (RFC 7519, RFC 8725), under keys at hand or keys
//! that an issuer publishes ([`remote`]).
//!
//! In this order: the form and the header ([`token`]), the signature ([`key`]),
//! and only then the payload ([`claims`], [`binding`]). So a forged token is always invalid,
//! never expired, and what an attacker writes is not even parsed beyond its
//! header. The algorithm comes from the configuration and the key; the token
//! merely has to agree. What passed all of it is remembered for a while by its
//! hash ([`cache`]).

mod binding;
mod build;
mod cache;
mod claims;
mod discovery;
mod jwks;
mod key;
mod logout;
mod publisher;
mod remote;
mod schedule;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use serde_json::{Map, Value};

use self::binding::Binding;
pub(super) use self::build::build;
use self::cache::{Cache, Known, LastHeader, TokenHash};
use self::claims::Rules;
pub(super) use self::claims::{Audience, Times, is_for_another_use};
use self::key::Keys;
use self::remote::{Missed, Remote};
use self::token::{Header, Token, Types};
use super::{Credential, LoggingOut, Occasion, Verification, Verifier, VerifyError};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::expression::{Expression, Variables};
use crate::identity::{Identity, Method, Proof};
use crate::json::member;
use crate::telemetry::Telemetry;

/// Verifies the tokens of one issuer.
struct Jwt {
    name: Arc<str>,
    source: Source,
    types: Types,
    rules: Rules,
    subject: Expression,
}

/// Where keys come from.
enum Source {
    /// The configuration: they never change.
    Fixed(Box<KeySet>),
    /// The issuer.
    Remote(Remote),
}

/// Keys, and what is known because of them: so that with a key go the tokens that
/// it has signed.
struct KeySet {
    keys: Keys,
    /// What passed everything.
    cache: Cache,
    last_header: LastHeader,
}

/// Why a token is not admitted, or not yet.
enum Stopped {
    Rejected(Reason),
    /// The key that it names is not there.
    KeyMissing,
}

impl From<Reason> for Stopped {
    fn from(reason: Reason) -> Stopped {
        Stopped::Rejected(reason)
    }
}

impl KeySet {
    fn new(keys: Keys) -> KeySet {
        KeySet { keys, cache: Cache::new(), last_header: LastHeader::default() }
    }

    /// Whether one of the keys signed `token`, which `header` is of.
    fn prove(&self, header: &Header, token: &Token<'_>) -> Result<(), Stopped> {
        match self.keys.verify(header, token.signed, token.signature) {
            true => Ok(()),
            false if self.keys.misses(header) => Err(Stopped::KeyMissing),
            false => Err(Reason::InvalidCredential.into()),
        }
    }
}

impl Jwt {
    /// What `judge` says by the keys that count now; of a token that is good at best
    /// with one of `types`.
    fn by_keys<T>(
        &self,
        credential: &[u8],
        types: &Types,
        judge: impl Fn(&KeySet) -> Result<T, Stopped>,
    ) -> Result<T, Stopped> {
        match &self.source {
            Source::Fixed(set) => judge(set),
            Source::Remote(remote) => {
                let judged = match remote.current() {
                    Some(set) => judge(&set),
                    None => Err(Stopped::KeyMissing),
                };
                match judged {
                    Err(Stopped::KeyMissing) => Err(missing(remote, credential, types)),
                    Ok(_) | Err(Stopped::Rejected(_)) => judged,
                }
            }
        }
    }

    /// Judges `credential`, beside which the client has shown `certificate`.
    fn judge(
        &self,
        credential: &[u8],
        certificate: Option<&[u8]>,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, Stopped> {
        let known =
            self.by_keys(credential, &self.types, |set| self.judge_by(set, credential, now))?;
        match &known.binding {
            Some(binding) if !binding.is_met(certificate) => Err(Reason::InvalidCredential.into()),
            Some(_) | None => Ok(known.identity),
        }
    }

    fn judge_by(
        &self,
        set: &KeySet,
        credential: &[u8],
        now: UnixSeconds,
    ) -> Result<Known, Stopped> {
        let hash = TokenHash::of(credential);
        if let Some(known) = hash.and_then(|hash| set.cache.find(&hash)) {
            // The one thing about a token that changes.
            self.rules.judge_times(&known.times, now)?;
            return Ok(known);
        }
        let known = self.judge_unknown(set, credential, now)?;
        if let Some(hash) = hash {
            set.cache.keep(hash, known.clone());
        }
        Ok(known)
    }

    fn judge_unknown(
        &self,
        set: &KeySet,
        credential: &[u8],
        now: UnixSeconds,
    ) -> Result<Known, Stopped> {
        let token = Token::parse(credential)?;
        let header_text = token.header_text();
        let last = set.last_header.find(header_text);
        let is_new = last.is_none();
        let header = last.map_or_else(|| token.header(&self.types), Ok)?;
        set.prove(&header, &token)?;
        if is_new {
            set.last_header.keep(header_text, header);
        }
        let (claims, written) = token.claims().ok_or(Reason::InvalidCredential)?;
        let times = self.rules.judge(&claims, now)?;
        let binding = Binding::read(&claims)?;
        let (subject, claims) = self.subject(claims)?;
        let text = |name: &str| member(&claims, name).and_then(Value::as_str).map(str::to_owned);
        let identity = Identity::proven(Proof {
            subject,
            method: Method::Jwt,
            verifier: Arc::clone(&self.name),
            issuer: text("iss"),
            session: text("sid"),
            token_id: text("jti"),
            issued_at: times.issued_at,
            expires: times.expires,
            leeway: self.rules.leeway,
            claims: written.into(),
        })?;
        Ok(Known { identity: Arc::new(identity), times, binding })
    }

    /// The subject, and the claims back: the expression has them only on loan.
    fn subject(&self, claims: Map<String, Value>) -> Result<(Value, Map<String, Value>), Reason> {
        let mut variables = Variables::from([("claims", Value::Object(claims))]);
        let subject = self.subject.evaluate(&variables).map_err(|_| Reason::InvalidCredential)?;
        match variables.remove("claims") {
            Some(Value::Object(claims)) => Ok((subject, claims)),
            _ => Err(Reason::InvalidCredential),
        }
    }
}

/// What no key would help is told at once, whoever is down.
fn missing(remote: &Remote, credential: &[u8], types: &Types) -> Stopped {
    match Token::parse(credential).and_then(|token| token.header(types)) {
        Ok(header) if remote.takes(header.algorithm) => Stopped::KeyMissing,
        Ok(_) => Reason::InvalidCredential.into(),
        Err(reason) => reason.into(),
    }
}

/// Judges what named a key that was not there: once more when keys were fetched, and
/// again if those were on their way before it asked.
async fn judge_again<T>(
    remote: &Remote,
    judge: impl Fn() -> Result<T, Stopped>,
) -> Result<T, VerifyError> {
    let deadline = remote.patience();
    while remote.miss(deadline).await? == Missed::Fetched {
        match judge() {
            Ok(judged) => return Ok(judged),
            Err(Stopped::Rejected(reason)) => return Err(reason.into()),
            Err(Stopped::KeyMissing) => {}
        }
    }
    Err(Reason::InvalidCredential.into())
}

impl Verifier for Jwt {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Three parts, and the configured issuer, as the token itself claims.
    fn recognises(&self, credential: &Credential<'_>) -> bool {
        let Ok(token) = Token::parse(credential.value) else { return false };
        match &self.rules.issuer {
            None => true,
            Some(issuer) => token.claims().is_some_and(|(claims, _)| {
                claims.get("iss").and_then(Value::as_str) == Some(&**issuer)
            }),
        }
    }

    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        occasion: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        let judge = move || {
            let certificate = occasion.certificate.map(|shown| &**shown);
            self.judge(credential.value, certificate, now)
        };
        let judged = match (judge(), &self.source) {
            (Err(Stopped::KeyMissing), Source::Remote(remote)) => {
                return Box::pin(judge_again(remote, judge));
            }
            (Err(Stopped::KeyMissing), Source::Fixed(_)) => Err(Reason::InvalidCredential.into()),
            (Err(Stopped::Rejected(reason)), _) => Err(reason.into()),
            (Ok(identity), _) => Ok(identity),
        };
        Box::pin(std::future::ready(judged))
    }

    fn logout<'a>(&'a self, token: &'a [u8], now: UnixSeconds) -> Option<LoggingOut<'a>> {
        Some(Box::pin(self.judge_logout(token, now)))
    }

    fn asks(&self) -> bool {
        matches!(self.source, Source::Remote(_))
    }

    fn start(&self, telemetry: &Arc<Telemetry>) {
        match &self.source {
            Source::Fixed(_) => {}
            Source::Remote(remote) => remote.start(telemetry),
        }
    }

    fn retire(&self) {
        match &self.source {
            Source::Fixed(_) => {}
            Source::Remote(remote) => remote.retire(),
        }
    }

    fn is_degraded(&self) -> bool {
        match &self.source {
            Source::Fixed(_) => false,
            Source::Remote(remote) => remote.is_degraded(),
        }
    }
}
