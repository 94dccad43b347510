//! Who uses how much: connections and handshakes by key. Keeps count and says
//! yes or no; what a no means is for others.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A client's address as limits see it: IPv6 by /64, which is what one
/// customer gets (RFC 6177), and IPv4-mapped addresses as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpKey {
    /// A whole IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
}

impl IpKey {
    /// The key of `address`.
    pub fn of(address: IpAddr) -> IpKey {
        match address.to_canonical() {
            IpAddr::V4(address) => IpKey::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                IpKey::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Handshakes per second and address, the burst the same, by the generic cell
/// rate algorithm (ITU-T I.371): one instant per address that is not at rest.
pub struct RateLimiter {
    /// Between two handshakes at the full rate.
    interval: Duration,
    table: Mutex<Table>,
}

struct Table {
    /// When each address would be at rest again.
    arrivals: HashMap<IpKey, Instant>,
    sweep_at: Option<Instant>,
}

impl RateLimiter {
    /// The most addresses that are kept. Beyond it, new ones pass uncounted: a
    /// limit per address is no defence against that many.
    pub const MAX_KEYS: usize = 100_000;

    /// A limiter to `per_second` handshakes of one address.
    pub fn new(per_second: NonZeroU32) -> RateLimiter {
        let table = Table { arrivals: HashMap::new(), sweep_at: None };
        RateLimiter {
            interval: Duration::from_secs(1) / per_second.get(),
            table: Mutex::new(table),
        }
    }

    /// A limiter to `per_second`, which is none if that is 0: the one there was
    /// `before`, if that is its rate.
    pub fn kept_or_new(
        per_second: u32,
        before: Option<&Arc<RateLimiter>>,
    ) -> Option<Arc<RateLimiter>> {
        let per_second = NonZeroU32::new(per_second)?;
        let kept = before.filter(|limiter| limiter.is_for(per_second)).cloned();
        Some(kept.unwrap_or_else(|| Arc::new(RateLimiter::new(per_second))))
    }

    /// Whether this limits to `per_second`.
    fn is_for(&self, per_second: NonZeroU32) -> bool {
        self.interval == Duration::from_secs(1) / per_second.get()
    }

    /// Counts a handshake of `key` at `now`; false if it is one too many, which
    /// costs the address nothing further.
    pub fn admit(&self, key: IpKey, now: Instant) -> bool {
        let mut table = locked(&self.table);
        table.sweep(now);
        let full = table.arrivals.len() >= RateLimiter::MAX_KEYS;
        let at_rest = match table.arrivals.get(&key) {
            Some(arrival) => (*arrival).max(now),
            None if full => return true,
            None => now,
        };
        let next = at_rest + self.interval;
        // A second's worth may arrive at once; a tick of slack for the division.
        let admitted = next.duration_since(now) <= Duration::from_secs(1);
        if admitted {
            table.arrivals.insert(key, next);
        }
        admitted
    }
}

impl Table {
    /// At most once a second, forgets the addresses that are at rest.
    fn sweep(&mut self, now: Instant) {
        if self.sweep_at.is_some_and(|at| now < at) {
            return;
        }
        self.sweep_at = now.checked_add(Duration::from_secs(1));
        self.arrivals.retain(|_, arrival| *arrival > now);
        release(&mut self.arrivals);
    }
}

/// How many of something each key holds.
pub struct Counts<K: Eq + Hash> {
    held: Arc<Mutex<HashMap<K, u32>>>,
}

/// One of them, until it is dropped.
#[must_use = "a slot is left as soon as it is dropped"]
pub struct Slot<K: Eq + Hash> {
    held: Arc<Mutex<HashMap<K, u32>>>,
    key: K,
}

impl<K: Eq + Hash> Default for Counts<K> {
    fn default() -> Self {
        Counts { held: Arc::default() }
    }
}

impl<K: Eq + Hash> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Counts { held: Arc::clone(&self.held) }
    }
}

impl<K: Eq + Hash + Clone> Counts<K> {
    /// Nobody holds anything.
    pub fn new() -> Counts<K> {
        Counts::default()
    }

    /// One more for `key`, unless it holds `max` already; `max` 0 is no limit,
    /// but counts.
    pub fn try_enter(&self, key: K, max: u32) -> Option<Slot<K>> {
        let mut held = locked(&self.held);
        let count = held.get(&key).copied().unwrap_or(0);
        if max != 0 && count >= max {
            return None;
        }
        held.insert(key.clone(), count.saturating_add(1));
        Some(Slot { held: Arc::clone(&self.held), key })
    }

