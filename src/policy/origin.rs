//! Which web pages may connect: the `Origin` header (RFC 6454 §7, RFC 6455 §10.2).
//!
//! Cookies travel with every page's WebSocket, so with ambient credentials the
//! origin is the only proof that the page is one of ours.

use std::net::Ipv6Addr;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};

use super::OriginsConfig;
use crate::problem::Problem;

/// Compiled `origins`.
#[derive(Debug)]
pub enum Origins {
    /// Host and port as in the request's Host.
    Same,
    /// Every page.
    Any,
    /// These pages.
    Listed(Box<[Listed]>),
}

/// One entry of a list.
#[derive(Debug)]
pub struct Listed {
    scheme: Box<str>,
    /// With a leading dot: one label more than this.
    host: Box<str>,
    port: Option<u16>,
}

/// Where the request itself was sent to.
#[derive(Clone, Copy, Debug)]
pub struct OwnOrigin<'r> {
    /// As in Host: lower case, without port.
    pub host: &'r str,
    /// As in Host, if it names one.
    pub port: Option<u16>,
    /// Whether the request is known to have come over TLS, here or in front.
    pub https: bool,
}

impl Origins {
    /// Compiles `origins`. Without any, `same` if a credential is `ambient`,
    /// that is sent by a browser whichever page asks; else `any`.
    ///
    /// # Errors
    /// Each entry that is no origin, at `origins` or `origins[1]`.
    pub fn compile(config: Option<&OriginsConfig>, ambient: bool) -> Result<Origins, Vec<Problem>> {
        let Some(config) = config else {
            return Ok(if ambient { Origins::Same } else { Origins::Any });
        };
        let written: Vec<&str> = config.0.iter().map(String::as_str).collect();
        match written.as_slice() {
            ["same"] => return Ok(Origins::Same),
            ["any"] => return Ok(Origins::Any),
            [] => {
                let message = "is empty; expected same, any or a list of origins";
                return Err(vec![Problem::new("origins", message)]);
            }
            _ => {}
        }
        let mut problems = Vec::new();
        let mut listed = Vec::with_capacity(written.len());
        for (index, entry) in written.iter().enumerate() {
            match Listed::parse(entry) {
                Ok(entry) => listed.push(entry),
                Err(message) => {
                    let path = match written.len() {
                        1 => "origins".to_owned(),
                        _ => format!("origins[{index}]"),
                    };
                    problems.push(Problem::new(path, message));
                }
            }
        }
        if problems.is_empty() { Ok(Origins::Listed(listed.into())) } else { Err(problems) }
    }

    /// Whether the page that sent `headers` may connect. No Origin is no page:
    /// browsers always send it.
    pub fn allows(&self, headers: &HeaderMap, own: &OwnOrigin<'_>) -> bool {
        let mut sent = headers.get_all(ORIGIN).iter();
        let Some(first) = sent.next() else { return true };
        match self {
            Origins::Any => true,
            Origins::Same | Origins::Listed(_) if sent.next().is_some() => false,
            Origins::Same => Origin::of(first).is_some_and(|origin| origin.is_same(own)),
            Origins::Listed(entries) => Origin::of(first)
                .is_some_and(|origin| entries.iter().any(|entry| entry.matches(&origin))),
        }
    }
}

