//! `policies.*.lifetime`: how long a live connection may stay.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::Span;

/// The `lifetime` section of a policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LifetimeConfig {
    /// What happens when the credential expires.
    pub on_expiry: OnExpiry,
    /// How long after expiry the connection may stay.
    pub grace: Span,
    /// No connection outlives this; 0 = no bound.
    pub max: Span,
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
