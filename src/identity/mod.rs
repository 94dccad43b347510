//! Who the client is, and how the upstream is told.
//!
//! An [`Identity`] is what a verifier proved about a credential. This room does
//! not prove anything and does not decide what the identity may do.

mod assertion;
mod config;
mod headers;
mod signing_key;
mod spoof;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::assertion::{Assertion, jwks};
pub use self::config::{AssertionConfig, IdentityConfig};
pub use self::headers::IdentityHeaders;
pub use self::spoof::Spoofed;
use crate::clock::UnixSeconds;
use crate::close::Reason;

/// What a verifier proved. Two identities are the same if verifier, issuer and
/// subject are.
#[derive(Clone, PartialEq)]
pub struct Identity {
    subject: Arc<str>,
    method: Method,
    verifier: Arc<str>,
    issuer: Option<Box<str>>,
    session: Option<Box<str>>,
    token_id: Option<Box<str>>,
    issued_at: Option<UnixSeconds>,
    expires: Option<UnixSeconds>,
    leeway: u32,
    /// A JSON object. It is read now and then, and kept as long as a connection:
    /// as text it is a fraction of the size.
    claims: Box<str>,
}

/// The kind of a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// None: nobody was proven.
    Anonymous,
    /// `jwt`.
    Jwt,
    /// `api_keys`.
    ApiKeys,
    /// `session`.
    Session,
    /// `introspection`.
    Introspection,
    /// `forward_auth`.
    ForwardAuth,
}

impl Method {
    /// As the configuration, CEL and the operator know it.
    pub fn label(self) -> &'static str {
        match self {
            Method::Anonymous => "anonymous",
            Method::Jwt => "jwt",
            Method::ApiKeys => "api_keys",
            Method::Session => "session",
            Method::Introspection => "introspection",
            Method::ForwardAuth => "forward_auth",
        }
    }
}

/// What a verifier hands in to have an [`Identity`] made of it.
pub struct Proof {
    /// What the verifier's `subject` expression gave: text, or an integer.
    pub subject: Value,
    /// The kind of the verifier.
    pub method: Method,
    /// The verifier's name in the configuration.
    pub verifier: Arc<str>,
    /// `iss`, where there is one.
    pub issuer: Option<String>,
    /// `sid`, or the store's session id.
    pub session: Option<String>,
    /// `jti`.
    pub token_id: Option<String>,
    /// `iat` in Unix seconds; of what another keeps, when that one was asked.
    pub issued_at: Option<UnixSeconds>,
    /// When the credential ends, in Unix seconds, before any leeway.
    pub expires: Option<UnixSeconds>,
    /// Seconds that clocks may differ; added to `expires` wherever it is judged.
    pub leeway: u32,
    /// The claims of the token, or of the key: a JSON object.
    pub claims: Box<str>,
}

impl Identity {
    /// Makes an identity of a proof. Only the `verifier` room calls this
    /// (`tests/house.rs` holds it to that).
    ///
    /// # Errors
    /// [`Reason::InvalidCredential`] if the subject is not 1–255 bytes of text
    /// without control characters or outer spaces.
    pub fn proven(proof: Proof) -> Result<Identity, Reason> {
        let subject = match proof.subject {
            Value::String(text) => text,
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => return Err(Reason::InvalidCredential),
        };
        let sound = (1..=255).contains(&subject.len())
            && subject.trim() == subject
            && !subject.chars().any(char::is_control);
        if !sound {
            return Err(Reason::InvalidCredential);
        }
        Ok(Identity {
            subject: subject.into(),
            method: proof.method,
            verifier: proof.verifier,
            issuer: proof.issuer.map(Into::into),
            session: proof.session.map(Into::into),
            token_id: proof.token_id.map(Into::into),
            issued_at: proof.issued_at,
            expires: proof.expires,
            leeway: proof.leeway,
            claims: proof.claims,
        })
    }

    /// Nobody in particular: the identity of `anonymous` and of `public`.
    pub fn anonymous() -> Identity {
        Identity {
            subject: "".into(),
            method: Method::Anonymous,
            verifier: "".into(),
            issuer: None,
            session: None,
            token_id: None,
            issued_at: None,
            expires: None,
            leeway: 0,
            claims: "{}".into(),
        }
    }

    /// Whether nobody was proven.
    pub fn is_anonymous(&self) -> bool {
        self.subject.is_empty()
    }

    /// Who; "" for the anonymous identity.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The same, for those who keep it.
    pub fn shared_subject(&self) -> &Arc<str> {
        &self.subject
    }

    /// The kind of the verifier.
    pub fn method(&self) -> &'static str {
        self.method.label()
    }

    /// The same as a value.
    pub fn kind(&self) -> Method {
        self.method
    }

    /// The name of the verifier.
    pub fn verifier(&self) -> &Arc<str> {
        &self.verifier
    }

    /// The issuer, where there is one.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// The session id, where there is one. Never logged.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// The token id, where there is one.
    pub fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }

    /// When the credential was issued, or who keeps it was asked, in Unix seconds:
    /// a revocation of the subject is about what is older.
    pub fn issued_at(&self) -> Option<UnixSeconds> {
        self.issued_at
    }

    /// When the credential ends, in Unix seconds, without leeway.
    pub fn expires(&self) -> Option<UnixSeconds> {
        self.expires
    }

    /// Seconds that clocks may differ.
    pub fn leeway(&self) -> u32 {
        self.leeway
    }

    /// When the credential ends for the gate: with leeway.
    pub fn deadline(&self) -> Option<UnixSeconds> {
        self.expires.map(|at| at.saturating_add(i64::from(self.leeway)))
    }

    /// The claims of the token, or of the key.
    pub fn claims(&self) -> Map<String, Value> {
        // A verifier has read it already.
        serde_json::from_str(&self.claims).unwrap_or_default()
    }

    /// The same as they are kept: a JSON object.
    pub fn claims_text(&self) -> &str {
        &self.claims
    }

    /// Whether `other` is the same identity: verifier, issuer and subject.
    pub fn is_same(&self, other: &Identity) -> bool {
        self.verifier == other.verifier
            && self.issuer == other.issuer
            && self.subject == other.subject
    }

    /// Whether `other` says nothing else, but for when it was issued or asked for.
    pub fn is_unchanged(&self, other: &Identity) -> bool {
        self.is_same(other)
            && self.session == other.session
            && self.token_id == other.token_id
            && self.expires == other.expires
            && self.leeway == other.leeway
            && self.claims == other.claims
    }

    /// `identity` as CEL sees it.
    pub fn variable(&self) -> Value {
        json!({
            "subject": &*self.subject,
            "session": self.session(),
            "method": self.method.label(),
            "verifier": &*self.verifier,
            "issuer": self.issuer(),
            "expires": self.expires,
            "claims": self.claims(),
        })
    }
}
