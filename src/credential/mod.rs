//! credential

mod config;

pub use self::config::{
    CredentialConfig, Encoding, ForwardConfig, ForwardWord, MessageConfig, MessageFormat,
    RewriteConfig, Scheme,
};
