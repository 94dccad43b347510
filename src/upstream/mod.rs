//! Reaches the backend that a permit names: WebSocket upgrades, plain HTTP, bytes.
//!
//! [`connect`], [`connect_raw`] and [`HttpClient::send`] take a
//! [`crate::policy::Permit`]: code that dials without a decision does not compile.
//! [`preview()`] takes a [`crate::policy::Preview`], and what it gives can only be heard.

mod config;
mod endpoint;
mod http;
mod preview;
mod raw;
mod switch;
mod websocket;

pub use self::config::{Frames, UpstreamConfig, UpstreamTlsConfig};
pub use self::endpoint::{DialError, Endpoint};
pub use self::http::{HttpClient, HttpError, RequestBody, strip_hop_by_hop};
pub use self::preview::{Previewed, Silence, preview};
pub use self::raw::connect_raw;
pub use self::websocket::{UpgradeError, UpgradeRequest, Upgraded, connect};
