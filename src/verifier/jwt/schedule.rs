//! When the keys of an issuer are asked for, and how long they count. Pure: takes
//! `now`, returns what to do.
//!
//! Keys are fetched again before anybody misses them; sooner, because of a `kid`
//! that is in none, but rarely, for anybody can make one up; and again and again,
//! ever less often, while the issuer does not answer. What was fetched last counts
//! for an hour more, so that an issuer may be away for a while.

use std::time::{Duration, Instant};

/// How long keys count after they were fetched, if they cannot be fetched again.
pub(super) const KEPT: Duration = Duration::from_secs(3600);

/// How long lies between two fetches that unknown keys caused, however many ask.
const UNKNOWN_KEYS: Duration = Duration::from_secs(30);

/// How long after the first failure it is tried again; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest time between two tries.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What is known about the fetching of one key set.
#[derive(Debug)]
pub(super) struct Schedule {
    refresh: Duration,
    due: Instant,
    /// The fetch that is under way.
    in_flight: Option<Cause>,
    /// When an unknown key last caused a fetch.
    unknown_key: Option<Instant>,
    /// When the keys that are held were asked for.
    fetched: Option<Instant>,
    /// Failures since.
    failures: u32,
    /// Whether keys are fetched only when somebody misses them.
    retired: bool,
}

/// Why keys are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was time.
    Time,
    /// A token named a key that is not in the set.
    UnknownKey,
}

/// What somebody does who misses a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// Have the keys fetched, and wait for that.
    Fetch,
    /// Wait for the fetch that is under way.
    Wait,
    /// The key does not exist, as far as anybody may ask.
    Unknown,
    /// Nobody can tell: the issuer does not answer.
    Unavailable,
}

/// How the fetching goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing was fetched yet, nothing failed yet.
    Starting,
    /// The last fetch succeeded.
    Good,
    /// The last fetch failed; what was fetched before it still counts.
    Stale,
    /// There is no key that counts.
    Without,
}

impl Schedule {
    /// Keys that were never fetched, and are to be at once.
    pub(super) fn new(refresh: Duration, now: Instant) -> Schedule {
        Schedule {
            refresh,
            due: now,
            in_flight: None,
            unknown_key: None,
            fetched: None,
            failures: 0,
            retired: false,
        }
    }

