//! What the client presents, and where (RFC 9110 §11, RFC 6750 §2, RFC 6265,
//! RFC 6455 §1.9). A source finds its credential and can cut it out of what
//! goes upstream.
//!
//! Pure. Not here: whether a credential is any good (`verifier`), and what its
//! owner may do (`policy`).

mod compile;
mod config;
mod cookie;
mod header;
mod message;
mod query;
mod subprotocol;

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};

pub use self::config::{
    CertificateField, CredentialConfig, DialConfig, Encoding, ForwardConfig, ForwardWord,
    MessageConfig, MessageFormat, RewriteConfig, Scheme,
};
use self::cookie::CookieSource;
use self::header::HeaderSource;
pub use self::message::{
    Follower, Forwarded, LoginMessage, MessageSource, Progress, RefreshMessage, RefreshWatch,
    Refusal, Sight, harmless_text,
};
use self::query::QuerySource;
pub use self::query::{form_decoded, without_parameter};
use self::subprotocol::{PairSource, PrefixSource, Role};
use crate::close::Reason;
use crate::secret::Secret;

/// The credential sources of one policy, in the order in which they decide.
#[derive(Default)]
pub struct Sources {
    entries: Vec<Entry>,
}

/// What an opening handshake offers, before anything is cut.
pub struct Offered<'a> {
    /// All headers of the request.
    pub headers: &'a HeaderMap,
    /// The query as it came, without `?`.
    pub query: Option<&'a str>,
    /// The entries of `Sec-WebSocket-Protocol`, in order.
    pub subprotocols: &'a [&'a str],
    /// The certificate of the TLS handshake, DER.
    pub certificate: Option<&'a [u8]>,
}

/// A credential that can be handed to a verifier.
pub struct Presented {
    /// Which entry of `credentials` it was found by.
    pub index: usize,
    /// The label of that entry's kind.
    pub kind: &'static str,
    /// The credential; with `basic`, `user:password`.
    pub value: Secret,
    /// Whether the value was decoded from Basic (RFC 7617).
    pub basic: bool,
}

/// What the sources see in an opening handshake.
pub enum Finding {
    /// No source sees anything.
    Absent,
    /// The first source that sees something sees this.
    Present(Presented),
    /// The first source that sees something cannot use it.
    Refused {
        /// Which entry of `credentials` decided.
        index: usize,
        /// The label of that entry's kind.
        kind: &'static str,
        /// Malformed or ambiguous.
        reason: Reason,
    },
}

