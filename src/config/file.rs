//! What a configuration file says, before anything is resolved: assembled from
//! the rooms' own types. Nothing here reads a file or knows a default that a
//! room owns.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::connection::LifetimeConfig;
use crate::credential::CredentialConfig;
use crate::identity::IdentityConfig;
use crate::listener::ServerConfig;
use crate::policy::{CodesConfig, LimitsConfig, OriginsConfig, Reject, RouteLimitsConfig};
use crate::revocation::RevocationConfig;
use crate::secret::SecretConfig;
use crate::telemetry::LogConfig;
use crate::unit::OneOrMany;
use crate::upstream::UpstreamConfig;
use crate::verifier::VerifierConfig;

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Where sockgate listens.
    pub server: ServerConfig,
    /// The operator's listener.
    #[serde(default)]
    pub admin: AdminConfig,
    /// What is logged.
    #[serde(default)]
    pub log: LogConfig,
    /// What a client may use up.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// What the upstream is told about a client.
    #[serde(default)]
    pub identity: IdentityConfig,
    /// How long a revocation counts, and who else is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<RevocationConfig>,
    /// By name: who a credential belongs to.
    #[serde(default)]
    pub verifiers: BTreeMap<String, VerifierConfig>,
    /// By name: which credentials, origins, rules and lifetimes.
    #[serde(default)]
    pub policies: BTreeMap<String, PolicyConfig>,
    /// Host and path → policy and upstream; the first match wins.
    pub routes: Vec<RouteConfig>,
}

/// The `admin` section.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where /metrics, /healthz and /readyz are served; never on the main port.
    #[serde(default = "admin_listen")]
    pub listen: String,
    /// Guards everything else on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretConfig>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { listen: admin_listen(), token: None }
    }
}

fn admin_listen() -> String {
    "127.0.0.1:9090".to_owned()
}

/// One policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// In order; the first one present decides, valid or not.
    pub credentials: Vec<CredentialConfig>,
    /// Whether a client without any credential is admitted, with subject "".
    pub anonymous: bool,
    /// `same`, `any`, or a list of origins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<OriginsConfig>,
    /// CEL → bool; an error refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<String>,
    /// How a refused upgrade is answered.
    pub reject: Reject,
    /// Close codes in place of 4001, 4002 and 4003.
    pub codes: CodesConfig,
    /// CEL: what a refused client is sent before the Close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_message: Option<String>,
    /// CEL: what an admitted client is sent before any upstream frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_message: Option<String>,
    /// How long a live connection may stay.
    pub lifetime: LifetimeConfig,
}

/// One route.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Label in metrics and logs; by default host and path as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Exact host, or `*.example.com` for exactly one label more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Exact, or ending in `/*`; one or a list.
    pub path: OneOrMany<String>,
    /// The name of a policy, `public` or `deny`; none only with `backchannel_logout`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// The server behind the route; none only with `deny`, `ticket` and
    /// `backchannel_logout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamConfig>,
    /// In place of a server: the name of the verifier whose tickets are issued here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// In place of a server: the name of the verifier whose issuer posts logout tokens
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backchannel_logout: Option<String>,
    /// With message authentication: what sockgate may accept before the upstream is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subprotocols: Vec<String>,
    /// Replaces the global `identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityConfig>,
    /// Replaces single keys of the global `limits`.
    #[serde(default)]
    pub limits: RouteLimitsConfig,
    /// Allows a public route to an address that another route guards.
    #[serde(default)]
    pub shared_upstream: bool,
    /// Allows `origins: any` in front of a raw upstream.
    #[serde(default)]
    pub allow_any_origin: bool,
}
