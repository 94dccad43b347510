//! sockgate: an auth gate in front of any socket server.
//!
//! # The path of a connection
//! ```text
//! listener → handshake → route → credential → verifier → policy → identity → upstream → relay → close
//!  bytes     opening      plan    what the     Identity   Permit   what the   stream     both    reason,
//!  in        handshake            client shows  (who)      (may)   upstream   out        ways    record
//!                                                                  is told
//! alongside, for the whole life:  connection (registry, expiry, drain)   revocation   telemetry (one record)
//! ```
//! Each word is a room below; `pipeline` puts them in order. Types carry the
//! proof along the path: only `verifier` makes an `identity::Identity`, only
//! `policy` makes a `policy::Permit`, and `upstream` dials for a permit alone.
//!
//! RFC 6455 (WebSocket), RFC 9110 and 9112 (HTTP), RFC 7519 (JWT), RFC 6750
//! (Bearer), RFC 6901 (JSON Pointer). `ARCHITECTURE.md` has who may import whom.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod close;
pub mod config;
pub mod connection;
pub mod credential;
pub mod dial;
pub mod expression;
pub mod fetch;
pub mod handshake;
pub mod hex;
pub mod identity;
pub mod json;
pub mod listener;
pub mod pipeline;
pub mod policy;
pub mod problem;
pub mod proxy_protocol;
pub mod recheck;
pub mod redis;
pub mod relay;
pub mod reload;
pub mod revocation;
pub mod route;
pub mod secret;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod unit;
pub mod upstream;
pub mod verifier;
