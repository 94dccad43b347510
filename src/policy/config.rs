//! The parts of a policy that decide and refuse: origins, rule, refusal, limits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::close::CloseCodes;
use crate::unit::{OneOrMany, Share, Size, Span};

/// `reject`: how a refused upgrade is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// 101, `reject_message`, Close: readable by a browser.
    #[default]
    Close,
    /// The HTTP status.
    Http,
}

/// `codes`: close codes 3000–4999 in place of the defaults.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CodesConfig {
    /// In place of 4001.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unauthorized: Option<u16>,
    /// In place of 4002.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<u16>,
    /// In place of 4003.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbidden: Option<u16>,
}

impl CodesConfig {
    /// The close codes: these, and the defaults for the others. That they are of
    /// those which RFC 6455 §7.4.2 leaves to applications, the file's check tells.
    pub fn resolve(&self) -> CloseCodes {
        let defaults = CloseCodes::default();
        CloseCodes {
            unauthorized: self.unauthorized.unwrap_or(defaults.unauthorized),
            expired: self.expired.unwrap_or(defaults.expired),
            forbidden: self.forbidden.unwrap_or(defaults.forbidden),
        }
    }
}

/// `origins`: `same`, `any`, or a list of origins.
pub type OriginsConfig = OneOrMany<String>;

/// `on_subject_limit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSubjectLimit {
    /// Refuse the newest connection.
    #[default]
    Refuse,
    /// Close the oldest connection.
    CloseOldest,
}

/// The `limits` section.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Open connections of the whole process; at least 1.
    pub connections: u32,
    /// The share of `connections` (`10%`), or the count, that may be under way without a
    /// permit: handshakes, TLS and refusal closings included. Rounds up and is at least 1.
    pub unauthenticated: Share,
    /// Open connections of one address (IPv6: of one /64); 0 = no limit. Behind a proxy only
    /// meaningful with `server.trusted_proxies`.
    pub connections_per_ip: u32,
    /// Open connections of one identity; 0 = no limit.
    pub connections_per_subject: u32,
    /// What gives way when `connections_per_subject` is reached.
    pub on_subject_limit: OnSubjectLimit,
    /// Handshakes of one address per second, with a burst of the same; 0 = no limit.
    pub handshakes_per_ip: u32,
    /// How long a request head may take to arrive.
    pub header_timeout: Span,
    /// The largest request head, 1KiB to 1MiB.
    pub header_bytes: Size,
    /// The largest credential that is looked at.
    pub credential_bytes: Size,
    /// How long message authentication may take, from the upgrade to its end.
    pub auth_timeout: Span,
    /// The largest authenticating message.
    pub auth_message_bytes: Size,
    /// The largest message either way, as on the wire; 0 = no limit.
    pub message_bytes: Size,
    /// How long a connection may stay without a data frame either way; 0 = no limit. Pings of
    /// sockgate do not count.
    pub idle_timeout: Span,
    /// A client silent for this long is pinged, and dead if it does not answer within the same
    /// time again; 0 = no pings.
    pub ping_interval: Span,
    /// How long bytes may wait for a peer that takes none.
    pub stall_timeout: Span,
    /// How long connecting to the upstream and its answer to the upgrade may take.
    pub upstream_connect_timeout: Span,
    /// How long a body of plain HTTP may make no progress.
    pub http_body_timeout: Span,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            connections: 100_000,
            unauthenticated: Share::Percent(10),
            connections_per_ip: 0,
            connections_per_subject: 0,
            on_subject_limit: OnSubjectLimit::Refuse,
            handshakes_per_ip: 0,
            header_timeout: Span::secs(5),
            header_bytes: Size::kib(16),
            credential_bytes: Size::kib(8),
            auth_timeout: Span::secs(10),
            auth_message_bytes: Size::kib(16),
            message_bytes: Size(0),
            idle_timeout: Span::secs(0),
            ping_interval: Span::secs(30),
            stall_timeout: Span::secs(60),
            upstream_connect_timeout: Span::secs(5),
            http_body_timeout: Span::secs(60),
        }
    }
}

/// `routes[].limits`: replaces single keys of `limits`. The limits of the whole
/// process and of the request head apply before a route is known and are not here.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimitsConfig {
    /// Open connections of one address (IPv6: of one /64); 0 = no limit. Behind a proxy only
    /// meaningful with `server.trusted_proxies`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_ip: Option<u32>,
    /// Open connections of one identity; 0 = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_subject: Option<u32>,
    /// What gives way when `connections_per_subject` is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_subject_limit: Option<OnSubjectLimit>,
    /// Handshakes of one address per second, with a burst of the same; 0 = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes_per_ip: Option<u32>,
    /// The largest credential that is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_bytes: Option<Size>,
    /// How long message authentication may take, from the upgrade to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_timeout: Option<Span>,
    /// The largest authenticating message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_message_bytes: Option<Size>,
    /// The largest message either way, as on the wire; 0 = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_bytes: Option<Size>,
    /// How long a connection may stay without a data frame either way; 0 = no limit. Pings of
    /// sockgate do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
    /// A client silent for this long is pinged, and dead if it does not answer within the same
    /// time again; 0 = no pings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_interval: Option<Span>,
    /// How long bytes may wait for a peer that takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<Span>,
    /// How long connecting to the upstream and its answer to the upgrade may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_connect_timeout: Option<Span>,
    /// How long a body of plain HTTP may make no progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_body_timeout: Option<Span>,
}

impl LimitsConfig {
    /// These limits with the keys of `route` in their place.
    pub fn with(&self, route: &RouteLimitsConfig) -> LimitsConfig {
        LimitsConfig {
            connections: self.connections,
            unauthenticated: self.unauthenticated,
            connections_per_ip: route.connections_per_ip.unwrap_or(self.connections_per_ip),
            connections_per_subject: route
                .connections_per_subject
                .unwrap_or(self.connections_per_subject),
            on_subject_limit: route.on_subject_limit.unwrap_or(self.on_subject_limit),
            handshakes_per_ip: route.handshakes_per_ip.unwrap_or(self.handshakes_per_ip),
            header_timeout: self.header_timeout,
            header_bytes: self.header_bytes,
            credential_bytes: route.credential_bytes.unwrap_or(self.credential_bytes),
            auth_timeout: route.auth_timeout.unwrap_or(self.auth_timeout),
            auth_message_bytes: route.auth_message_bytes.unwrap_or(self.auth_message_bytes),
            message_bytes: route.message_bytes.unwrap_or(self.message_bytes),
            idle_timeout: route.idle_timeout.unwrap_or(self.idle_timeout),
            ping_interval: route.ping_interval.unwrap_or(self.ping_interval),
            stall_timeout: route.stall_timeout.unwrap_or(self.stall_timeout),
            upstream_connect_timeout: route
                .upstream_connect_timeout
                .unwrap_or(self.upstream_connect_timeout),
            http_body_timeout: route.http_body_timeout.unwrap_or(self.http_body_timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_replace_single_defaults() {
        let codes = CodesConfig { expired: Some(3000), ..CodesConfig::default() };
        let expected = CloseCodes { unauthorized: 4001, expired: 3000, forbidden: 4003 };
        assert_eq!(codes.resolve(), expected);
    }
}
