//! Who a credential belongs to: a verifier turns what the client presented into
//! an [`Identity`], or says why it cannot.
//!
//! Where a credential stood makes no difference to what it proves (that is
//! `credential`); a verifier that asks others merely passes it on. Nor does a
//! verifier know what the identity may do (that is `policy`). Every kind passes the cases
//! of `contract.rs`.

mod api_key;
mod chain;
mod config;
#[cfg(test)]
mod contract;
mod endpoint;
mod forward_auth;
mod hash_key;
mod introspection;
mod jwt;
mod kept;
mod logout;
mod lookup;
mod occasion;
mod original;
mod session;
mod ticket;
mod timestamp;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

pub use self::chain::{Chain, Verdict};
pub use self::config::{
    ApiKeysConfig, ClientAuthentication, ForwardAuthConfig, IntrospectionConfig, JwtConfig,
    SignatureAlgorithm, TicketConfig, VerifierConfig,
};
pub use self::hash_key::{NoRandomness, generate, hash_entry};
pub use self::kept::Kept;
pub use self::logout::{LoggedOut, LoggingOut, Logout, LogoutError};
pub use self::occasion::{KeptOccasion, Occasion};
pub use self::original::Original;
pub use self::session::{
    CookieFormat, CookieFormatConfig, CookieSignatureConfig, DjangoValueConfig, SecretsConfig,
    SessionConfig, SignatureFormat, StoreConfig, ValueConfig, ValueFormat,
};
pub use self::ticket::{Issued, Redeemed, Tickets};
use crate::clock::UnixSeconds;
use crate::close::Reason;
use crate::identity::Identity;
use crate::problem::Problem;
use crate::telemetry::Telemetry;

/// What a client presented. Has no `Debug`: it is a secret.
#[derive(Clone, Copy)]
pub struct Credential<'a> {
    /// The credential; with Basic the decoded `user:password` (RFC 7617 §2).
    pub value: &'a [u8],
    /// Whether it came as HTTP Basic.
    pub basic: bool,
}

/// Why no identity was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The credential was judged, and is not good.
    #[error("rejected: {}", .0.label())]
    Rejected(Reason),
    /// The credential could not be judged.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The verifier cannot answer now; that says nothing about the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the verifier cannot answer: {0}")]
pub struct Unavailable(
    /// What went wrong, for the operator; nothing of the request or its answer.
    pub &'static str,
);

impl VerifyError {
    /// The reason of the refusal that follows.
    pub fn reason(self) -> Reason {
        match self {
            VerifyError::Rejected(reason) => reason,
            VerifyError::Unavailable(Unavailable(_)) => Reason::VerifierUnavailable,
        }
    }
}

impl From<Reason> for VerifyError {
    fn from(reason: Reason) -> VerifyError {
        VerifyError::Rejected(reason)
    }
}

/// What [`Verifier::verify`] gives: boxed, so that verifiers of every kind stand
/// in one list.
pub type Verification<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<Identity>, VerifyError>> + Send + 'a>>;

/// One way to prove who a credential belongs to.
pub trait Verifier: Send + Sync {
    /// The verifier's name in the configuration.
    fn name(&self) -> &Arc<str>;

    /// Whether the credential has the shape that this verifier decides on. Cheap,
    /// bounded and without I/O; proves nothing.
    fn recognises(&self, credential: &Credential<'_>) -> bool;

    /// Proves who the credential belongs to at `now`. A verifier that needs a
    /// network is bounded in time.
    fn verify<'a>(
        &'a self,
        credential: &'a Credential<'a>,
        occasion: &'a Occasion<'a>,
        now: UnixSeconds,
    ) -> Verification<'a>;

    /// Whether verifying asks somebody over a network.
    fn asks(&self) -> bool {
        false
    }

    /// Whether the cookie that holds the credential is signed by a second one, named
    /// `<name>.sig`. The credential is both values then, a line end between them.
    fn wants_signature_cookie(&self) -> bool {
        false
    }

    /// Whether it says `Authorization` for itself where it asks, so that no credential
    /// can go there.
    fn has_authorization(&self) -> bool {
        false
    }

    /// What has to be kept of a connection so that it can be asked again whether the
    /// login behind it still stands. Nothing where a credential says all by itself.
    fn recheck(&self) -> Recheck {
        Recheck::Never
    }

