//! sockgate: an auth gate in front of any socket server.

pub mod clock;
pub mod close;
pub mod config;
pub mod connection;
pub mod credential;
pub mod expression;
pub mod handshake;
pub mod identity;
pub mod listener;
pub mod policy;
pub mod problem;
pub mod relay;
pub mod route;
pub mod secret;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod unit;
pub mod upstream;
pub mod verifier;
