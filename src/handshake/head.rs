//! The strict reading of one request head (RFC 9112): what hyper lets through
//! and the gate refuses, is refused here, on the bytes as they came.
//!
//! Pure: bytes in, [`Framing`] or a [`Reason`] out.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request};

use super::target::Host;
use crate::close::Reason;

/// How many header fields a head may have. One takes four bytes at least, so this
/// bounds nothing that `limits.header_bytes` up to 64 KiB does not: it is there
/// because `http::HeaderMap` panics beyond 24,576, some of which are for ours.
const MOST_FIELDS: usize = 16_384;

/// How many bytes a request target may have: more is no `http::Uri`.
pub const MOST_TARGET: usize = u16::MAX as usize - 1;

/// What a head is, as far as it matters for reading on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// What comes behind it.
    pub(super) framing: Framing,
    /// How many header fields it has.
    pub(super) fields: usize,
}

/// How the bytes behind a head belong to it (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A body of that many bytes, possibly none.
    Length(u64),
    /// A chunked body.
    Chunked,
    /// A WebSocket upgrade: what follows is not HTTP.
    Upgrade,
}

/// Where the head in `bytes` ends (behind its empty line), if it is whole.
pub(super) fn end_of_head(bytes: &[u8], scanned: usize) -> Option<usize> {
    let mut from = scanned.saturating_sub(3);
    loop {
        from += memchr::memchr(b'\r', bytes.get(from..)?)?;
        if bytes[from..].starts_with(b"\r\n\r\n") {
            return Some(from + 4);
        }
        from += 1;
    }
}

/// Whether `bytes`, a head that may still grow, already breaks the rules that
/// need no end: bare CR, bare LF, NUL. The first `scanned` bytes do not.
pub(super) fn is_hopeless(bytes: &[u8], scanned: usize) -> bool {
    let (seen, new) = bytes.split_at(scanned.min(bytes.len()));
    lines(seen.last().copied(), new, |_| {}).is_none()
}

/// Calls `begins` with the first byte of each line of `bytes` that has one, but
/// for the first line; `before` is the byte in front of them. None if there is a
/// bare CR, a bare LF or a NUL.
fn lines(before: Option<u8>, bytes: &[u8], mut begins: impl FnMut(u8)) -> Option<()> {
    let mut rest = bytes;
    if before == Some(b'\r') {
        match rest.split_first() {
            Some((b'\n', behind)) => rest = behind,
            Some(_) => return None,
            None => return Some(()),
        }
    }
    // Few bytes of a head are control characters.
    while let Some(at) = memchr::memchr3(0, b'\r', b'\n', rest) {
        match rest[at..] {
            [b'\r', b'\n', ..] => {}
            // What comes next may be the LF.
            [b'\r'] => return Some(()),
            _ => return None,
        }
        rest = &rest[at + 2..];
        rest.first().copied().into_iter().for_each(&mut begins);
    }
    Some(())
}

/// Reads a whole head, its empty line included.
///
/// # Errors
/// [`Reason::ProtocolError`] for what RFC 9112 forbids or leaves to taste;
/// [`Reason::LimitHeader`] for too many header fields, or too long a target.
pub(super) fn read(head: &[u8]) -> Result<Head, Reason> {
    read_as(head, |target| target.parse().ok(), |_, _, _| ()).map(|(head, ())| head)
}

/// Reads a whole head as [`read`], and the request of an upgrade with at most that
/// many fields. None if it is another request, or none to the `http` crate: hyper
/// then says why.
///
/// # Errors
/// As [`read`].
pub(super) fn read_upgrade(
    head: &Bytes,
    most_fields: usize,
) -> Result<(Head, Option<request::Parts>), Reason> {
    let uri = |target: &str| Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).ok();
    read_as(head, uri, |framing, parsed, uri| {
        if framing != Framing::Upgrade || parsed.headers.len() > most_fields {
            return None;
        }
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
            headers.append(name, value);
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
        parts.uri = uri;
        parts.version = if parsed.version? == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
        parts.headers = headers;
        Some(parts)
    })
}

