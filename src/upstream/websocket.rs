//! The upstream's opening handshake (RFC 6455 §4.1): sockgate as the client,
//! with its own key, and the Accept checked.

use futures_util::future::{Either, select};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::endpoint::{DialError, Endpoint};
use super::http::ANSWER_FIELDS;
use super::switch::{self, Asked, Replay};
use crate::handshake::{accept_for, fresh_key, tokens, write_fields};
use crate::policy::Permit;
use crate::stream::Stream;

/// What the upstream is asked for.
pub struct UpgradeRequest {
    /// Path and query, credentials cut.
    pub target: String,
    /// All header fields but those of the handshake itself.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The subprotocols that may be offered, credentials cut.
    pub subprotocols: Vec<String>,
    /// `Sec-WebSocket-Extensions`, where extensions may be offered.
    pub extensions: Option<HeaderValue>,
}

/// An upstream that has switched protocols.
pub struct Upgraded {
    /// The stream.
    pub stream: Stream,
    /// What it sent right behind its 101.
    pub ahead: Bytes,
    /// The headers of its 101.
    pub headers: HeaderMap,
}

/// Why there is no upgraded upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or what came is not HTTP.
    #[error("the upstream broke off the handshake")]
    Broken(#[source] Option<hyper::Error>),
    /// A 101 that is not a WebSocket's, or with something that was not offered.
    #[error("the upstream's 101 is not valid: {0}")]
    Invalid(&'static str),
    /// Another answer than 101: the upstream's own refusal.
    #[error("the upstream answered {}", .0.status())]
    Refused(Box<Response<Incoming>>),
}

impl UpgradeError {
    /// The label of `sockgate_upstream_errors_total`.
    pub fn kind(&self) -> &'static str {
        match self {
            UpgradeError::Dial(error) => error.kind(),
            UpgradeError::Broken(_) => "handshake",
            UpgradeError::Invalid(_) => "invalid_101",
            UpgradeError::Refused(_) => "refused",
        }
    }
}

/// Dials and upgrades. The permit is the proof that this client may have it.
/// The caller bounds the time.
///
/// # Errors
/// [`UpgradeError`]; a connection that carried a failed upgrade is never reused.
pub async fn connect(
    _permit: &Permit,
    endpoint: &Endpoint,
    wanted: UpgradeRequest,
) -> Result<Upgraded, UpgradeError> {
    upgrade(endpoint, wanted).await
}

/// The handshake itself, whoever may have it.
pub(super) async fn upgrade(
    endpoint: &Endpoint,
    wanted: UpgradeRequest,
) -> Result<Upgraded, UpgradeError> {
    let key = fresh_key();
    let accept = accept_for(key.as_bytes());
    let offer = wanted.offer(key).ok_or(UpgradeError::Invalid("the request cannot be built"))?;
    let bytes = wanted.encode(&offer);
    let (stream, sent) = endpoint.dial_and_say(switch::at_once(&bytes)).await?;
    let upgraded = match switch::ask(stream, &bytes, sent).await {
        Asked::Switched { stream, headers, ahead } => Upgraded { stream, ahead, headers },
        // Boxed, as rare as it is: every handshake would have to be as large.
        Asked::Otherwise(replay) => {
            let request = wanted.request(&offer);
            let request = request.ok_or(UpgradeError::Invalid("the request cannot be built"))?;
            Box::pin(ask_at_length(replay, request)).await?
        }
    };
    let extensions = wanted.extensions.as_ref();
    check(&upgraded.headers, accept.as_bytes(), &wanted.subprotocols, extensions)?;
    Ok(upgraded)
}

/// The header fields of the handshake itself.
type Offer = Vec<(HeaderName, HeaderValue)>;

impl UpgradeRequest {
    /// What is offered under `key`; none if a subprotocol is no header value.
    fn offer(&self, key: HeaderValue) -> Option<Offer> {
        let mut offer = Vec::with_capacity(6);
        offer.extend([
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (UPGRADE, HeaderValue::from_static("websocket")),
            (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            (SEC_WEBSOCKET_KEY, key),
        ]);
        if !self.subprotocols.is_empty() {
            let list = self.subprotocols.join(", ");
            offer.push((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&list).ok()?));
        }
        offer.extend(self.extensions.clone().map(|value| (SEC_WEBSOCKET_EXTENSIONS, value)));
        Some(offer)
    }

    /// The request as hyper writes it.
    fn encode(&self, offer: &Offer) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        for part in ["GET ", &self.target, " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        write_fields(
            &mut bytes,
            self.fields.iter().chain(offer).map(|(name, value)| (name, value)),
        );
        bytes
    }

    /// The same for hyper.
    fn request(&self, offer: &Offer) -> Option<Request<Empty<Bytes>>> {
        let mut request = Request::get(&self.target).body(Empty::new()).ok()?;
        for (name, value) in self.fields.iter().chain(offer) {
            request.headers_mut().append(name.clone(), value.clone());
        }
        Some(request)
    }
}

