//! `server`: where sockgate listens and whom it believes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tls::{self, ClientAuthorities, TlsError};
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
    /// PEM file of the authorities that may vouch for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// PEM file of the certificates that they have revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    #[serde(default)]
    pub client_cert_required: bool,
}

impl ServerTlsConfig {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let clients = [&self.client_ca, &self.client_crl].into_iter().flatten();
        [&self.cert, &self.key].into_iter().chain(clients).map(PathBuf::as_path)
    }

    /// What it says, read; relative files are relative to `base`.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn load(&self, base: &Path) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let clients = self.client_ca.as_ref().map(|ca| ClientAuthorities {
            ca: base.join(ca),
            crl: self.client_crl.as_ref().map(|crl| base.join(crl)),
            required: self.client_cert_required,
        });
        tls::server(&base.join(&self.cert), &base.join(&self.key), clients.as_ref())
    }
}

fn drain_delay() -> Span {
    Span::secs(5)
}

fn drain() -> Span {
    Span::secs(25)
}
