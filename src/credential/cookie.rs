//! A credential in a cookie (RFC 6265 §5.4): found raw, without its outer
//! quotes, and cut from `Cookie` with the other cookies left byte for byte.

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::{Sighting, sole};
use crate::close::Reason;
use crate::secret::Secret;

/// The cookie of one name.
pub(super) struct CookieSource {
    name: Box<str>,
    /// The name of the cookie that signs it, where one does.
    signature: Option<Box<str>>,
}

impl CookieSource {
    pub(super) fn new(name: &str) -> CookieSource {
        CookieSource { name: name.into(), signature: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// From now on the cookie `<name>.sig` belongs to it.
    pub(super) fn sign(&mut self) {
        self.signature = Some(format!("{}.sig", self.name).into());
    }

    /// The value; with a cookie that signs it both values, a line end between them,
    /// which no value can have.
    pub(super) fn find(&self, headers: &HeaderMap, max_bytes: usize) -> Sighting {
        let value = find(&self.name, headers, max_bytes);
        match (&self.signature, value) {
            (Some(name), Ok(Some(value))) => {
                let signature = find(name, headers, max_bytes)?;
                let signature = signature.ok_or(Reason::MalformedCredential)?;
                let both = [value.expose(), b"\n", signature.expose()].concat();
                Ok(Some(Secret::new(both)))
            }
            (_, value) => value,
        }
    }

    /// Cuts this cookie, and the one that signs it; a `Cookie` header that held nothing else goes with it.
    pub(super) fn cut(&self, headers: &mut HeaderMap) {
        let is_ours = |pair: &[u8]| {
            let (name, _) = split(pair);
            name == self.name.as_bytes()
                || self.signature.as_ref().is_some_and(|signature| name == signature.as_bytes())
        };
        let holds_ours = |value: &HeaderValue| pairs(value.as_bytes()).any(is_ours);
        if !headers.get_all(COOKIE).iter().any(holds_ours) {
            return;
        }
        let mut kept = Vec::new();
        for value in headers.get_all(COOKIE) {
            if !holds_ours(value) {
                kept.push(value.clone());
                continue;
            }
            let rest: Vec<&[u8]> = pairs(value.as_bytes()).filter(|pair| !is_ours(pair)).collect();
            let rest = rest.join(&b';');
            let rest = rest.trim_ascii_start();
            if rest.iter().all(|byte| matches!(byte, b' ' | b'\t' | b';')) {
                continue;
            }
            kept.extend(HeaderValue::from_bytes(rest));
        }
        headers.remove(COOKIE);
        for value in kept {
            headers.append(COOKIE, value);
        }
    }
}

fn find(wanted: &str, headers: &HeaderMap, max_bytes: usize) -> Sighting {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| pairs(value.as_bytes()));
    let named = pairs.filter_map(|pair| {
        let (name, value) = split(pair);
        (name == wanted.as_bytes()).then(|| Some(unquoted(value).to_vec()))
    });
    sole(named, max_bytes)
}

fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';')
}

/// Name and value of one pair; a pair without `=` is a name without a value.
fn split(pair: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &[][..]),
    };
    (name.trim_ascii(), value.trim_ascii())
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(COOKIE, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn find(values: &[&str]) -> Result<Option<String>, Reason> {
        let found = CookieSource::new("session").find(&headers(values), 100)?;
        Ok(found.map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap()))
    }

    fn cut(values: &[&str]) -> Vec<String> {
        let mut headers = headers(values);
        CookieSource::new("session").cut(&mut headers);
        headers.get_all(COOKIE).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_value_is_raw_without_outer_quotes() {
        assert_eq!(find(&["a=1; session=a%20b=="]), Ok(Some("a%20b==".into())));
        assert_eq!(find(&["session=\"abc\"; a=1"]), Ok(Some("abc".into())));
        assert_eq!(find(&["session=\"abc"]), Ok(Some("\"abc".into())));
        assert_eq!(find(&["Session=abc; xsession=a; sessionx=b"]), Ok(None));
        assert_eq!(find(&["a=1", "b=2;session=abc"]), Ok(Some("abc".into())));
    }

    #[test]
    fn an_empty_cookie_is_present_and_malformed() {
        for empty in ["session=", "session=\"\"", "session", "a=1; session= ;b=2"] {
            assert_eq!(find(&[empty]), Err(Reason::MalformedCredential), "{empty}");
        }
        let long = format!("session={}", "a".repeat(101));
        assert_eq!(find(&[&long]), Err(Reason::MalformedCredential));
    }

    #[test]
    fn twice_with_different_values_is_ambiguous() {
        assert_eq!(find(&["session=a; session=b"]), Err(Reason::AmbiguousCredential));
        assert_eq!(find(&["session=a", "session=b"]), Err(Reason::AmbiguousCredential));
        assert_eq!(find(&["session=; session=b"]), Err(Reason::AmbiguousCredential));
        assert_eq!(find(&["session=a; session=\"a\""]), Ok(Some("a".into())));
    }

    #[test]
    fn the_other_cookies_stay_byte_for_byte() {
        assert_eq!(cut(&["a=\"1\";  b = 2 ;session=x; c"]), ["a=\"1\";  b = 2 ; c"]);
        assert_eq!(cut(&["session=x; a=1"]), ["a=1"]);
        assert_eq!(cut(&["a=1; session=x; session=y"]), ["a=1"]);
        assert_eq!(cut(&[" a=1;;"]), [" a=1;;"]);
        assert_eq!(cut(&["session=x", "a=1; session", "b"]), ["a=1", "b"]);
        assert!(cut(&["session=x; "]).is_empty());
    }

    #[test]
    fn a_cookie_that_signs_another_belongs_to_it() {
        let mut source = CookieSource::new("session");
        source.sign();
        let headers =
            |cookie: &str| HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())]);
        let found = source.find(&headers("a=1; session=x; session.sig=y"), 99).unwrap().unwrap();
        assert_eq!(found.expose(), b"x\ny");
        let alone = source.find(&headers("session=x"), 99);
        assert_eq!(alone.err(), Some(Reason::MalformedCredential));
        assert!(source.find(&headers("session.sig=y"), 99).unwrap().is_none());
        let mut cut = headers("a=1; session=x; session.sig=y; b=2");
        source.cut(&mut cut);
        assert_eq!(cut[COOKIE], "a=1; b=2");
    }
}
