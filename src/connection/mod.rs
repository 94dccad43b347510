//! connection

mod config;

pub use self::config::{LifetimeConfig, OnExpiry};
