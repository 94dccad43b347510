//! Reaches the backend that a permit names: WebSocket upgrades and plain HTTP.
//!
//! [`connect`] and [`HttpClient::send`] take a [`crate::policy::Permit`]: code
//! that dials without a decision does not compile.

mod config;
mod endpoint;
mod http;
mod switch;
mod websocket;

pub use self::config::{UpstreamConfig, UpstreamTlsConfig};
pub use self::endpoint::{DialError, Endpoint};
pub use self::http::{HttpClient, HttpError, RequestBody, strip_hop_by_hop};
pub use self::websocket::{UpgradeError, UpgradeRequest, Upgraded, connect};
