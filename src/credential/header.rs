//! A credential in a header, bare or under an authentication scheme
//! (RFC 9110 §11.4, RFC 6750 §2.1, RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Scheme, Sighting, sole};

/// The header of one name, under one scheme.
pub(super) struct HeaderSource {
    name: HeaderName,
    scheme: Scheme,
}

impl HeaderSource {
    pub(super) fn new(name: HeaderName, scheme: Scheme) -> HeaderSource {
        HeaderSource { name, scheme }
    }

    pub(super) fn name(&self) -> &HeaderName {
        &self.name
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) fn find(&self, headers: &HeaderMap, max_bytes: usize) -> Sighting {
        let values = headers.get_all(&self.name).iter();
        let ours = values.filter_map(|value| self.of_our_scheme(value));
        match self.scheme {
            Scheme::None => sole(ours.map(|value| Some(value.to_vec())), max_bytes),
            Scheme::Bearer => sole(ours.map(bearer_token), max_bytes),
            Scheme::Basic => sole(ours.map(user_and_password), max_bytes),
        }
    }

    /// Cuts every value of this scheme; another scheme is another credential.
    pub(super) fn cut(&self, headers: &mut HeaderMap) {
        if !headers.get_all(&self.name).iter().any(|value| self.of_our_scheme(value).is_some()) {
            return;
        }
        let others: Vec<HeaderValue> = headers
            .get_all(&self.name)
            .iter()
            .filter(|value| self.of_our_scheme(value).is_none())
            .cloned()
            .collect();
        headers.remove(&self.name);
        for value in others {
            headers.append(self.name.clone(), value);
        }
    }

    /// What stands behind the scheme. An empty value names no other scheme, so
    /// it is ours, and malformed.
    fn of_our_scheme<'a>(&self, value: &'a HeaderValue) -> Option<&'a [u8]> {
        let value = value.as_bytes().trim_ascii();
        let scheme: &[u8] = match self.scheme {
            Scheme::None => return Some(value),
            Scheme::Bearer => b"bearer",
            Scheme::Basic => b"basic",
        };
        let end = memchr::memchr2(b' ', b'\t', value).unwrap_or(value.len());
        let (written, rest) = value.split_at(end);
        (value.is_empty() || written.eq_ignore_ascii_case(scheme)).then(|| rest.trim_ascii_start())
    }
}

fn bearer_token(rest: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr2(b' ', b'\t', rest).is_none().then(|| rest.to_vec())
}

fn user_and_password(rest: &[u8]) -> Option<Vec<u8>> {
    STANDARD_PAD_INDIFFERENT.decode(rest).ok().filter(|decoded| decoded.contains(&b':'))
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::close::Reason;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn find(scheme: Scheme, values: &[&str]) -> Result<Option<String>, Reason> {
        let found = HeaderSource::new(AUTHORIZATION, scheme).find(&headers(values), 20)?;
        Ok(found.map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap()))
    }

    #[test]
    fn a_scheme_is_compared_without_case() {
        for value in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(find(Scheme::Bearer, &[value]), Ok(Some("abc".into())), "{value}");
        }
        assert_eq!(find(Scheme::None, &[" Bearer abc"]), Ok(Some("Bearer abc".into())));
    }

    #[test]
    fn another_scheme_is_absent() {
        for value in ["Basic YTpi", "Bearerabc", "abc", "Digest a=b"] {
            assert_eq!(find(Scheme::Bearer, &[value]), Ok(None), "{value}");
        }
        assert_eq!(find(Scheme::Bearer, &["Basic YTpi", "Bearer abc"]), Ok(Some("abc".into())));
        assert_eq!(find(Scheme::Bearer, &[]), Ok(None));
    }

    #[test]
    fn a_scheme_without_a_token_is_present_and_malformed() {
        for value in ["Bearer", "Bearer ", "", "Bearer a b"] {
            assert_eq!(find(Scheme::Bearer, &[value]), Err(Reason::MalformedCredential), "{value}");
        }
        for value in ["Basic", "Basic !", "Basic YWI="] {
            assert_eq!(find(Scheme::Basic, &[value]), Err(Reason::MalformedCredential), "{value}");
        }
        assert_eq!(find(Scheme::None, &[""]), Err(Reason::MalformedCredential));
    }

    #[test]
    fn basic_is_decoded() {
        assert_eq!(find(Scheme::Basic, &["Basic YTpi"]), Ok(Some("a:b".into())));
        assert_eq!(find(Scheme::Basic, &["basic YTpiYw=="]), Ok(Some("a:bc".into())));
    }

    #[test]
    fn twice_with_different_values_is_ambiguous() {
        let twice = ["Bearer a", "Bearer b"];
        assert_eq!(find(Scheme::Bearer, &twice), Err(Reason::AmbiguousCredential));
        assert_eq!(find(Scheme::Bearer, &["Bearer a", "bearer  a"]), Ok(Some("a".into())));
    }

    #[test]
    fn only_values_of_the_scheme_are_cut() {
        let mut headers = headers(&["Bearer a", "Basic YTpi", "bearer b"]);
        HeaderSource::new(AUTHORIZATION, Scheme::Bearer).cut(&mut headers);
        let left: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
        assert_eq!(left, ["Basic YTpi"]);
        HeaderSource::new(AUTHORIZATION, Scheme::None).cut(&mut headers);
        assert!(headers.is_empty());
    }
}
