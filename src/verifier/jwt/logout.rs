//! Logout tokens (OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6): signed by the
//! keys of the logins, but never one, nor the other way round.

use serde_json::{Map, Value};

use super::super::timestamp::LAST;
use super::super::{LoggedOut, Logout, LogoutError, VerifyError};
use super::claims::{LOGOUT, Times};
use super::token::{Token, Types};
use super::{Jwt, KeySet, Source, Stopped, judge_again};
use crate::clock::UnixSeconds;
use crate::close::Reason;

/// How far `iat` may be from now, in seconds.
const RECENT: i64 = 300;

/// The longest `sid`, `sub` or `jti`, in bytes.
const LONGEST: usize = 1024;

type Claims = Map<String, Value>;

impl Jwt {
    /// Judges a logout token at `now`.
    pub(super) async fn judge_logout(
        &self,
        token: &[u8],
        now: UnixSeconds,
    ) -> Result<Logout, LogoutError> {
        let judge = || self.by_keys(token, &Types::Logout, |set| signed_claims(set, token));
        let claims = match (judge(), &self.source) {
            (Ok(claims), _) => Ok(claims),
            (Err(Stopped::KeyMissing), Source::Remote(remote)) => judge_again(remote, judge).await,
            (Err(Stopped::KeyMissing), Source::Fixed(_)) => Err(Reason::InvalidCredential.into()),
            (Err(Stopped::Rejected(reason)), _) => Err(reason.into()),
        };
        match claims {
            Ok(claims) => self.read_logout(claims, now).map_err(LogoutError::Rejected),
            Err(VerifyError::Unavailable(unavailable)) => Err(unavailable.into()),
            Err(VerifyError::Rejected(Reason::MalformedCredential)) => {
                Err(LogoutError::Rejected("not a signed token"))
            }
            Err(VerifyError::Rejected(_)) => {
                Err(LogoutError::Rejected("not a logout token that a known key has signed"))
            }
        }
    }

    fn read_logout(&self, claims: Claims, now: UnixSeconds) -> Result<Logout, &'static str> {
        let issuer = text(&claims, "iss")?.ok_or("no iss")?;
        if self.rules.issuer.as_ref().is_some_and(|ours| **ours != *issuer) {
            return Err("iss is another issuer");
        }
        if !claims.contains_key("aud") || !self.rules.audience.is_met(claims.get("aud")) {
            return Err("aud is somebody else");
        }
        let until = self.judge_logout_times(&claims, now)?;
        if !claims.get("events").and_then(|events| events.get(LOGOUT)).is_some_and(Value::is_object)
        {
            return Err("events tells of no logout");
        }
        if claims.contains_key("nonce") {
            return Err("a nonce is for id tokens");
        }
        let token_id = text(&claims, "jti")?.ok_or("no jti")?;
        let (session, subject) = (text(&claims, "sid")?, text(&claims, "sub")?);
        let who = match (session, subject) {
            (Some(session), _) => LoggedOut::Session(session),
            // As the identities are called here, who may have it from another claim.
            (None, Some(_)) => match self.subject(claims) {
                Ok((Value::String(subject), _)) => LoggedOut::Subject(subject.into()),
                Ok((Value::Number(subject), _)) => LoggedOut::Subject(subject.to_string().into()),
                Ok(_) | Err(_) => return Err("no sid, and no claim that the subject is made of"),
            },
            (None, None) => return Err("neither sub nor sid"),
        };
        let verifier = self.name.clone();
        Ok(Logout { verifier, issuer, who, token_id, until })
    }

    /// From when on the token is too old.
    fn judge_logout_times(&self, claims: &Claims, now: UnixSeconds) -> Result<i64, &'static str> {
        let times = Times::read(claims).map_err(|_| "a time that is none")?;
        self.rules.judge_times(&times, now).map_err(|_| "expired, or not valid yet")?;
        let issued = times.issued_at.ok_or("no iat")?;
        if now.abs_diff(issued) > RECENT.unsigned_abs() {
            return Err("iat is more than 5 minutes from now");
        }
        Ok(issued.saturating_add(RECENT + 1).min(LAST))
    }
}

/// The claims of `token`, if one of the keys has signed it.
fn signed_claims(set: &KeySet, token: &[u8]) -> Result<Claims, Stopped> {
    let token = Token::parse(token)?;
    set.prove(&token.header(&Types::Logout)?, &token)?;
    let (claims, _) = token.claims().ok_or(Reason::InvalidCredential)?;
    Ok(claims)
}

/// The claim `name`, if it is there: text, and not too long.
fn text(claims: &Claims, name: &str) -> Result<Option<Box<str>>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if (1..=LONGEST).contains(&text.len()) => {
            Ok(Some(text.as_str().into()))
        }
        Some(_) => Err("iss, jti, sub or sid is no text, empty or too long"),
    }
}
