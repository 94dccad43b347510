//! The way to a server that speaks neither WebSocket nor HTTP: what it is told before
//! the first byte of the client, and its bytes as messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::json;

use super::admission::Admitted;
use super::exchange::Exchange;
use super::plan::Plan;
use super::upgrade::Failure;
use crate::close::Reason;
use crate::credential::harmless_text;
use crate::expression::Expression;
use crate::identity::Identity;
use crate::problem::Problem;
use crate::proxy_protocol::{self, Details, Ends, Version};
use crate::relay::Framed;
use crate::stream::Stream;
use crate::upstream::{Frames, Upgraded, UpstreamConfig, connect_raw};

/// What a route says of its raw upstream.
pub struct Raw {
    text: bool,
    proxy_protocol: Option<Version>,
    preamble: Option<Expression>,
}

impl Raw {
    /// Compiles what `config` says.
    ///
    /// # Errors
    /// What is wrong with the preamble.
    pub(super) fn compile(config: &UpstreamConfig) -> Result<Raw, Vec<Problem>> {
        let compile = |source: &String| Expression::compile(source, &["identity", "request"]);
        let preamble = config.preamble.as_ref().map(compile).transpose();
        Ok(Raw {
            text: config.frames == Some(Frames::Text),
            proxy_protocol: config.proxy_protocol,
            preamble: preamble
                .map_err(|error| vec![Problem::new("preamble", error.to_string())])?,
        })
    }

    /// Whether the server is told of the ends of the client's connection.
    pub(super) fn tells_ends(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// What the server gets before anything of the client.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] if it cannot be told who it is.
    pub(super) fn preface(
        &self,
        exchange: &Exchange,
        identity: &Identity,
    ) -> Result<Vec<u8>, Reason> {
        let mut preface = Vec::new();
        if let Some(version) = self.proxy_protocol {
            let told = (!identity.is_anonymous()).then(|| told(identity));
            let details = Details {
                authority: &exchange.host.name,
                unique_id: &exchange.request_id,
                identity: told.as_deref(),
            };
            let header = proxy_protocol::encode(version, ends(exchange), &details);
            preface = header.ok_or(Reason::Forbidden)?;
        }
        if let Some(preamble) = &self.preamble {
            let variables = exchange.variables(Some(identity), |name| preamble.uses(name));
            let text = harmless_text(&variables, |variables| preamble.evaluate(variables))?;
            preface.extend_from_slice(text.as_bytes());
        }
        Ok(preface)
    }

    /// What a dry run says of it.
    pub(super) fn describe(&self) -> String {
        let frames = if self.text { "text" } else { "binary" };
        let header = match self.proxy_protocol {
            None => "no PROXY header",
            Some(Version::V1) => "PROXY v1",
            Some(Version::V2) => "PROXY v2",
        };
        format!("{frames} messages, {header}")
    }
}

/// Reaches the raw upstream of `plan` for `identity`.
///
/// # Errors
/// [`Failure`]; counted here.
pub(super) async fn dial(
    plan: &Plan,
    raw: &Raw,
    exchange: &Exchange,
    admitted: &Admitted,
    identity: &Identity,
) -> Result<Upgraded, Failure> {
    let upstream = plan.upstream.as_ref().ok_or(Failure::Reason(Reason::Forbidden))?;
    let preface = raw.preface(exchange, identity).map_err(Failure::Reason)?;
    let started = Instant::now();
    let timeout = plan.limits.upstream_connect_timeout.0;
    let dialling = connect_raw(&admitted.permit, &upstream.endpoint, &preface);
    let (reason, kind) = match tokio::time::timeout(timeout, dialling).await {
        Ok(Ok(stream)) => {
            plan.metrics.upstream_connect(started.elapsed().as_secs_f64());
            let framed = Framed::new(stream, raw.text, plan.message_bytes());
            return Ok(Upgraded {
                stream: Stream::Other(Box::new(framed)),
                ahead: Bytes::new(),
                headers: HeaderMap::new(),
            });
        }
        Ok(Err(error)) => (Reason::UpstreamUnavailable, error.kind()),
        Err(_) => (Reason::UpstreamTimeout, "timeout"),
    };
    plan.metrics.upstream_error(kind);
    Err(Failure::Reason(reason))
}

/// The client as the gate believes it to be, and where it came in.
fn ends(exchange: &Exchange) -> Ends {
    let ip = exchange.client.ip;
    let known = exchange.ends.map(|Ends { client, server }| {
        let is_peer = client.ip().to_canonical() == ip;
        (if is_peer { client.port() } else { 0 }, server)
    });
    let nowhere = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (port, server) = known.unwrap_or((0, SocketAddr::new(nowhere, 0)));
    let server = SocketAddr::new(server.ip().to_canonical(), server.port());
    Ends { client: SocketAddr::new(ip, port), server }
}

/// The identity as TLV 0xE0 has it.
fn told(identity: &Identity) -> Vec<u8> {
    let told = json!({
        "subject": identity.subject(),
        "method": identity.method(),
        "verifier": identity.verifier(),
        "expires": identity.expires(),
        "claims": identity.claims(),
    });
    told.to_string().into_bytes()
}
