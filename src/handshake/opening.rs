//! The client's opening handshake (RFC 6455 §4.2.1), or plain HTTP: one request
//! read into the form that the rest of the gate works on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, Method, Uri, Version, request};

use super::target::{Host, normalise_path};
use crate::close::Reason;

/// A request as the gate sees it.
pub struct Opening {
    /// The method.
    pub method: Method,
    /// The normalised path.
    pub path: String,
    /// The query as it came, without `?`.
    pub query: Option<String>,
    /// The host; none only in HTTP/1.0.
    pub host: Option<Host>,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// What is asked for.
    pub kind: Kind,
}

/// What a request asks for.
pub enum Kind {
    /// A response.
    Plain,
    /// A WebSocket.
    Upgrade(Offer),
}

/// The parameters of an upgrade.
pub struct Offer {
    /// `Sec-WebSocket-Key`, as it came.
    pub key: HeaderValue,
    /// The entries of `Sec-WebSocket-Protocol`, in the client's order of preference.
    pub subprotocols: Vec<String>,
    /// `Sec-WebSocket-Extensions`, joined.
    pub extensions: Option<HeaderValue>,
}

impl Opening {
    /// Reads a request head.
    ///
    /// # Errors
    /// [`Reason::ProtocolError`] for a target or an upgrade that breaks the rules,
    /// [`Reason::UnsupportedVersion`] for a WebSocket version other than 13,
    /// [`Reason::MethodNotAllowed`] for TRACE and CONNECT.
    pub fn read(head: request::Parts) -> Result<Opening, Reason> {
        if head.method == Method::TRACE || head.method == Method::CONNECT {
            return Err(Reason::MethodNotAllowed);
        }
        let host = match head.headers.get(HOST) {
            Some(value) => Some(Host::parse(value.to_str().map_err(|_| Reason::ProtocolError)?)?),
            None => None,
        };
        let path = if head.method == Method::OPTIONS && head.uri.path() == "*" {
            "/".to_owned()
        } else {
            normalise_path(head.uri.path())?
        };
        let query = head.uri.query().map(str::to_owned);
        let kind = Kind::read(&head.method, head.version, &head.headers)?;
        Ok(Opening { method: head.method, path, query, host, headers: head.headers, kind })
    }
}

/// Path and query of a head that is refused for something else, as they would
/// have been matched; none if they cannot be read.
pub fn readable_target(uri: &Uri) -> Option<String> {
    let path = normalise_path(uri.path()).ok()?;
    Some(match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    })
}

impl Kind {
    fn read(method: &Method, version: Version, headers: &HeaderMap) -> Result<Kind, Reason> {
        let asks = tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(b"websocket"));
        if !asks && !headers.contains_key(SEC_WEBSOCKET_KEY) {
            return Ok(Kind::Plain);
        }
        let only = sole(headers, &UPGRADE).ok_or(Reason::ProtocolError)?;
        let sound = only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket")
            && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
            && *method == Method::GET
            && version == Version::HTTP_11;
        if !sound {
            return Err(Reason::ProtocolError);
        }
        match sole(headers, &SEC_WEBSOCKET_VERSION) {
            Some(version) if version.as_bytes() == b"13" => {}
            Some(_) => return Err(Reason::UnsupportedVersion),
            None if headers.contains_key(SEC_WEBSOCKET_VERSION) => {
                return Err(Reason::ProtocolError);
            }
            None => return Err(Reason::UnsupportedVersion),
        }
        let key = sole(headers, &SEC_WEBSOCKET_KEY).ok_or(Reason::ProtocolError)?;
        // No more fits: the text of sixteen bytes may stand for eighteen.
        if STANDARD.decode_slice(key.as_bytes(), &mut [0; 18]) != Ok(16) {
            return Err(Reason::ProtocolError);
        }
        let mut subprotocols = Vec::new();
        for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
            let text = value.to_str().map_err(|_| Reason::ProtocolError)?;
            for entry in text.split(',').map(str::trim) {
                if entry.is_empty() || !entry.bytes().all(is_token_byte) {
                    return Err(Reason::ProtocolError);
                }
                subprotocols.push(entry.to_owned());
            }
        }
        Ok(Kind::Upgrade(Offer {
            key: key.clone(),
            subprotocols,
            extensions: joined(headers, &SEC_WEBSOCKET_EXTENSIONS),
        }))
    }
}

/// The entries of a comma-separated list header, empty ones left out.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The value of a header that occurs once.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

/// All values of a list header as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    let mut all = first.as_bytes().to_vec();
    for value in values {
        all.extend_from_slice(b", ");
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}

/// RFC 9110 §5.6.2, and `/`, `=`: tokens in subprotocols are base64 at times.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'(' | b')' | b',' | b';' | b'<' | b'>' | b'\\' | b'{' | b'}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(edit: impl FnOnce(&mut HeaderMap)) -> Result<Opening, Reason> {
        let mut request = http::Request::builder().uri("/ws?x=1").body(()).unwrap();
        let headers = request.headers_mut();
        headers.insert("host", "a".parse().unwrap());
        headers.insert("connection", "keep-alive, Upgrade".parse().unwrap());
        headers.insert("upgrade", "websocket".parse().unwrap());
        headers.insert("sec-websocket-version", "13".parse().unwrap());
        headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        edit(headers);
        Opening::read(request.into_parts().0)
    }

    #[test]
    fn connection_is_a_token_list() {
        assert!(matches!(request(|_| ()).ok().unwrap().kind, Kind::Upgrade(_)));
    }

    #[test]
    fn subprotocols_keep_the_order_of_preference() {
        let opening = request(|headers| {
            headers.append("sec-websocket-protocol", "b, a".parse().unwrap());
            headers.append("sec-websocket-protocol", "c".parse().unwrap());
        });
        let Kind::Upgrade(offer) = opening.ok().unwrap().kind else { panic!("plain") };
        assert_eq!(offer.subprotocols, ["b", "a", "c"]);
    }

    #[test]
    fn other_versions_are_426_and_other_mistakes_400() {
        let version = |v: &'static str| {
            request(move |h| drop(h.insert("sec-websocket-version", v.parse().unwrap())))
        };
        assert_eq!(version("8").err(), Some(Reason::UnsupportedVersion));
        assert_eq!(
            request(|h| drop(h.remove("sec-websocket-version"))).err(),
            Some(Reason::UnsupportedVersion)
        );
        type Edit = fn(&mut HeaderMap);
        let mistakes: [Edit; 8] = [
            |h| drop(h.insert("upgrade", "websocket, h2c".parse().unwrap())),
            |h| {
                h.append("upgrade", "websocket".parse().unwrap());
            },
            |h| drop(h.remove("upgrade")),
            |h| drop(h.insert("connection", "keep-alive".parse().unwrap())),
            |h| drop(h.remove("sec-websocket-key")),
            |h| {
                h.append("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
            },
            |h| drop(h.insert("sec-websocket-key", "c2hvcnQ=".parse().unwrap())),
            |h| drop(h.insert("sec-websocket-protocol", "a,,b".parse().unwrap())),
        ];
        for edit in mistakes {
            assert_eq!(request(edit).err(), Some(Reason::ProtocolError));
        }
    }
}