/// Judges a head whose target `uri` reads, and gives what `make` makes of it.
fn read_as<'h, T>(
    head: &'h [u8],
    uri: impl FnOnce(&'h str) -> Option<Uri>,
    make: impl FnOnce(Framing, &httparse::Request<'_, 'h>, Uri) -> T,
) -> Result<(Head, T), Reason> {
    let (mut folded, mut begun) = (false, 0_usize);
    let begins = |first| {
        folded |= matches!(first, b' ' | b'\t');
        begun += 1;
    };
    lines(None, head, begins).ok_or(Reason::ProtocolError)?;
    if folded {
        return Err(Reason::ProtocolError);
    }
    // All lines but the first and the empty one; nothing is folded.
    let fields = begun.saturating_sub(1);
    if fields > MOST_FIELDS {
        return Err(Reason::LimitHeader);
    }
    let mut space = vec![httparse::EMPTY_HEADER; fields];
    let mut request = httparse::Request::new(&mut space);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) | Err(_) => return Err(Reason::ProtocolError),
    }
    let target = request.path.ok_or(Reason::ProtocolError)?;
    if target.len() > MOST_TARGET {
        return Err(Reason::LimitHeader);
    }
    // What hyper could not read as a target would be answered by hyper itself.
    // It would drop a fragment, which no request has (RFC 9112 §3.2).
    let readable = Some(target).filter(|target| !target.contains('#'));
    let uri = readable.and_then(uri).ok_or(Reason::ProtocolError)?;
    let mut facts = Facts::default();
    for field in request.headers.iter() {
        facts.take(field.name, field.value)?;
    }
    let modern = request.version == Some(1);
    facts.check_host(modern, target, request.method == Some("CONNECT"))?;
    let framing = facts.framing(modern)?;
    Ok((Head { framing, fields }, make(framing, &request, uri)))
}

/// What the header fields say about framing and host.
#[derive(Default)]
struct Facts<'a> {
    hosts: usize,
    host: &'a [u8],
    length: Option<u64>,
    chunked: bool,
    websocket: bool,
}

