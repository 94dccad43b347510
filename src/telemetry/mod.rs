//! telemetry

mod config;

pub use self::config::{LogConfig, LogFormat, LogLevel};
