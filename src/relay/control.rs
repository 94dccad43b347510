//! What a live connection shares with whoever watches it: requests one way,
//! signs of life and counts the other way, without a lock on the relay's side.
//!
//! The relay is the only writer of everything but the requests, so its counts
//! are a load and a store, not a locked addition.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::frame::Opcode;
use crate::close::Reason;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client → upstream.
    Up,
    /// Upstream → client.
    Down,
}

/// One connection's requests, signs of life and counts.
#[derive(Debug)]
pub struct Control {
    waker: Mutex<Option<Waker>>,
    /// Whose waker that is, so that the relay need not look each time.
    waiter: AtomicUsize,
    /// `reason << 16 | code`; 0 while no close is requested.
    close: AtomicU32,
    ping: AtomicBool,
    last_client: AtomicU32,
    last_data: AtomicU32,
    ping_sent: AtomicU32,
    stalled: [AtomicU32; 2],
    tallies: [Tally; 2],
}

/// What passed in one direction.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    frames: [AtomicU64; 6],
}

/// A tick that means "never".
const NONE: u32 = u32::MAX;

impl Control {
    /// For a connection that opens at tick `now`.
    pub fn new(now: u32) -> Control {
        Control {
            waker: Mutex::new(None),
            waiter: AtomicUsize::new(0),
            close: AtomicU32::new(0),
            ping: AtomicBool::new(false),
            last_client: AtomicU32::new(now),
            last_data: AtomicU32::new(now),
            ping_sent: AtomicU32::new(NONE),
            stalled: [AtomicU32::new(NONE), AtomicU32::new(NONE)],
            tallies: [Tally::default(), Tally::default()],
        }
    }

    /// Asks the relay to close both sides. The first request wins; false if
    /// this was not the first.
    pub fn request_close(&self, reason: Reason, code: u16) -> bool {
        let wanted = u32::from(reason as u8) << 16 | u32::from(code);
        let first =
            self.close.compare_exchange(0, wanted, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.wake();
        first
    }

    /// The close that was requested, if one was.
    pub fn requested(&self) -> Option<(Reason, u16)> {
        let packed = self.close.load(Ordering::Acquire).to_be_bytes();
        let [_, reason, high, low] = packed;
        Some((Reason::from_number(reason)?, u16::from_be_bytes([high, low])))
    }

    /// Waits for a requested close; only one task at a time may wait.
    pub fn poll_requested(&self, context: &mut Context<'_>) -> Poll<(Reason, u16)> {
        self.register(context.waker());
        self.requested().map_or(Poll::Pending, Poll::Ready)
    }

    /// Asks the relay to ping the client as soon as it is between two frames.
    pub fn request_ping(&self) {
        self.ping.store(true, Ordering::Release);
        self.wake();
    }

    /// When the client last sent anything, pongs included.
    pub fn last_client_tick(&self) -> u32 {
        self.last_client.load(Ordering::Relaxed)
    }

    /// When a data frame, or a part of one, last passed either way.
    pub fn last_data_tick(&self) -> u32 {
        self.last_data.load(Ordering::Relaxed)
    }

    /// Since when bytes wait in `direction` and the receiver takes none.
    pub fn stalled_since(&self, direction: Direction) -> Option<u32> {
        tick(&self.stalled[direction as usize])
    }

    /// When the ping was sent that the client has not answered, not even by
    /// sending something else.
    pub fn unanswered_since(&self) -> Option<u32> {
        tick(&self.ping_sent).filter(|sent| self.last_client_tick() < *sent)
    }

    /// What passed in `direction`.
    pub fn tally(&self, direction: Direction) -> &Tally {
        &self.tallies[direction as usize]
    }

    /// Only one task at a time may wait. While a waker is held here, no other can
    /// be at its address.
    #[inline]
    pub(super) fn register(&self, waker: &Waker) {
        let waiter = waker.data().addr();
        if self.waiter.load(Ordering::Relaxed) != waiter {
            *self.waker() = Some(waker.clone());
            self.waiter.store(waiter, Ordering::Relaxed);
        }
    }

    fn wake(&self) {
        // By reference: it is needed for the next request too.
        if let Some(waker) = &*self.waker() {
            waker.wake_by_ref();
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the relay was asked for anything.
    #[inline]
    pub(super) fn is_asked(&self) -> bool {
        self.close.load(Ordering::Acquire) != 0 || self.ping.load(Ordering::Acquire)
    }

    pub(super) fn ping_requested(&self) -> bool {
        self.ping.load(Ordering::Acquire)
    }

    pub(super) fn ping_sent(&self, now: u32) {
        self.ping.store(false, Ordering::Release);
        self.ping_sent.store(now, Ordering::Relaxed);
    }

    pub(super) fn heard_client(&self, now: u32) {
        self.last_client.store(now, Ordering::Relaxed);
    }

    pub(super) fn passed_data(&self, now: u32) {
        self.last_data.store(now, Ordering::Relaxed);
    }

    pub(super) fn stalled(&self, direction: Direction, since: Option<u32>) {
        self.stalled[direction as usize].store(since.unwrap_or(NONE), Ordering::Relaxed);
    }
}

impl Tally {
    /// The labels of [`Tally::frames`], in its order.
    pub const OPCODES: [&'static str; 6] =
        ["text", "binary", "continuation", "ping", "pong", "close"];

    /// Bytes on the wire, frame headers included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Frames by opcode, in the order of [`Tally::OPCODES`].
    pub fn frames(&self) -> [u64; 6] {
        self.frames.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// How many of the frames were Pings.
    pub(super) fn pings(&self) -> u64 {
        let [_, _, _, pings, _, _] = &self.frames;
        pings.load(Ordering::Relaxed)
    }

    pub(super) fn add_bytes(&self, count: usize) {
        add(&self.bytes, count as u64);
    }

    #[inline]
    pub(super) fn add_frames(&self, opcode: Opcode, frames: u64) {
        // By opcode, in the order of `OPCODES`; reserved ones have no label.
        const INDEX: [usize; 16] = [2, 0, 1, 9, 9, 9, 9, 9, 5, 3, 4, 9, 9, 9, 9, 9];
        if let Some(count) = self.frames.get(INDEX[usize::from(opcode.bits() & 0xf)]) {
            add(count, frames);
        }
    }
}

fn tick(cell: &AtomicU32) -> Option<u32> {
    Some(cell.load(Ordering::Relaxed)).filter(|tick| *tick != NONE)
}

/// There is one writer, so no locked addition is needed.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_close_wins() {
        let control = Control::new(0);
        assert_eq!(control.requested(), None);
        assert!(control.request_close(Reason::Expired, 4002));
        assert!(!control.request_close(Reason::Draining, 1001));
        assert_eq!(control.requested(), Some((Reason::Expired, 4002)));
    }

    #[test]
    fn every_reason_survives_packing() {
        for reason in Reason::ALL {
            let control = Control::new(0);
            control.request_close(reason, 4999);
            assert_eq!(control.requested(), Some((reason, 4999)));
        }
    }

    #[test]
    fn anything_from_the_client_answers_a_ping() {
        let control = Control::new(0);
        assert_eq!(control.unanswered_since(), None);
        control.ping_sent(40);
        assert_eq!(control.unanswered_since(), Some(40));
        control.heard_client(40);
        assert_eq!(control.unanswered_since(), None);
    }

    #[test]
    fn a_connection_pays_less_than_200_bytes() {
        assert!(size_of::<Control>() < 200, "{}", size_of::<Control>());
    }
}
