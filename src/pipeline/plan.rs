//! What a configuration means: every route with its compiled parts, shared by all
//! its connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::raw::Raw;
use crate::close::CloseCodes;
use crate::connection::{LiveLimits, SubjectLimit};
use crate::credential::{RefreshMessage, Sources};
use crate::expression::Expression;
use crate::handshake::TrustedProxies;
use crate::identity::{Assertion, IdentityHeaders, Spoofed};
use crate::policy::{LimitsConfig, OnSubjectLimit, Origins, Previews, RateLimiter, Reject, Rule};
use crate::relay::frame::{Opcode, encode_frame};
use crate::revocation::Terms;
use crate::route::Router;
use crate::telemetry::{Redactor, RouteMetrics, Telemetry};
use crate::upstream::{Endpoint, HttpClient};
use crate::verifier::{Chain, Kept, Verifier};

/// The compiled configuration.
pub struct Plans {
    /// Which plan applies to a host and path.
    pub router: Router<Arc<Plan>>,
    /// Who proves identities, by name.
    pub verifiers: BTreeMap<String, Arc<Kept>>,
    /// The headers that no client may set.
    pub spoofed: Spoofed,
    /// The public keys of all assertions, as a JSON Web Key Set.
    pub jwks: String,
    /// Which peers are believed about the client.
    pub proxies: TrustedProxies,
    /// Cuts credentials out of what is logged.
    pub redactor: Arc<Redactor>,
    /// Whether trusted proxies begin each connection with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether any upstream is told of the ends of the client's connection.
    pub tells_ends: bool,
    /// The limits that apply before a route is known, and where there is none.
    pub limits: LimitsConfig,
    /// `limits.handshakes_per_ip`, for all routes but those with a limiter of their own.
    pub rate: Option<Arc<RateLimiter>>,
    /// How long revocations count, and where they are shared.
    pub revocation: Arc<Terms>,
    /// `server.drain_delay`.
    pub drain_delay: Duration,
    /// `server.drain`.
    pub drain: Duration,
}

/// A route's compiled parts.
pub struct Plan {
    /// The label in metrics and logs.
    pub name: Arc<str>,
    /// Who may.
    pub access: Arc<Access>,
    /// Where to; none only where nobody may, and where sockgate itself answers.
    pub upstream: Option<Arc<Upstream>>,
    /// How that is spoken to, if it speaks neither WebSocket nor HTTP.
    pub raw: Option<Raw>,
    /// Whose tickets are issued here, in place of an upstream.
    pub tickets: Option<Arc<dyn Verifier>>,
    /// Whose issuer tells here of logouts, in place of an upstream.
    pub logouts: Option<Arc<dyn Verifier>>,
    /// What the upstream is told.
    pub identity: IdentityHeaders,
    /// The same in one signed token, where there is one.
    pub assertion: Option<Arc<Assertion>>,
    /// With message authentication: what may be accepted before the upstream is asked.
    pub subprotocols: Vec<String>,
    /// With `dial: first`: who may hear the upstream before logging in.
    pub previews: Option<Arc<Previews>>,
    /// The limits of this route.
    pub limits: LimitsConfig,
    /// The limits of its live connections.
    pub live: Arc<LiveLimits>,
    /// Its counts.
    pub metrics: Arc<RouteMetrics>,
    /// `limits.handshakes_per_ip`.
    pub rate: Option<Arc<RateLimiter>>,
    /// What live connections are judged by, as written: a reload that changes it
    /// judges them again.
    pub terms: Box<str>,
    /// The close codes from 3000 on that this route sends.
    pub own_codes: [u16; 4],
}

/// A server behind the gate, with its pooled client for plain HTTP.
pub struct Upstream {
    /// Where it is.
    pub endpoint: Arc<Endpoint>,
    /// Plain HTTP to it.
    pub http: HttpClient,
}

