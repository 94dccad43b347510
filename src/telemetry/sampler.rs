//! Which of many like lines are written: the first hundred of a second and
//! then every hundredth, and how many were not.

use std::sync::{Mutex, PoisonError};

/// How many lines a second are written in full, and of how many later ones, one.
const PER_SECOND: u64 = 100;

/// Counts the lines of one second.
#[derive(Default)]
pub(super) struct Sampler(Mutex<Window>);

#[derive(Default)]
struct Window {
    second: i64,
    seen: u64,
    suppressed: u64,
}

impl Sampler {
    /// Whether a line is written at the Unix second `now`, and if so, how many
    /// were suppressed since the last one.
    pub(super) fn admit(&self, now: i64) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.second != now {
            window.second = now;
            window.seen = 0;
        }
        window.seen += 1;
        if window.seen <= PER_SECOND || window.seen.is_multiple_of(PER_SECOND) {
            return Some(std::mem::take(&mut window.suppressed));
        }
        window.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_sampled_and_every_line_counted() {
        let sampler = Sampler::default();
        let written: Vec<u64> = (0..1000).filter_map(|_| sampler.admit(7)).collect();
        assert_eq!(written.len(), 109);
        assert_eq!(written[99..102], [0, 99, 99]);
        assert_eq!(sampler.admit(8), Some(0));
        assert_eq!((0..150).filter_map(|_| sampler.admit(9)).count(), 100);
        assert_eq!(sampler.admit(10), Some(50));
        assert_eq!(sampler.admit(10), Some(0));
    }
}
