//! Spoofed identity headers: what a client could send in the place of ours.
//!
//! CGI (RFC 3875 §4.1.18) and its heirs fold header names to upper case and
//! `_`, so `X_Forwarded_User`, `x.forwarded.user` and `X-Forwarded-User` are
//! one header to many servers. They are one here as well.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::headers::is_reserved;

/// Names deleted from every request, folded.
const EXACT: [&str; 6] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-rewrite-url",
    "x-http-method-override",
];

const PREFIXES: [&str; 8] = [
    "remote-",
    "x-remote-",
    "x-auth-",
    "x-forwarded-",
    "x-original-",
    "x-consumer-",
    "x-client-cert",
    "ssl-",
];

const SUFFIX: &str = "-jwt-assertion";

/// Which headers of a request are deleted before ours are added.
pub struct Spoofed {
    identities: Folded,
    credentials: Folded,
}

/// Names, folded and sorted.
struct Folded(Box<[Box<[u8]>]>);

impl Spoofed {
    /// The fixed names, and those of all `identities` and `credentials` configured anywhere
    /// in the file. A name that the hop itself needs, such as `Host`, is never deleted, and
    /// as a credential `Authorization` neither: where a policy does not read it, it is
    /// between the client and the upstream.
    pub fn new(
        identities: impl IntoIterator<Item = HeaderName>,
        credentials: impl IntoIterator<Item = HeaderName>,
    ) -> Spoofed {
        let credentials = credentials.into_iter().filter(|name| *name != AUTHORIZATION);
        Spoofed { identities: Folded::of(identities), credentials: Folded::of(credentials) }
    }

    /// Deletes them from `headers`, but for credentials of which `forwards` says that the
    /// policy passes them on; other spellings of those are deleted all the same.
    pub fn strip(&self, headers: &mut HeaderMap, forwards: impl Fn(&HeaderName) -> bool) {
        let is_spoofed = |name: &HeaderName| {
            is_usual(name)
                || self.identities.have(name)
                || self.credentials.have(name) && !forwards(name)
        };
        // Collecting nothing allocates nothing: the common case.
        let spoofed: Vec<HeaderName> =
            headers.keys().filter(|name| is_spoofed(name)).cloned().collect();
        for name in spoofed {
            headers.remove(name);
        }
    }
}

impl Folded {
    fn of(names: impl IntoIterator<Item = HeaderName>) -> Folded {
        let mut names: Vec<Box<[u8]>> = names
            .into_iter()
            .filter(|name| !is_reserved(name.as_str()))
            .map(|name| name.as_str().bytes().map(fold).collect::<Box<[u8]>>())
            .collect();
        names.sort();
        names.dedup();
        Folded(names.into())
    }

    fn have(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|known| is(name.as_str().as_bytes(), known))
    }
}

/// Whether `name` is one that proxies usually tell who somebody is.
fn is_usual(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    EXACT.iter().any(|exact| is(name, exact.as_bytes()))
        || PREFIXES.iter().any(|prefix| starts_with(name, prefix.as_bytes()))
        || ends_with(name, SUFFIX.as_bytes())
}

/// Every non-alphanumeric is `-`, every letter lower case.
fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

fn is(name: &[u8], folded: &[u8]) -> bool {
    name.len() == folded.len() && starts_with(name, folded)
}

fn starts_with(name: &[u8], folded: &[u8]) -> bool {
    name.len() >= folded.len() && name.iter().zip(folded).all(|(byte, known)| fold(*byte) == *known)
}

fn ends_with(name: &[u8], folded: &[u8]) -> bool {
    name.len() >= folded.len() && is(&name[name.len() - folded.len()..], folded)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn stripped(configured: &[&str], sent: &[&str]) -> Vec<String> {
        let configured = configured.iter().map(|name| name.parse().unwrap());
        left(&Spoofed::new(configured, []), sent)
    }

    /// What is left of headers where the policy forwards `X-Api-Key`.
    fn left(spoofed: &Spoofed, sent: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for name in sent {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("mallory"),
            );
        }
        spoofed.strip(&mut headers, |name| name == "x-api-key");
        let mut left: Vec<String> = headers.keys().map(|name| name.as_str().to_owned()).collect();
        left.sort();
        left
    }

    #[test]
    fn every_spelling_is_deleted() {
        let sent = [
            "X-Forwarded-User",
            "X_Forwarded_User",
            "x.forwarded.user",
            "x-forwarded_user",
            "X!Forwarded~User",
            "Remote-User",
            "Remote_User",
            "REMOTE_USER",
            "X-Remote-Group",
            "X-Auth-Request-Email",
            "X_Auth_Token",
            "X-Forwarded-For",
            "Forwarded",
            "X-Real-IP",
            "X_Real_IP",
            "X-Client-IP",
            "True-Client-IP",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X_HTTP_Method_Override",
            "Cf-Access-Jwt-Assertion",
            "X-Goog-IAP-JWT-Assertion",
            "x_goog_iap_jwt_assertion",
            "X-Consumer-Username",
            "X-Client-Cert",
            "X-Client-Certificate",
            "SSL-Client-S-DN",
            "SSL_CLIENT_VERIFY",
        ];
        assert_eq!(stripped(&[], &sent), Vec::<String>::new());
    }

    #[test]
    fn repeated_headers_all_go() {
        assert!(stripped(&[], &["X-Real-IP", "X-Real-IP", "x-real-ip"]).is_empty());
    }

    #[test]
    fn configured_names_are_deleted_in_every_spelling() {
        let sent = ["X-User-Id", "X_User_Id", "x.user.id", "X-User-Idx", "X-User"];
        assert_eq!(stripped(&["X-User-Id"], &sent), ["x-user", "x-user-idx"]);
        assert!(stripped(&["X_Team"], &["X-Team"]).is_empty());
        assert!(stripped(&["Authorization"], &["authorization"]).is_empty());
    }

    #[test]
    fn credentials_pass_where_they_are_forwarded_and_as_they_are_written() {
        let named = |names: &[&'static str]| -> Vec<_> {
            names.iter().map(|name| HeaderName::from_static(name)).collect()
        };
        let sent = ["X-Api-Key", "X_Api_Key", "X-Ticket", "x.ticket", "Authorization"];
        let credentials = named(&["x-api-key", "x-ticket", "authorization"]);
        let spoofed = Spoofed::new([], credentials.clone());
        assert_eq!(left(&spoofed, &sent), ["authorization", "x-api-key"]);
        // What tells who somebody is comes from nobody else.
        let spoofed = Spoofed::new(named(&["x-api-key"]), credentials);
        assert_eq!(left(&spoofed, &sent), ["authorization"]);
    }

    #[test]
    fn what_the_hop_needs_stays() {
        let sent =
            ["accept", "connection", "content-length", "cookie", "host", "sec-websocket-key"];
        assert_eq!(
            stripped(&["Host", "Sec-WebSocket-Key", "Cookie", "Content_Length"], &sent),
            sent
        );
        assert_eq!(
            stripped(&[], &["remote", "ssl", "user-agent"]),
            ["remote", "ssl", "user-agent"]
        );
    }
}