impl Listed {
    fn parse(written: &str) -> Result<Listed, String> {
        if !written.is_ascii() {
            return Err("is not ASCII; write the host's A-label (xn--...)".to_owned());
        }
        if matches!(written, "same" | "any") {
            return Err(format!("\"{written}\" stands alone, not in a list of origins"));
        }
        if written == "*" {
            return Err("is not an origin; write `any` to allow every page".to_owned());
        }
        if written == "null" {
            return Err("null is the origin of every sandboxed page and never matches".to_owned());
        }
        let lower = written.to_ascii_lowercase();
        for (scheme, page) in [("ws://", "http://"), ("wss://", "https://")] {
            if let Some(rest) = lower.strip_prefix(scheme) {
                return Err(format!("is not a page's origin; write {page}{rest}"));
            }
        }
        if lower.len() > 1 && lower.ends_with('/') {
            return Err("ends in a /; an origin is scheme://host or scheme://host:port".to_owned());
        }
        let (wildcard, plain) = match lower.split_once("://*.") {
            Some((scheme, rest)) => (true, format!("{scheme}://{rest}")),
            None => (false, lower),
        };
        let origin = Origin::parse(&plain).ok_or_else(|| {
            "is not an origin; expected scheme://host, scheme://host:port or \
             scheme://*.example.com"
                .to_owned()
        })?;
        let is_domain = origin.host == "localhost" || origin.host.contains('.');
        if wildcard && (origin.host.starts_with('[') || !is_domain) {
            return Err("has a * that is not a label before a domain name".to_owned());
        }
        let dot = if wildcard { "." } else { "" };
        Ok(Listed {
            scheme: origin.scheme.into(),
            host: format!("{dot}{}", origin.host).into(),
            port: origin.effective_port(),
        })
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        let host = origin.host;
        let host_matches = if self.host.starts_with('.') {
            let label = host.len().saturating_sub(self.host.len());
            host.split_at_checked(label).is_some_and(|(label, suffix)| {
                !label.is_empty() && !label.contains('.') && suffix.eq_ignore_ascii_case(&self.host)
            })
        } else {
            same_host(host, &self.host)
        };
        host_matches
            && origin.scheme.eq_ignore_ascii_case(&self.scheme)
            && origin.effective_port() == self.port
    }
}

