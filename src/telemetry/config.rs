//! `log`: what is written, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `log` section.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `json` or `text`.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Parameter names to redact besides the built-in ones.
    pub redact: Vec<String>,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// `key=value` pairs a line.
    Text,
}

/// `log.level`, from the most to the least severe.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something that needs a person.
    Error,
    /// Something that may come to need one.
    Warn,
    /// Connections and reloads.
    #[default]
    Info,
    /// For the author of a configuration.
    Debug,
}
