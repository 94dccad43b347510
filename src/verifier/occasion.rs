//! The request that a credential came with, for the verifiers that pass it on.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use super::original::OwnPlace;
use crate::credential::Place;
use crate::handshake::Host;

/// What a verifier is told about the request, besides the credential. All of it
/// is borrowed: it costs nothing where nobody looks. Holds no credential that the
/// policy has cut.
#[derive(Clone, Copy)]
pub struct Occasion<'a> {
    /// Where the credential stood.
    pub place: Place<'a>,
    /// The method of the request; GET for an upgrade.
    pub method: &'a Method,
    /// Whether the client spoke TLS, to the gate or to a trusted proxy.
    pub https: bool,
    /// The host that the client asked for.
    pub host: &'a Host,
    /// The path, normalised, as the client sent it.
    pub path: &'a str,
    /// The query without what was cut, and without `?`.
    pub query: Option<&'a str>,
    /// The client's address.
    pub ip: IpAddr,
    /// The headers, without hop-by-hop ones, forgeable ones, and what was cut.
    pub headers: &'a HeaderMap,
    /// The certificate that the client showed in its TLS handshake, DER.
    pub certificate: Option<&'a Arc<[u8]>>,
    /// Whether the connection is open, and this asks again: what is remembered of
    /// an earlier answer does not count.
    pub again: bool,
}

/// An occasion that outlives its request, for whoever asks later. Every byte of it
/// is a copy: what is borrowed of a request keeps all of its head.
pub struct KeptOccasion {
    place: OwnPlace,
    method: Method,
    https: bool,
    host: Host,
    path: Box<str>,
    query: Option<Box<str>>,
    ip: IpAddr,
    headers: HeaderMap,
    certificate: Option<Arc<[u8]>>,
}

impl Occasion<'_> {
    /// The same for later.
    pub fn kept(&self) -> KeptOccasion {
        KeptOccasion { headers: self.headers.iter().filter_map(copied).collect(), ..self.bare() }
    }

    /// The same for later, without the headers.
    pub fn bare(&self) -> KeptOccasion {
        KeptOccasion {
            place: OwnPlace::of(self.place),
            method: self.method.clone(),
            https: self.https,
            host: self.host.clone(),
            path: self.path.into(),
            query: self.query.map(Into::into),
            ip: self.ip,
            headers: HeaderMap::new(),
            certificate: self.certificate.cloned(),
        }
    }
}

impl KeptOccasion {
    /// As verifiers are told, the first time.
    pub fn lent(&self) -> Occasion<'_> {
        Occasion {
            place: self.place.lent(),
            method: &self.method,
            https: self.https,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            ip: self.ip,
            headers: &self.headers,
            certificate: self.certificate.as_ref(),
            again: false,
        }
    }
}

/// Header names are copies or fixed already; values are shared with the head.
fn copied((name, value): (&HeaderName, &HeaderValue)) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
}

#[cfg(test)]
pub(super) use self::tests::Asked;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Scheme;

    #[test]
    fn what_is_kept_is_told_as_it_was() {
        let mut asked =
            Asked { query: Some("a=1"), certificate: Some([1, 2].into()), ..Asked::default() };
        asked.headers.append("x-tenant", HeaderValue::from_static("a"));
        asked.headers.append("x-tenant", HeaderValue::from_static("b"));
        let name = HeaderName::from_static("x-key");
        for place in [
            Place::Cookie("session"),
            Place::Query("token"),
            Place::Header(&name, Scheme::None),
            Place::Subprotocol,
            Place::Certificate,
            Place::Message,
        ] {
            let occasion = asked.with(place);
            let kept = occasion.kept();
            let told = kept.lent();
            assert_eq!(told.place, place);
            assert_eq!((told.path, told.query, told.ip), ("/ws", Some("a=1"), occasion.ip));
            assert_eq!((told.method, told.https), (&Method::GET, true));
            assert_eq!(*told.host.name, *occasion.host.name);
            assert_eq!(told.headers, occasion.headers);
            assert_eq!(told.certificate, occasion.certificate);
            assert!(occasion.bare().lent().headers.is_empty());
        }
    }

    /// A request that an [`Occasion`] can be borrowed of.
    pub(in crate::verifier) struct Asked {
        pub(in crate::verifier) method: Method,
        pub(in crate::verifier) host: Host,
        pub(in crate::verifier) path: &'static str,
        pub(in crate::verifier) query: Option<&'static str>,
        pub(in crate::verifier) headers: HeaderMap,
        pub(in crate::verifier) certificate: Option<Arc<[u8]>>,
    }

    impl Default for Asked {
        fn default() -> Self {
            Asked {
                method: Method::GET,
                host: Host { name: "app.example".into(), port: None },
                path: "/ws",
                query: None,
                headers: HeaderMap::new(),
                certificate: None,
            }
        }
    }

    impl Asked {
        pub(in crate::verifier) fn with<'a>(&'a self, place: Place<'a>) -> Occasion<'a> {
            Occasion {
                place,
                method: &self.method,
                https: true,
                host: &self.host,
                path: self.path,
                query: self.query,
                ip: [192, 0, 2, 7].into(),
                headers: &self.headers,
                certificate: self.certificate.as_ref(),
                again: false,
            }
        }
    }
}
