//! `session`: as the file writes it.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::{MASK, SecretConfig};
use crate::unit::{OneOrMany, Span};

/// `session`: a record in a session store, or a cookie that holds the session.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// Where sessions are: `redis://…`, `rediss://…`, `unix:/path` (Redis), `sqlite:FILE`,
    /// `postgres://…`, or `cookie`.
    pub store: StoreConfig,
    /// CEL over `credential`: the Redis key, or what `$1` is bound to.
    #[serde(default = "key")]
    pub key: String,
    /// SQL with `$1`, for SQLite and PostgreSQL; more than one row refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// How the stored value reads.
    #[serde(default)]
    pub value: ValueConfig,
    /// A signature around the session id, verified before any look-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_signature: Option<CookieSignatureConfig>,
    /// How a cookie holds the session itself; with `store: cookie` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_format: Option<CookieFormatConfig>,
    /// CEL over `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// CEL over `value`: when the session ends; or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// PEM file of the authorities that may vouch for the store; the system's if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long one look-up may take.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

impl SessionConfig {
    /// The files that a change of which matters: not the database, which changes
    /// all the time.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let value = match &self.value {
            ValueConfig::Django(django) => Some(&django.django.secrets),
            ValueConfig::Named(_) | ValueConfig::Unset => None,
        };
        let signature = self.cookie_signature.as_ref().map(|signature| &signature.secrets);
        let format = self.cookie_format.as_ref().map(|format| &format.secrets);
        let secrets = [value, signature, format].into_iter().flatten().flat_map(|all| &all.0);
        let secrets = std::iter::once(&self.store.0).chain(secrets);
        secrets.filter_map(SecretConfig::file).chain(self.ca.as_deref())
    }
}

/// `store`: a URL that may hold a password, the file of a database, or `cookie`.
/// Shown by its scheme alone, but for a file.
#[derive(Clone, Hash, Deserialize)]
#[serde(transparent)]
pub struct StoreConfig(pub SecretConfig);

impl StoreConfig {
    fn shown(&self) -> Option<String> {
        let SecretConfig::Inline(written) = &self.0 else { return None };
        let text = std::str::from_utf8(written.expose()).ok()?;
        if text == "cookie" || text.starts_with("sqlite:") {
            return Some(text.to_owned());
        }
        let known = ["redis", "rediss", "redis+unix", "unix", "postgres", "postgresql"];
        let scheme = text.split(':').next().filter(|scheme| known.contains(scheme))?;
        Some(format!("{scheme}:{MASK}"))
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shown() {
            Some(text) => formatter.write_str(&text),
            None => self.0.fmt(formatter),
        }
    }
}

impl Serialize for StoreConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shown() {
            Some(text) => serializer.serialize_str(&text),
            None => self.0.serialize(serializer),
        }
    }
}

impl JsonSchema for StoreConfig {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SessionStore".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<SecretConfig>()
    }
}

/// `value`: how a stored value reads.
#[derive(Clone, Debug, Default, Hash, Serialize)]
#[serde(untagged)]
pub enum ValueConfig {
    /// By its name: `json`, `string`, `hash`.
    Named(ValueFormat),
    /// `{django: {secrets}}`.
    Django(DjangoValueConfig),
    /// Not written: `json`, or the row of a query.
    #[default]
    #[serde(rename = "json")]
    Unset,
}

/// The formats that need nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueFormat {
    /// A JSON object; with SQL, the row.
    Json,
    /// The whole value is text: the subject.
    String,
    /// A hash of Redis: its fields.
    Hash,
}

/// `{django: {secrets}}`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DjangoValueConfig {
    /// Session data as Django signs it; with SQL, the column `session_data`.
    pub django: SecretsConfig,
}

/// `{secrets}`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretsConfig {
    /// One secret, or a list for rotation.
    pub secrets: OneOrMany<SecretConfig>,
}

// By hand: serde's untagged enums lose the path and the cause of an error.
impl<'de> Deserialize<'de> for ValueConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = ValueConfig;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("json, string, hash or {django: {secrets: …}}")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<ValueConfig, E> {
                match word {
                    "json" => Ok(ValueConfig::Named(ValueFormat::Json)),
                    "string" => Ok(ValueConfig::Named(ValueFormat::String)),
                    "hash" => Ok(ValueConfig::Named(ValueFormat::Hash)),
                    "django" => Err(E::custom(
                        "Django signs its values: write {django: {secrets: …}} with its SECRET_KEY",
                    )),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueConfig, A::Error> {
                DjangoValueConfig::deserialize(MapAccessDeserializer::new(map))
                    .map(ValueConfig::Django)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for ValueConfig {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SessionValue".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let named = generator.subschema_for::<ValueFormat>();
        let django = generator.subschema_for::<DjangoValueConfig>();
        json_schema!({ "anyOf": [named, django], "default": "json" })
    }
}

/// `cookie_signature`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CookieSignatureConfig {
    /// How the id is signed.
    pub format: SignatureFormat,
    /// One secret, or a list for rotation.
    pub secrets: OneOrMany<SecretConfig>,
}

/// The signatures around a session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignatureFormat {
    /// `s:` id `.` HMAC-SHA256: express-session, cookie-parser.
    Express,
}

/// `cookie_format`.
#[derive(Clone, Debug, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CookieFormatConfig {
    /// Whose cookie it is.
    pub format: CookieFormat,
    /// One secret, or a list for rotation.
    #[serde(default)]
    pub secrets: OneOrMany<SecretConfig>,
    /// Flask and Django: what the framework calls the salt; its own default if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// Flask and Django: how old a cookie may be; 31d and 14d if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// The frameworks whose cookie holds the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CookieFormat {
    /// Flask's own session.
    Flask,
    /// Django's `signed_cookies`.
    Django,
    /// `cookie-session`, with a second cookie that signs it.
    Express,
}

fn key() -> String {
    "credential".to_owned()
}

fn timeout() -> Span {
    Span::secs(3)
}
