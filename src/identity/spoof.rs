//! Spoofed identity headers: what a client could send in the place of ours.
//!
//! CGI (RFC 3875 §4.1.18) and its heirs fold header names to upper case and
//! `_`, so `X_Forwarded_User`, `x.forwarded.user` and `X-Forwarded-User` are
//! one header to many servers. They are one here as well.

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
    /// Folded, sorted.
    configured: Box<[Box<[u8]>]>,
}

impl Spoofed {
    /// The fixed names, and all those `configured` anywhere in the file. A name
    /// that the hop itself needs, such as `Host`, is never deleted.
    pub fn new(configured: impl IntoIterator<Item = HeaderName>) -> Spoofed {
        let mut configured: Vec<Box<[u8]>> = configured
            .into_iter()
            .filter(|name| !is_reserved(name.as_str()))
            .map(|name| name.as_str().bytes().map(fold).collect::<Box<[u8]>>())
            .collect();
        configured.sort();
        configured.dedup();
        Spoofed { configured: configured.into() }
    }

    /// Deletes them from `headers`.
    pub fn strip(&self, headers: &mut HeaderMap) {
        // Collecting nothing allocates nothing: the common case.
        let spoofed: Vec<HeaderName> =
            headers.keys().filter(|name| self.covers(name)).cloned().collect();
        for name in spoofed {
            headers.remove(name);
        }
    }

    /// Whether a header of this name is deleted.
    pub fn covers(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        EXACT.iter().any(|exact| is(name, exact.as_bytes()))
            || PREFIXES.iter().any(|prefix| starts_with(name, prefix.as_bytes()))
            || ends_with(name, SUFFIX.as_bytes())
            || self.configured.iter().any(|configured| is(name, configured))
    }
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
        let spoofed = Spoofed::new(configured);
        let mut headers = HeaderMap::new();
        for name in sent {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("mallory"),
            );
        }
        spoofed.strip(&mut headers);
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
