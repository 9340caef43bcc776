//! Amounts of memory as people write them: `50M`, `2G`, `1048576`.
//!
//! Pure. craned reads the same spellings: a number and at most one of
//! `K`, `M`, `G`, `T` (powers of 1024), with or without a `B` behind it.

/// A text that is no size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a size: expected a number with at most one of K, M, G, T, such as 512M")]
pub struct SizeError(String);

/// Reads a size in bytes.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let error = || SizeError(text.chars().take(64).collect());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        "T" | "TB" => 1 << 40,
        _ => return Err(error()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(parse("50M"), Ok(50 << 20));
        assert_eq!(parse("2gb"), Ok(2 << 30));
        assert_eq!(parse("1048576"), Ok(1 << 20));
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in ["", "M", "-1M", "+1M", "1.5G", "1 M", "5X", "1MM", "18446744073709551616", "99999999999T"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,24}") {
            let _ = parse(&text);
        }
    }
}
