//! What connections relay, added up by route. An open connection keeps its own
//! tallies and is asked for them at each scrape, so that nothing is shared on
//! the data path, and nothing kept twice.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one connection relayed so far, or several together; monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes up and down.
    pub bytes: [u64; 2],
    /// Frames up and down, by opcode, in the order of [`OPCODES`](super::OPCODES).
    pub frames: [[u64; 6]; 2],
}

/// The sums of one route.
#[derive(Debug, Default)]
pub(super) struct Traffic(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    /// Of the connections that have ended.
    ended: Flow,
    /// Of those and, so far, the open ones that were asked in this scrape.
    found: Flow,
    /// What earlier scrapes have told.
    told: Flow,
}

impl Flow {
    /// Adds what another connection relayed.
    pub fn add(&mut self, other: &Flow) {
        self.each(other, u64::wrapping_add);
    }

    fn each(&mut self, other: &Flow, step: fn(u64, u64) -> u64) {
        let [up, down] = &mut self.frames;
        let mine = self.bytes.iter_mut().chain(up).chain(down);
        let others = other.bytes.iter().chain(&other.frames[0]).chain(&other.frames[1]);
        for (mine, other) in mine.zip(others) {
            *mine = step(*mine, *other);
        }
    }
}

impl Traffic {
    /// A connection has ended: it is in no registry any more.
    pub(super) fn ended(&self, flow: &Flow) {
        self.sums().ended.add(flow);
    }

    /// A scrape begins. What ends from here on is told by the next one: it may
    /// have been found among the open connections too.
    pub(super) fn begin(&self) {
        let mut sums = self.sums();
        sums.found = sums.ended;
    }

    /// An open connection was found to have relayed `flow`.
    pub(super) fn found(&self, flow: &Flow) {
        self.sums().found.add(flow);
    }

    /// What is to be told now: all that was found and not told before.
    pub(super) fn untold(&self) -> Flow {
        let mut sums = self.sums();
        let mut untold = sums.found;
        untold.each(&sums.told, u64::saturating_sub);
        sums.told.add(&untold);
        untold
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Numbers are whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(up: u64) -> Flow {
        Flow { bytes: [up, 2 * up], ..Flow::default() }
    }

    fn scrape(traffic: &Traffic, open: &[u64], ends_meanwhile: Option<u64>) -> u64 {
        traffic.begin();
        for up in open {
            traffic.found(&bytes(*up));
        }
        if let Some(up) = ends_meanwhile {
            traffic.ended(&bytes(up));
        }
        traffic.untold().bytes[0]
    }

    #[test]
    fn every_byte_is_told_once() {
        let traffic = Traffic::default();
        assert_eq!(scrape(&traffic, &[5, 10], None), 15);
        assert_eq!(scrape(&traffic, &[7, 10], None), 2);
        traffic.ended(&bytes(8));
        assert_eq!(scrape(&traffic, &[10], None), 1);
        // Asked while it was open, and ended before the scrape did.
        assert_eq!(scrape(&traffic, &[12], Some(13)), 2);
        assert_eq!(scrape(&traffic, &[], None), 1);
        assert_eq!(scrape(&traffic, &[], None), 0);
    }

    #[test]
    fn one_that_ends_before_it_is_found_is_told_by_the_next_scrape() {
        let traffic = Traffic::default();
        assert_eq!(scrape(&traffic, &[9], None), 9);
        assert_eq!(scrape(&traffic, &[], Some(9)), 0);
        traffic.ended(&bytes(1));
        assert_eq!(scrape(&traffic, &[], None), 1);
    }

    #[test]
    fn frames_are_added_each_by_its_own() {
        let mut flow = Flow { frames: [[1, 2, 3, 4, 5, 6], [0; 6]], bytes: [0, 1] };
        flow.add(&Flow { frames: [[1; 6], [2; 6]], bytes: [3, 4] });
        assert_eq!(flow, Flow { frames: [[2, 3, 4, 5, 6, 7], [2; 6]], bytes: [3, 5] });
    }
}
