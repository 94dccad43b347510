//! What a revocation is about, and which identities are meant by it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use crate::hex::hex;
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

/// Whose identities a revocation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Whoever proved them.
    Any,
    /// Those that the verifier of this name proved.
    Verifier(&'a str),
    /// Of those only the ones by this issuer: verifier and `iss`.
    Issuer(&'a str, &'a str),
}

/// How far a target reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reach {
    Any,
    Verifier,
    Issuer,
}

/// Whom a revocation means: a subject, session or token, of one verifier or of
/// any. Known by its hash alone, 128 bits of SHA-256: a session id may still be
/// good for the application that issued it, and is nobody else's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    kind: Kind,
    reach: Reach,
    digest: [u8; 16],
}

impl Reach {
    const ALL: [Reach; 3] = [Reach::Any, Reach::Verifier, Reach::Issuer];

    fn label(self) -> &'static str {
        match self {
            Reach::Any => "any",
            Reach::Verifier => "one",
            Reach::Issuer => "iss",
        }
    }

    fn number(self) -> u8 {
        match self {
            Reach::Any => 0,
            Reach::Verifier => 1,
            Reach::Issuer => 2,
        }
    }

    /// As far around `identity`; none if it has no issuer.
    fn around(self, identity: &Identity) -> Option<Scope<'_>> {
        match self {
            Reach::Any => Some(Scope::Any),
            Reach::Verifier => Some(Scope::Verifier(identity.verifier())),
            Reach::Issuer => Some(Scope::Issuer(identity.verifier(), identity.issuer()?)),
        }
    }
}

impl Target {
    /// Those within `scope` of whom `kind` is `text`.
    pub fn new(kind: Kind, text: &str, scope: Scope<'_>) -> Target {
        let (reach, verifier, issuer) = match scope {
            Scope::Any => (Reach::Any, "", None),
            Scope::Verifier(verifier) => (Reach::Verifier, verifier, None),
            Scope::Issuer(verifier, issuer) => (Reach::Issuer, verifier, Some(issuer)),
        };
        let mut context = Context::new(&SHA256);
        context.update(kind.label().as_bytes());
        // No label holds these bytes, and a length stands before each text: no two
        // targets are hashed from the same bytes.
        context.update(&[0, reach.number()]);
        for part in [Some(verifier), issuer, Some(text)].into_iter().flatten() {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&context.finish().as_ref()[..16]);
        Target { kind, reach, digest }
    }

    /// Every target that means `identity`.
    pub(super) fn all_of(identity: &Identity) -> impl Iterator<Item = Target> {
        let targets = move |kind| Reach::ALL.map(|reach| Target::of(kind, reach, identity));
        Kind::ALL.into_iter().flat_map(targets).flatten()
    }

    fn of(kind: Kind, reach: Reach, identity: &Identity) -> Option<Target> {
        Some(Target::new(kind, kind.text(identity)?, reach.around(identity)?))
    }

    /// Whether `identity` is meant.
    pub(super) fn means(&self, identity: &Identity) -> bool {
        Target::of(self.kind, self.reach, identity).as_ref() == Some(self)
    }

    /// What of an identity it names.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is about the identities of one verifier alone.
    pub fn names_verifier(&self) -> bool {
        self.reach != Reach::Any
    }

    /// Reads what [`Target`]'s `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Target> {
        let mut parts = text.split('.');
        let label = parts.next()?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.label() == label)?;
        let label = parts.next()?;
        let reach = Reach::ALL.into_iter().find(|reach| reach.label() == label)?;
        let hex = parts.next().filter(|hex| hex.len() == 32 && hex.is_ascii())?;
        if parts.next().is_some() {
            return None;
        }
        let mut digest = [0; 16];
        for (byte, at) in digest.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        // One target has one text: "+f" and "FF" are numbers too.
        let target = Target { kind, reach, digest };
        (target.to_string() == text).then_some(target)
    }
}

impl fmt::Display for Target {
    /// `subject.any.00112233445566778899aabbccddeeff`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, reach) = (self.kind.label(), self.reach.label());
        write!(formatter, "{kind}.{reach}.{}", hex(&self.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{by_issuer, identity};
    use super::*;

    #[test]
    fn a_target_means_those_of_its_verifier_or_of_any() {
        let ada = identity("ada", Some("s-1"), Some("j-1"));
        let is_meant = |kind, text, scope| Target::new(kind, text, scope).means(&ada);
        for (kind, text) in [(Kind::Subject, "ada"), (Kind::Session, "s-1"), (Kind::TokenId, "j-1")]
        {
            assert!(is_meant(kind, text, Scope::Any), "{text}");
            assert!(is_meant(kind, text, Scope::Verifier("app")), "{text}");
            for verifier in ["other", ""] {
                assert!(!is_meant(kind, text, Scope::Verifier(verifier)), "{text}");
            }
            assert!(!is_meant(kind, text, Scope::Issuer("app", "")), "{text}");
            assert!(!is_meant(kind, "eve", Scope::Any), "{text}");
        }
        assert!(!is_meant(Kind::Session, "ada", Scope::Any));
        assert_eq!(Target::all_of(&ada).count(), 6);
        assert!(Target::all_of(&ada).all(|target| target.means(&ada)));
    }

    #[test]
    fn a_target_of_an_issuer_means_no_login_by_another() {
        let ada = by_issuer("ada", "https://id.example");
        let is_meant = |verifier, issuer| {
            Target::new(Kind::Subject, "ada", Scope::Issuer(verifier, issuer)).means(&ada)
        };
        assert!(is_meant("app", "https://id.example"));
        for issuer in ["https://id.example/", "", "https://other.example"] {
            assert!(!is_meant("app", issuer), "{issuer}");
        }
        assert!(!is_meant("other", "https://id.example"));
        // A boundary that moves between verifier and issuer is another target.
        assert!(!is_meant("apph", "ttps://id.example"));
        assert_eq!(Target::all_of(&ada).count(), 3);
        assert!(Target::all_of(&ada).all(|target| target.means(&ada)));
    }

    #[test]
    fn nobody_is_meant_by_the_empty_subject() {
        assert_eq!(Target::all_of(&Identity::anonymous()).count(), 0);
        assert!(!Target::new(Kind::Subject, "", Scope::Any).means(&Identity::anonymous()));
    }

    #[test]
    fn a_target_has_one_text_that_tells_nothing() {
        let target = Target::new(Kind::Session, "canary-session", Scope::Verifier("app"));
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
