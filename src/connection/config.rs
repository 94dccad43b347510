//! `policies.*.lifetime`: how long a live connection may stay, and how its login
//! is renewed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::{OneOrMany, Span};

/// The `lifetime` section of a policy.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LifetimeConfig {
    /// What happens when the credential expires.
    pub on_expiry: OnExpiry,
    /// How long after expiry the connection may stay, so that its login can be renewed.
    pub grace: Span,
    /// How often the verifier is asked again whether the login stands, where it would say
    /// anything new: `session` with a store, `introspection`, `forward_auth`, `api_keys`;
    /// 0 = never.
    pub recheck: Span,
    /// How long after the verifier's last yes the connection may stay if it cannot answer.
    pub recheck_stale: Span,
    /// No connection outlives this; 0 = no bound.
    pub max: Span,
    /// Which later message of the client renews its login; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshConfig>,
}

impl Default for LifetimeConfig {
    fn default() -> Self {
        LifetimeConfig {
            on_expiry: OnExpiry::default(),
            grace: Span::secs(0),
            recheck: Span::secs(30),
            recheck_stale: Span::secs(300),
            max: Span::secs(0),
            refresh: None,
        }
    }
}

/// `on_expiry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    /// Close with 4002.
    #[default]
    Close,
    /// Stay open.
    Ignore,
}

/// `refresh`: a JSON message that holds a new credential of the same identity.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshConfig {
    /// JSON Pointer (RFC 6901) → the value that must stand there.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, serde_json::Value>,
    /// JSON Pointer of the token.
    pub token: String,
    /// The verifier, or a list of them: the first that recognises the shape decides.
    pub verifier: OneOrMany<String>,
}
