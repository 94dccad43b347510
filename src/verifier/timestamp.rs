//! When a stored credential ends, in the forms that people and programs write:
//! Unix seconds, Unix milliseconds, RFC 3339, SQL.

use serde_json::Value;

use crate::clock::UnixSeconds;

/// From here on a number means milliseconds: as seconds it would be the year 5138.
const MILLISECONDS: i64 = 100_000_000_000;

/// The end of the year 9999. Nothing later is meant, and nobody who adds to it
/// or prints it has to fear an overflow.
pub(super) const LAST: UnixSeconds = 253_402_300_799;
/// The last millisecond of that year.
const LAST_MILLISECOND: i64 = LAST * 1000 + 999;

/// The instant that `value` names: Unix seconds, from 1e11 on milliseconds, RFC
/// 3339 (§5.6), or `YYYY-MM-DD HH:MM:SS` in UTC, up to the year 9999. Fractions of
/// a second are cut.
pub(super) fn read(value: &Value) -> Option<UnixSeconds> {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(whole) => unix(whole),
            None => unix(whole(number.as_f64()?)?),
        },
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            unix(text.parse().ok()?)
        }
        Value::String(text) => civil(text.as_bytes()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The whole seconds of a number that is neither negative nor infinite.
pub(super) fn whole(number: f64) -> Option<i64> {
    // `as` saturates, so that 1e300 is merely later than any other.
    (number.is_finite() && number >= 0.0).then_some(number as i64)
}

fn unix(number: i64) -> Option<UnixSeconds> {
    match number {
        ..0 => None,
        0..MILLISECONDS => Some(number),
        MILLISECONDS..=LAST_MILLISECOND => Some(number / 1000),
        // Nobody means that, and what nobody means decides nothing.
        _ => None,
    }
}

/// `2026-01-31T12:00:00.5+01:00`, or with a space and without an offset.
fn civil(text: &[u8]) -> Option<UnixSeconds> {
    let (head, rest) = text.split_at_checked(19)?;
    let separator = head[10];
    if head[4] != b'-' || head[7] != b'-' || head[13] != b':' || head[16] != b':' {
        return None;
    }
    let [year, month, day] = [digits(&head[..4])?, digits(&head[5..7])?, digits(&head[8..10])?];
    let [hour, minute, second] =
        [digits(&head[11..13])?, digits(&head[14..16])?, digits(&head[17..19])?];
    // 60 is a leap second (RFC 3339 §5.7); it counts as the next minute.
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let offset = match (separator, skip_fraction(rest)?) {
        (b' ', b"") => 0,
        (b'T' | b't' | b' ', zone) => offset(zone)?,
        _ => return None,
    };
    let local = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let instant = local - offset;
    (0..=LAST).contains(&instant).then_some(instant)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// `.123Z` → `Z`; a point without digits is nothing.
fn skip_fraction(text: &[u8]) -> Option<&[u8]> {
    let Some((b'.', fraction)) = text.split_first() else { return Some(text) };
    let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=9).contains(&length).then(|| &fraction[length..])
}

/// Seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    match *zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[h1, h2])?, digits(&[m1, m2])?);
            let seconds = hours * 3600 + minutes * 60;
            let sound = hours <= 23 && minutes <= 59;
            sound.then_some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A proleptic Gregorian date as days since 1970-01-01: the inverse of what
/// `clock` prints. Years begin in March, so that the leap day is the last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::rfc3339;

    #[test]
    fn every_written_form_is_the_same_instant() {
        for form in [
            json!(1_709_210_096),
            json!(1_709_210_096_789_i64),
            json!(1_709_210_096.5),
            json!("1709210096"),
            json!("2024-02-29T12:34:56Z"),
            json!("2024-02-29t12:34:56.789z"),
            json!("2024-02-29T13:34:56+01:00"),
            json!("2024-02-29 05:04:56-07:30"),
            json!("2024-02-29 12:34:56"),
            json!("2024-02-29 12:34:56.789012"),
        ] {
            assert_eq!(read(&form), Some(1_709_210_096), "{form}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for form in [
            json!(null),
            json!(true),
            json!([1]),
            json!(-1),
            json!(-0.5),
            json!(""),
            json!("soon"),
            json!("2024-02-29"),
            json!("2024-02-29T12:34:56"),
            json!("2024-02-30T12:34:56Z"),
            json!("2023-02-29T12:34:56Z"),
            json!("2024-13-01T12:34:56Z"),
            json!("2024-00-01T12:34:56Z"),
            json!("2024-01-01T24:00:00Z"),
            json!("2024-01-01T12:34:56.Z"),
            json!("2024-01-01T12:34:56+0100"),
            json!("2024-01-01T12:34:56Z "),
            json!("2024-01-01X12:34:56Z"),
            json!("1960-01-01 00:00:00"),
            json!("٢٠٢٤-01-01 00:00:00"),
            json!("99999999999999999999"),
        ] {
            assert_eq!(read(&form), None, "{form}");
        }
    }

    #[test]
    fn agrees_with_what_the_clock_prints() {
        for day in (0..365_000).step_by(17) {
            let instant = day * 86_400 + day % 86_400;
            assert_eq!(read(&json!(rfc3339(instant * 1000))), Some(instant.min(LAST)));
        }
    }

    #[test]
    fn nothing_is_later_than_the_year_9999() {
        assert_eq!(read(&json!(LAST_MILLISECOND)), Some(LAST));
        assert_eq!(read(&json!("253402300799999")), Some(LAST));
        for late in [json!(LAST_MILLISECOND + 1), json!(i64::MAX), json!(u64::MAX)] {
            assert_eq!(read(&late), None, "{late}");
        }
        for late in [json!(1e15), json!(1e99), json!(1e300), json!("9223372036854775807")] {
            assert_eq!(read(&late), None, "{late}");
        }
    }
}
