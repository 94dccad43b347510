//! Where a request goes: an absolute http or https URL, read once.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};

/// The address of something that a verifier asks. Has no `Debug`: user name and
/// password of the URL are in it.
#[derive(Clone)]
pub struct Url {
    uri: Uri,
    /// User name and password of the URL, as Basic (RFC 7617).
    authorization: Option<HeaderValue>,
}

/// Why a text is not the URL of something that can be asked. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL, or one of another kind.
    #[error("expected a URL such as https://id.example.com/path")]
    Form,
    /// It goes over plain HTTP to another machine.
    #[error(
        "plain HTTP to another machine: who is on the way reads and forges it; use https://, or \
         set `allow_http: true`"
    )]
    PlainHttp,
    /// It has a part behind `#`, which no server sees.
    #[error("must have no `#` part")]
    Fragment,
}

impl Url {
    /// Reads an absolute URL; http off loopback only if `allow_http`.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn read(text: &str, allow_http: bool) -> Result<Url, UrlError> {
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let mut parts = text.parse::<Uri>().map_err(|_| UrlError::Form)?.into_parts();
        let authority = parts.authority.take().ok_or(UrlError::Form)?;
        let (userinfo, place) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, authority.as_str()),
        };
        let place: Authority = place.parse().map_err(|_| UrlError::Form)?;
        // `host:` and `host:99999` have a port that is none.
        let sound = !place.host().is_empty()
            && (place.as_str().len() == place.host().len() || place.port_u16().is_some());
        if !sound {
            return Err(UrlError::Form);
        }
        match parts.scheme.as_ref() {
            Some(scheme) if *scheme == Scheme::HTTPS => {}
            Some(scheme) if *scheme == Scheme::HTTP => {
                if !allow_http && !is_loopback(place.host()) {
                    return Err(UrlError::PlainHttp);
                }
            }
            Some(_) | None => return Err(UrlError::Form),
        }
        let authorization = userinfo.map(basic).transpose()?;
        parts.authority = Some(place);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        let uri = Uri::from_parts(parts).map_err(|_| UrlError::Form)?;
        Ok(Url { uri, authorization })
    }

    /// Whether it goes over TLS.
    pub fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether it brings a user name or password of its own.
    pub fn has_userinfo(&self) -> bool {
        self.authorization.is_some()
    }

    /// The same URL with one more parameter in its query; `parameter` is
    /// `name=value`, form-encoded.
    ///
    /// # Errors
    /// [`UrlError::Form`] if that is longer than a URL may be.
    pub fn with_parameter(&self, parameter: &str) -> Result<Url, UrlError> {
        let target = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let joint = match self.uri.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        let mut parts = self.uri.clone().into_parts();
        let target = format!("{target}{joint}{parameter}");
        parts.path_and_query = Some(target.parse().map_err(|_| UrlError::Form)?);
        let uri = Uri::from_parts(parts).map_err(|_| UrlError::Form)?;
        Ok(Url { uri, authorization: self.authorization.clone() })
    }

    /// A request to it without a body, under the URL's own user name and password.
    pub fn request(&self, method: Method) -> Request<Bytes> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

/// `text` as a name or a value of a form
/// (<https://url.spec.whatwg.org/#concept-urlencoded-serializer>).
pub fn form_encoded(text: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble & 15)]);
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'*' | b'-' | b'.' | b'_' => {
                encoded.push(char::from(*byte));
            }
            b' ' => encoded.push('+'),
            _ => encoded.extend(['%', digit(byte >> 4), digit(*byte)]),
        }
    }
    encoded
}

/// Whether nobody is on the way to `host`.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let by_name = host.eq_ignore_ascii_case("localhost");
    by_name || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `user:password`, percent-encoded, as the value of `Authorization`.
fn basic(userinfo: &str) -> Result<HeaderValue, UrlError> {
    let decoded = percent_decoded(userinfo).ok_or(UrlError::Form)?;
    let pair = if userinfo.contains(':') { decoded } else { [&decoded[..], b":"].concat() };
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
        .map_err(|_| UrlError::Form)?;
    value.set_sensitive(true);
    Ok(value)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> String {
        Url::read(text, true).ok().unwrap().uri.to_string()
    }

    #[test]
    fn urls_are_read_and_their_userinfo_becomes_basic() {
        assert_eq!(uri("https://id.example"), "https://id.example/");
        assert_eq!(uri("http://[::1]:80/a?b=c"), "http://[::1]:80/a?b=c");
        let url = Url::read("https://ada:p%40ss@id.example:8443/x", false).ok().unwrap();
        assert!(url.is_https() && url.has_userinfo());
        assert_eq!(url.uri.to_string(), "https://id.example:8443/x");
        let request = url.request(Method::GET);
        assert_eq!(request.headers()[AUTHORIZATION], "Basic YWRhOnBAc3M=");
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        let lone = Url::read("http://key@localhost/", false).ok().unwrap().request(Method::GET);
        assert_eq!(lone.headers()[AUTHORIZATION], "Basic a2V5Og==");
    }

    #[test]
    fn what_is_no_url_to_ask_is_refused() {
        let cases = [
            ("", UrlError::Form),
            ("/path", UrlError::Form),
            ("id.example/path", UrlError::Form),
            ("ftp://id.example/", UrlError::Form),
            ("https://", UrlError::Form),
            ("https://id.example:99999/", UrlError::Form),
            ("https://id.example:/", UrlError::Form),
            ("https://us%zzer@id.example/", UrlError::Form),
            ("https://id.example/a b", UrlError::Form),
            ("https://id.example/\r\nx", UrlError::Form),
            ("https://id.example/#x", UrlError::Fragment),
            ("http://id.example/", UrlError::PlainHttp),
            ("http://localhost.example/", UrlError::PlainHttp),
            ("http://127.0.0.1.example/", UrlError::PlainHttp),
            ("http://localhost@id.example/", UrlError::PlainHttp),
        ];
        for (text, error) in cases {
            assert_eq!(Url::read(text, false).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_or_when_allowed() {
        for text in
            ["http://127.0.0.1:3000/", "http://127.9.9.9/", "http://[::1]/", "http://LOCALHOST:1/"]
        {
            assert!(Url::read(text, false).is_ok(), "{text}");
        }
        assert!(Url::read("http://id.example/", true).is_ok());
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form_encoded("a b&c=d+é%~*-._".as_bytes()), "a+b%26c%3Dd%2B%C3%A9%25%7E*-._");
    }

    #[test]
    fn a_parameter_is_added_behind_those_that_are_there() {
        for (text, with) in [
            ("http://h", "http://h/?t=x"),
            ("http://h/a?", "http://h/a?t=x"),
            ("http://h/a?b", "http://h/a?b&t=x"),
        ] {
            let url = Url::read(text, true).ok().unwrap().with_parameter("t=x").ok().unwrap();
            assert_eq!(url.uri.to_string(), with);
        }
        let url = Url::read("http://h/", true).ok().unwrap();
        assert!(url.with_parameter(&"x".repeat(70_000)).is_err());
    }
}
