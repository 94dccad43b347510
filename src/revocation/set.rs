//! The revocations that count now. Bounded; knows no clock.

use std::collections::HashMap;

use super::target::{Kind, Target};
use crate::identity::{Identity, Method};

/// How many revocations are known at most: about 40 MB.
pub(super) const MOST: usize = 800_000;

/// How often what has ended is thrown out, in milliseconds.
const PURGE: i64 = 60_000;

/// A target and how long it is revoked. Times in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) target: Target,
    /// When it was revoked: by subject, a later login is another matter.
    pub(super) at: i64,
    /// When it is forgotten.
    pub(super) until: i64,
}

impl Revocation {
    /// Whether it refuses `identity`, which its target means, on a connection that
    /// was opened at `opened`.
    pub(super) fn holds(&self, identity: &Identity, opened: i64, now: i64) -> bool {
        self.until > now
            && match self.target.kind() {
                Kind::Session | Kind::TokenId => true,
                Kind::Subject => is_of_before(identity, opened, self.at),
            }
    }
}

/// What became of a revocation that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It refuses what was not refused before.
    News,
    /// It was known, or has ended.
    Known,
    /// There is no room for it.
    Full,
}

/// Revocations by their target.
#[derive(Default)]
pub(super) struct Set {
    revoked: HashMap<Target, Times>,
    purged: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Times {
    at: i64,
    until: i64,
}

impl Set {
    /// Takes note of a revocation; of two of one target the later counts, as long
    /// as either does.
    pub(super) fn note(&mut self, revocation: Revocation, now: i64) -> Noted {
        self.note_within(revocation, now, MOST)
    }

    fn note_within(&mut self, revocation: Revocation, now: i64, most: usize) -> Noted {
        let Revocation { target, at, until } = revocation;
        if until <= now {
            return Noted::Known;
        }
        if now.saturating_sub(self.purged) >= PURGE || now < self.purged {
            self.revoked.retain(|_, times| times.until > now);
            self.purged = now;
        }
        let full = self.revoked.len() >= most;
        match self.revoked.get_mut(&target) {
            Some(times) => {
                let later = Times { at: times.at.max(at), until: times.until.max(until) };
                let news = later != *times;
                *times = later;
                if news { Noted::News } else { Noted::Known }
            }
            None if full => Noted::Full,
            None => {
                self.revoked.insert(target, Times { at, until });
                Noted::News
            }
        }
    }

    /// Has the revocation of `target` end at `until`, now that more is known.
    pub(super) fn end_at(&mut self, target: &Target, until: i64) {
        if let Some(times) = self.revoked.get_mut(target) {
            times.until = until;
        }
    }

    /// Whether `identity`, whose connection was opened at `opened`, is revoked.
    pub(super) fn refuses(&self, identity: &Identity, opened: i64, now: i64) -> bool {
        // Most of the time nothing is revoked, and nothing is hashed.
        !self.revoked.is_empty()
            && Target::all_of(identity)
                .filter_map(|target| self.known(target))
                .any(|revocation| revocation.holds(identity, opened, now))
    }

    fn known(&self, target: Target) -> Option<Revocation> {
        let Times { at, until } = *self.revoked.get(&target)?;
        Some(Revocation { target, at, until })
    }

    /// Every revocation that counts at `now`.
    pub(super) fn all(&self, now: i64) -> impl Iterator<Item = Revocation> {
        let counting = self.revoked.iter().filter(move |(_, times)| times.until > now);
        counting.map(|(target, times)| Revocation {
            target: *target,
            at: times.at,
            until: times.until,
        })
    }
}

/// Whether a login is from before `at`. A token says when it was issued; one that
/// does not could be any. Of other credentials the one who keeps them was asked,
/// and that is what counts: at the latest when the connection was opened.
fn is_of_before(identity: &Identity, opened: i64, at: i64) -> bool {
    let issued = identity.issued_at().map(|seconds| seconds.saturating_mul(1000));
    let proven = match identity.kind() {
        Method::Jwt => issued,
        Method::Anonymous
        | Method::ApiKeys
        | Method::Session
        | Method::Introspection
        | Method::ForwardAuth => Some(issued.unwrap_or(opened)),
    };
    // Whatever a token says of itself, what was open then is of before.
    opened <= at || proven.is_none_or(|proven| proven <= at)
}

#[cfg(test)]
mod tests {
    use super::super::target::Scope;
    use super::super::tests::{identity, of_method};
    use super::*;

    const NOW: i64 = 1_800_000_000_500;

    fn by(kind: Kind, text: &str, at: i64) -> Revocation {
        Revocation { target: Target::new(kind, text, Scope::Any), at, until: at + 1_000_000 }
    }

