//! What the endpoint is asked: the client's request, told in headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{Method, Request};

use super::super::Occasion;
use super::super::lookup::{Key, Keys};
use crate::credential::{Place, Scheme, without_parameter};
use crate::fetch::{Url, form_encoded};
use crate::handshake::Host;

/// Headers that are about the answer to the client: the endpoint would answer
/// 304, a part, or something packed.
const ABOUT_THE_ANSWER: [HeaderName; 9] = [
    HOST,
    EXPECT,
    RANGE,
    IF_RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    ACCEPT_ENCODING,
];

/// Headers that are about the client's handshake, or its body, by how they begin.
const ABOUT_THE_CLIENT: [&str; 2] = ["sec-websocket-", "content-"];

/// The longest credential that is sent, in bytes.
const CREDENTIAL: usize = 64 << 10;

const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The request to the endpoint; none if the credential cannot be sent as it is.
pub(super) fn of(url: &Url, credential: &[u8], occasion: &Occasion<'_>) -> Option<Request<Bytes>> {
    if !(1..=CREDENTIAL).contains(&credential.len()) {
        return None;
    }
    let mut request = match occasion.place {
        Place::Query(name) => {
            let [name, value] = [name.as_bytes(), credential].map(form_encoded);
            url.with_parameter(&format!("{name}={value}")).ok()?.request(Method::GET)
        }
        Place::Cookie(_)
        | Place::Header(..)
        | Place::Subprotocol
        | Place::Certificate
        | Place::Message => url.request(Method::GET),
    };
    let own = request.headers().get(AUTHORIZATION).cloned();
    let mut headers = client_headers(occasion.headers);
    if let Some(own) = own {
        // The endpoint's user and password are ours, and no header that the client
        // sends replaces them. A credential that has to go there would: a policy that
        // reads one for such an endpoint is refused.
        headers.insert(AUTHORIZATION, own);
    }
    put(&mut headers, credential, occasion.place)?;
    let text = |text: &str| HeaderValue::from_str(text).ok();
    headers.insert(FORWARDED_METHOD, text(occasion.method.as_str())?);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme(occasion.https)));
    headers.insert(FORWARDED_HOST, text(&authority(occasion.host))?);
    // A query may hold more than ASCII.
    let target = HeaderValue::from_bytes(target(occasion).as_bytes()).ok()?;
    headers.insert(FORWARDED_URI, target);
    headers.insert(FORWARDED_FOR, text(&occasion.ip.to_string())?);
    *request.headers_mut() = headers;
    Some(request)
}

/// What the look-up is known by. The endpoint may judge by any header, so the same
/// question is the same request. An identity is remembered, if it is to be, for the
/// credential, where it goes, and for whom and what it was asked.
pub(super) fn keys(request: &Request<Bytes>, credential: &[u8], occasion: &Occasion<'_>) -> Keys {
    Keys { question: of_all(request), identity: of_some(credential, occasion) }
}

fn of_all(request: &Request<Bytes>) -> Key {
    let uri = request.uri().to_string();
    let mut parts = vec![request.method().as_str().as_bytes(), uri.as_bytes()];
    for (name, value) in request.headers() {
        parts.extend([name.as_str().as_bytes(), value.as_bytes()]);
    }
    Key::of(&parts)
}

fn of_some(credential: &[u8], occasion: &Occasion<'_>) -> Key {
    let (kind, name): (&[u8], &str) = match occasion.place {
        Place::Cookie(name) => (b"cookie", name),
        Place::Query(name) => (b"query", name),
        Place::Header(name, Scheme::Basic) => (b"basic", name.as_str()),
        Place::Header(name, Scheme::Bearer) => (b"bearer", name.as_str()),
        Place::Header(name, Scheme::None) => (b"header", name.as_str()),
        Place::Subprotocol | Place::Certificate | Place::Message => {
            (b"bearer", AUTHORIZATION.as_str())
        }
    };
    Key::of(&[
        credential,
        kind,
        name.as_bytes(),
        occasion.method.as_str().as_bytes(),
        scheme(occasion.https).as_bytes(),
        authority(occasion.host).as_bytes(),
        target(occasion).as_bytes(),
        occasion.ip.to_string().as_bytes(),
    ])
}

fn client_headers(sent: &HeaderMap) -> HeaderMap {
    let mut headers = sent.clone();
    for name in &ABOUT_THE_ANSWER {
        headers.remove(name);
    }
    let begins =
        |name: &HeaderName| ABOUT_THE_CLIENT.iter().any(|start| name.as_str().starts_with(start));
    let others: Vec<HeaderName> = headers.keys().filter(|name| begins(name)).cloned().collect();
    for name in others {
        headers.remove(name);
    }
    headers
}

