//! Every failure as the client sees it over HTTP: status, JSON body, headers.
//! Status, code and text themselves are in [`crate::close`].

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Response};
use http_body_util::{Either, Full};

use super::plain::StreamedBody;
use crate::close::Reason;

/// What the gate answers with: its own few bytes, or an upstream's stream.
pub type Body = Either<Full<Bytes>, StreamedBody>;

/// The HTTP refusal for `reason`. `presented` says whether a credential was
/// shown (RFC 6750 §3: only then is there an `error`).
pub(super) fn refusal(reason: Reason, presented: bool) -> Response<Body> {
    // Only the fixed texts of the table: nothing of the request is echoed.
    let body = format!("{{\"error\":\"{}\"}}", reason.text());
    let mut response = Response::new(Either::Left(Full::from(body)));
    *response.status_mut() = reason.status();
    let mut set = |name: HeaderName, value: &'static str| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    };
    set(CONTENT_TYPE, "application/json");
    set(CACHE_CONTROL, "no-store");
    set(CONNECTION, "close");
    match reason.status().as_u16() {
        401 if presented => set(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""),
        401 => set(WWW_AUTHENTICATE, "Bearer"),
        405 => set(ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        426 => {
            set(SEC_WEBSOCKET_VERSION, "13");
            set(UPGRADE, "websocket");
        }
        429 => set(RETRY_AFTER, "1"),
        503 => set(RETRY_AFTER, "5"),
        _ => {}
    }
    response
}

/// The same refusal as bytes, for a connection whose request is not read at all.
pub fn raw_refusal(reason: Reason) -> Vec<u8> {
    let body = format!("{{\"error\":\"{}\"}}", reason.text());
    let status = reason.status();
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nretry-after: 5\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unauthorized_says_invalid_token_only_if_one_was_presented() {
        let header = |presented| {
            refusal(Reason::InvalidCredential, presented).headers()[WWW_AUTHENTICATE].clone()
        };
        assert_eq!(header(false), "Bearer");
        assert_eq!(header(true), "Bearer error=\"invalid_token\"");
    }

    #[test]
    fn busy_answers_say_when_to_come_back() {
        for reason in
            [Reason::LimitIp, Reason::LimitRate, Reason::Draining, Reason::VerifierUnavailable]
        {
            assert!(
                refusal(reason, false).headers().contains_key(RETRY_AFTER),
                "{}",
                reason.label()
            );
        }
    }
}