/// Where a credential stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In the cookie of this name.
    Cookie(&'a str),
    /// In the query parameter of this name, decoded.
    Query(&'a str),
    /// In this header, under this scheme.
    Header(&'a HeaderName, Scheme),
    /// Among the offered subprotocols.
    Subprotocol,
    /// In the TLS handshake.
    Certificate,
    /// In the first message.
    Message,
}

/// What one source sees: nothing, one value, or something that it refuses.
type Sighting = Result<Option<Secret>, Reason>;

struct Entry {
    source: Source,
    forward: bool,
    verifiers: Box<[String]>,
}

enum Source {
    Cookie(CookieSource),
    Query(QuerySource),
    Header(HeaderSource),
    Prefix(PrefixSource),
    Pair(PairSource),
    Certificate,
    Message(Box<MessageSource>),
}

impl Sources {
    /// The first source that is present decides, whether or not it is valid.
    /// A value over `max_bytes` is malformed. Messages come later and are
    /// absent here.
    pub fn find(&self, offered: &Offered<'_>, max_bytes: usize) -> Finding {
        for (index, entry) in self.entries.iter().enumerate() {
            let kind = entry.source.kind();
            match entry.source.find(offered, max_bytes) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let basic = entry.source.is_basic();
                    return Finding::Present(Presented { index, kind, value, basic });
                }
                Err(reason) => return Finding::Refused { index, kind, reason },
            }
        }
        Finding::Absent
    }

    /// Cuts every credential that is not forwarded, deciding or not, from the
    /// headers and from the query, which is returned; `None` if there is none left.
    #[must_use]
    pub fn cut<'a>(&self, headers: &mut HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
        let mut query = query.map(Cow::Borrowed);
        let mut parameters = Vec::new();
        for source in self.cut_sources() {
            match source {
                Source::Cookie(cookie) => cookie.cut(headers),
                Source::Header(header) => header.cut(headers),
                Source::Query(parameter) => {
                    query = query.and_then(|query| parameter.cut(query));
                    parameters.push(parameter);
                }
                Source::Prefix(_) | Source::Pair(_) | Source::Certificate | Source::Message(_) => {}
            }
        }
        query::cut_from_referer(&parameters, headers);
        query
    }

    /// The offered subprotocols without the credentials that are not forwarded.
    pub fn cut_subprotocols(&self, offered: &[&str]) -> Vec<String> {
        let roles = roles(self.cut_sources(), offered);
        let kept = offered.iter().zip(roles).filter(|(_, role)| *role == Role::Real);
        kept.map(|(entry, _)| (*entry).to_owned()).collect()
    }

    /// What sockgate answers where no upstream chooses: the first real
    /// subprotocol offered, else a pair's marker; a token never.
    pub fn echo<'a>(&self, offered: &[&'a str]) -> Option<&'a str> {
        let roles = roles(self.entries.iter().map(|entry| &entry.source), offered);
        let first = |wanted| roles.iter().position(|role| *role == wanted);
        let chosen = first(Role::Real).or_else(|| first(Role::Marker))?;
        offered.get(chosen).copied()
    }

    /// Whether any credential is one that a browser may attach by itself, so
    /// that the origin must be checked: a cookie, a certificate, Basic, or a bare header.
    pub fn ambient(&self) -> bool {
        self.entries.iter().any(|entry| match &entry.source {
            Source::Cookie(_) | Source::Certificate => true,
            Source::Header(header) => match header.scheme() {
                Scheme::Bearer => false,
                Scheme::Basic | Scheme::None => true,
            },
            Source::Query(_) | Source::Prefix(_) | Source::Pair(_) | Source::Message(_) => false,
        })
    }

    /// Whether the policy names no credential at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The message source, which is always the last.
    pub fn message(&self) -> Option<&MessageSource> {
        self.entries.iter().find_map(|entry| match &entry.source {
            Source::Message(message) => Some(&**message),
            Source::Cookie(_)
            | Source::Query(_)
            | Source::Header(_)
            | Source::Prefix(_)
            | Source::Pair(_)
            | Source::Certificate => None,
        })
    }

    /// The kind of the entry `index`.
    pub fn kind(&self, index: usize) -> &'static str {
        self.entries.get(index).map_or("none", |entry| entry.source.kind())
    }

    /// The names of the verifiers of the entry `index`, in order.
    pub fn verifiers(&self, index: usize) -> &[String] {
        self.entries.get(index).map_or(&[], |entry| &entry.verifiers)
    }

    /// Where the credential of the entry `index` stands.
    pub fn place(&self, index: usize) -> Option<Place<'_>> {
        self.entries.get(index).map(|entry| entry.source.place())
    }

    /// From now on the credential of the entry `index` is a cookie together with the
    /// one that signs it, named `<name>.sig`. False if the entry is no cookie.
    #[must_use]
    pub fn sign_cookie(&mut self, index: usize) -> bool {
        match self.entries.get_mut(index).map(|entry| &mut entry.source) {
            Some(Source::Cookie(cookie)) => {
                cookie.sign();
                true
            }
            _ => false,
        }
    }

    /// The names of query parameters that hold credentials.
    pub fn query_names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match &entry.source {
            Source::Query(query) => Some(query.name()),
            _ => None,
        })
    }

    /// The names of cookies that hold credentials.
    pub fn cookie_names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match &entry.source {
            Source::Cookie(cookie) => Some(cookie.name()),
            _ => None,
        })
    }

    /// The names of headers that hold credentials, in lower case.
    pub fn header_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.entries.iter().filter_map(|entry| entry.source.header_name())
    }

    /// Whether the header `name` is a credential that is passed on.
    pub fn forwards(&self, name: &HeaderName) -> bool {
        let forwarded = self.entries.iter().filter(|entry| entry.forward);
        forwarded.filter_map(|entry| entry.source.header_name()).any(|known| known == name)
    }

    fn cut_sources(&self) -> impl Iterator<Item = &Source> {
        self.entries.iter().filter(|entry| !entry.forward).map(|entry| &entry.source)
    }
}