/// Puts the credential where the client had it; one that stood in no header, and
/// not in the query, becomes a bearer token.
fn put(headers: &mut HeaderMap, credential: &[u8], place: Place<'_>) -> Option<()> {
    let (name, value) = match place {
        Place::Query(_) => return Some(()),
        Place::Cookie(name) => return put_cookie(headers, name, credential),
        Place::Header(name, Scheme::None) => (name, sendable(&[], credential)?),
        Place::Header(name, Scheme::Bearer) => (name, sendable(b"Bearer ", credential)?),
        Place::Header(name, Scheme::Basic) => {
            (name, sendable(b"Basic ", STANDARD.encode(credential).as_bytes())?)
        }
        Place::Subprotocol | Place::Certificate | Place::Message => {
            (&AUTHORIZATION, sendable(b"Bearer ", credential)?)
        }
    };
    headers.insert(name, value);
    Some(())
}

fn put_cookie(headers: &mut HeaderMap, name: &str, credential: &[u8]) -> Option<()> {
    let ours = sendable(&[], &[name.as_bytes(), b"=", credential].concat())?;
    let mut all = Vec::new();
    for sent in headers.get_all(COOKIE) {
        for pair in sent.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            // One that is forwarded has not been cut.
            let is_ours = pair.strip_prefix(name.as_bytes()).is_some_and(|r| r.starts_with(b"="));
            if !is_ours && !pair.is_empty() {
                all.extend_from_slice(pair);
                all.extend_from_slice(b"; ");
            }
        }
    }
    all.extend_from_slice(ours.as_bytes());
    headers.insert(COOKIE, sendable(&[], &all)?);
    Some(())
}

