//! How a dialect tells its client that the login failed.

use crate::close::Reason;

/// What is sent before the Close, and the Close's code where the dialect has one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// A message, and whether it is text.
    pub message: Option<(bool, Vec<u8>)>,
    /// The code in place of the policy's.
    pub code: Option<u16>,
}

/// Reasons, as dialects tell them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Another credential may do.
    Unauthorized,
    /// The credential is past its time.
    Expired,
    /// Whoever it is may not.
    Forbidden,
    /// No login came in time.
    Timeout,
    /// Not the client's fault, or not its login's: try again later.
    Elsewhere,
}

impl Cause {
    pub(super) fn of(reason: Reason) -> Cause {
        match reason {
            Reason::MissingCredential
            | Reason::MalformedCredential
            | Reason::InvalidCredential
            | Reason::AmbiguousCredential
            | Reason::NotYetValid
            | Reason::Revoked
            | Reason::AuthMessageTooLarge => Cause::Unauthorized,
            Reason::Expired => Cause::Expired,
            Reason::OriginDenied | Reason::Forbidden | Reason::NoRoute => Cause::Forbidden,
            Reason::AuthTimeout => Cause::Timeout,
            Reason::VerifierUnavailable
            | Reason::LimitConnections
            | Reason::LimitUnauthenticated
            | Reason::LimitIp
            | Reason::LimitRate
            | Reason::LimitHeader
            | Reason::LimitSubject
            | Reason::UpstreamUnavailable
            | Reason::UpstreamTimeout
            | Reason::UpstreamRefused
            | Reason::MessageTooLarge
            | Reason::ProtocolError
            | Reason::UnsupportedVersion
            | Reason::UpgradeRequired
            | Reason::Idle
            | Reason::Dead
            | Reason::Stalled
            | Reason::Draining
            | Reason::MethodNotAllowed => Cause::Elsewhere,
        }
    }
}
