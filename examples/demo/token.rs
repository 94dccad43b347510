//! Session cookies and short-lived tokens are the same thing here: a JWT that
//! the login service signs and sockgate verifies, with one shared secret.

use std::path::Path;

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sockgate::clock::{UnixSeconds, unix_now};
use sockgate::config::FileConfig;

use crate::users::{self, User};

/// Signs for the login service, and reads its own cookies back.
pub(crate) struct Tokens {
    sign: EncodingKey,
    verify: DecodingKey,
    validation: Validation,
    issuer: String,
    audience: String,
}

/// A token and when it ends.
#[derive(Serialize)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires: UnixSeconds,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    role: String,
    iss: String,
    aud: String,
    iat: UnixSeconds,
    exp: UnixSeconds,
}

impl Tokens {
    /// What the verifier `app` of the file expects; the secret may live in a
    /// file relative to `base`.
    pub(crate) fn of(file: &FileConfig, base: &Path) -> anyhow::Result<Tokens> {
        let jwt = file.verifiers.get("app").and_then(|verifier| verifier.jwt.as_ref());
        let jwt = jwt.context("the demo needs verifiers.app.jwt")?;
        let first = jwt.secret.as_ref().and_then(|secrets| secrets.0.first());
        let secret = first.context("the demo needs verifiers.app.jwt.secret")?.resolve(base)?;
        let issuer = jwt.issuer.clone().unwrap_or_default();
        let audiences = jwt.audience.as_ref();
        let audience = audiences.and_then(|list| list.0.first()).cloned().unwrap_or_default();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[&audience]);
        Ok(Tokens {
            sign: EncodingKey::from_secret(secret.expose()),
            verify: DecodingKey::from_secret(secret.expose()),
            validation,
            issuer,
            audience,
        })
    }

    /// A token for `user` that lasts `ttl` seconds.
    pub(crate) fn issue(
        &self,
        user: &User,
        ttl: u32,
    ) -> Result<Issued, jsonwebtoken::errors::Error> {
        let now = unix_now();
        let expires = now + UnixSeconds::from(ttl);
        let claims = Claims {
            sub: user.id.to_owned(),
            name: user.name.to_owned(),
            role: user.role.to_owned(),
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            iat: now,
            exp: expires,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign)?;
        Ok(Issued { token, expires })
    }

    /// Whose token it is and when it ends, if it is one of ours and still good.
    pub(crate) fn read(&self, token: &str) -> Option<(&'static User, UnixSeconds)> {
        let data = jsonwebtoken::decode::<Claims>(token, &self.verify, &self.validation).ok()?;
        Some((users::find(&data.claims.sub)?, data.claims.exp))
    }
}
