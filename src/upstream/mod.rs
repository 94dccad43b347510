//! Reaches the backend that a permit names: WebSocket upgrades and plain HTTP.
//!
//! [`connect`] and [`HttpClient::send`] take a [`crate::policy::Permit`]: code
//! that dials without a decision does not compile. [`preview`] takes a
//! [`crate::policy::Preview`], and what it gives can only be heard.

mod config;
mod endpoint;
mod http;
mod preview;
mod switch;
mod websocket;

pub use self::config::{UpstreamConfig, UpstreamTlsConfig};
pub use self::endpoint::{DialError, Endpoint};
pub use self::http::{HttpClient, HttpError, RequestBody, strip_hop_by_hop};
pub use self::preview::{Previewed, Silence, preview};
pub use self::websocket::{UpgradeError, UpgradeRequest, Upgraded, connect};
