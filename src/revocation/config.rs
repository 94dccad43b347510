//! `revocation`: for how long a revocation counts, and who else is told.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret::UrlConfig;
use crate::unit::Span;

/// The `revocation` section.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RevocationConfig {
    /// URL of the Redis that all replicas share; without one this process alone
    /// knows, until it restarts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<UrlConfig>,
    /// What the names of keys and channel in Redis begin with.
    pub prefix: String,
    /// How long a revocation counts where nobody knows when the credential ends: at
    /// least as long as any login lasts.
    pub keep: Span,
    /// PEM file of the authorities that may vouch for a `rediss:` server; the system's
    /// if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long one answer of Redis may take.
    pub timeout: Span,
}

impl Default for RevocationConfig {
    fn default() -> Self {
        RevocationConfig {
            redis: None,
            prefix: "sockgate:".to_owned(),
            keep: Span::secs(30 * 24 * 3600),
            ca: None,
            timeout: Span::secs(3),
        }
    }
}

impl RevocationConfig {
    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let url = self.redis.as_ref().and_then(UrlConfig::file);
        url.into_iter().chain(self.ca.as_deref())
    }
}
