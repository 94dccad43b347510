//! `verifiers.*`: who a credential belongs to. Each has exactly one kind.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fetch::default_timeout;
use crate::secret::{Secret, SecretConfig, UrlConfig};
use crate::unit::{OneOrMany, Span};

/// One verifier: exactly one of the kinds.
#[derive(Clone, Debug, Default, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifierConfig {
    /// JSON Web Tokens (RFC 7519), under keys at hand or keys that an issuer publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
    /// A file of hashed API keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<ApiKeysConfig>,
    /// Single-use tickets, issued on a route with `ticket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<TicketConfig>,
}

/// `jwt`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The issuer that `iss` must equal. Without a key source its keys are discovered:
    /// the URL of an OpenID provider then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The audiences of which `aud` must name one, or `any`; required with discovered
    /// keys and `jwks_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<OneOrMany<String>>,
    /// The signature algorithms that are accepted; required with `secret` and `public_key`.
    #[serde(default)]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// HMAC secret, or a list for rotation (all verify).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<OneOrMany<SecretConfig>>,
    /// PEM file of a public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PathBuf>,
    /// File of a JSON Web Key Set (RFC 7517 §5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// URL of a JSON Web Key Set, fetched again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<UrlConfig>,
    /// How far clocks may differ; at most 5m.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// Claims that must be present.
    #[serde(default = "required_claims")]
    pub required_claims: Vec<String>,
    /// The values of the `typ` header that are accepted; none = any but those of other uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typ: Option<OneOrMany<String>>,
    /// CEL over `claims`.
    #[serde(default = "subject")]
    pub subject: String,
    /// PEM file of the authorities that may vouch for the server of the keys; the
    /// system's if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allows keys to be fetched over plain http from elsewhere than loopback.
    #[serde(default)]
    pub allow_http: bool,
    /// How long one answer of the server of the keys may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How often keys are fetched again.
    #[serde(default = "refresh")]
    pub refresh: Span,
}

/// JWS algorithms (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the registered names say all there is")]
pub enum SignatureAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl SignatureAlgorithm {
    /// Every algorithm that is supported.
    pub const ALL: [SignatureAlgorithm; 12] = [
        SignatureAlgorithm::HS256,
        SignatureAlgorithm::HS384,
        SignatureAlgorithm::HS512,
        SignatureAlgorithm::RS256,
        SignatureAlgorithm::RS384,
        SignatureAlgorithm::RS512,
        SignatureAlgorithm::PS256,
        SignatureAlgorithm::PS384,
        SignatureAlgorithm::PS512,
        SignatureAlgorithm::ES256,
        SignatureAlgorithm::ES384,
        SignatureAlgorithm::EdDSA,
    ];

    /// The registered name, as `alg` holds it.
    pub fn name(self) -> &'static str {
        match self {
            SignatureAlgorithm::HS256 => "HS256",
            SignatureAlgorithm::HS384 => "HS384",
            SignatureAlgorithm::HS512 => "HS512",
            SignatureAlgorithm::RS256 => "RS256",
            SignatureAlgorithm::RS384 => "RS384",
            SignatureAlgorithm::RS512 => "RS512",
            SignatureAlgorithm::PS256 => "PS256",
            SignatureAlgorithm::PS384 => "PS384",
            SignatureAlgorithm::PS512 => "PS512",
            SignatureAlgorithm::ES256 => "ES256",
            SignatureAlgorithm::ES384 => "ES384",
            SignatureAlgorithm::EdDSA => "EdDSA",
        }
    }

    /// The algorithm of that exact name.
    pub fn named(name: &str) -> Option<SignatureAlgorithm> {
        SignatureAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// `api_keys`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeysConfig {
    /// YAML list of `{sha256, subject, claims, expires}`; see `sockgate hash-key`.
    pub file: PathBuf,
}

/// `ticket`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketConfig {
    /// Where tickets are kept: `memory`, which is this process alone, or the URL of a
    /// Redis that all replicas share.
    #[serde(default = "memory")]
    pub store: UrlConfig,
    /// How long a ticket can be used.
    #[serde(default = "ticket_ttl")]
    pub ttl: Span,
    /// PEM file of the authorities that may vouch for a `rediss:` server; the system's
    /// if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long one answer of Redis may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

impl VerifierConfig {
    /// The kinds that there are.
    pub const KINDS: [&str; 3] = ["jwt", "api_keys", "ticket"];

    /// The kinds that are written.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let VerifierConfig { jwt, api_keys, ticket } = self;
        let written = [jwt.is_some(), api_keys.is_some(), ticket.is_some()];
        VerifierConfig::KINDS.into_iter().zip(written).filter(|(_, is)| *is).map(|(kind, _)| kind)
    }

    /// Every file that is named; relative ones are relative to the configuration.
    pub fn files(&self) -> Vec<&Path> {
        let VerifierConfig { jwt, api_keys, ticket } = self;
        let jwt = jwt.iter().flat_map(JwtConfig::files);
        let ticket = ticket.iter().flat_map(TicketConfig::files);
        jwt.chain(api_keys.iter().map(|keys| keys.file.as_path())).chain(ticket).collect()
    }
}

impl TicketConfig {
    /// The files that are named.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.store.file().into_iter().chain(self.ca.as_deref())
    }

    /// Whether it is written that only this process knows them.
    pub fn is_in_memory(&self) -> bool {
        matches!(&self.store.0, SecretConfig::Inline(store) if store.expose() == MEMORY.as_bytes())
    }
}

/// `store` of tickets that only this process knows.
pub(super) const MEMORY: &str = "memory";

fn memory() -> UrlConfig {
    UrlConfig(SecretConfig::Inline(Secret::new(MEMORY)))
}

fn ticket_ttl() -> Span {
    Span::secs(30)
}

impl JwtConfig {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let secrets = self.secret.iter().flat_map(|secrets| &secrets.0);
        let files = [&self.public_key, &self.jwks_file, &self.ca];
        secrets
            .filter_map(SecretConfig::file)
            .chain(files.into_iter().filter_map(|file| file.as_deref()))
            .chain(self.jwks_url.as_ref().and_then(UrlConfig::file))
    }
}

fn refresh() -> Span {
    Span::secs(600)
}

fn leeway() -> Span {
    Span::secs(30)
}

fn required_claims() -> Vec<String> {
    vec!["exp".to_owned()]
}

fn subject() -> String {
    "claims.sub".to_owned()
}