/// An origin as RFC 6454 §6.2 serialises it.
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    fn of(header: &'a HeaderValue) -> Option<Origin<'a>> {
        // Only visible ASCII becomes text.
        Origin::parse(header.to_str().ok()?)
    }

    /// `scheme://host[:port]` and nothing else.
    fn parse(text: &'a str) -> Option<Origin<'a>> {
        let (scheme, authority) = text.split_once("://")?;
        let mut letters = scheme.bytes();
        if !letters.next()?.is_ascii_alphabetic()
            || !letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        {
            return None;
        }
        let (host, port) = if authority.starts_with('[') {
            let (address, rest) = authority.split_at_checked(authority.find(']')? + 1)?;
            bare(address)?;
            (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        } else {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let is_label = |label: &str| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            };
            if !host.split('.').all(is_label) {
                return None;
            }
            (host, port)
        };
        let port = port.map(port_number).map_or(Some(None), |port| port.map(Some))?;
        Some(Origin { scheme, host, port })
    }

    fn default_port(&self) -> Option<u16> {
        if self.scheme.eq_ignore_ascii_case("https") {
            Some(443)
        } else if self.scheme.eq_ignore_ascii_case("http") {
            Some(80)
        } else {
            None
        }
    }

    fn effective_port(&self) -> Option<u16> {
        self.port.or(self.default_port())
    }

    /// A port that Host leaves out is the default of the *origin's* scheme: an
    /// https page whose TLS ended in front of us names 443 or none.
    fn is_same(&self, own: &OwnOrigin<'_>) -> bool {
        let Some(default) = self.default_port() else { return false };
        let downgraded = own.https && default == 80;
        !downgraded
            && same_host(self.host, own.host)
            && self.port.unwrap_or(default) == own.port.unwrap_or(default)
    }
}

/// Names without regard to case, IPv6 addresses by value, bracketed or not.
fn same_host(host: &str, other: &str) -> bool {
    let address = |host: &str| bare(host).or_else(|| host.parse().ok());
    host.eq_ignore_ascii_case(other)
        || (host.starts_with('[') && address(host).is_some_and(|ours| address(other) == Some(ours)))
}

fn bare(address: &str) -> Option<Ipv6Addr> {
    address.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// 1–65535 as browsers write it: digits, no leading zero.
fn port_number(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: OwnOrigin<'static> = OwnOrigin { host: "app.example", port: None, https: false };
    const HTTPS: OwnOrigin<'static> = OwnOrigin { host: "app.example", port: None, https: true };

    fn compile(written: &[&str]) -> Result<Origins, Vec<Problem>> {
        let list = written.iter().map(|entry| (*entry).to_owned()).collect();
        Origins::compile(Some(&crate::unit::OneOrMany(list)), true)
    }

    fn headers(origins: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_bytes(origin).unwrap());
        }
        headers
    }

    fn allows(origins: &Origins, origin: &str, own: OwnOrigin<'_>) -> bool {
        origins.allows(&headers(&[origin.as_bytes()]), &own)
    }

    #[test]
    fn the_default_depends_on_ambient_credentials() {
        assert!(matches!(Origins::compile(None, true), Ok(Origins::Same)));
        assert!(matches!(Origins::compile(None, false), Ok(Origins::Any)));
    }

    #[test]
    fn no_origin_is_allowed() {
        for origins in [compile(&["same"]), compile(&["https://app.example"])] {
            assert!(origins.unwrap().allows(&HeaderMap::new(), &HTTP));
        }
    }

    #[test]
    fn attacks_on_an_allow_list_fail() {
        let origins = compile(&["https://app.example"]).unwrap();
        assert!(allows(&origins, "https://app.example", HTTP));
        assert!(allows(&origins, "https://app.example:443", HTTP));
        assert!(allows(&origins, "HTTPS://App.Example", HTTP));
        for attack in [
            "https://app.example.evil.com",
            "https://evil-app.example",
            "https://evilapp.example",
            "https://app.example-evil.com",
            "https://sub.app.example",
            "https://app.exampl",
            "http://app.example",
            "ws://app.example",
            "wss://app.example",
            "https://app.example:8443",
            "https://app.example:80",
            "https://app.example:",
            "https://app.example:0443",
            "https://app.example:+443",
            "https://app.example:65979",
            "https://app.example@evil.com",
            "https://evil.com@app.example",
            "https://evil.com:x@app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://evil.com/https://app.example",
            "https://evil.com#https://app.example",
            "https://app.example?x",
            "https://app.example#x",
            "https://evil.com\\app.example",
            "https://app.example\\",
            "https:\\\\app.example",
            "https:/app.example",
            "https:app.example",
            "//app.example",
            "app.example",
            "https://app%2eexample",
            "https://app%2Eexample",
            "https://app.example%00.evil.com",
            "https://app.example.",
            "https://.app.example",
            "https://app..example",
            "https://app.example, https://evil.com",
            "https://app.example https://evil.com",
            "https://app.example,https://app.example",
            "https://app.example https://app.example",
            "https://xn--pp-eia.example",
            "https://",
            "",
            "null",
            "NULL",
            "https://null",
            "https://*",
            "https://*.example",
            "https://app.example:443:443",
            "https://[app.example]",
            " https://app.example",
            "https://app.example ",
            "https://app.example\t",
        ] {
            assert!(!allows(&origins, attack, HTTP), "{attack:?}");
            assert!(!allows(&origins, attack, HTTPS), "{attack:?}");
        }
        for attack in ["https://аpp.example".as_bytes(), b"https://app.example\xff", b"\xff"] {
            assert!(!origins.allows(&headers(&[attack]), &HTTP));
        }
    }

    #[test]
    fn two_origins_never_match() {
        let own: &[u8] = b"https://app.example";
        for origins in [compile(&["same"]).unwrap(), compile(&["https://app.example"]).unwrap()] {
            assert!(origins.allows(&headers(&[own]), &HTTPS));
            assert!(!origins.allows(&headers(&[own, own]), &HTTPS));
            assert!(!origins.allows(&headers(&[own, b"https://evil.com"]), &HTTPS));
        }
    }

    #[test]
    fn same_compares_host_and_port() {
        let same = compile(&["same"]).unwrap();
        let own = |host, port, https| OwnOrigin { host, port, https };
        for (origin, own, expected) in [
            ("http://app.example", own("app.example", None, false), true),
            ("http://app.example:80", own("app.example", None, false), true),
            ("http://app.example", own("app.example", Some(80), false), true),
            ("http://app.example:3000", own("app.example", Some(3000), false), true),
            ("http://app.example:3000", own("app.example", Some(8080), false), false),
            ("http://app.example", own("app.example", Some(8080), false), false),
            ("http://app.example:8080", own("app.example", None, false), false),
            ("http://APP.example", own("app.example", None, false), true),
            // TLS ended in front.
            ("https://app.example", own("app.example", None, false), true),
            ("https://app.example", own("app.example", Some(443), false), true),
            ("https://app.example:443", own("app.example", None, false), true),
            ("https://app.example:8443", own("app.example", Some(8443), false), true),
            ("https://app.example", own("app.example", Some(80), false), false),
            ("https://app.example", own("app.example", Some(8080), false), false),
            ("https://app.example:8443", own("app.example", None, false), false),
            // The request is known as https.
            ("https://app.example", own("app.example", None, true), true),
            ("https://app.example", own("app.example", Some(443), true), true),
            ("https://app.example:8443", own("app.example", Some(8443), true), true),
            ("http://app.example", own("app.example", None, true), false),
            ("http://app.example:443", own("app.example", Some(443), true), false),
            ("http://app.example:8080", own("app.example", Some(8080), true), false),
            // Addresses, other schemes, look-alikes.
            ("http://127.0.0.1:3000", own("127.0.0.1", Some(3000), false), true),
            ("http://[::1]:3000", own("[::1]", Some(3000), false), true),
            ("http://[::1]:3000", own("::1", Some(3000), false), true),
            ("http://[0:0::1]:3000", own("[::1]", Some(3000), false), true),
            ("http://[::2]:3000", own("[::1]", Some(3000), false), false),
            ("chrome-extension://app.example", own("app.example", None, false), false),
            ("ws://app.example", own("app.example", None, false), false),
            ("file://", own("app.example", None, false), false),
            ("null", own("null", None, false), false),
            ("http://app.example.", own("app.example", None, false), false),
            ("http://app.example.evil.com", own("app.example", None, false), false),
            ("http://a.app.example", own("app.example", None, false), false),
            ("http://u@app.example", own("app.example", None, false), false),
            ("http://app.example/", own("app.example", None, false), false),
        ] {
            assert_eq!(allows(&same, origin, own), expected, "{origin} at {own:?}");
        }
    }

    #[test]
    fn wildcards_are_exactly_one_label_more() {
        let origins = compile(&["https://*.example.com", "https://*.example.org:8443"]).unwrap();
        for (origin, expected) in [
            ("https://a.example.com", true),
            ("https://A.Example.Com", true),
            ("https://a.example.com:443", true),
            ("https://a.example.org:8443", true),
            ("https://a.b.example.com", false),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://aexample.com", false),
            ("https://a.example.com.evil.net", false),
            ("https://a.example.com:8443", false),
            ("https://a.example.org", false),
            ("http://a.example.com", false),
            ("https://*.example.com", false),
        ] {
            assert_eq!(allows(&origins, origin, HTTP), expected, "{origin}");
        }
    }

    #[test]
    fn other_schemes_are_origins_too() {
        let origins = compile(&[
            "chrome-extension://abcdef",
            "app://main",
            "http://localhost:3000",
            "https://[::1]",
        ]);
        let origins = origins.unwrap();
        for (origin, expected) in [
            ("chrome-extension://abcdef", true),
            ("chrome-extension://abcdeg", false),
            ("app://main", true),
            ("app://main:80", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("https://[0::1]", true),
        ] {
            assert_eq!(allows(&origins, origin, HTTP), expected, "{origin}");
        }
    }

    #[test]
    fn any_allows_what_any_page_sends() {
        let any = compile(&["any"]).unwrap();
        for origin in ["null", "https://evil.com", "file://", "x"] {
            assert!(allows(&any, origin, HTTP));
        }
    }

    #[test]
    fn entries_that_no_page_sends_are_refused() {
        for (entry, expected) in [
            ("*", "write `any`"),
            ("null", "never matches"),
            ("https://münchen.example", "A-label"),
            ("https://app.example/", "ends in a /"),
            ("https://app.example/path", "is not an origin"),
            ("https://u@app.example", "is not an origin"),
            ("https://app.example.", "is not an origin"),
            ("https://app.example:0", "is not an origin"),
            ("app.example", "is not an origin"),
            ("wss://app.example", "write https://app.example"),
            ("ws://app.example", "write http://app.example"),
            ("https://*", "is not an origin"),
            ("https://*.*.example.com", "is not an origin"),
            ("https://a.*.example.com", "is not an origin"),
            ("https://*.com", "not a label"),
            ("", "is not an origin"),
        ] {
            let problems = compile(&[entry]).unwrap_err();
            assert_eq!(problems[0].path, "origins");
            assert!(problems[0].message.contains(expected), "{entry}: {}", problems[0]);
        }
        assert!(compile(&[]).is_err());
        let problems = compile(&["https://ok.example", "any", "nok"]).unwrap_err();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["origins[1]", "origins[2]"]);
    }
}