impl Source {
    fn header_name(&self) -> Option<&HeaderName> {
        match self {
            Source::Header(header) => Some(header.name()),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Source::Cookie(_) => "cookie",
            Source::Query(_) => "query",
            Source::Header(_) => "header",
            Source::Prefix(_) => "subprotocol",
            Source::Pair(_) => "subprotocol_pair",
            Source::Certificate => "client_cert",
            Source::Message(_) => MessageSource::KIND,
        }
    }

    fn place(&self) -> Place<'_> {
        match self {
            Source::Cookie(cookie) => Place::Cookie(cookie.name()),
            Source::Query(query) => Place::Query(query.name()),
            Source::Header(header) => Place::Header(header.name(), header.scheme()),
            Source::Prefix(_) | Source::Pair(_) => Place::Subprotocol,
            Source::Certificate => Place::Certificate,
            Source::Message(_) => Place::Message,
        }
    }

    fn is_basic(&self) -> bool {
        matches!(self, Source::Header(header) if header.scheme() == Scheme::Basic)
    }

    fn find(&self, offered: &Offered<'_>, max_bytes: usize) -> Sighting {
        match self {
            Source::Cookie(cookie) => cookie.find(offered.headers, max_bytes),
            Source::Query(parameter) => {
                offered.query.map_or(Ok(None), |query| parameter.find(query, max_bytes))
            }
            Source::Header(header) => header.find(offered.headers, max_bytes),
            Source::Prefix(prefix) => prefix.find(offered.subprotocols, max_bytes),
            Source::Pair(pair) => pair.find(offered.subprotocols, max_bytes),
            // Bounded by the handshake.
            Source::Certificate => Ok(offered.certificate.map(Secret::new)),
            Source::Message(_) => Ok(None),
        }
    }
}

/// What each offered entry is, seen by all of `sources` together.
fn roles<'s>(sources: impl Iterator<Item = &'s Source>, offered: &[&str]) -> Vec<Role> {
    let mut roles = vec![Role::Real; offered.len()];
    for source in sources {
        match source {
            Source::Prefix(prefix) => prefix.mark(offered, &mut roles),
            Source::Pair(pair) => pair.mark(offered, &mut roles),
            Source::Cookie(_)
            | Source::Query(_)
            | Source::Header(_)
            | Source::Certificate
            | Source::Message(_) => {}
        }
    }
    roles
}

