//! `identity`: what the upstream is told.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret::SecretConfig;
use crate::unit::{OneOrMany, Span};

/// The `identity` section; a route can replace it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Header name → CEL; null, "" or a missing claim = absent.
    #[serde(default = "headers")]
    pub headers: BTreeMap<String, String>,
    /// The same in one signed token that the upstream can verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<AssertionConfig>,
}

/// `identity.assertion`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionConfig {
    /// The header that it is sent in.
    #[serde(default = "assertion_header")]
    pub header: String,
    /// A PEM private key: EC P-256 or P-384, Ed25519, or RSA of at least 2048 bits. Of a
    /// list the first signs; all are published.
    pub key: OneOrMany<SecretConfig>,
    /// `iss`.
    #[serde(default = "assertion_issuer")]
    pub issuer: String,
    /// `aud`: who is to verify it.
    pub audience: OneOrMany<String>,
    /// How long it is valid; never longer than the login.
    #[serde(default = "assertion_ttl")]
    pub ttl: Span,
    /// The claims of the identity that it repeats, where there are such.
    #[serde(default)]
    pub claims: Vec<String>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        IdentityConfig { headers: headers(), assertion: None }
    }
}

fn headers() -> BTreeMap<String, String> {
    BTreeMap::from([("X-Forwarded-User".to_owned(), "identity.subject".to_owned())])
}

fn assertion_header() -> String {
    "X-Sockgate-Assertion".to_owned()
}

fn assertion_issuer() -> String {
    "sockgate".to_owned()
}

fn assertion_ttl() -> Span {
    Span::secs(60)
}
