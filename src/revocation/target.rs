//! What a revocation is about, and which identities are meant by it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use crate::identity::Identity;

/// What of an identity a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Who: all logins of before.
    Subject,
    /// One login: `sid`, or the id of the session in its store.
    Session,
    /// One token: `jti`.
    TokenId,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Subject, Kind::Session, Kind::TokenId];

    /// As the operator, Redis and the log know it.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Subject => "subject",
            Kind::Session => "session",
            Kind::TokenId => "token_id",
        }
    }

    fn text(self, identity: &Identity) -> Option<&str> {
        match self {
            Kind::Subject => Some(identity.subject()).filter(|subject| !subject.is_empty()),
            Kind::Session => identity.session(),
            Kind::TokenId => identity.token_id(),
        }
    }
}

/// Whom a revocation means: a subject, session or token, of one verifier or of
/// any. Known by its hash alone, 128 bits of SHA-256: a session id may still be
/// good for the application that issued it, and is nobody else's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    kind: Kind,
    one_verifier: bool,
    digest: [u8; 16],
}

impl Target {
    /// Those of whom `kind` is `text`, if `verifier` proved them; without one,
    /// whoever did.
    pub fn new(kind: Kind, text: &str, verifier: Option<&str>) -> Target {
        let mut context = Context::new(&SHA256);
        context.update(kind.label().as_bytes());
        // No label holds these bytes, and a length stands before each text: no two
        // targets are hashed from the same bytes.
        context.update(&[0, u8::from(verifier.is_some())]);
        for part in [verifier.unwrap_or_default(), text] {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&context.finish().as_ref()[..16]);
        Target { kind, one_verifier: verifier.is_some(), digest }
    }

    /// Every target that means `identity`.
    pub(super) fn all_of(identity: &Identity) -> impl Iterator<Item = Target> {
        let targets = move |kind| [true, false].map(|one| Target::of(kind, one, identity));
        Kind::ALL.into_iter().flat_map(targets).flatten()
    }

    fn of(kind: Kind, one_verifier: bool, identity: &Identity) -> Option<Target> {
        let text = kind.text(identity)?;
        Some(Target::new(kind, text, one_verifier.then_some(&**identity.verifier())))
    }

    /// Whether `identity` is meant.
    pub(super) fn means(&self, identity: &Identity) -> bool {
        Target::of(self.kind, self.one_verifier, identity).as_ref() == Some(self)
    }

    /// What of an identity it names.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it names a verifier.
    pub fn names_verifier(&self) -> bool {
        self.one_verifier
    }

    /// Reads what [`Target`]'s `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Target> {
        let mut parts = text.split('.');
        let label = parts.next()?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.label() == label)?;
        let one_verifier = match parts.next()? {
            "one" => true,
            "any" => false,
            _ => return None,
        };
        let hex = parts.next().filter(|hex| hex.len() == 32 && hex.is_ascii())?;
        if parts.next().is_some() {
            return None;
        }
        let mut digest = [0; 16];
        for (byte, at) in digest.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        // One target has one text: "+f" and "FF" are numbers too.
        let target = Target { kind, one_verifier, digest };
        (target.to_string() == text).then_some(target)
    }
}

impl fmt::Display for Target {
    /// `subject.any.00112233445566778899aabbccddeeff`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verifier = if self.one_verifier { "one" } else { "any" };
        write!(formatter, "{}.{verifier}.", self.kind.label())?;
        self.digest.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::identity;
    use super::*;

    #[test]
    fn a_target_means_those_of_its_verifier_or_of_any() {
        let ada = identity("ada", Some("s-1"), Some("j-1"));
        let is_meant = |kind, text, verifier| Target::new(kind, text, verifier).means(&ada);
        for (kind, text) in [(Kind::Subject, "ada"), (Kind::Session, "s-1"), (Kind::TokenId, "j-1")]
        {
            assert!(is_meant(kind, text, None) && is_meant(kind, text, Some("app")), "{text}");
            assert!(!is_meant(kind, text, Some("other")), "{text}");
            assert!(!is_meant(kind, text, Some("")), "{text}");
            assert!(!is_meant(kind, "eve", None), "{text}");
        }
        assert!(!is_meant(Kind::Session, "ada", None));
        assert_eq!(Target::all_of(&ada).count(), 6);
        assert!(Target::all_of(&ada).all(|target| target.means(&ada)));
    }

    #[test]
    fn nobody_is_meant_by_the_empty_subject() {
        assert_eq!(Target::all_of(&Identity::anonymous()).count(), 0);
        assert!(!Target::new(Kind::Subject, "", None).means(&Identity::anonymous()));
    }

    #[test]
    fn a_target_has_one_text_that_tells_nothing() {
        let target = Target::new(Kind::Session, "canary-session", Some("app"));
        let text = target.to_string();
        assert!(text.starts_with("session.one.") && !text.contains("canary"), "{text}");
        assert_eq!(Target::parse(&text), Some(target));
        for bad in [
            text.to_uppercase(),
            text.replace("one", "two"),
            text.replace("session", "user"),
            format!("{text}0"),
            format!("{text}."),
            text[..text.len() - 1].to_owned(),
            format!("session.any.+f{}", "0".repeat(30)),
            format!("session.any.{}", "é".repeat(16)),
            String::new(),
        ] {
            assert_eq!(Target::parse(&bad), None, "{bad}");
        }
    }
}
