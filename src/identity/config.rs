//! `identity`: what the upstream is told.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `identity` section; a route can replace it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Header name → CEL; null, "" or a missing claim = absent.
    #[serde(default = "headers")]
    pub headers: BTreeMap<String, String>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        IdentityConfig { headers: headers() }
    }
}

fn headers() -> BTreeMap<String, String> {
    BTreeMap::from([("X-Forwarded-User".to_owned(), "identity.subject".to_owned())])
}
