//! Times as our log writes them: RFC 3339, UTC, microseconds.
//!
//! Pure, without allocation, so that a signal handler may call it too. Called by
//! `telemetry` and `sys::crash`.

use std::time::Duration;

/// Bytes of one stamp: `2026-11-21T16:13:11.792282Z`.
pub const LENGTH: usize = 27;

/// The stamp of the moment `since_epoch` after 1970-01-01T00:00:00Z.
///
/// Right until the year 9999; later years show their last four digits.
pub fn rfc3339_micros(since_epoch: Duration) -> [u8; LENGTH] {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let mut stamp = *b"0000-00-00T00:00:00.000000Z";
    digits(&mut stamp[0..4], year);
    digits(&mut stamp[5..7], month);
    digits(&mut stamp[8..10], day);
    digits(&mut stamp[11..13], of_day / 3600);
    digits(&mut stamp[14..16], of_day / 60 % 60);
    digits(&mut stamp[17..19], of_day % 60);
    digits(&mut stamp[20..26], u64::from(since_epoch.subsec_micros()));
    stamp
}

/// Reads an RFC 3339 time: the moment as a distance from 1970-01-01T00:00:00Z; `None` for what is none, or before.
pub fn since_epoch(text: &[u8]) -> Option<Duration> {
    let (clock, rest) = text.split_at_checked(19)?;
    let number = |range: std::ops::Range<usize>| decimal(clock.get(range)?);
    if [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().any(|&(at, byte)| clock[at] != byte) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix(b".") {
        Some(rest) => rest.split_at(rest.iter().take_while(|byte| byte.is_ascii_digit()).count()),
        None => (&b""[..], rest),
    };
    let nanos =
        fraction.iter().chain(std::iter::repeat(&b'0')).take(9).fold(0, |all, byte| all * 10 + u32::from(byte - b'0'));
    let local = days(year, month, day)?.checked_mul(86_400)?.checked_add(hour * 3600 + minute * 60 + second)?;
    let seconds = match zone {
        b"Z" | b"z" => local,
        &[sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let offset = decimal(&[h0, h1])? * 3600 + decimal(&[m0, m1])? * 60;
            if sign == b'+' { local.checked_sub(offset)? } else { local.checked_add(offset)? }
        }
        _ => return None,
    };
    Some(Duration::new(seconds, nanos))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |all, byte| byte.is_ascii_digit().then(|| all * 10 + u64::from(byte - b'0')))
}

/// The day's number, counted from 1970-01-01; the reverse of [`date`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let years = if month > 2 { year } else { year.checked_sub(1)? };
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_era = (153 * from_march + 2) / 5 + day - 1 + years * 365 + years / 4 - years / 100 + years / 400;
    of_era.checked_sub(719_468)
}

/// Writes the last decimal digits of `number` that fit.
fn digits(field: &mut [u8], mut number: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// Counts in years that begin on 1 March, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days + DAYS_FROM_0000_03_01;
    let era = days / DAYS_IN_400_YEARS;
    let of_era = days % DAYS_IN_400_YEARS;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: u64, micros: u32) -> String {
        String::from_utf8(rfc3339_micros(Duration::new(seconds, micros * 1000)).to_vec()).unwrap()
    }

    #[test]
    fn known_moments_are_right() {
        assert_eq!(since_epoch(b"2026-11-21T18:33:11.79+02:00"), Some(Duration::new(1_795_278_791, 790_000_000)));
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T18:33:11",
            "2026-13-21T18:33:11Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21 18:33:11Z",
        ] {
            assert_eq!(since_epoch(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(stamp(951_782_400, 7), "2000-02-29T00:00:00.000007Z");
        assert_eq!(stamp(4_107_542_399, 999_999), "2100-02-28T23:59:59.999999Z");
        assert_eq!(stamp(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
        assert_eq!(stamp(1_795_278_791, 792_282), "2026-11-21T16:33:11.792282Z");
        assert_eq!(stamp(253_402_300_799, 0), "9999-12-31T23:59:59.000000Z");
    }

    #[test]
    fn each_day_of_four_centuries_follows_the_one_before() {
        let mut before = date(0);
        for day in 1..146_097 {
            let (year, month, of_month) = date(day);
            let next = if of_month > 1 {
                (before.0, before.1, before.2 + 1)
            } else if month > 1 {
                (before.0, before.1 + 1, 1)
            } else {
                (before.0 + 1, 1, 1)
            };
            assert_eq!((year, month, of_month), next);
            before = next;
        }
    }
}