/// A policy's compiled parts.
pub struct Access {
    /// The policy's name.
    pub name: Box<str>,
    /// The built-in `deny`.
    pub deny: bool,
    /// Where credentials are looked for.
    pub sources: Sources,
    /// Who verifies them, by index of the source.
    pub chains: Vec<Chain>,
    /// Whether a client without credentials is admitted.
    pub anonymous: bool,
    /// The origins that may upgrade.
    pub origins: Origins,
    /// `require`.
    pub rule: Rule,
    /// How upgrades are refused.
    pub reject: Reject,
    /// The close codes.
    pub codes: CloseCodes,
    /// What a refused client is sent before the Close.
    pub reject_message: Option<Expression>,
    /// What an admitted client is sent first.
    pub accept_message: Option<Expression>,
    /// How a live connection renews its login.
    pub refresh: Option<Refresh>,
}

/// A policy's `lifetime.refresh`.
pub struct Refresh {
    /// The message that holds the new credential.
    pub message: RefreshMessage,
    /// Who verifies it.
    pub chain: Chain,
}

impl Plans {
    /// Begins what verifiers do by themselves: these plans are live now.
    pub fn start(&self, telemetry: &Arc<Telemetry>) {
        self.verifiers.values().for_each(|kept| kept.built.verifier.start(telemetry));
    }

    /// Ends what verifiers do by themselves that `next` has not kept.
    pub fn retire(&self, next: &Plans) {
        for (name, kept) in &self.verifiers {
            if !next.verifiers.get(name).is_some_and(|next| Arc::ptr_eq(next, kept)) {
                kept.built.verifier.retire();
            }
        }
    }

    /// The names of the verifiers that cannot reach what they depend on.
    pub fn degraded(&self) -> impl Iterator<Item = &str> {
        let degraded = self.verifiers.values().filter(|kept| kept.built.verifier.is_degraded());
        degraded.map(|kept| &**kept.built.verifier.name())
    }

    /// Whether a connection of `peer` begins with a header of the PROXY protocol; a
    /// Unix socket's peer counts as 127.0.0.1.
    pub fn announces(&self, peer: Option<IpAddr>) -> bool {
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        self.proxy_protocol && self.proxies.contains(peer)
    }

    /// The plan of the route that `name` labels.
    pub fn named(&self, name: &str) -> Option<&Arc<Plan>> {
        self.router.iter().find(|plan| *plan.name == *name)
    }
}

impl Access {
    /// Whether any message of a client is looked at. They must not be compressed then.
    pub fn inspects_messages(&self) -> bool {
        self.sources.message().is_some() || self.refresh.is_some()
    }
}

impl Plan {
    /// Whether sockgate itself answers here, and no upstream.
    pub fn is_desk(&self) -> bool {
        self.tickets.is_some() || self.logouts.is_some()
    }

    /// `limits.auth_timeout`.
    pub fn auth_timeout(&self) -> Duration {
        self.limits.auth_timeout.0
    }

    /// `limits.message_bytes`, where there is one.
    pub fn message_bytes(&self) -> Option<u64> {
        self.limits.message_bytes.limit()
    }
}

/// An encoded text frame from sockgate to a client.
pub(super) fn text_frame(text: &str) -> Bytes {
    encode_frame(Opcode::TEXT, text.as_bytes(), None).into()
}

/// How long connections under `limits` may live, whose policy says `lifetime`.
pub(super) fn live_limits(limits: &LimitsConfig, lifetime: LiveLimits) -> LiveLimits {
    let lifetime =
        lifetime.with(limits.idle_timeout.0, limits.ping_interval.0, limits.stall_timeout.0);
    let per_subject = (limits.connections_per_subject != 0).then_some(SubjectLimit {
        most: limits.connections_per_subject,
        close_oldest: limits.on_subject_limit == OnSubjectLimit::CloseOldest,
    });
    LiveLimits { per_subject, ..lifetime }
}
