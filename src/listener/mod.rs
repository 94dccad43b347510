//! listener

mod config;

pub use self::config::{ServerConfig, ServerTlsConfig};
