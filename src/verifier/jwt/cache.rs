//! Tokens that were verified before, so that a client that comes back with the
//! same one costs a hash instead of a signature and two texts of JSON.
//!
//! A cache belongs to one set of keys of one verifier, whose rules never change:
//! when another set is fetched, or a reload makes another verifier, it goes. It holds nothing of a token
//! but its hash, and nothing of one that was refused. That a token was good is not
//! enough: whoever finds it here judges its times again.
//!
//! Who may fill it has a valid token for every entry, and cannot make it larger,
//! only less useful. How long a look takes says nothing about a token that one
//! does not have: what is compared are hashes.
//!
//! Beside it stands the last header that was read: an issuer sends the same one
//! with all of its tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use super::binding::Binding;
use super::claims::Times;
use super::token::Header;
use crate::identity::Identity;

/// How many sets of entries there are; a token can be in one of them only.
const SETS: usize = 128;

/// How many entries a set has.
const WAYS: usize = 4;

/// The longest token that is kept: its claims are as long. Two megabytes at worst.
const TOKEN_BYTES: usize = 4 * 1024;

/// The hash of a whole token, its signature included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenHash([u8; 32]);

/// What is known of a token whose signature and claims are good.
#[derive(Clone)]
pub(super) struct Known {
    /// Who it belongs to.
    pub(super) identity: Arc<Identity>,
    /// When it is good.
    pub(super) times: Times,
    /// What has to be shown beside it.
    pub(super) binding: Option<Binding>,
}

/// The tokens of one set of keys.
pub(super) struct Cache {
    sets: Box<[Mutex<Set>]>,
}

#[derive(Default)]
struct Set {
    entries: Vec<(TokenHash, Known)>,
    /// The entry that gives way next.
    oldest: usize,
}

/// The longest header that is remembered, in base64url.
const HEADER_BYTES: usize = 512;

/// The header of the last token whose signature was good.
#[derive(Default)]
pub(super) struct LastHeader(Mutex<Option<(Box<[u8]>, Header)>>);

impl LastHeader {
    /// What `text` says, if it is that header.
    pub(super) fn find(&self, text: &[u8]) -> Option<Header> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(known, _)| **known == *text).map(|(_, header)| header.clone())
    }

    /// Remembers what `text` says.
    pub(super) fn keep(&self, text: &[u8], header: Header) {
        if text.len() <= HEADER_BYTES {
            let last = (text.into(), header);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        }
    }
}

impl TokenHash {
    /// The hash of `token`; none if it is too long to be kept.
    pub(super) fn of(token: &[u8]) -> Option<TokenHash> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        digest(&SHA256, token).as_ref().try_into().map(TokenHash).ok()
    }
}

impl Cache {
    /// An empty cache.
    pub(super) fn new() -> Cache {
        Cache { sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    /// What is known of the token.
    pub(super) fn find(&self, token: &TokenHash) -> Option<Known> {
        let set = self.set(token);
        set.entries.iter().find(|(known, _)| known == token).map(|(_, known)| known.clone())
    }

    /// Keeps what is known of the token, in the place of an older one if need be.
    pub(super) fn keep(&self, token: TokenHash, known: Known) {
        let mut set = self.set(&token);
        // Two connections may have verified it at once.
        if set.entries.iter().any(|(other, _)| *other == token) {
            return;
        }
        if set.entries.len() < WAYS {
            return set.entries.push((token, known));
        }
        let at = set.oldest;
        set.oldest = (at + 1) % WAYS;
        let replaced =
            set.entries.get_mut(at).map(|entry| std::mem::replace(entry, (token, known)));
        drop(set);
        // Freed while nobody waits.
        drop(replaced);
    }

    fn set(&self, token: &TokenHash) -> MutexGuard<'_, Set> {
        let TokenHash([first, ..]) = token;
        // An entry is whole at any time, whoever panicked.
        self.sets[usize::from(*first) % SETS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(expires: i64) -> Known {
        let times = Times { issued_at: None, expires: Some(expires), not_before: None };
        Known { identity: Arc::new(Identity::anonymous()), times, binding: None }
    }

    fn hash(token: &str) -> TokenHash {
        TokenHash::of(token.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_by_the_whole_token_alone() {
        let cache = Cache::new();
        cache.keep(hash("a.b.c"), known(7));
        assert_eq!(cache.find(&hash("a.b.c")).unwrap().times.expires, Some(7));
        for other in ["a.b.", "a.b.d", "a.b.c ", ""] {
            assert!(cache.find(&hash(other)).is_none(), "{other}");
        }
    }

    #[test]
    fn a_token_that_is_long_is_not_kept() {
        assert!(TokenHash::of(&[b'a'; TOKEN_BYTES]).is_some());
        assert!(TokenHash::of(&[b'a'; TOKEN_BYTES + 1]).is_none());
    }

    #[test]
    fn it_never_grows_and_the_oldest_gives_way() {
        let cache = Cache::new();
        let in_one_set = |last: u8| {
            let mut hash = [0; 32];
            hash[31] = last;
            TokenHash(hash)
        };
        for serial in 0..100 {
            cache.keep(in_one_set(serial), known(0));
            cache.keep(in_one_set(serial), known(1));
        }
        let kept: Vec<u8> = (0..100).filter(|n| cache.find(&in_one_set(*n)).is_some()).collect();
        assert_eq!(kept, [96, 97, 98, 99]);
        assert_eq!(cache.set(&in_one_set(0)).entries.len(), WAYS);
        assert_eq!(cache.find(&in_one_set(99)).unwrap().times.expires, Some(0));
    }
}
