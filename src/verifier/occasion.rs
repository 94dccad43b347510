//! The request that a credential came with, for the verifiers that pass it on.

use std::net::IpAddr;

use http::{HeaderMap, Method};

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
}

#[cfg(test)]
pub(super) use self::tests::Asked;

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that an [`Occasion`] can be borrowed of.
    pub(in crate::verifier) struct Asked {
        pub(in crate::verifier) method: Method,
        pub(in crate::verifier) host: Host,
        pub(in crate::verifier) path: &'static str,
        pub(in crate::verifier) query: Option<&'static str>,
        pub(in crate::verifier) headers: HeaderMap,
    }

    impl Default for Asked {
        fn default() -> Self {
            Asked {
                method: Method::GET,
                host: Host { name: "app.example".into(), port: None },
                path: "/ws",
                query: None,
                headers: HeaderMap::new(),
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
            }
        }
    }
}