impl<'a> Facts<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Reason> {
        if name.eq_ignore_ascii_case("host") {
            self.hosts += 1;
            self.host = value;
        } else if name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(value).map_err(|_| Reason::ProtocolError)?;
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if !plain || self.length.is_some() {
                return Err(Reason::ProtocolError);
            }
            self.length = Some(digits.parse().map_err(|_| Reason::ProtocolError)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reason::ProtocolError);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.websocket |= value
                .split(|&b| b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"websocket"));
        }
        Ok(())
    }

    fn framing(&self, modern: bool) -> Result<Framing, Reason> {
        match (self.length, self.chunked, self.websocket) {
            (Some(_), true, _) => Err(Reason::ProtocolError),
            (_, true, _) if !modern => Err(Reason::ProtocolError),
            (length, chunked, true) => {
                let bodiless = length.unwrap_or(0) == 0 && !chunked;
                if bodiless && modern { Ok(Framing::Upgrade) } else { Err(Reason::ProtocolError) }
            }
            (_, true, false) => Ok(Framing::Chunked),
            (length, false, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }

    /// One Host in HTTP/1.1, equal to the authority of an absolute-form target
    /// (RFC 9112 §3.2).
    fn check_host(&self, modern: bool, target: &str, connect: bool) -> Result<(), Reason> {
        if self.hosts > 1 || (modern && self.hosts == 0) {
            return Err(Reason::ProtocolError);
        }
        let host = match std::str::from_utf8(self.host) {
            Ok(_) if self.hosts == 0 => None,
            Ok(host) => Some(Host::parse(host)?),
            Err(_) => return Err(Reason::ProtocolError),
        };
        let Some((scheme, rest)) =
            target.split_once("://").filter(|_| !target.starts_with('/') && !connect)
        else {
            return Ok(());
        };
        let known = ["http", "https", "ws", "wss"].iter().any(|s| s.eq_ignore_ascii_case(scheme));
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let same = Host::parse(authority).ok() == host;
        if known && same { Ok(()) } else { Err(Reason::ProtocolError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Result<Framing, Reason> {
        read(lines.as_bytes()).map(|head| head.framing)
    }

    #[test]
    fn ordinary_heads_are_read() {
        assert_eq!(head("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(
            head("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
            Ok(Framing::Length(5))
        );
        assert_eq!(
            head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Ok(Framing::Chunked)
        );
        assert_eq!(
            head("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\r\n"),
            Ok(Framing::Upgrade)
        );
        assert_eq!(
            head("GET http://a:80/x HTTP/1.1\r\nHost: A:80\r\n\r\n"),
            Ok(Framing::Length(0))
        );
    }

    #[test]
    fn fields_are_counted_and_what_no_map_or_uri_can_hold_is_refused() {
        let fields = |count: usize| {
            let lines: String = (0..count).map(|number| format!("x{number}:\r\n")).collect();
            read(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes())
        };
        assert_eq!(fields(0).map(|head| head.fields), Ok(1));
        assert_eq!(fields(5000).map(|head| head.fields), Ok(5001));
        assert_eq!(fields(MOST_FIELDS - 1).map(|head| head.fields), Ok(MOST_FIELDS));
        assert_eq!(fields(MOST_FIELDS), Err(Reason::LimitHeader));
        // The map has room for as many again of the names that we set.
        let mut map = http::HeaderMap::new();
        map.reserve(MOST_FIELDS);
        assert!(map.capacity() >= MOST_FIELDS + 8000);

        let target = |length: usize| {
            let target = "/".repeat(length);
            head(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        };
        assert_eq!(target(MOST_TARGET), Ok(Framing::Length(0)));
        assert_eq!(target(MOST_TARGET + 1), Err(Reason::LimitHeader));
    }

    #[test]
    fn smuggling_and_sloppiness_are_refused() {
        let refused = [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a:81\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for lines in refused {
            assert_eq!(head(lines), Err(Reason::ProtocolError), "{lines:?}");
        }
    }

    #[test]
    fn what_is_hopeless_is_seen_across_reads() {
        for bytes in [&b"GET /\n"[..], b"GET / HTTP/1.1\r\nA: b\rc", b"GE\0"] {
            let first = (0..=bytes.len()).find(|&end| is_hopeless(&bytes[..end], 0));
            assert_eq!(first, Some(bytes.len()));
            for scanned in 0..bytes.len() {
                assert!(is_hopeless(bytes, scanned), "{scanned}");
            }
        }
        assert!(!is_hopeless(b"GET / HTTP/1.1\r", 3));
    }

    #[test]
    fn ends_of_lines_are_seen_wherever_they_stand() {
        let letters = [b'a', b'\r', b'\n', 0];
        for number in 0..4_usize.pow(6) {
            let end = (0..6).map(|place| letters[number / 4_usize.pow(place) % 4]);
            for before in [0, 3] {
                let bytes: Vec<u8> = std::iter::repeat_n(b'x', before).chain(end.clone()).collect();
                let pairs = || bytes.iter().zip(std::iter::once(&b'x').chain(&bytes));
                let hopeless = pairs()
                    .any(|(&byte, &previous)| byte == 0 || (byte == b'\n') != (previous == b'\r'));
                assert_eq!(is_hopeless(&bytes, 0), hopeless, "{bytes:?}");
                let empty = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                assert_eq!(end_of_head(&bytes, 0), empty.map(|at| at + 4), "{bytes:?}");
            }
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_across_reads() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for scanned in 0..bytes.len() - 5 {
            assert_eq!(end_of_head(bytes, scanned.min(24)), Some(bytes.len() - 4));
        }
        assert_eq!(end_of_head(&bytes[..26], 0), None);
    }
}