/// The one value that all occurrences share; `None` stands for an occurrence
/// that cannot be decoded. Two that differ are ambiguous, whichever is sound.
fn sole(values: impl Iterator<Item = Option<Vec<u8>>>, max_bytes: usize) -> Sighting {
    let mut values = values;
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != first) {
        return Err(Reason::AmbiguousCredential);
    }
    match first {
        Some(value) if (1..=max_bytes).contains(&value.len()) => Ok(Some(Secret::new(value))),
        Some(_) | None => Err(Reason::MalformedCredential),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn sources(json: serde_json::Value) -> Sources {
        let config: Vec<CredentialConfig> = serde_json::from_value(json).unwrap();
        Sources::compile(&config).ok().unwrap()
    }

    fn all() -> Sources {
        sources(serde_json::json!([
            { "cookie": "session", "verifier": "app" },
            { "query": "token", "verifier": ["app", "partners"] },
            { "header": "Authorization", "verifier": "app" },
            { "header": "X-Key", "verifier": "app", "forward": true },
            { "subprotocol": "b64.", "encoding": "base64url", "verifier": "app" },
            { "subprotocol_pair": "bearer", "verifier": "app" },
            { "message": { "where": { "/type": "auth" }, "token": "/token" }, "verifier": "app" },
        ]))
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn show(finding: Finding) -> String {
        match finding {
            Finding::Absent => "absent".to_owned(),
            Finding::Present(Presented { index, kind, value, .. }) => {
                format!("{index} {kind} {}", String::from_utf8_lossy(value.expose()))
            }
            Finding::Refused { index, kind, reason } => {
                format!("{index} {kind} {}", reason.label())
            }
        }
    }

    #[test]
    fn the_first_one_present_decides_valid_or_not() {
        let headers = headers(&[("cookie", "session="), ("authorization", "Bearer abc")]);
        let find = |headers: &HeaderMap, query, subprotocols: &[&str]| {
            show(all().find(&Offered { headers, query, subprotocols, certificate: None }, 100))
        };
        assert_eq!(find(&headers, Some("token=x"), &[]), "0 cookie malformed_credential");
        let none = HeaderMap::new();
        assert_eq!(find(&none, Some("token=x"), &["bearer", "y"]), "1 query x");
        assert_eq!(find(&none, Some("token=x&token=y"), &[]), "1 query ambiguous_credential");
        assert_eq!(find(&none, None, &["b64.eA"]), "4 subprotocol x");
        assert_eq!(find(&none, None, &["bearer", "y"]), "5 subprotocol_pair y");
        assert_eq!(find(&none, Some("a=b"), &["chat"]), "absent");
        assert_eq!(all().verifiers(1), ["app", "partners"]);
    }

    #[test]
    fn all_credentials_that_are_not_forwarded_are_cut() {
        let mut headers = headers(&[
            ("cookie", "a=1; session=x"),
            ("authorization", "Bearer abc"),
            ("x-key", "k"),
            ("referer", "https://h/?token=x"),
        ]);
        assert_eq!(all().cut(&mut headers, Some("a&token=x&b")).as_deref(), Some("a&b"));
        assert_eq!(headers.get("cookie").unwrap(), "a=1");
        assert_eq!(headers.get("x-key").unwrap(), "k");
        assert_eq!(headers.get("referer").unwrap(), "https://h/");
        assert!(!headers.contains_key("authorization"));
        let offered = ["v2", "bearer", "tok", "b64.x", "v1", "bearer"];
        assert_eq!(all().cut_subprotocols(&offered), ["v2", "v1"]);
    }

    #[test]
    fn what_is_forwarded_is_not_cut() {
        let kept = sources(serde_json::json!([
            { "subprotocol_pair": "bearer", "verifier": "app", "forward": true },
            { "query": "token", "verifier": "app", "forward": true },
        ]));
        assert_eq!(kept.cut_subprotocols(&["bearer", "x"]), ["bearer", "x"]);
        assert_eq!(kept.cut(&mut HeaderMap::new(), Some("token=x")).as_deref(), Some("token=x"));
        assert_eq!(kept.echo(&["bearer", "x"]), Some("bearer"));
    }

    #[test]
    fn a_token_is_never_echoed() {
        let sources = all();
        assert_eq!(sources.echo(&["bearer", "tok", "v2"]), Some("v2"));
        assert_eq!(sources.echo(&["bearer", "tok"]), Some("bearer"));
        assert_eq!(sources.echo(&["b64.x", "bearer"]), Some("bearer"));
        assert_eq!(sources.echo(&["b64.x"]), None);
        assert_eq!(sources.echo(&["bearer", "b64.x"]), Some("bearer"));
        assert_eq!(sources.echo(&[]), None);
    }

    #[test]
    fn cookies_basic_and_bare_headers_are_ambient() {
        let one = |json: serde_json::Value| sources(serde_json::json!([json])).ambient();
        assert!(one(serde_json::json!({ "cookie": "s", "verifier": "a" })));
        assert!(one(serde_json::json!({ "header": "x-key", "verifier": "a" })));
        let basic =
            serde_json::json!({ "header": "authorization", "scheme": "Basic", "verifier": "a" });
        assert!(one(basic));
        assert!(!one(serde_json::json!({ "header": "authorization", "verifier": "a" })));
        assert!(!one(serde_json::json!({ "query": "t", "verifier": "a" })));
        assert!(!one(serde_json::json!({ "message": { "format": "text" }, "verifier": "a" })));
        assert!(all().ambient());
    }

    #[test]
    fn names_are_known_for_redaction() {
        let sources = all();
        assert_eq!(sources.query_names().collect::<Vec<_>>(), ["token"]);
        assert_eq!(sources.cookie_names().collect::<Vec<_>>(), ["session"]);
        assert_eq!(sources.header_names().collect::<Vec<_>>(), ["authorization", "x-key"]);
        assert!(sources.message().is_some());
        assert_eq!(sources.place(0), Some(Place::Cookie("session")));
        assert_eq!(sources.place(1), Some(Place::Query("token")));
        let authorization = Place::Header(&http::header::AUTHORIZATION, Scheme::Bearer);
        assert_eq!(sources.place(2), Some(authorization));
        assert_eq!(sources.place(5), Some(Place::Subprotocol));
        assert_eq!(sources.place(6), Some(Place::Message));
        assert_eq!(sources.place(7), None);
    }
}
