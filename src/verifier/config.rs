//! `verifiers.*`: who a credential belongs to. Each has exactly one kind.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::session::SessionConfig;
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
    /// Opaque tokens, judged by the server that issued them (RFC 7662).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionConfig>,
    /// Whatever credential an endpoint of your own judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_auth: Option<ForwardAuthConfig>,
    /// The sessions of an application, in a store or in a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionConfig>,
    /// Single-use tickets, issued on a route with `ticket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<TicketConfig>,
}

impl VerifierConfig {
    /// The one kind that is written, as its key.
    ///
    /// # Errors
    /// What to say if there is none, or more than one.
    pub fn kind(&self) -> Result<&'static str, String> {
        let VerifierConfig { jwt, api_keys, session, introspection, forward_auth, ticket } = self;
        let kinds = [
            ("jwt", jwt.is_some()),
            ("api_keys", api_keys.is_some()),
            ("session", session.is_some()),
            ("introspection", introspection.is_some()),
            ("forward_auth", forward_auth.is_some()),
            ("ticket", ticket.is_some()),
        ];
        let written: Vec<&str> =
            kinds.iter().filter(|(_, written)| *written).map(|(kind, _)| *kind).collect();
        match written[..] {
            [kind] => Ok(kind),
            [] => {
                let [most @ .., (last, _)] = kinds;
                let most: Vec<&str> = most.iter().map(|(kind, _)| *kind).collect();
                Err(format!("needs exactly one kind: {} or {last}", most.join(", ")))
            }
            _ => Err(format!("has exactly one kind, but found {}", written.join(" and "))),
        }
    }

    /// Every file that is named; relative ones are relative to the configuration.
    pub fn files(&self) -> Vec<&Path> {
        let VerifierConfig { jwt, api_keys, session, introspection, forward_auth, ticket } = self;
        let mut files: Vec<&Path> = jwt.iter().flat_map(JwtConfig::files).collect();
        files.extend(api_keys.iter().map(|keys| keys.file.as_path()));
        files.extend(session.iter().flat_map(SessionConfig::files));
        if let Some(IntrospectionConfig { url, client_secret, ca, .. }) = introspection {
            files.extend([url.file(), client_secret.file(), ca.as_deref()].into_iter().flatten());
        }
        if let Some(ForwardAuthConfig { url, ca, .. }) = forward_auth {
            files.extend([url.file(), ca.as_deref()].into_iter().flatten());
        }
        files.extend(ticket.iter().flat_map(TicketConfig::files));
        files
    }

    /// Whether it takes any credential for one of its own, so that in a list nobody
    /// after it is asked.
    pub fn takes_anything(&self) -> bool {
        self.session.is_some() || self.introspection.is_some() || self.forward_auth.is_some()
    }

    /// Whether no kind is written at all.
    pub fn is_empty(&self) -> bool {
        let VerifierConfig { jwt, api_keys, session, introspection, forward_auth, ticket } = self;
        jwt.is_none()
            && api_keys.is_none()
            && session.is_none()
            && introspection.is_none()
            && forward_auth.is_none()
            && ticket.is_none()
    }
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

/// `introspection`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// The introspection endpoint.
    pub url: UrlConfig,
    /// Who we are to the endpoint.
    pub client_id: String,
    /// What we prove it with.
    pub client_secret: SecretConfig,
    /// How both are sent.
    #[serde(default)]
    pub auth: ClientAuthentication,
    /// The audiences of which `aud` must name one, or `any`; must be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<OneOrMany<String>>,
    /// How long an answer is remembered, never past the token's end; 0 = not at all.
    #[serde(default = "introspection_cache")]
    pub cache: Span,
    /// PEM file of the authorities to trust in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allows plain HTTP to another machine.
    #[serde(default)]
    pub allow_http: bool,
    /// For one whole question and answer.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

/// How a client proves itself to an authorization server (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// In `Authorization`.
    #[default]
    Basic,
    /// In the body.
    Post,
}

/// `forward_auth`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthConfig {
    /// The endpoint that judges a request by its headers.
    pub url: UrlConfig,
    /// CEL over `body` (JSON) and `headers` of the answer.
    #[serde(default = "forwarded_user")]
    pub subject: String,
    /// How long an answer is remembered, never past its end; 0 = not at all.
    #[serde(default)]
    pub cache: Span,
    /// PEM file of the authorities to trust in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allows plain HTTP to another machine.
    #[serde(default)]
    pub allow_http: bool,
    /// For one whole question and answer.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
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

fn introspection_cache() -> Span {
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

fn forwarded_user() -> String {
    r#"headers["x-forwarded-user"]"#.to_owned()
}