    /// When keys are fetched next, if nobody misses one before; none if that is not
    /// by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.retired).then_some(self.due)
    }

    /// From here on nothing is fetched that nobody misses: few may still ask, or
    /// nobody.
    pub(super) fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether keys are no longer fetched by themselves.
    pub(super) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Whether keys are to be fetched now.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.in_flight.is_some() || self.due().is_some_and(|due| due <= now)
    }

    /// A fetch begins, of whatever cause is pending.
    pub(super) fn begin(&mut self) -> Cause {
        *self.in_flight.get_or_insert(Cause::Time)
    }

    /// Somebody misses a key.
    pub(super) fn miss(&mut self, now: Instant) -> Miss {
        if self.in_flight.is_some() {
            return Miss::Wait;
        }
        if self.failures > 0 || !self.counts(now) {
            if !self.retired || self.due > now {
                return Miss::Unavailable;
            }
            self.in_flight = Some(Cause::Time);
            return Miss::Fetch;
        }
        let asked = self.unknown_key.map(|at| now.saturating_duration_since(at));
        if asked.is_some_and(|since| since < UNKNOWN_KEYS) {
            return Miss::Unknown;
        }
        self.unknown_key = Some(now);
        // Under way from here on: whoever misses a key next waits for it.
        self.in_flight = Some(Cause::UnknownKey);
        Miss::Fetch
    }

    /// The fetch that began at `began` gave keys. `jitter` is 0 to 1: replicas that
    /// started together must not ask together for ever.
    pub(super) fn succeeded(&mut self, began: Instant, now: Instant, jitter: f64) {
        let cause = self.in_flight.take();
        self.fetched = Some(began);
        self.failures = 0;
        // An unknown key puts nothing off: the rest of a refresh is due as before.
        if cause != Some(Cause::UnknownKey) {
            self.due = now + self.refresh.mul_f64(0.8 + 0.15 * jitter.clamp(0.0, 1.0));
        }
    }

    /// The fetch gave none.
    pub(super) fn failed(&mut self, now: Instant, jitter: f64) {
        self.in_flight = None;
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.due = now + doubled.min(LAST_RETRY).mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0));
    }

    /// Whether what was fetched still counts.
    pub(super) fn counts(&self, now: Instant) -> bool {
        self.fetched.is_some_and(|at| now.saturating_duration_since(at) <= KEPT)
    }

    /// How the fetching goes.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        match (self.counts(now), self.failures) {
            (true, 0) => Standing::Good,
            (true, _) => Standing::Stale,
            (false, 0) if self.fetched.is_none() => Standing::Starting,
            (false, _) => Standing::Without,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFRESH: Duration = Duration::from_secs(600);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A schedule that has fetched its keys at `start`.
    fn fetched(start: Instant) -> Schedule {
        let mut schedule = Schedule::new(REFRESH, start);
        assert_eq!(schedule.begin(), Cause::Time);
        schedule.succeeded(start, start, 0.5);
        schedule
    }

    fn due(schedule: &Schedule) -> Instant {
        schedule.due().unwrap()
    }

    fn fails(schedule: &mut Schedule, at: Instant) {
        schedule.begin();
        schedule.failed(at, 1.0);
    }

    #[test]
    fn keys_are_due_at_once_and_then_ahead_of_time() {
        let start = Instant::now();
        assert_eq!(due(&Schedule::new(REFRESH, start)), start);
        for (jitter, ahead) in [(0.0, 480), (1.0, 570), (7.0, 570), (-7.0, 480)] {
            let mut schedule = Schedule::new(REFRESH, start);
            schedule.begin();
            schedule.succeeded(start, start, jitter);
            assert_eq!(due(&schedule), start + seconds(ahead), "{jitter}");
        }
    }

    #[test]
    fn before_anything_was_fetched_one_waits_for_the_first_fetch_alone() {
        let start = Instant::now();
        let mut schedule = Schedule::new(REFRESH, start);
        assert_eq!(schedule.standing(start), Standing::Starting);
        assert!(!schedule.counts(start));
        assert_eq!(schedule.miss(start), Miss::Unavailable);
        schedule.begin();
        assert_eq!(schedule.miss(start), Miss::Wait);
        assert_eq!(schedule.standing(start), Standing::Starting);
        schedule.failed(start, 1.0);
        assert_eq!(schedule.miss(start), Miss::Unavailable);
        assert_eq!(schedule.standing(start), Standing::Without);
    }

    #[test]
    fn failures_are_followed_by_tries_ever_less_often() {
        let start = Instant::now();
        let mut schedule = Schedule::new(REFRESH, start);
        let mut waits = Vec::new();
        for _ in 0..40 {
            fails(&mut schedule, start);
            waits.push((due(&schedule) - start).as_secs());
        }
        assert_eq!(waits[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert!(waits[7..].iter().all(|wait| *wait == 30));
        schedule.begin();
        schedule.failed(start, 0.0);
        assert_eq!(due(&schedule) - start, seconds(30).mul_f64(0.75));
        // Once it has recovered, the next failure is a first one again.
        schedule.begin();
        schedule.succeeded(start, start, 0.0);
        assert_eq!(due(&schedule) - start, seconds(480));
        fails(&mut schedule, start);
        assert_eq!(due(&schedule) - start, seconds(1));
    }

    #[test]
    fn an_unknown_key_causes_one_fetch_for_all_who_miss_it() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        let now = start + seconds(5);
        assert_eq!(schedule.miss(now), Miss::Fetch);
        for _ in 0..1000 {
            assert_eq!(schedule.miss(now), Miss::Wait);
        }
        assert_eq!(schedule.begin(), Cause::UnknownKey);
        assert_eq!(schedule.miss(now), Miss::Wait);
        schedule.succeeded(now, now, 0.5);
        assert_eq!(schedule.miss(now), Miss::Unknown);
    }

    #[test]
    fn half_a_minute_lies_between_two_fetches_for_unknown_keys() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        let mut fetches = Vec::new();
        for second in 0..100 {
            let now = start + seconds(second);
            match schedule.miss(now) {
                Miss::Fetch => {
                    fetches.push(second);
                    schedule.begin();
                    schedule.succeeded(now, now, 0.5);
                }
                missed => assert_eq!(missed, Miss::Unknown, "{second}"),
            }
        }
        assert_eq!(fetches, [0, 30, 60, 90]);
    }

    #[test]
    fn only_a_fetch_that_an_unknown_key_caused_counts_against_the_next() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        assert_eq!(schedule.miss(start + seconds(1)), Miss::Fetch);
        schedule.begin();
        schedule.succeeded(start + seconds(1), start + seconds(1), 0.5);
        // A refresh in between, as if the refresh were short.
        let between = start + seconds(20);
        schedule.begin();
        schedule.succeeded(between, between, 0.5);
        assert_eq!(schedule.miss(start + seconds(30)), Miss::Unknown);
        assert_eq!(schedule.miss(start + seconds(31)), Miss::Fetch);
    }

    #[test]
    fn unknown_keys_put_no_refresh_off() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        let before = due(&schedule);
        for second in [0, 30, 60] {
            let now = start + seconds(second);
            assert_eq!(schedule.miss(now), Miss::Fetch);
            schedule.begin();
            schedule.succeeded(now, now, 1.0);
            assert_eq!(due(&schedule), before);
        }
    }

    #[test]
    fn while_the_issuer_is_away_nobody_knows_and_nobody_is_asked() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        fails(&mut schedule, start + seconds(500));
        let now = start + seconds(500);
        assert_eq!(schedule.miss(now), Miss::Unavailable);
        assert_eq!(schedule.standing(now), Standing::Stale);
        assert!(schedule.counts(now));
    }

    #[test]
    fn a_fetch_for_an_unknown_key_that_fails_is_a_failure_as_any() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        assert_eq!(schedule.miss(start), Miss::Fetch);
        schedule.begin();
        schedule.failed(start, 1.0);
        assert_eq!(due(&schedule), start + seconds(1));
        assert_eq!(schedule.miss(start), Miss::Unavailable);
        // The next one is on time, and mends it.
        assert_eq!(schedule.begin(), Cause::Time);
        schedule.succeeded(start + seconds(1), start + seconds(1), 0.0);
        assert_eq!(schedule.standing(start + seconds(1)), Standing::Good);
        assert_eq!(due(&schedule), start + seconds(481));
        assert_eq!(schedule.miss(start + seconds(2)), Miss::Unknown);
    }

    #[test]
    fn keys_count_for_an_hour_after_they_were_asked_for() {
        let start = Instant::now();
        let mut schedule = Schedule::new(REFRESH, start);
        schedule.begin();
        // What took three seconds to come may be three seconds old.
        schedule.succeeded(start, start + seconds(3), 0.5);
        fails(&mut schedule, start + seconds(600));
        assert!(schedule.counts(start + KEPT));
        assert_eq!(schedule.standing(start + KEPT), Standing::Stale);
        let after = start + KEPT + Duration::from_millis(1);
        assert!(!schedule.counts(after));
        assert_eq!(schedule.standing(after), Standing::Without);
        assert_eq!(schedule.miss(after), Miss::Unavailable);
        // And count again as soon as the issuer is back.
        schedule.begin();
        schedule.succeeded(after, after, 0.5);
        assert_eq!(schedule.standing(after), Standing::Good);
    }

    #[test]
    fn one_that_is_retired_asks_for_nothing_but_what_is_missed() {
        let start = Instant::now();
        let mut schedule = fetched(start);
        schedule.retire();
        assert_eq!((schedule.due(), schedule.is_wanted(start + 2 * REFRESH)), (None, false));
        // A key that is missed, as before.
        let now = start + seconds(900);
        assert_eq!(schedule.miss(now), Miss::Fetch);
        assert!(schedule.is_wanted(now));
        schedule.begin();
        schedule.succeeded(now, now, 0.5);
        assert_eq!(schedule.miss(now), Miss::Unknown);
        // Keys that have become too old.
        let late = now + KEPT + seconds(1);
        assert_eq!(schedule.miss(late), Miss::Fetch);
        assert_eq!(schedule.miss(late), Miss::Wait);
        assert_eq!(schedule.begin(), Cause::Time);
        schedule.failed(late, 1.0);
        // Not each time that somebody misses them, though.
        assert_eq!(schedule.miss(late), Miss::Unavailable);
        assert_eq!(schedule.miss(late + seconds(1)), Miss::Fetch);
        schedule.begin();
        schedule.succeeded(late, late, 0.5);
        assert!(schedule.counts(late) && !schedule.is_wanted(late + 2 * REFRESH));
    }

    #[test]
    fn a_clock_that_goes_back_harms_nothing() {
        let start = Instant::now() + seconds(1000);
        let mut schedule = fetched(start);
        let before = start - seconds(900);
        assert!(schedule.counts(before));
        assert_eq!(schedule.miss(before), Miss::Fetch);
    }

    /// What may happen to a schedule, in any order: time passes, somebody misses a
    /// key, a fetch ends well or badly.
    fn steps() -> impl Strategy<Value = Vec<(u64, u8)>> {
        proptest::collection::vec((0..10_000_u64, 0..4_u8), 1..200)
    }

    proptest! {
        #[test]
        fn whatever_happens_the_issuer_is_spared_and_no_key_counts_for_too_long(steps in steps()) {
            let start = Instant::now();
            let mut schedule = Schedule::new(REFRESH, start);
            let mut now = start;
            let mut asked: Option<Instant> = None;
            let mut good: Option<Instant> = None;
            for (passes, what) in steps {
                now += Duration::from_millis(passes * 10);
                match what {
                    0 => {
                        let in_flight = schedule.in_flight.is_some();
                        if schedule.miss(now) == Miss::Fetch {
                            prop_assert!(!in_flight, "two at once");
                            let since = asked.map(|at| now - at);
                            prop_assert!(since.is_none_or(|since| since >= UNKNOWN_KEYS));
                            asked = Some(now);
                        }
                    }
                    1 if schedule.is_wanted(now) => {
                        schedule.begin();
                        schedule.succeeded(now, now, 0.5);
                        good = Some(now);
                    }
                    2 if schedule.is_wanted(now) => {
                        schedule.begin();
                        schedule.failed(now, 0.5);
                    }
                    _ => {}
                }
                prop_assert!(due(&schedule) <= now + REFRESH);
                let counts = good.is_some_and(|at| now - at <= KEPT);
                prop_assert_eq!(schedule.counts(now), counts);
                let all_well = schedule.standing(now) == Standing::Good;
                prop_assert!(!all_well || counts);
            }
        }
    }
}
