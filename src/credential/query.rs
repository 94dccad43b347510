//! A credential in a query parameter, form-decoded
//! (<https://url.spec.whatwg.org/#urlencoded-parsing>), cut from the query and
//! from the query of `Referer` with the rest left byte for byte.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderValue, REFERER};

use super::{Sighting, sole};

/// The query parameter of one name.
pub(super) struct QuerySource {
    name: Box<str>,
}

impl QuerySource {
    pub(super) fn new(name: &str) -> QuerySource {
        QuerySource { name: name.into() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn find(&self, query: &str, max_bytes: usize) -> Sighting {
        let named = query.split('&').filter(|parameter| self.is_ours(parameter));
        let values = named.map(|parameter| {
            let (_, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (value, whole) = form_decoded(value);
            (whole && std::str::from_utf8(&value).is_ok()).then_some(value)
        });
        sole(values, max_bytes)
    }

    /// The query without this parameter; `None` if nothing is left of it.
    pub(super) fn cut<'a>(&self, query: Cow<'a, str>) -> Option<Cow<'a, str>> {
        if !query.split('&').any(|parameter| self.is_ours(parameter)) {
            return Some(query);
        }
        let rest: Vec<&str> = query.split('&').filter(|p| !self.is_ours(p)).collect();
        let rest = rest.join("&");
        (!rest.is_empty()).then_some(Cow::Owned(rest))
    }

    fn is_ours(&self, parameter: &str) -> bool {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        form_decoded(name).0 == self.name.as_bytes()
    }
}

/// `query` without the parameter `name`, whatever its escapes; `None` if nothing
/// is left of it.
pub fn without_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    QuerySource::new(name).cut(Cow::Borrowed(query))
}

/// Cuts the parameters of `sources` from every `Referer`. One that is not text
/// cannot be searched and goes as a whole.
pub(super) fn cut_from_referer(sources: &[&QuerySource], headers: &mut HeaderMap) {
    if sources.is_empty() || !headers.contains_key(REFERER) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(REFERER).iter().filter_map(|value| cut_from_url(sources, value)).collect();
    headers.remove(REFERER);
    for value in kept {
        headers.append(REFERER, value);
    }
}

fn cut_from_url(sources: &[&QuerySource], value: &HeaderValue) -> Option<HeaderValue> {
    let url = std::str::from_utf8(value.as_bytes()).ok()?;
    let (rest, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let Some((path, query)) = rest.split_once('?') else {
        return Some(value.clone());
    };
    let left = sources.iter().try_fold(Cow::Borrowed(query), |query, source| source.cut(query));
    match left {
        Some(Cow::Borrowed(_)) => Some(value.clone()),
        Some(Cow::Owned(query)) => HeaderValue::try_from(format!("{path}?{query}{fragment}")).ok(),
        None => HeaderValue::try_from(format!("{path}{fragment}")).ok(),
    }
}

/// The decoded bytes, and whether every `%` began a well-formed escape; one
/// that did not stands for itself.
pub fn form_decoded(text: &str) -> (Vec<u8>, bool) {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut whole = true;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => match (hex(bytes.get(at)), hex(bytes.get(at + 1))) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    at += 2;
                }
                _ => {
                    decoded.push(b'%');
                    whole = false;
                }
            },
            _ => decoded.push(byte),
        }
    }
    (decoded, whole)
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    char::from(*digit?).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Reason;

    fn find(query: &str) -> Result<Option<String>, Reason> {
        let found = QuerySource::new("to ken").find(query, 20)?;
        Ok(found.map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap()))
    }

    fn cut(query: &str) -> Option<String> {
        QuerySource::new("token").cut(query.into()).map(Cow::into_owned)
    }

    #[test]
    fn names_and_values_are_form_decoded() {
        assert_eq!(find("a=1&to+ken=a%2Bb+c"), Ok(Some("a+b c".into())));
        assert_eq!(find("%74o%20ken=%C3%A4=&x"), Ok(Some("ä=".into())));
        assert_eq!(find("To+ken=a&token=b&%zzto+ken=c"), Ok(None));
        assert_eq!(find(""), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_present_and_malformed() {
        for bad in ["to+ken", "to+ken=", "to+ken=%", "to+ken=%4", "to+ken=%GG", "to+ken=%FF"] {
            assert_eq!(find(bad), Err(Reason::MalformedCredential), "{bad}");
        }
        assert_eq!(find("to+ken=123456789012345678901"), Err(Reason::MalformedCredential));
        assert!(find("to+ken=12345678901234567890").is_ok());
    }

    #[test]
    fn twice_with_different_values_is_ambiguous() {
        assert_eq!(find("to+ken=a&to%20ken=b"), Err(Reason::AmbiguousCredential));
        assert_eq!(find("to+ken&to%20ken=b"), Err(Reason::AmbiguousCredential));
        assert_eq!(find("to+ken=a&to%20ken=%61"), Ok(Some("a".into())));
    }

    #[test]
    fn the_rest_of_the_query_stays_byte_for_byte() {
        assert_eq!(cut("a=%31&token=x&&b=+&").as_deref(), Some("a=%31&&b=+&"));
        assert_eq!(cut("a=1&%74oken=x&tok%65n").as_deref(), Some("a=1"));
        assert_eq!(cut("tokens=1&a=token").as_deref(), Some("tokens=1&a=token"));
        assert_eq!(cut("token=x"), None);
        assert_eq!(cut("").as_deref(), Some(""));
    }

    #[test]
    fn the_referer_loses_the_parameter_too() {
        let source = QuerySource::new("token");
        let cut = |url: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REFERER, HeaderValue::from_bytes(url).unwrap());
            cut_from_referer(&[&source], &mut headers);
            headers.get(REFERER).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(cut(b"https://h/p?a=1&token=x#f").as_deref(), Some("https://h/p?a=1#f"));
        assert_eq!(cut(b"https://h/p?%74oken=x").as_deref(), Some("https://h/p"));
        assert_eq!(cut(b"https://h/token=x").as_deref(), Some("https://h/token=x"));
        assert_eq!(cut(b"https://h/?token=x&\xff"), None);
    }
}
