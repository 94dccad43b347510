//! verifier

mod config;

pub use self::config::{ApiKeysConfig, JwtConfig, SignatureAlgorithm, VerifierConfig};
