//! upstream

mod config;

pub use self::config::{UpstreamConfig, UpstreamTlsConfig};
