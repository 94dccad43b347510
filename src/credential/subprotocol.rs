//! A credential among the subprotocols that a client offers (RFC 6455 §1.9):
//! behind a prefix of one entry, or as the entry behind a marker. Browsers
//! cannot set headers on an upgrade, but they can offer subprotocols.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Encoding, Sighting, sole};

/// `subprotocol`: the rest of the entry that starts with a prefix.
pub(super) struct PrefixSource {
    prefix: Box<str>,
    encoding: Encoding,
}

/// `subprotocol_pair`: the entry behind a marker.
pub(super) struct PairSource {
    marker: Box<str>,
    encoding: Encoding,
}

/// What an offered entry is to a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A subprotocol for the upstream to choose.
    Real,
    /// Says that the next entry is a token.
    Marker,
    /// Holds a token.
    Token,
}

impl PrefixSource {
    pub(super) fn new(prefix: &str, encoding: Encoding) -> PrefixSource {
        PrefixSource { prefix: prefix.into(), encoding }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn find(&self, offered: &[&str], max_bytes: usize) -> Sighting {
        let tokens = offered.iter().filter_map(|entry| entry.strip_prefix(&*self.prefix));
        sole(tokens.map(|token| decoded(token, self.encoding)), max_bytes)
    }

    /// Raises the role of every entry that is this credential.
    pub(super) fn mark(&self, offered: &[&str], roles: &mut [Role]) {
        for (entry, role) in offered.iter().zip(roles) {
            if entry.starts_with(&*self.prefix) {
                *role = Role::Token;
            }
        }
    }
}

impl PairSource {
    pub(super) fn new(marker: &str, encoding: Encoding) -> PairSource {
        PairSource { marker: marker.into(), encoding }
    }

    pub(super) fn marker(&self) -> &str {
        &self.marker
    }

    pub(super) fn find(&self, offered: &[&str], max_bytes: usize) -> Sighting {
        let tokens = self.pairs(offered).map(|(_, token)| decoded(token?, self.encoding));
        sole(tokens, max_bytes)
    }

    /// Raises the role of every marker and of the token behind it.
    pub(super) fn mark(&self, offered: &[&str], roles: &mut [Role]) {
        for (at, _) in self.pairs(offered) {
            for (role, raised) in roles.iter_mut().skip(at).zip([Role::Marker, Role::Token]) {
                *role = raised.max(*role);
            }
        }
    }

    /// The place of each marker, and its token unless the list ends there.
    fn pairs<'a>(&self, offered: &[&'a str]) -> impl Iterator<Item = (usize, Option<&'a str>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let found = at + offered.get(at..)?.iter().position(|entry| *entry == &*self.marker)?;
            at = found + 2;
            Some((found, offered.get(found + 1).copied()))
        })
    }
}

fn decoded(token: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::None => Some(token.into()),
        Encoding::Base64url => {
            URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| std::str::from_utf8(bytes).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Reason;

    fn text(sighting: Sighting) -> Result<Option<String>, Reason> {
        Ok(sighting?.map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap()))
    }

    fn prefix(offered: &[&str], encoding: Encoding) -> Result<Option<String>, Reason> {
        text(PrefixSource::new("bearer.", encoding).find(offered, 20))
    }

    fn pair(offered: &[&str]) -> Result<Option<String>, Reason> {
        text(PairSource::new("bearer", Encoding::None).find(offered, 20))
    }

    #[test]
    fn a_prefix_is_followed_by_the_token() {
        assert_eq!(prefix(&["chat", "bearer.abc"], Encoding::None), Ok(Some("abc".into())));
        assert_eq!(prefix(&["bearer.YTpi"], Encoding::Base64url), Ok(Some("a:b".into())));
        assert_eq!(prefix(&["chat", "Bearer.abc"], Encoding::None), Ok(None));
    }

    #[test]
    fn base64url_is_without_padding_and_canonical() {
        for bad in ["bearer.", "bearer.YWI=", "bearer.YWJ", "bearer.a+b/", "bearer._w"] {
            let found = prefix(&[bad], Encoding::Base64url);
            assert_eq!(found, Err(Reason::MalformedCredential), "{bad}");
        }
    }

    #[test]
    fn a_marker_is_followed_by_the_token() {
        assert_eq!(pair(&["chat", "bearer", "abc"]), Ok(Some("abc".into())));
        assert_eq!(pair(&["bearer", "bearer", "chat"]), Ok(Some("bearer".into())));
        assert_eq!(pair(&["chat"]), Ok(None));
        assert_eq!(pair(&["chat", "bearer"]), Err(Reason::MalformedCredential));
    }

    #[test]
    fn twice_with_different_values_is_ambiguous() {
        let twice = prefix(&["bearer.a", "bearer.b"], Encoding::None);
        assert_eq!(twice, Err(Reason::AmbiguousCredential));
        assert_eq!(pair(&["bearer", "a", "bearer", "b"]), Err(Reason::AmbiguousCredential));
        assert_eq!(pair(&["bearer", "a", "bearer", "a"]), Ok(Some("a".into())));
    }
}
