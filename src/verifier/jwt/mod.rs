//! `jwt`: signed JSON Web Tokens (RFC 7519, RFC 8725) under static keys.
//!
//! In this order: the form and the header ([`token`]), the signature ([`key`]),
//! and only then the payload ([`claims`]). So a forged token is always invalid,
//! never expired, and what an attacker writes is not even parsed beyond its
//! header. The algorithm comes from the configuration and the key; the token
//! merely has to agree. What passed all of it is remembered for a while by its
//! hash ([`cache`]).

mod build;
mod cache;
mod claims;
mod jwks;
mod key;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use serde_json::{Map, Value};

pub(super) use self::build::build;
use self::cache::{Cache, Known, LastHeader, TokenHash};
use self::claims::Rules;
pub(super) use self::claims::{Audience, Times, is_for_another_use};
use self::key::Keys;
use self::token::Token;
use super::{Credential, Occasion, Verification, Verifier};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::expression::{Expression, Variables};
use crate::identity::{Identity, Method, Proof};

/// Verifies the tokens of one issuer.
struct Jwt {
    name: Arc<str>,
    keys: Keys,
    types: token::Types,
    rules: Rules,
    subject: Expression,
    /// What passed all of these.
    cache: Cache,
    last_header: LastHeader,
}

impl Jwt {
    fn judge(&self, credential: &[u8], now: UnixSeconds) -> Result<Arc<Identity>, Reason> {
        let hash = TokenHash::of(credential);
        if let Some(known) = hash.and_then(|hash| self.cache.find(&hash)) {
            // The one thing about a token that changes.
            return self.rules.judge_times(&known.times, now).map(|()| known.identity);
        }
        let known = self.judge_unknown(credential, now)?;
        let identity = Arc::clone(&known.identity);
        if let Some(hash) = hash {
            self.cache.keep(hash, known);
        }
        Ok(identity)
    }

    fn judge_unknown(&self, credential: &[u8], now: UnixSeconds) -> Result<Known, Reason> {
        let token = Token::parse(credential)?;
        let header_text = token.header_text();
        let last = self.last_header.find(header_text);
        let is_new = last.is_none();
        let header = last.map_or_else(|| token.header(&self.types), Ok)?;
        if !self.keys.verify(&header, token.signed, token.signature) {
            return Err(Reason::InvalidCredential);
        }
        if is_new {
            self.last_header.keep(header_text, header);
        }
        let (claims, written) = token.claims().ok_or(Reason::InvalidCredential)?;
        let times = self.rules.judge(&claims, now)?;
        let (subject, claims) = self.subject(claims)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
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
        Ok(Known { identity: Arc::new(identity), times })
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
        _: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a> {
        let judged = self.judge(credential.value, now).map_err(Into::into);
        Box::pin(std::future::ready(judged))
    }
}
