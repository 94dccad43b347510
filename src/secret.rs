//! Secrets: how a file writes them, and the value that nothing can print.
//!
//! [`Secret`] has neither `Debug`, `Display` nor `Serialize`. [`SecretConfig`]
//! is what the file says; printing it shows where the secret comes from, never
//! what it is.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize as _;

/// What stands in for a secret wherever a configuration is printed.
pub const MASK: &str = "********";

/// Bytes that must not be shown. Overwritten when they are let go.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into().into_boxed_slice())
    }

    /// The bytes, for the one call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Compares in time that depends on the lengths alone.
    pub fn matches(&self, other: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, other).is_ok()
    }
}

/// A secret as written: a string, `{env: NAME}` or `{file: PATH}`.
#[derive(Clone)]
pub enum SecretConfig {
    /// Written in the file itself.
    Inline(Secret),
    /// The value of an environment variable.
    Env(String),
    /// The content of a file, without one trailing newline.
    File(PathBuf),
}

/// Why a secret has no value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or not UTF-8.
    #[error("environment variable {0} is not set")]
    Unset(String),
    /// The secret is the empty string.
    #[error("the secret is empty")]
    Empty,
    /// The secret is to be text, and is not.
    #[error("is not UTF-8 text")]
    NotText,
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file as resolved.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SecretConfig {
    /// Fetches the value; relative paths are relative to `base`.
    pub fn resolve(&self, base: &Path) -> Result<Secret, SecretError> {
        let secret = match self {
            SecretConfig::Inline(secret) => secret.clone(),
            SecretConfig::Env(name) => {
                Secret::new(std::env::var(name).map_err(|_| SecretError::Unset(name.clone()))?)
            }
            SecretConfig::File(path) => {
                let path = base.join(path);
                let mut bytes =
                    std::fs::read(&path).map_err(|source| SecretError::File { path, source })?;
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                    if bytes.last() == Some(&b'\r') {
                        bytes.pop();
                    }
                }
                Secret::new(bytes)
            }
        };
        if secret.expose().is_empty() { Err(SecretError::Empty) } else { Ok(secret) }
    }

    /// The file that the secret is read from, if it is.
    pub fn file(&self) -> Option<&Path> {
        match self {
            SecretConfig::File(path) => Some(path),
            SecretConfig::Inline(_) | SecretConfig::Env(_) => None,
        }
    }
}

impl Hash for SecretConfig {
    /// By what is written and, of a variable, by its value: so the same
    /// configuration hashes alike, and another secret does not. What a file holds
    /// is for the caller to add.
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            SecretConfig::Inline(secret) => secret.expose().hash(state),
            SecretConfig::Env(name) => (name, std::env::var_os(name)).hash(state),
            SecretConfig::File(path) => path.hash(state),
        }
    }
}

impl fmt::Debug for SecretConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretConfig::Inline(_) => formatter.write_str(MASK),
            SecretConfig::Env(name) => write!(formatter, "env {name}"),
            SecretConfig::File(path) => write!(formatter, "file {}", path.display()),
        }
    }
}

impl Serialize for SecretConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, value) = match self {
            SecretConfig::Inline(_) => return serializer.serialize_str(MASK),
            SecretConfig::Env(name) => ("env", Cow::Borrowed(name.as_str())),
            SecretConfig::File(path) => ("file", path.to_string_lossy()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(key, &value)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for SecretConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = SecretConfig;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a secret: a string, {env: NAME} or {file: PATH}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretConfig, E> {
                Ok(SecretConfig::Inline(Secret::new(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretConfig, A::Error> {
                let expected =
                    || A::Error::custom("expected exactly one of {env: NAME} or {file: PATH}");
                let secret = match map.next_key::<String>()?.as_deref() {
                    Some("env") => SecretConfig::Env(map.next_value()?),
                    Some("file") => SecretConfig::File(map.next_value()?),
                    Some(_) | None => return Err(expected()),
                };
                match map.next_key::<String>()? {
                    Some(_) => Err(expected()),
                    None => Ok(secret),
                }
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for SecretConfig {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: a string, {env: NAME} or {file: PATH}",
            "oneOf": [
                { "type": "string", "minLength": 1 },
                { "type": "object", "required": ["env"], "additionalProperties": false,
                  "properties": { "env": {
                      "description": "The name of an environment variable", "type": "string" } } },
                { "type": "object", "required": ["file"], "additionalProperties": false,
                  "properties": { "file": {
                      "description": "A file; one trailing newline is dropped", "type": "string" } } },
            ]
        })
    }
}

/// A URL that may hold a password: written as a secret is, shown without what
/// stands before its `@`, and without the values of its query.
#[derive(Clone, Hash, Deserialize)]
#[serde(transparent)]
pub struct UrlConfig(pub SecretConfig);

impl UrlConfig {
    /// Fetches the URL; relative paths are relative to `base`.
    ///
    /// # Errors
    /// As for any secret.
    pub fn resolve(&self, base: &Path) -> Result<String, SecretError> {
        let secret = self.0.resolve(base)?;
        String::from_utf8(secret.expose().to_vec()).map_err(|_| SecretError::NotText)
    }

    /// The file that it is read from, if it is.
    pub fn file(&self) -> Option<&Path> {
        self.0.file()
    }

    fn shown(&self) -> Option<String> {
        let SecretConfig::Inline(url) = &self.0 else { return None };
        std::str::from_utf8(url.expose()).ok().map(without_secrets)
    }
}

impl fmt::Debug for UrlConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shown() {
            Some(url) => formatter.write_str(&url),
            None => self.0.fmt(formatter),
        }
    }
}

impl Serialize for UrlConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shown() {
            Some(url) => serializer.serialize_str(&url),
            None => self.0.serialize(serializer),
        }
    }
}

