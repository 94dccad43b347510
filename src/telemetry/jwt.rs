//! Text that is shaped like a JWT (RFC 7519), found and redacted whatever
//! surrounds it.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

use super::redact::REDACTED;

/// `text` with everything that is shaped like a JWT redacted.
pub fn without_jwts(text: &str) -> Cow<'_, str> {
    if memchr(b'.', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut from = 0;
    while let Some(found) = jwt(&text.as_bytes()[from..]) {
        out.push_str(&text[from..from + found.start]);
        out.push_str(REDACTED);
        from += found.end;
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// The first JWT in `text` (RFC 7515 §3.1): base64url parts between dots, where
/// a part that is a JSON object begins with `eyJ` (or, with white space in it,
/// with `ey` or `ew`).
pub(super) fn jwt(text: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while at < text.len() {
        let run = text[at..].iter().take_while(|byte| is_jwt_byte(**byte)).count();
        if let Some(start) = jwt_in_run(&text[at..at + run]) {
            return Some(at + start..at + run);
        }
        at += run + 1;
    }
    None
}

fn jwt_in_run(run: &[u8]) -> Option<usize> {
    if let Some(start) = run.windows(3).position(|three| three == b"eyJ") {
        let dots = run[start..].iter().filter(|byte| **byte == b'.').count();
        if dots >= 2 {
            return Some(start);
        }
    }
    let is_object =
        |part: &[u8]| part.len() >= 8 && (part.starts_with(b"ey") || part.starts_with(b"ew"));
    let mut was_object = false;
    let two_objects = run.split(|byte| *byte == b'.').any(|part| {
        let two = was_object && is_object(part);
        was_object = is_object(part);
        two
    });
    two_objects.then_some(0)
}

fn is_jwt_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jwts_are_found_in_any_text() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl";
        let said = format!("bad token {jwt}, sorry: \"x{jwt}\"");
        assert_eq!(without_jwts(&said), "bad token REDACTED, sorry: \"xREDACTED\"");
        assert_eq!(without_jwts("ewogICJh.ewogICJi.x y"), "REDACTED y");
        assert_eq!(without_jwts("ä eyJh.eyJi. ä"), "ä REDACTED ä");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in ["a.b.c eyJ eyes.are.open", "", "192.0.2.1 eyJ.", "ä"] {
            assert!(matches!(without_jwts(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
