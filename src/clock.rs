//! Time as the rooms use it: Unix seconds for what a credential says, and a
//! coarse tick for what a connection did last.
//!
//! Rooms that decide take `now` as a value; only the edges read the clock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch (RFC 7519 `NumericDate`, without fraction).
pub type UnixSeconds = i64;

/// The wall clock, now. A clock before 1970 reads as 0.
pub fn unix_now() -> UnixSeconds {
    unix_millis() / 1000
}

/// The wall clock in milliseconds since the Unix epoch.
pub fn unix_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// RFC 3339 with milliseconds, UTC, of `millis` since the epoch.
pub fn rfc3339(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        millis.rem_euclid(1000)
    )
}

/// Days since 1970-01-01 to a proleptic Gregorian date, by the era of 400 years.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A shared coarse clock: one task advances it, many connections read it
/// without a system call. One tick is [`Ticker::PERIOD`].
#[derive(Debug, Default)]
pub struct Ticker(AtomicU32);

impl Ticker {
    /// The length of one tick.
    pub const PERIOD: Duration = Duration::from_millis(250);

    /// The current tick.
    pub fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the clock; only the task that owns the sweep calls this.
    pub fn set(&self, tick: u32) {
        self.0.store(tick, Ordering::Relaxed);
    }

    /// `duration` in ticks, rounded up; at least 1 unless it is zero.
    pub fn ticks(duration: Duration) -> u32 {
        let period = Ticker::PERIOD.as_millis();
        u32::try_from(duration.as_millis().div_ceil(period)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_known_instants() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_709_210_096_789), "2024-02-29T12:34:56.789Z");
        assert_eq!(rfc3339(4_107_542_399_001), "2100-02-28T23:59:59.001Z");
    }

    #[test]
    fn ticks_round_up() {
        assert_eq!(Ticker::ticks(Duration::ZERO), 0);
        assert_eq!(Ticker::ticks(Duration::from_millis(1)), 1);
        assert_eq!(Ticker::ticks(Duration::from_secs(1)), 4);
    }
}
