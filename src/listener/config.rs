//! `server`: where sockgate listens and whom it believes.

use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::{OneOrMany, Span};

/// The `server` section.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Addresses to listen on: `host:port` or `unix:/path`; one or a list.
    pub listen: OneOrMany<String>,
    /// Terminate TLS on the TCP listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTlsConfig>,
    /// CIDRs whose X-Forwarded-For and X-Forwarded-Proto are believed.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Whether X-Forwarded-Host of a trusted proxy selects the route and feeds `origins: same`.
    #[serde(default)]
    pub trust_forwarded_host: bool,
    /// Whether trusted proxies begin each connection with a header of the PROXY protocol.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// On drain: unready at once, still admitting this long.
    #[serde(default = "drain_delay")]
    pub drain_delay: Span,
    /// Live connections are closed evenly over this time.
    #[serde(default = "drain")]
    pub drain: Span,
    /// Worker threads; 0 = the CPU quota.
    #[serde(default)]
    pub threads: usize,
}

/// `server.tls`: files are read again when they change.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTlsConfig {
    /// PEM certificate chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key of the leaf.
    pub key: PathBuf,
}

fn drain_delay() -> Span {
    Span::secs(5)
}

fn drain() -> Span {
    Span::secs(25)
}