    /// How many `key` holds.
    pub fn held(&self, key: &K) -> u32 {
        locked(&self.held).get(key).copied().unwrap_or(0)
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut held = locked(&self.held);
        match held.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                held.remove(&self.key);
                release(&mut held);
            }
            None => {}
        }
    }
}

/// No holder of these locks can leave a table half-written.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives memory back after a flood.
fn release<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > 4096 && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> IpKey {
        IpKey::of(address.parse().unwrap())
    }

    fn limiter(per_second: u32) -> RateLimiter {
        RateLimiter::new(NonZeroU32::new(per_second).unwrap())
    }

    #[test]
    fn a_limiter_knows_its_rate() {
        let three = NonZeroU32::new(3).unwrap();
        assert!(limiter(3).is_for(three) && !limiter(4).is_for(three));
    }

    #[test]
    fn addresses_share_a_key_with_their_network() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn a_burst_of_the_rate_passes_and_no_more() {
        for rate in [1, 3, 7, 10, 1000] {
            let (limiter, now) = (limiter(rate), Instant::now());
            let admitted = (0..rate * 2).filter(|_| limiter.admit(key("10.0.0.1"), now)).count();
            assert_eq!(admitted, rate as usize);
            assert!(limiter.admit(key("10.0.0.2"), now));
        }
    }

    #[test]
    fn the_rate_recovers_evenly_and_refusals_cost_nothing() {
        let (limiter, start) = (limiter(4), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for _ in 0..4 {
            assert!(limiter.admit(key("10.0.0.1"), at(0)));
        }
        for _ in 0..100 {
            assert!(!limiter.admit(key("10.0.0.1"), at(1)));
        }
        assert!(limiter.admit(key("10.0.0.1"), at(250)));
        assert!(!limiter.admit(key("10.0.0.1"), at(250)));
        let later = (0..10).filter(|_| limiter.admit(key("10.0.0.1"), at(5000))).count();
        assert_eq!(later, 4);
    }

    #[test]
    fn a_clock_that_steps_back_is_survived() {
        let (limiter, start) = (limiter(1), Instant::now() + Duration::from_secs(10));
        assert!(limiter.admit(key("10.0.0.1"), start));
        assert!(!limiter.admit(key("10.0.0.1"), start - Duration::from_secs(5)));
        assert!(limiter.admit(key("10.0.0.1"), start + Duration::from_secs(1)));
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let (limiter, now) = (limiter(1), Instant::now());
        for number in 0..(RateLimiter::MAX_KEYS as u32 + 1000) {
            let address = IpAddr::V4(Ipv4Addr::from(number));
            assert!(limiter.admit(IpKey::of(address), now));
        }
        assert_eq!(locked(&limiter.table).arrivals.len(), RateLimiter::MAX_KEYS);
        assert!(limiter.admit(key("10.0.0.1"), now + Duration::from_secs(2)));
        let table = locked(&limiter.table);
        assert_eq!(table.arrivals.len(), 1);
        assert!(table.arrivals.capacity() < 10_000);
    }

    #[test]
    fn slots_are_counted_and_left() {
        let counts: Counts<IpKey> = Counts::new();
        let first = counts.try_enter(key("10.0.0.1"), 2).unwrap();
        let second = counts.try_enter(key("10.0.0.1"), 2).unwrap();
        assert!(counts.try_enter(key("10.0.0.1"), 2).is_none());
        assert!(counts.try_enter(key("10.0.0.2"), 2).is_some());
        drop(first);
        assert_eq!(counts.clone().held(&key("10.0.0.1")), 1);
        let third = counts.try_enter(key("10.0.0.1"), 2);
        assert!(third.is_some());
        drop((second, third));
        assert_eq!(counts.held(&key("10.0.0.1")), 0);
        assert!(locked(&counts.held).is_empty());
    }

    #[test]
    fn zero_is_no_limit_but_counts() {
        let counts = Counts::<&str>::new();
        let slots: Vec<_> = (0..10).filter_map(|_| counts.try_enter("alice", 0)).collect();
        assert_eq!((slots.len(), counts.held(&"alice")), (10, 10));
        assert!(counts.try_enter("alice", 10).is_none());
    }

    #[test]
    fn slots_outlive_the_counts() {
        let slot = Counts::<u8>::new().try_enter(1, 1);
        assert!(slot.is_some());
    }
}