/// Has hyper ask, whatever comes.
async fn ask_at_length(
    stream: Replay,
    request: Request<Empty<Bytes>>,
) -> Result<Upgraded, UpgradeError> {
    let broken = |error| UpgradeError::Broken(Some(error));
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(ANSWER_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let connection = Box::pin(connection.without_shutdown());
    let sending = Box::pin(sender.send_request(request));
    // The connection may be done in the very poll that brings the 101.
    let (response, connection) = match select(sending, connection).await {
        Either::Left((response, connection)) => {
            (response.map_err(broken)?, Either::Left(connection))
        }
        Either::Right((parts, sending)) => {
            let parts = parts.map_err(broken)?;
            (sending.await.map_err(broken)?, Either::Right(parts))
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if let Either::Left(connection) = connection {
            // The body is still to come: somebody has to drive the connection.
            tokio::spawn(connection);
        }
        return Err(UpgradeError::Refused(Box::new(response)));
    }
    let (head, _) = response.into_parts();
    let parts = match connection {
        Either::Left(connection) => connection.await.map_err(broken)?,
        Either::Right(parts) => parts,
    };
    let (stream, behind) = parts.io.into_inner().into_parts();
    let ahead = [parts.read_buf, behind].concat().into();
    Ok(Upgraded { stream, ahead, headers: head.headers })
}

/// RFC 6455 §4.1, the client's checks on the server's answer.
fn check(
    headers: &HeaderMap,
    accept: &[u8],
    subprotocols: &[String],
    extensions: Option<&HeaderValue>,
) -> Result<(), UpgradeError> {
    let mut upgrades = tokens(headers, &UPGRADE);
    let upgrade = upgrades.next().is_some_and(|token| token.eq_ignore_ascii_case(b"websocket"));
    if !upgrade || upgrades.next().is_some() {
        return Err(UpgradeError::Invalid("Upgrade is not websocket"));
    }
    if !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return Err(UpgradeError::Invalid("Connection lacks upgrade"));
    }
    let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).into_iter();
    let answered = accepts.next().map(HeaderValue::as_bytes);
    if answered != Some(accept) || accepts.next().is_some() {
        return Err(UpgradeError::Invalid("Sec-WebSocket-Accept is wrong"));
    }
    let mut chosen = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    if let Some(choice) = chosen.next() {
        let offered =
            choice.to_str().is_ok_and(|choice| subprotocols.iter().any(|one| one == choice));
        if !offered || chosen.next().is_some() {
            return Err(UpgradeError::Invalid("a subprotocol that was not offered"));
        }
    }
    let offered = extensions.map(HeaderValue::as_bytes).unwrap_or_default();
    // One without a name was not offered, nor is it in a list that is empty.
    let offered = offered.split(|byte| *byte == b',').map(extension_name);
    let offered = offered.filter(|name| !name.is_empty());
    for extension in tokens(headers, &SEC_WEBSOCKET_EXTENSIONS).map(extension_name) {
        if !offered.clone().any(|one| one.eq_ignore_ascii_case(extension)) {
            return Err(UpgradeError::Invalid("an extension that was not offered"));
        }
    }
    Ok(())
}

/// `permessage-deflate; server_no_context_takeover` → `permessage-deflate`.
fn extension_name(entry: &[u8]) -> &[u8] {
    entry.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(extra: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("upgrade", "WebSocket"), ("connection", "Upgrade"), ("sec-websocket-accept", "abc=")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in extra {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn verdict(extra: &[(&'static str, &'static str)]) -> bool {
        let extensions = HeaderValue::from_static("permessage-deflate; client_max_window_bits");
        check(&answer(extra), b"abc=", &["chat".to_owned()], Some(&extensions)).is_ok()
    }

    #[test]
    fn only_what_was_offered_is_accepted() {
        assert!(verdict(&[]));
        assert!(verdict(&[
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "permessage-deflate")
        ]));
        assert!(!verdict(&[("sec-websocket-protocol", "other")]));
        assert!(!verdict(&[("sec-websocket-extensions", "x-webkit-deflate-frame")]));
        assert!(!verdict(&[("sec-websocket-extensions", "; server_no_context_takeover")]));
        let nameless = answer(&[("sec-websocket-extensions", ";x")]);
        assert!(check(&nameless, b"abc=", &[], None).is_err());
        assert!(!verdict(&[("sec-websocket-accept", "wrong")]));
        assert!(!verdict(&[("upgrade", "h2c")]));
        assert!(!verdict(&[("connection", "keep-alive")]));
    }
}
