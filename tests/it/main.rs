//! The gate from outside: the real binary, real sockets, and what the contract
//! says about each. One module per subject; what they share is in `support`.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and fails")]

mod admin;
mod api_keys;
mod assertion;
mod cli;
mod credentials;
mod dialects;
mod drain;
mod forward_auth;
mod http_proxy;
mod identity_headers;
mod introspection;
mod jwt;
mod limits;
mod logout;
mod logs;
mod messages;
mod oidc;
mod origins;
mod protocols;
mod recheck;
mod recipes;
mod refresh;
mod refusals;
mod relay;
mod reload;
mod revocation;
mod server_first;
mod sessions;
mod strict_http;
mod support;
mod tickets;
mod tls;
