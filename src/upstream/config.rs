//! `routes[].upstream`: the server behind a route.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::proxy_protocol::Version;

/// An upstream: a URL, or a table with `url` and `tls`.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamConfig {
    /// `ws://`, `wss://`, `ws+unix:`, `http://`, `https://`, `http+unix:`; raw: `tcp://`,
    /// `tls://`, `unix:`.
    pub url: String,
    /// Raw: what its bytes become for the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<Frames>,
    /// Raw: the PROXY protocol, sent first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<Version>,
    /// Raw: CEL over `identity` and `request`, sent next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preamble: Option<String>,
    /// How to speak TLS to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsConfig>,
}

/// `upstream.frames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Frames {
    /// Binary messages.
    Binary,
    /// Text messages; the server speaks UTF-8.
    Text,
}

impl UpstreamConfig {
    /// The keys that only raw upstreams have, of those that are written.
    pub fn raw_keys(&self) -> impl Iterator<Item = &'static str> {
        let written = [
            ("frames", self.frames.is_some()),
            ("proxy_protocol", self.proxy_protocol.is_some()),
            ("preamble", self.preamble.is_some()),
        ];
        written.into_iter().filter_map(|(key, is_written)| is_written.then_some(key))
    }
}

/// The table form.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpstreamTable {
    /// The URL of the upstream.
    url: String,
    /// Raw upstreams: binary (default) or text messages.
    #[serde(default)]
    frames: Option<Frames>,
    /// Raw upstreams: v1 or v2, sent first.
    #[serde(default)]
    proxy_protocol: Option<Version>,
    /// Raw upstreams: CEL over `identity` and `request`, sent next.
    #[serde(default)]
    preamble: Option<String>,
    /// How to speak TLS to it.
    #[serde(default)]
    tls: Option<UpstreamTlsConfig>,
}

/// `upstream.tls`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTlsConfig {
    /// PEM file of the authorities to trust in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The name to verify, in place of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM certificate to show, with `client_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// PEM key of `client_cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for UpstreamConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> serde::de::Visitor<'de> for Written {
            type Value = UpstreamConfig;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a URL, or a table with `url` and `tls`")
            }

            fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<UpstreamConfig, E> {
                Ok(UpstreamConfig {
                    url: url.to_owned(),
                    frames: None,
                    proxy_protocol: None,
                    preamble: None,
                    tls: None,
                })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<UpstreamConfig, A::Error> {
                let table =
                    UpstreamTable::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let UpstreamTable { url, frames, proxy_protocol, preamble, tls } = table;
                Ok(UpstreamConfig { url, frames, proxy_protocol, preamble, tls })
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for UpstreamConfig {
    fn schema_name() -> Cow<'static, str> {
        "Upstream".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<UpstreamTable>();
        json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}