impl JsonSchema for UrlConfig {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SecretUrl".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<SecretConfig>()
    }
}

/// `scheme://user:password@host` → `scheme://********@host`; none if there is
/// nothing to hide.
pub fn without_userinfo(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let at = authority.rfind('@')?;
    Some(format!("{scheme}://{MASK}{}", rest.get(at..)?))
}

/// `scheme://user:password@host/?name=x` → `scheme://********@host/?name=********`.
/// Which parameter is a secret is for its reader to know, so none is shown. Nor is
/// what a lenient reader may take for a password: all before the last `@`.
fn without_secrets(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    // Only in HTTP does a `?` surely end the password.
    if query.is_some_and(|query| query.contains('@')) && !scheme.starts_with("http") {
        return format!("{scheme}{MASK}");
    }
    let place = match place.rsplit_once('@') {
        Some((_, host)) if !scheme.is_empty() => format!("{MASK}@{host}"),
        Some(_) | None => place.to_owned(),
    };
    let mask = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.to_owned(),
    };
    match query {
        Some(query) => {
            let masked: Vec<String> = query.split('&').map(mask).collect();
            format!("{scheme}{place}?{}", masked.join("&"))
        }
        None => format!("{scheme}{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<SecretConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn printing_never_shows_the_value() {
        let secret = read(r#""hunter2hunter2""#).unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&secret).unwrap().contains("hunter2"));
    }

    #[test]
    fn one_trailing_newline_of_a_file_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), "abc\n\n").unwrap();
        let secret = read(r#"{"file": "s"}"#).unwrap().resolve(dir.path()).ok().unwrap();
        assert_eq!(secret.expose(), b"abc\n");
    }

    #[test]
    fn unset_and_empty_are_errors() {
        let unset = read(r#"{"env": "SOCKGATE_TEST_SURELY_UNSET"}"#).unwrap();
        assert!(matches!(unset.resolve(Path::new(".")), Err(SecretError::Unset(_))));
        assert!(matches!(read(r#""""#).unwrap().resolve(Path::new(".")), Err(SecretError::Empty)));
        assert!(read(r#"{"env": "A", "file": "b"}"#).is_err());
        assert!(read(r#"{"vault": "A"}"#).is_err());
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url = |json: &str| serde_json::from_str::<UrlConfig>(json).unwrap();
        let shown = |json: &str| serde_json::to_string(&url(json)).unwrap();
        let written = r#""https://ada:hunter2@id.example/x?y=@""#;
        assert_eq!(shown(written), r#""https://********@id.example/x?y=********""#);
        assert!(!format!("{:?}", url(written)).contains("hunter2"));
        assert_eq!(url(written).resolve(Path::new(".")).ok().unwrap(), written.trim_matches('"'));
        assert_eq!(shown(r#""https://id.example/""#), r#""https://id.example/""#);
        assert_eq!(shown(r#"{"env":"A"}"#), r#"{"env":"A"}"#);
        let socket = r#""unix:/run/redis.sock?db=1&password=hunter2&user=ada""#;
        let masked = r#""unix:/run/redis.sock?db=********&password=********&user=********""#;
        assert_eq!(shown(socket), masked);
    }

    #[test]
    fn no_value_of_a_query_is_shown_whatever_its_name_is() {
        for (written, masked) in [
            ("unix:/tmp/x.sock?pass=hunter2", "unix:/tmp/x.sock?pass=********"),
            ("unix:/tmp/x.sock?pass=a@hunter2", "********"),
            (
                "http://u:hunter2@h/jwks?token=hunter2&client_secret=hunter2=",
                "http://********@h/jwks?token=********&client_secret=********",
            ),
            ("https://h/?url=http://u:hunter2@h/", "https://h/?url=********"),
            ("https://h/?hunter2", "https://h/?********"),
            ("https://h/?a=1#hunter2", "https://h/?a=********"),
            // As its driver reads it, the first `@` ends the password.
            (
                "postgres://u:hun/ter2@h/db?sslmode=require",
                "postgres://********@h/db?sslmode=********",
            ),
            ("postgres://u:hun?ter2@h/db", "postgres://********"),
            ("sqlite:app@home.db", "sqlite:app@home.db"),
        ] {
            let url = UrlConfig(SecretConfig::Inline(Secret::new(written)));
            assert_eq!(format!("{url:?}"), masked, "{written}");
            assert_eq!(serde_json::to_value(&url).unwrap(), masked, "{written}");
        }
    }
}
