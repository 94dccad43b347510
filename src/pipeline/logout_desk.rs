//! Where an issuer tells of logouts: a POST with a logout token, which proves itself
//! (OpenID Connect Back-Channel Logout 1.0 §2.5–2.8). sockgate answers it itself.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::IpSlot;
use super::exchange::Exchange;
use super::gate::Link;
use super::rejection::{Body, refusal};
use crate::clock;
use crate::close::Reason;
use crate::credential::form_decoded;
use crate::handshake::Kind;
use crate::revocation::{self, Once, OnceError, Scope, Source, Target};
use crate::telemetry::Record;
use crate::verifier::{LoggedOut, Logout, LogoutError, Unavailable};

/// What a logout token is called in metrics and log.
pub(super) const CREDENTIAL: &str = "logout_token";

/// The largest body that is read, in bytes.
const BODY: usize = 64 << 10;

/// A request on a route where an issuer tells of logouts.
pub(super) struct LogoutDesk<'a> {
    /// The issuer's connection.
    pub(super) link: &'a Link,
    /// The request.
    pub(super) exchange: Box<Exchange>,
    /// What is told of it.
    pub(super) record: Record,
    /// Its part in the count of its address.
    pub(super) _ip_slot: Option<IpSlot>,
}

/// Why nobody is logged out.
enum Fault {
    /// The request is none that could ever be answered otherwise: what is wrong.
    Bad(Reason, &'static str),
    /// It may be sent again.
    Busy(&'static str),
}

impl LogoutDesk<'_> {
    /// Logs out whom the token names, or says why not. Upgrades have no body.
    pub(super) async fn answer(mut self, body: Option<Incoming>) -> Response<Body> {
        let opening = &self.exchange.opening;
        let posted = opening.method == Method::POST && matches!(opening.kind, Kind::Plain);
        let Some(body) = body.filter(|_| posted) else {
            let reason = Reason::MethodNotAllowed;
            self.record.refused(reason, reason.status().as_u16(), None);
            let mut response = refusal(reason, false);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        };
        self.record.credential(CREDENTIAL);
        match self.log_out(body).await {
            Ok(()) => {
                self.link.permitted();
                self.record.answered(StatusCode::OK.as_u16(), true);
                answer(StatusCode::OK, Bytes::new())
            }
            Err(Fault::Bad(reason, what)) => {
                self.record.cause(what);
                self.record.refused(reason, StatusCode::BAD_REQUEST.as_u16(), None);
                // RFC 6749 §5.2, as the specification has it.
                let told = json!({ "error": "invalid_request", "error_description": what });
                let mut response = answer(StatusCode::BAD_REQUEST, told.to_string().into());
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
            Err(Fault::Busy(cause)) => {
                let reason = Reason::VerifierUnavailable;
                self.record.cause(cause);
                self.record.refused(reason, reason.status().as_u16(), None);
                refusal(reason, false)
            }
        }
    }

    async fn log_out(&mut self, body: Incoming) -> Result<(), Fault> {
        let exchange = &self.exchange;
        let verifier = exchange.plan.logouts.as_ref().ok_or(Fault::Busy("no verifier"))?;
        self.record.verifier(verifier.name());
        let body = read(&exchange.opening.headers, body, exchange.plan.limits.header_timeout.0);
        let body = body.await?;
        // Text or not: what is none cannot be a token either.
        let token = logout_token(&String::from_utf8_lossy(&body))?;
        let judged = match verifier.logout(&token, clock::unix_now()) {
            Some(judging) => judging.await,
            // `config` lets no such verifier through.
            None => Err(LogoutError::Rejected("nobody could have issued it")),
        };
        let logout = judged.map_err(|error| match error {
            LogoutError::Rejected(what) => Fault::Bad(Reason::InvalidCredential, what),
            LogoutError::Unavailable(Unavailable(cause)) => Fault::Busy(cause),
        })?;
        let revoking =
            exchange.gate.revocations.revoke_once(target(&logout), Source::Logout, once(&logout));
        match revoking.await {
            Ok(_) => Ok(()),
            Err(OnceError::Again) => {
                Err(Fault::Bad(Reason::InvalidCredential, "its jti was seen before"))
            }
            Err(OnceError::Full(revocation::Full)) => Err(Fault::Busy("too many revocations")),
        }
    }
}

/// Whose sockets close: a session alone, where the issuer names one.
fn target(logout: &Logout) -> Target {
    let scope = Scope::Issuer(&logout.verifier, &logout.issuer);
    match &logout.who {
        LoggedOut::Session(session) => Target::new(revocation::Kind::Session, session, scope),
        LoggedOut::Subject(subject) => Target::new(revocation::Kind::Subject, subject, scope),
    }
}

fn once(logout: &Logout) -> Once {
    let parts = [&*logout.verifier, &logout.issuer, &logout.token_id];
    Once::new(&parts, logout.until.saturating_mul(1000))
}

/// The body of a form, if it is one, is not too large and does not take too long.
async fn read(headers: &HeaderMap, body: Incoming, most: Duration) -> Result<Bytes, Fault> {
    let bad = |what| Fault::Bad(Reason::MalformedCredential, what);
    let form = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let form = form.and_then(|value| value.split(';').next());
    if !form.is_some_and(|form| form.trim().eq_ignore_ascii_case(FORM)) {
        return Err(bad("expected a form: application/x-www-form-urlencoded"));
    }
    match tokio::time::timeout(most, Limited::new(body, BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(bad("the body is too large, or broke off")),
        Err(_) => Err(bad("the body did not arrive in time")),
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// The one `logout_token` of a form; what else is in it does not matter (§2.5).
fn logout_token(form: &str) -> Result<Vec<u8>, Fault> {
    let pairs = form.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut tokens = pairs.filter(|(name, _)| form_decoded(name).0 == b"logout_token");
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) if !token.is_empty() => Ok(form_decoded(token).0),
        (Some(_), Some(_)) => {
            Err(Fault::Bad(Reason::AmbiguousCredential, "more than one logout_token"))
        }
        (Some(_) | None, _) => Err(Fault::Bad(Reason::MissingCredential, "no logout_token")),
    }
}

/// Nothing of it is to be kept by anybody (§2.8).
fn answer(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(form: &str) -> Result<String, Reason> {
        match logout_token(form) {
            Ok(token) => Ok(String::from_utf8(token).unwrap()),
            Err(Fault::Bad(reason, _)) => Err(reason),
            Err(Fault::Busy(cause)) => panic!("{cause}"),
        }
    }

    #[test]
    fn the_one_logout_token_of_a_form_is_read_and_nothing_else_matters() {
        assert_eq!(token("logout_token=a.b.c").as_deref(), Ok("a.b.c"));
        assert_eq!(token("x=1&logout%5Ftoken=a%2Eb.c&y").as_deref(), Ok("a.b.c"));
        assert_eq!(token("logout_token=a&logout_token=a"), Err(Reason::AmbiguousCredential));
        for none in ["", "logout_token", "logout_token=", "Logout_Token=a", "token=a"] {
            assert_eq!(token(none), Err(Reason::MissingCredential), "{none}");
        }
    }
}
