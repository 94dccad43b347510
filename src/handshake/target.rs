//! The request target, normalised once (RFC 3986 §6.2.2): exactly this form is
//! matched, given to CEL, logged and sent on.
//!
//! Whatever two parsers might read differently is refused rather than repaired.

use std::net::IpAddr;

use crate::close::Reason;

/// Normalises a path: unreserved escapes decoded, hex upper-cased.
///
/// # Errors
/// [`Reason::ProtocolError`] for malformed escapes, escaped control characters,
/// `;`, `\`, `//`, an encoded `/` or `\`, a `.` or `..` segment however encoded,
/// double-encoded dots or slashes, and escapes that are not UTF-8.
pub fn normalise_path(raw: &str) -> Result<String, Reason> {
    const BAD: Reason = Reason::ProtocolError;
    if !raw.starts_with('/') {
        return Err(BAD);
    }
    let bytes = raw.as_bytes();
    let mut path = String::with_capacity(raw.len());
    // What it says once decoded; without escapes it is ASCII.
    let escapes = raw.contains('%');
    let mut decoded = Vec::with_capacity(if escapes { raw.len() } else { 0 });
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let escaped = escape_at(bytes, at).ok_or(BAD)?;
                match escaped {
                    0..0x20 | 0x7f | b'/' | b'\\' => return Err(BAD),
                    _ if is_unreserved(escaped) => path.push(char::from(escaped)),
                    _ => path.push_str(&format!("%{escaped:02X}")),
                }
                decoded.push(escaped);
                at += 3;
                continue;
            }
            b';' | b'\\' | b'#' | b'?' => return Err(BAD),
            b'/' if path.ends_with('/') => return Err(BAD),
            0x21..=0x7e => path.push(char::from(byte)),
            _ => return Err(BAD),
        }
        if escapes {
            decoded.push(byte);
        }
        at += 1;
    }
    let dotted = path.split('/').any(|segment| segment == "." || segment == "..");
    // Judged on the normalised text, where `%25%32%65` has become `%252e`.
    let nested = path.contains('%')
        && path.match_indices("%25").any(|(at, _)| hides_separator(path.as_bytes(), at + 3));
    if dotted || nested || std::str::from_utf8(&decoded).is_err() { Err(BAD) } else { Ok(path) }
}

/// The byte that `%xx` at `at` stands for.
fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let high = char::from(*bytes.get(at + 1)?).to_digit(16)?;
    let low = char::from(*bytes.get(at + 2)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// Whether the text behind an escaped `%` is, after any further rounds of
/// decoding, an escaped dot, slash or backslash.
fn hides_separator(bytes: &[u8], mut at: usize) -> bool {
    while bytes.get(at..at + 2) == Some(b"25") {
        at += 2;
    }
    let digits = bytes.get(at..at + 2).map(<[u8]>::to_ascii_lowercase);
    matches!(digits.as_deref(), Some(b"2e" | b"2f" | b"5c"))
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A host as routes and origins compare it: lower case, no port, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A-labels, an IPv4 address, or an IPv6 address in brackets.
    pub name: Box<str>,
    /// The port, where one is written.
    pub port: Option<u16>,
}

impl Host {
    /// Reads the value of a Host header (RFC 9110 §7.2).
    ///
    /// # Errors
    /// [`Reason::ProtocolError`] for anything but `host[:port]`.
    pub fn parse(raw: &str) -> Result<Host, Reason> {
        let (name, port) = match raw.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(Reason::ProtocolError)?;
                let address: IpAddr = address.parse().map_err(|_| Reason::ProtocolError)?;
                let port = match rest {
                    "" => None,
                    _ => Some(rest.strip_prefix(':').ok_or(Reason::ProtocolError)?),
                };
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = match raw.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (raw, None),
                };
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                let sound = !name.is_empty()
                    && name.len() <= 253
                    && !name.starts_with('.')
                    && !name.ends_with('.')
                    && !name.as_bytes().windows(2).any(|pair| pair == b"..")
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
                if !sound {
                    return Err(Reason::ProtocolError);
                }
                (name, port)
            }
        };
        let port = match port {
            None => None,
            Some(digits) => {
                let digits_only = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                let port = digits.parse().map_err(|_| Reason::ProtocolError)?;
                Some(if digits_only { port } else { return Err(Reason::ProtocolError) })
            }
        };
        Ok(Host { name: name.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreserved_escapes_are_decoded_and_hex_is_upper_cased() {
        assert_eq!(normalise_path("/%77s/%c3%a4/%7e").unwrap(), "/ws/%C3%A4/~");
        assert_eq!(normalise_path("/").unwrap(), "/");
        assert_eq!(normalise_path("/a%20b/").unwrap(), "/a%20b/");
        assert_eq!(normalise_path("/100%2525").unwrap(), "/100%2525");
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        let refused = [
            "",
            "ws",
            "*",
            "/%",
            "/%2",
            "/%zz",
            "/%00",
            "/%0a",
            "/%7F",
            "/a;b",
            "/a\\b",
            "//",
            "/a//b",
            "/%2f",
            "/%2F",
            "/%5c",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/%2e",
            "/%2E%2e/",
            "/a/.%2e",
            "/%252e",
            "/%252f",
            "/%25%32%65",
            "/%255C",
            "/%25252e",
            "/%c0%ae",
            "/%ff",
            "/ü",
            "/a b",
            "/a\u{7f}",
        ];
        for path in refused {
            assert_eq!(normalise_path(path), Err(Reason::ProtocolError), "{path}");
        }
    }

    #[test]
    fn hosts_are_compared_in_lower_case_without_trailing_dot() {
        let host = Host::parse("Chat.Example.COM.:8443").unwrap();
        assert_eq!((&*host.name, host.port), ("chat.example.com", Some(8443)));
        let host = Host::parse("[::1]:80").unwrap();
        assert_eq!((&*host.name, host.port), ("[::1]", Some(80)));
        for bad in [
            "", ".", "a..b", "a:b", "a:", "a:99999", "u@h", "a/b", "[::1", "[x]", "ü", "a b", ".a",
            "a:+80",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }
}