    fn set(revocations: &[Revocation]) -> Set {
        let mut set = Set::default();
        for revocation in revocations {
            assert_eq!(set.note(*revocation, NOW), Noted::News);
        }
        set
    }

    #[test]
    fn by_subject_a_token_of_before_or_without_iat_is_refused_and_a_new_login_not() {
        let set = set(&[by(Kind::Subject, "ada", NOW)]);
        let later = NOW + 5_000;
        let jwt = |issued| of_method(Method::Jwt, "ada", issued);
        assert!(set.refuses(&jwt(None), later, later));
        assert!(set.refuses(&jwt(Some(NOW / 1000 - 60)), later, later));
        // The same second: `iat` has no fraction.
        assert!(set.refuses(&jwt(Some(NOW / 1000)), later, later));
        assert!(!set.refuses(&jwt(Some(NOW / 1000 + 1)), later, later));
        assert!(!set.refuses(&of_method(Method::Jwt, "eve", None), later, later));
        // Open when it was revoked, whatever the issuer's clock said.
        assert!(set.refuses(&jwt(Some(NOW / 1000 + 20)), NOW, later));
    }

    #[test]
    fn by_subject_what_was_asked_for_after_the_revocation_is_let_in() {
        let set = set(&[by(Kind::Subject, "ada", NOW)]);
        let later = NOW + 5_000;
        for method in [Method::Session, Method::Introspection, Method::ForwardAuth, Method::ApiKeys]
        {
            assert!(set.refuses(&of_method(method, "ada", Some(NOW / 1000)), later, later));
            assert!(!set.refuses(&of_method(method, "ada", Some(later / 1000)), later, later));
            assert!(!set.refuses(&of_method(method, "ada", None), later, later));
            assert!(set.refuses(&of_method(method, "ada", None), NOW, later));
        }
    }

    #[test]
    fn a_session_and_a_token_stay_refused_whenever_they_were_issued() {
        let ada = identity("ada", Some("s-1"), Some("j-1"));
        for revocation in [by(Kind::Session, "s-1", NOW), by(Kind::TokenId, "j-1", NOW)] {
            let set = set(&[revocation]);
            assert!(set.refuses(&ada, NOW + 5_000, NOW + 5_000));
            assert!(!set.refuses(&identity("ada", Some("s-2"), Some("j-2")), NOW, NOW));
            assert!(!set.refuses(&identity("ada", None, None), NOW, NOW));
        }
    }

    #[test]
    fn a_revocation_ends_and_is_thrown_out() {
        let mut set = set(&[by(Kind::Session, "s-1", NOW)]);
        let ada = identity("ada", Some("s-1"), None);
        let end = NOW + 1_000_000;
        assert!(set.refuses(&ada, NOW, end - 1));
        assert!(!set.refuses(&ada, NOW, end));
        assert_eq!(set.all(end - 1).count(), 1);
        assert_eq!(set.all(end).count(), 0);
        assert_eq!(set.note(by(Kind::Session, "s-1", NOW), end), Noted::Known);
        assert_eq!(set.note(by(Kind::Session, "s-2", end), end), Noted::News);
        assert_eq!(set.revoked.len(), 1);
    }

    #[test]
    fn of_two_of_one_target_the_later_counts() {
        let mut set = set(&[by(Kind::Subject, "ada", NOW)]);
        assert_eq!(set.note(by(Kind::Subject, "ada", NOW), NOW), Noted::Known);
        assert_eq!(set.note(by(Kind::Subject, "ada", NOW - 1), NOW), Noted::Known);
        let token = of_method(Method::Jwt, "ada", Some(NOW / 1000 + 3));
        assert!(!set.refuses(&token, NOW + 9_000, NOW + 9_000));
        assert_eq!(set.note(by(Kind::Subject, "ada", NOW + 5_000), NOW), Noted::News);
        assert!(set.refuses(&token, NOW + 9_000, NOW + 9_000));
        set.end_at(&Target::new(Kind::Subject, "ada", Scope::Any), NOW + 10_000);
        assert!(!set.refuses(&token, NOW, NOW + 10_000));
    }

    #[test]
    fn a_full_set_takes_no_more_until_something_ends() {
        let mut set = set(&[by(Kind::Session, "s-1", NOW), by(Kind::Session, "s-2", NOW)]);
        let third = by(Kind::Session, "s-3", NOW + PURGE);
        assert_eq!(set.note_within(third, NOW, 2), Noted::Full);
        assert_eq!(set.note_within(by(Kind::Session, "s-1", NOW + 1), NOW, 2), Noted::News);
        set.end_at(&Target::new(Kind::Session, "s-2", Scope::Any), NOW + 1);
        assert_eq!(set.note_within(third, NOW + PURGE, 2), Noted::News);
    }
}