/// The value of a header that is read as just these bytes; spaces around it would
/// be lost.
fn sendable(start: &[u8], value: &[u8]) -> Option<HeaderValue> {
    if value.trim_ascii() != value {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&[start, value].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

fn authority(host: &Host) -> String {
    match host.port {
        Some(port) => format!("{}:{port}", host.name),
        None => host.name.to_string(),
    }
}

/// Path and query as the client sent them, without the credential.
fn target(occasion: &Occasion<'_>) -> String {
    let query = match occasion.place {
        Place::Query(name) => occasion.query.and_then(|query| without_parameter(query, name)),
        Place::Cookie(_)
        | Place::Header(..)
        | Place::Subprotocol
        | Place::Certificate
        | Place::Message => occasion.query.map(Into::into),
    };
    match query {
        Some(query) => format!("{}?{query}", occasion.path),
        None => occasion.path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::occasion::Asked;
    use super::*;

    fn url(text: &str) -> Url {
        Url::read(text, true).ok().unwrap()
    }

    fn asked() -> Asked {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "app.example"),
            ("cookie", "theme=dark; lang=de"),
            ("user-agent", "Firefox"),
            ("origin", "https://app.example"),
            ("sec-websocket-key", "a"),
            ("sec-websocket-extensions", "b"),
            ("content-length", "7"),
            ("content-type", "text/plain"),
            ("if-none-match", "\"x\""),
            ("accept-encoding", "gzip"),
            ("range", "bytes=0-1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Asked { query: Some("room=1"), headers, ..Asked::default() }
    }

    fn told(place: Place<'_>, credential: &str) -> Request<Bytes> {
        of(&url("http://127.0.0.1/check"), credential.as_bytes(), &asked().with(place)).unwrap()
    }

    #[test]
    fn the_request_is_told_in_headers_and_what_is_the_clients_own_business_stays_away() {
        let request = told(Place::Message, "t");
        let mut headers: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "authorization: Bearer t",
                "cookie: theme=dark; lang=de",
                "origin: https://app.example",
                "user-agent: Firefox",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: app.example",
                "x-forwarded-method: GET",
                "x-forwarded-proto: https",
                "x-forwarded-uri: /ws?room=1",
            ]
        );
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/check"));
    }

    #[test]
    fn the_credential_stands_where_the_client_had_it() {
        let header = |place: Place<'_>, credential: &str, name: &str| {
            told(place, credential).headers()[name].to_str().unwrap().to_owned()
        };
        assert_eq!(header(Place::Cookie("sid"), "x", "cookie"), "theme=dark; lang=de; sid=x");
        assert_eq!(header(Place::Cookie("lang"), "x", "cookie"), "theme=dark; lang=x");
        assert_eq!(header(Place::Subprotocol, "x", "authorization"), "Bearer x");
        let key = HeaderName::from_static("x-key");
        assert_eq!(header(Place::Header(&key, Scheme::None), "x y", "x-key"), "x y");
        let basic = Place::Header(&AUTHORIZATION, Scheme::Basic);
        assert_eq!(header(basic, "ada:x", "authorization"), "Basic YWRhOng=");
        let bearer = Place::Header(&AUTHORIZATION, Scheme::Bearer);
        assert_eq!(header(bearer, "x", "authorization"), "Bearer x");

        let asked = Asked { query: Some("to%6ben=old&room=1"), ..asked() };
        let occasion = asked.with(Place::Query("token"));
        let request = of(&url("http://h/check?a=b"), b"x&y", &occasion).unwrap();
        assert_eq!(request.uri().to_string(), "http://h/check?a=b&token=x%26y");
        assert_eq!(request.headers()["x-forwarded-uri"], "/ws?room=1");
        assert!(!request.headers().contains_key(AUTHORIZATION));
    }

    #[test]
    fn a_query_that_is_not_ascii_is_told_as_it_came() {
        let asked = Asked { query: Some("room=Zoë"), ..asked() };
        let request = of(&url("http://h/"), b"t", &asked.with(Place::Message)).unwrap();
        assert_eq!(request.headers()["x-forwarded-uri"].as_bytes(), "/ws?room=Zoë".as_bytes());
    }

    #[test]
    fn a_credential_that_would_arrive_as_another_one_is_not_sent() {
        let cookie = Place::Cookie("sid");
        for (place, credential) in [
            (Place::Message, &b""[..]),
            (Place::Message, b" t"),
            (Place::Message, b"t "),
            (Place::Message, b"t\r\nX-Admin: 1"),
            (Place::Message, b"t\0"),
            (cookie, b"t\n"),
            (cookie, b" "),
        ] {
            let asked = asked();
            let request = of(&url("http://h/"), credential, &asked.with(place));
            assert!(request.is_none(), "{credential:?}");
        }
        let long = vec![b'a'; 1 << 20];
        assert!(of(&url("http://h/"), &long, &asked().with(Place::Query("t"))).is_none());
    }

    #[test]
    fn the_endpoints_own_user_is_not_the_clients_to_replace() {
        let mut asked = asked();
        asked.headers.insert(AUTHORIZATION, HeaderValue::from_static("Digest mine"));
        let ask = |place| {
            let request = of(&url("http://ada:x@h/"), b"t", &asked.with(place)).unwrap();
            request.headers()[AUTHORIZATION].to_str().unwrap().to_owned()
        };
        assert_eq!(ask(Place::Cookie("sid")), "Basic YWRhOng=");
        assert_eq!(ask(Place::Message), "Bearer t");
    }

    #[test]
    fn what_is_the_same_question_is_the_whole_request() {
        let key_of = |asked: &Asked, credential: &str, place: Place<'_>| {
            let occasion = asked.with(place);
            of_all(&of(&url("http://h/check"), credential.as_bytes(), &occasion).unwrap())
        };
        let with = |name: &'static str, value| {
            let mut asked = asked();
            asked.headers.append(name, HeaderValue::from_static(value));
            asked
        };
        let query = Place::Query("token");
        let base = key_of(&asked(), "t", query);
        assert!(base == key_of(&asked(), "t", query));
        // What the endpoint does not see makes no difference.
        assert!(base == key_of(&with("sec-websocket-key", "other"), "t", query));
        let others = [
            key_of(&asked(), "u", query),
            key_of(&asked(), "t", Place::Message),
            key_of(&Asked { path: "/wt", ..asked() }, "t", query),
            key_of(&with("x-tenant", "b"), "t", query),
            key_of(&with("x-csrf", "b"), "t", query),
            key_of(&with("cookie", "b=c"), "t", query),
            key_of(&with("origin", "https://evil.example"), "t", query),
        ];
        for (index, other) in others.iter().enumerate() {
            assert!(base != *other, "{index}");
        }
    }

    #[test]
    fn an_identity_is_remembered_under_what_the_contract_names() {
        let key_of = |asked: &Asked, credential: &str, place: Place<'_>| {
            of_some(credential.as_bytes(), &asked.with(place))
        };
        let cookie = Place::Cookie("sid");
        let base = key_of(&asked(), "t", cookie);
        assert!(base == key_of(&Asked { headers: HeaderMap::new(), ..asked() }, "t", cookie));
        let others = [
            key_of(&asked(), "u", cookie),
            key_of(&asked(), "t", Place::Cookie("sib")),
            key_of(&asked(), "t", Place::Message),
            key_of(&Asked { method: Method::POST, ..asked() }, "t", cookie),
            key_of(&Asked { path: "/wt", ..asked() }, "t", cookie),
            key_of(&Asked { query: None, ..asked() }, "t", cookie),
            key_of(&Asked { query: Some("room=2"), ..asked() }, "t", cookie),
            key_of(&Asked { host: Host { name: "b".into(), port: None }, ..asked() }, "t", cookie),
            key_of(&Asked { host: Host { port: Some(1), ..asked().host }, ..asked() }, "t", cookie),
        ];
        for (index, other) in others.iter().enumerate() {
            assert!(base != *other, "{index}");
        }
        let elsewhere = asked();
        let mut occasion = elsewhere.with(cookie);
        occasion.ip = [192, 0, 2, 8].into();
        assert!(base != of_some(b"t", &occasion));
    }
}
