//! What counts once: a logout token that is shown a second time, here or to another
//! replica, revokes nothing. Bounded; knows no clock.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};

use crate::hex::hex;

/// How many are remembered at most: about 20 MB. Whoever sends more has a signing key.
const MOST: usize = 400_000;

/// How often what has ended is thrown out, in milliseconds.
const PURGE: i64 = 60_000;

/// Something that counts once, known by its hash alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    pub(super) digest: [u8; 16],
    /// From when on it counts no more in any case, in milliseconds since the epoch.
    pub(super) until: i64,
}

impl Once {
    /// What `parts` name together, until it counts no more, in milliseconds since the
    /// epoch.
    pub fn new(parts: &[&str], until: i64) -> Once {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&context.finish().as_ref()[..16]);
        Once { digest, until }
    }

    /// The hash in hex.
    pub(super) fn hex(&self) -> String {
        hex(&self.digest)
    }
}

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    until: HashMap<[u8; 16], i64>,
    purged: i64,
}

/// What became of something that counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It was not seen before.
    First,
    /// It was.
    Again,
    /// Nobody can remember it.
    Full,
}

impl Seen {
    /// Takes note of `once`.
    pub(super) fn see(&mut self, once: &Once, now: i64) -> Sight {
        self.see_within(once, now, MOST)
    }

    fn see_within(&mut self, once: &Once, now: i64, most: usize) -> Sight {
        if now.saturating_sub(self.purged) >= PURGE || now < self.purged {
            self.until.retain(|_, until| *until > now);
            self.purged = now;
        }
        match self.until.get(&once.digest) {
            Some(until) if *until > now => Sight::Again,
            None if self.until.len() >= most => Sight::Full,
            Some(_) | None => {
                self.until.insert(once.digest, once.until);
                Sight::First
            }
        }
    }

    /// It came to nothing, and may come again.
    pub(super) fn forget(&mut self, once: &Once) {
        self.until.remove(&once.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_known_until_it_counts_no_more() {
        let mut seen = Seen::default();
        let once = Once::new(&["app", "j-1"], 10_000);
        assert_eq!(seen.see(&once, 0), Sight::First);
        assert_eq!(seen.see(&once, 9_999), Sight::Again);
        assert_eq!(seen.see(&Once::new(&["ap", "pj-1"], 10_000), 0), Sight::First);
        assert_eq!(seen.see(&once, 10_000), Sight::First);
        seen.forget(&once);
        assert_eq!(seen.see(&once, 0), Sight::First);
    }

    #[test]
    fn it_is_bounded_and_forgets_what_has_ended() {
        let mut seen = Seen::default();
        let number = |number: i64| Once::new(&[&number.to_string()], 1_000 + number);
        for each in 0..3 {
            assert_eq!(seen.see_within(&number(each), 0, 3), Sight::First);
        }
        assert_eq!(seen.see_within(&number(3), 0, 3), Sight::Full);
        assert_eq!(seen.see_within(&number(2), 0, 3), Sight::Again);
        assert_eq!(seen.see_within(&number(3), PURGE, 3), Sight::First);
        assert_eq!(seen.until.len(), 1);
    }
}
