//! `policies.*.credentials[]`: where a credential is looked for.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::unit::OneOrMany;

/// One entry of `credentials`: exactly one of the sources, and who verifies it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialConfig {
    /// The name of a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The name of a query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The name of a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A prefix of an entry of `Sec-WebSocket-Protocol`; the rest is the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<String>,
    /// A marker entry of `Sec-WebSocket-Protocol`; the entry behind it is the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol_pair: Option<String>,
    /// The certificate of the client's TLS handshake: the field that is the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<CertificateField>,
    /// The first message; must be the last entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageConfig>,
    /// With `header`: `Bearer` (default for authorization), `Basic` or `none` (default for others).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// With `subprotocol` or `subprotocol_pair`: how the token is encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// The verifier, or a list of them: the first that recognises the shape decides.
    #[serde(default, skip_serializing_if = "is_none_named")]
    pub verifier: OneOrMany<String>,
    /// Whether the credential is passed on: `false`, `true`; for messages also `strip` and `{rewrite: CEL}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardConfig>,
    /// With `message`: whether the upstream is dialled after the login or before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial: Option<DialConfig>,
}

/// The fields of a certificate that can name its owner. It must have exactly one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateField {
    /// A URI of subjectAltName, such as a SPIFFE id.
    SanUri,
    /// A DNS name of subjectAltName.
    SanDns,
    /// An e-mail address of subjectAltName.
    SanEmail,
    /// The common name.
    Cn,
    /// The SHA-256 of the certificate, in hex.
    Sha256,
}

fn is_none_named(verifiers: &OneOrMany<String>) -> bool {
    verifiers.0.is_empty()
}

impl CredentialConfig {
    /// Whether the upstream of this login message is dialled before the login.
    pub fn dials_first(&self) -> bool {
        let server_first = |message: &MessageConfig| {
            matches!(message.format, MessageFormat::Nats | MessageFormat::Socketio)
        };
        match self.dial.or(self.message.as_ref().and_then(|message| message.dial)) {
            Some(dial) => dial == DialConfig::First,
            None => self.message.as_ref().is_some_and(server_first),
        }
    }

    /// Whether a verifier that passes the credential on sends it as `Authorization`.
    pub fn is_for_authorization(&self) -> bool {
        self.subprotocol.is_some()
            || self.subprotocol_pair.is_some()
            || self.message.is_some()
            || self.header.as_ref().is_some_and(|name| name.eq_ignore_ascii_case("authorization"))
    }
}

/// How a header carries its credential (RFC 9110 §11.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Scheme {
    /// `Bearer TOKEN` (RFC 6750 §2.1).
    Bearer,
    /// `Basic base64(user:password)` (RFC 7617).
    Basic,
    /// The whole value is the credential.
    #[serde(rename = "none")]
    None,
}

/// How a subprotocol entry encodes its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As it is.
    #[default]
    None,
    /// base64url without padding (RFC 4648 §5).
    Base64url,
}

/// `message`: the first message is the credential.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageConfig {
    /// The dialect of the message.
    #[serde(default)]
    pub format: MessageFormat,
    /// `json`: JSON Pointer (RFC 6901) → the value that must stand there.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, serde_json::Value>,
    /// JSON Pointer of the token, in place of the format's own places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The same as `dial` beside `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial: Option<DialConfig>,
}

/// The dialects of a first message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageFormat {
    /// A JSON object; `where` recognises it, `token` points into it.
    #[default]
    Json,
    /// The whole message is the token.
    Text,
    /// `connection_init` of `graphql-transport-ws` and of the older `graphql-ws`.
    Graphql,
    /// The CONNECT or STOMP frame.
    Stomp,
    /// The CONNECT packet of MQTT 3.1.1 and 5.
    Mqtt,
    /// `phx_join` of a Phoenix channel.
    Phoenix,
    /// The `connect` command of Centrifugo.
    Centrifuge,
    /// CONNECT of a NATS client.
    Nats,
    /// CONNECT of Socket.IO, in a message of Engine.IO: `40{…}`.
    Socketio,
}

/// `dial`: when the upstream of a login message is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DialConfig {
    /// Once the client has logged in.
    AfterAuth,
    /// At once, since it speaks first; it is not spoken to before the login.
    First,
}

/// `forward`: what becomes of the credential.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ForwardConfig {
    /// `false`: cut; `true`: passed on as it came.
    Whole(bool),
    /// `strip`: the message is sent on without the token.
    Named(ForwardWord),
    /// `{rewrite: CEL}`: another message is sent instead.
    Rewrite(RewriteConfig),
}

// By hand: serde's untagged enums lose the path and the cause of an error.
impl<'de> Deserialize<'de> for ForwardConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = ForwardConfig;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("false, true, strip or {rewrite: CEL}")
            }

            fn visit_bool<E: serde::de::Error>(self, whole: bool) -> Result<ForwardConfig, E> {
                Ok(ForwardConfig::Whole(whole))
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<ForwardConfig, E> {
                match word {
                    "strip" => Ok(ForwardConfig::Named(ForwardWord::Strip)),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ForwardConfig, A::Error> {
                RewriteConfig::deserialize(MapAccessDeserializer::new(map))
                    .map(ForwardConfig::Rewrite)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// The words that `forward` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardWord {
    /// Sent on without the token.
    Strip,
}

/// `{rewrite: CEL}`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewriteConfig {
    /// The message to send instead: text, or a map that is sent as JSON.
    pub rewrite: String,
}