    /// Itself, if it issues what it verifies and verifying uses that up. Then it is
    /// asked about upgrades alone, and never for a dry run.
    fn tickets(&self) -> Option<&Tickets> {
        None
    }

    /// Judges a logout token of the issuer at `now`; none if no issuer could send one.
    fn logout<'a>(&'a self, _token: &'a [u8], _now: UnixSeconds) -> Option<LoggingOut<'a>> {
        None
    }

    /// Begins what the verifier does by itself, such as fetching keys: its
    /// configuration is live now. Called in a runtime, and again at each reload
    /// that keeps the verifier. Until then it makes no connection of its own accord.
    fn start(&self, _telemetry: &Arc<Telemetry>) {}

    /// Ends what it does by itself: a reload has left it out, or put another in its
    /// place. Connections that were opened before may still ask it.
    fn retire(&self) {}

    /// Whether it cannot reach what it depends on, and so refuses or lives on what
    /// it knows from before. Cheap.
    fn is_degraded(&self) -> bool {
        false
    }
}

/// What a verifier needs to be asked again about a live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// It would only say the same again.
    Never,
    /// The credential.
    Credential,
    /// The credential, and the request that it came with.
    Request,
}

/// A verifier, ready to use.
pub struct Built {
    /// The verifier.
    pub verifier: Arc<dyn Verifier>,
    /// The files it was made of: when one changes, build anew.
    pub files: Vec<PathBuf>,
    /// What works but deserves a look; paths are relative to the verifier.
    pub warnings: Vec<Problem>,
}

/// Makes the verifier `name` of what the file says: keys are read, expressions
/// compiled. Relative paths are relative to `base`.
///
/// # Errors
/// Everything that is wrong, at once; paths are relative to the verifier, such
/// as `jwt.secret`. No message holds a secret.
pub fn build(name: &str, config: &VerifierConfig, base: &Path) -> Result<Built, Vec<Problem>> {
    let kind = config.kind().map_err(|message| vec![Problem::new("", message)])?;
    let built = match config {
        VerifierConfig { jwt: Some(jwt), .. } => jwt::build(name, jwt, base),
        VerifierConfig { api_keys: Some(api_keys), .. } => api_key::build(name, api_keys, base),
        VerifierConfig { session: Some(session), .. } => session::build(name, session, base),
        VerifierConfig { introspection: Some(endpoint), .. } => {
            introspection::build(name, endpoint, base)
        }
        VerifierConfig { forward_auth: Some(endpoint), .. } => {
            forward_auth::build(name, endpoint, base)
        }
        VerifierConfig { ticket: Some(ticket), .. } => ticket::build(name, ticket, base),
        // A kind has been found, so one of them is there.
        VerifierConfig {
            jwt: None,
            api_keys: None,
            session: None,
            introspection: None,
            forward_auth: None,
            ticket: None,
        } => return Err(Vec::new()),
    };
    let under = |problems: Vec<Problem>| -> Vec<Problem> {
        problems.into_iter().map(|problem| problem.under(kind)).collect()
    };
    match built {
        Ok(built) => Ok(Built { warnings: under(built.warnings), ..built }),
        Err(problems) => Err(under(problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> VerifierConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_verifier_has_exactly_one_kind() {
        let none = build("app", &config("{}"), Path::new(".")).err().unwrap();
        assert!(none[0].message.starts_with("needs exactly one kind: jwt, "), "{}", none[0]);
        let both = r#"{"jwt": {}, "api_keys": {"file": "keys.yaml"}}"#;
        let both = build("app", &config(both), Path::new(".")).err().unwrap();
        assert!(both[0].message.contains("but found jwt and api_keys"), "{}", both[0]);
    }

    #[test]
    fn unavailable_is_never_a_rejection() {
        assert_eq!(VerifyError::from(Unavailable("down")).reason(), Reason::VerifierUnavailable);
        assert_eq!(VerifyError::from(Reason::Expired).reason(), Reason::Expired);
        assert_ne!(
            VerifyError::from(Unavailable("down")),
            VerifyError::Rejected(Reason::VerifierUnavailable)
        );
    }
}
