//! Time limits as people write them.
//!
//! Pure. Three families: clock form `[days-]hh:mm:ss`, its short form `mm:ss`,
//! and a number with one unit (`90s`, `5m`, `2h`, `1d`). A bare number is
//! refused: schedulers read it as minutes, most tools as seconds.

use std::time::Duration;

/// A text that is no time limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No unit.
    #[error("{0:?} has no unit: write {0}s, {0}m or [days-]hh:mm:ss")]
    NoUnit(String),
    /// Nothing we know.
    #[error("{0:?} is not a time: expected [days-]hh:mm:ss, mm:ss, 90s, 5m, 2h or 1d")]
    Form(String),
    /// Zero, or beyond what can be counted.
    #[error("{0:?} is out of range: expected from 1 second up to {MAX_DAYS} days")]
    Range(String),
}

/// The longest limit: craned's own "no limit" lies far above it.
const MAX_DAYS: u64 = 3650;

const DAY: u64 = 24 * 60 * 60;

/// Reads a time limit; never zero.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let shown = || text.chars().take(64).collect::<String>();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DurationError::NoUnit(shown()));
    }
    let seconds = if text.contains(':') { clock(text) } else { with_unit(text) };
    match seconds.ok_or_else(|| DurationError::Form(shown()))? {
        seconds @ 1.. if seconds <= MAX_DAYS * DAY => Ok(Duration::from_secs(seconds)),
        _ => Err(DurationError::Range(shown())),
    }
}

fn clock(text: &str) -> Option<u64> {
    let (days, time) = match text.split_once('-') {
        Some((days, time)) => (Some(number(days)?), time),
        None => (None, text),
    };
    let fields = time.split(':').map(number).collect::<Option<Vec<_>>>()?;
    let (hours, minutes, seconds) = match (days, fields.as_slice()) {
        (_, &[hours, minutes, seconds]) => (hours, minutes, seconds),
        (None, &[minutes, seconds]) => (minutes / 60, minutes % 60, seconds),
        _ => return None,
    };
    // With days, hours are part of a day; alone they may be many.
    if seconds > 59 || minutes > 59 || (days.is_some() && hours > 23) {
        return None;
    }
    let days = days.unwrap_or(0).saturating_mul(DAY);
    Some(days.saturating_add(hours.saturating_mul(3600)).saturating_add(minutes * 60 + seconds))
}

fn with_unit(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY,
        _ => return None,
    };
    Some(number(digits)?.saturating_mul(scale))
}

/// Digits only; more than fit count as very many, which the range refuses.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Result<u64, DurationError> {
        parse(text).map(|time| time.as_secs())
    }

    #[test]
    fn every_form_reads() {
        for (text, expected) in [
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
            ("00:00:02", 2),
            ("1-02:03:04", 93_784),
            ("100:00:00", 360_000),
            ("10:30", 630),
            ("90:00", 5400),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_the_reason() {
        assert_eq!(seconds("90"), Err(DurationError::NoUnit("90".into())));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "+5m",
            "1.5h",
            "5 m",
            "1w",
            "00:60:00",
            "00:00:60",
            "1-24:00:00",
            "1-10:00",
            "1:2:3:4",
            "-1:00:00",
        ] {
            assert!(matches!(seconds(text), Err(DurationError::Form(_))), "{text:?} was accepted");
        }
        for text in ["0s", "00:00:00", "9999d", "99999999999999999999999h"] {
            assert!(matches!(seconds(text), Err(DurationError::Range(_))), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn the_clock_form_reads_back(days in 0u64..3000, hours in 0u64..24, minutes in 0u64..60, secs in 1u64..60) {
            let total = days * DAY + hours * 3600 + minutes * 60 + secs;
            prop_assert_eq!(seconds(&format!("{days}-{hours:02}:{minutes:02}:{secs:02}")), Ok(total));
            prop_assert_eq!(seconds(&format!("{total}s")), Ok(total));
        }

        #[test]
        fn any_text_is_answered(text in "[0-9a-z:+-]{0,20}|.{0,8}") {
            let _ = parse(&text);
        }
    }
}
