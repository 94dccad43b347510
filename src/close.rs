//! Why a connection was refused or ended: one closed list, mapped once to an
//! HTTP status (RFC 9110 §15), a close code (RFC 6455 §7.4) and a stable label.
//!
//! Every room names its failures with a [`Reason`]; nothing here decides or
//! sends. The matches have no wildcard arm, so a new reason does not compile
//! until it has a status, a code and a text.

use http::StatusCode;

/// The cause of a refusal or of a close that sockgate itself started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// No credential that the policy names was presented.
    MissingCredential = 1,
    /// A credential was presented that cannot be read.
    MalformedCredential,
    /// A credential whose proof failed: signature, issuer, audience, unknown key.
    InvalidCredential,
    /// The same credential was presented twice with different values.
    AmbiguousCredential,
    /// A credential whose `nbf` lies ahead (RFC 7519 §4.1.5).
    NotYetValid,
    /// A credential, or a live connection, past its time.
    Expired,
    /// A credential or session that was withdrawn before its time.
    Revoked,
    /// No authenticating message within `limits.auth_timeout`.
    AuthTimeout,
    /// The authenticating message is over `limits.auth_message_bytes`.
    AuthMessageTooLarge,
    /// The `Origin` is not one that the policy allows.
    OriginDenied,
    /// The identity may not open this connection.
    Forbidden,
    /// The verifier could not decide: its dependency is slow or down.
    VerifierUnavailable,
    /// `limits.connections` is reached.
    LimitConnections,
    /// `limits.unauthenticated` is reached.
    LimitUnauthenticated,
    /// `limits.connections_per_ip` is reached.
    LimitIp,
    /// `limits.handshakes_per_ip` is exceeded.
    LimitRate,
    /// The request head is over `limits.header_bytes`.
    LimitHeader,
    /// `limits.connections_per_subject` is reached.
    LimitSubject,
    /// No connection to the upstream, or no valid 101 from it.
    UpstreamUnavailable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream answered an upgrade with something other than 101.
    UpstreamRefused,
    /// A message is over `limits.message_bytes`.
    MessageTooLarge,
    /// A peer broke RFC 6455 or RFC 9112.
    ProtocolError,
    /// The upgrade asks for a WebSocket version other than 13 (RFC 6455 §4.4).
    UnsupportedVersion,
    /// Plain HTTP, where only an upgrade is answered (RFC 9110 §15.5.22).
    UpgradeRequired,
    /// No data frame for `limits.idle_timeout`.
    Idle,
    /// The client did not answer a ping.
    Dead,
    /// Bytes waited for `limits.stall_timeout` and the peer took none.
    Stalled,
    /// The process is shutting down.
    Draining,
    /// No route matches.
    NoRoute,
    /// TRACE or CONNECT.
    MethodNotAllowed,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Reason; 31] = [
        Reason::MissingCredential,
        Reason::MalformedCredential,
        Reason::InvalidCredential,
        Reason::AmbiguousCredential,
        Reason::NotYetValid,
        Reason::Expired,
        Reason::Revoked,
        Reason::AuthTimeout,
        Reason::AuthMessageTooLarge,
        Reason::OriginDenied,
        Reason::Forbidden,
        Reason::VerifierUnavailable,
        Reason::LimitConnections,
        Reason::LimitUnauthenticated,
        Reason::LimitIp,
        Reason::LimitRate,
        Reason::LimitHeader,
        Reason::LimitSubject,
        Reason::UpstreamUnavailable,
        Reason::UpstreamTimeout,
        Reason::UpstreamRefused,
        Reason::MessageTooLarge,
        Reason::ProtocolError,
        Reason::UnsupportedVersion,
        Reason::UpgradeRequired,
        Reason::Idle,
        Reason::Dead,
        Reason::Stalled,
        Reason::Draining,
        Reason::NoRoute,
        Reason::MethodNotAllowed,
    ];

    /// The reason whose discriminant is `number`, if there is one.
    pub fn from_number(number: u8) -> Option<Reason> {
        Reason::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The stable snake_case label of metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Reason::MissingCredential => "missing_credential",
            Reason::MalformedCredential => "malformed_credential",
            Reason::InvalidCredential => "invalid_credential",
            Reason::AmbiguousCredential => "ambiguous_credential",
            Reason::NotYetValid => "not_yet_valid",
            Reason::Expired => "expired",
            Reason::Revoked => "revoked",
            Reason::AuthTimeout => "auth_timeout",
            Reason::AuthMessageTooLarge => "auth_message_too_large",
            Reason::OriginDenied => "origin_denied",
            Reason::Forbidden => "forbidden",
            Reason::VerifierUnavailable => "verifier_unavailable",
            Reason::LimitConnections => "limit_connections",
            Reason::LimitUnauthenticated => "limit_unauthenticated",
            Reason::LimitIp => "limit_ip",
            Reason::LimitRate => "limit_rate",
            Reason::LimitHeader => "limit_header",
            Reason::LimitSubject => "limit_subject",
            Reason::UpstreamUnavailable | Reason::UpstreamTimeout => "upstream_unavailable",
            Reason::UpstreamRefused => "upstream_refused",
            Reason::MessageTooLarge => "message_too_large",
            Reason::ProtocolError | Reason::UnsupportedVersion | Reason::UpgradeRequired => {
                "protocol_error"
            }
            Reason::Idle => "idle",
            Reason::Dead => "dead",
            Reason::Stalled => "stalled",
            Reason::Draining => "draining",
            Reason::NoRoute => "no_route",
            Reason::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// What the client is told: the close reason (RFC 6455 §7.1.6) and the
    /// `error` of an HTTP refusal.
    pub fn text(self) -> &'static str {
        match self {
            Reason::MissingCredential
            | Reason::MalformedCredential
            | Reason::InvalidCredential
            | Reason::AmbiguousCredential
            | Reason::NotYetValid => "Unauthorized",
            Reason::Expired => "Session expired",
            Reason::Revoked => "Session revoked",
            Reason::AuthTimeout => "Authentication timeout",
            Reason::AuthMessageTooLarge => "Authentication message too large",
            Reason::OriginDenied => "Origin not allowed",
            Reason::Forbidden => "Forbidden",
            Reason::VerifierUnavailable
            | Reason::LimitConnections
            | Reason::LimitUnauthenticated => "Try again later",
            Reason::LimitIp | Reason::LimitSubject => "Too many connections",
            Reason::LimitRate => "Too many requests",
            Reason::LimitHeader => "Request header too large",
            Reason::UpstreamUnavailable | Reason::UpstreamTimeout | Reason::UpstreamRefused => {
                "Bad gateway"
            }
            Reason::MessageTooLarge => "Message too big",
            Reason::ProtocolError => "Protocol error",
            Reason::UnsupportedVersion => "Unsupported WebSocket version",
            Reason::UpgradeRequired => "Upgrade required",
            Reason::Idle | Reason::Dead | Reason::Stalled => "Idle timeout",
            Reason::Draining => "Going away",
            Reason::NoRoute => "Not found",
            Reason::MethodNotAllowed => "Method not allowed",
        }
    }

    /// The status of a refusal over HTTP.
    pub fn status(self) -> StatusCode {
        match self {
            Reason::MissingCredential
            | Reason::MalformedCredential
            | Reason::InvalidCredential
            | Reason::AmbiguousCredential
            | Reason::NotYetValid
            | Reason::Expired
            | Reason::Revoked
            | Reason::AuthTimeout
            | Reason::AuthMessageTooLarge => StatusCode::UNAUTHORIZED,
            Reason::OriginDenied | Reason::Forbidden => StatusCode::FORBIDDEN,
            Reason::VerifierUnavailable
            | Reason::LimitConnections
            | Reason::LimitUnauthenticated
            | Reason::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Reason::LimitIp | Reason::LimitRate | Reason::LimitSubject => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Reason::LimitHeader => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reason::UpstreamUnavailable | Reason::UpstreamRefused => StatusCode::BAD_GATEWAY,
            Reason::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Reason::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::ProtocolError => StatusCode::BAD_REQUEST,
            Reason::UnsupportedVersion | Reason::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Reason::Idle | Reason::Dead | Reason::Stalled => StatusCode::REQUEST_TIMEOUT,
            Reason::NoRoute => StatusCode::NOT_FOUND,
            Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The close code of a refusal or close over WebSocket, under `codes`.
    pub fn close_code(self, codes: &CloseCodes) -> u16 {
        match self {
            Reason::MissingCredential
            | Reason::MalformedCredential
            | Reason::InvalidCredential
            | Reason::AmbiguousCredential
            | Reason::NotYetValid
            | Reason::Revoked
            | Reason::AuthTimeout
            | Reason::AuthMessageTooLarge => codes.unauthorized,
            Reason::Expired => codes.expired,
            Reason::OriginDenied | Reason::Forbidden | Reason::NoRoute => codes.forbidden,
            Reason::LimitSubject => 4029,
            Reason::VerifierUnavailable
            | Reason::LimitConnections
            | Reason::LimitUnauthenticated
            | Reason::LimitIp
            | Reason::LimitRate
            | Reason::UpstreamUnavailable
            | Reason::UpstreamTimeout
            | Reason::UpstreamRefused => 1013,
            Reason::MessageTooLarge | Reason::LimitHeader => 1009,
            Reason::ProtocolError
            | Reason::UnsupportedVersion
            | Reason::UpgradeRequired
            | Reason::MethodNotAllowed => 1002,
            Reason::Idle | Reason::Dead | Reason::Stalled | Reason::Draining => 1001,
        }
    }
}

/// The close codes that a policy may choose, in the range 3000–4999 that
/// RFC 6455 §7.4.2 leaves to applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCodes {
    /// For every refusal that a fresh login may cure; 4001 by default.
    pub unauthorized: u16,
    /// For a login that ran out; 4002 by default.
    pub expired: u16,
    /// For an identity that may not; 4003 by default.
    pub forbidden: u16,
}

impl Default for CloseCodes {
    fn default() -> Self {
        CloseCodes { unauthorized: 4001, expired: 4002, forbidden: 4003 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_reasons_agree() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_number(0), None);
        assert_eq!(Reason::from_number(Reason::ALL.len() as u8 + 1), None);
    }

    #[test]
    fn every_text_fits_a_close_frame() {
        for reason in Reason::ALL {
            assert!(reason.text().len() <= 123, "{}", reason.label());
        }
    }
}
