//! Durations as Go writes them: `1h30m`, `1.5h`, `100ms`.

use std::time::Duration;

use super::Error;
use super::nearest::quoted;

/// The units, in nanoseconds. Micro may be written with either of Unicode's two signs.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go's longest: 2⁶³ - 1 ns, about 292 years.
const LONGEST: u64 = i64::MAX as u64;

/// A duration of a flag that no configuration has a key for.
pub(crate) fn duration_from_flag(flag: &str, text: &str) -> Result<Duration, Error> {
    parse(text).map_err(|what| Error::new(format!("{flag}: {what}")))
}

/// Reads a duration that is not negative; an error is the rest of a sentence that begins with a key.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = |what: &str| {
        format!(
            "{} {what} (a duration is written like 1h30m, 90s or 100ms)",
            quoted(text)
        )
    };
    let (negative, number) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if number == "0" {
        return Ok(Duration::ZERO);
    }
    if number.is_empty() {
        return Err(wrong("is no duration"));
    }
    let mut total = 0u64;
    let mut rest = number;
    while !rest.is_empty() {
        let (whole, after) = split(rest, |c| c.is_ascii_digit());
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split(after, |c| c.is_ascii_digit()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(wrong("is no duration"));
        }
        let (unit, after) = split(after, |c| c != '.' && !c.is_ascii_digit());
        if unit.is_empty() {
            return Err(wrong("has a number without a unit: ns, us, ms, s, m or h"));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            let what = format!(
                "has the unknown unit {}; there are ns, us, ms, s, m and h",
                quoted(unit)
            );
            return Err(wrong(&what));
        };
        total = part(whole, fraction, *scale)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| wrong("is longer than 292 years"))?;
        rest = after;
    }
    if negative && total > 0 {
        return Err(wrong("is negative"));
    }
    Ok(Duration::from_nanos(total))
}

/// Nanoseconds of one number with its unit, cut as Go cuts them.
fn part(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = match whole {
        "" => 0,
        whole => whole.parse().ok()?,
    };
    // 18 digits are exact in u128 with any unit; a 19th is less than a nanosecond of an hour.
    let digits = &fraction[..fraction.len().min(18)];
    let fraction: u128 = match digits {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let fraction = fraction * u128::from(scale) / 10u128.pow(digits.len() as u32);
    whole
        .checked_mul(scale)?
        .checked_add(u64::try_from(fraction).ok()?)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// A duration in the same syntax, without parts that are zero: `1h30m`, `20m`, `1.5s`, `100ms`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let nanos = u64::from(duration.subsec_nanos());
    if seconds == 0 && nanos > 0 {
        let (unit, scale) = match nanos {
            ..1_000 => ("ns", 1),
            1_000..1_000_000 => ("us", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos / scale, nanos % scale, scale));
    }
    let mut text = String::new();
    for (unit, number) in [("h", seconds / 3600), ("m", seconds / 60 % 60)] {
        if number > 0 {
            text += &format!("{number}{unit}");
        }
    }
    if text.is_empty() || !seconds.is_multiple_of(60) || nanos > 0 {
        text += &format!("{}s", decimal(seconds % 60, nanos, 1_000_000_000));
    }
    text
}

/// `whole` and `part / scale`, without zeros at the end.
fn decimal(whole: u64, part: u64, scale: u64) -> String {
    if part == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_accepts() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("100ms", 100_000_000),
            ("90s", 90_000_000_000),
            ("+5s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1m1h1m", 3_720_000_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("10μs", 10_000),
            ("7ns", 7),
            ("0.9ns", 0),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("9223372036854775807ns", i64::MAX as u64),
            ("0.9223372036854775807h", 3_320_413_933_267),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses() {
        for (text, why) in [
            ("", "is no duration"),
            ("+", "is no duration"),
            ("-", "is no duration"),
            ("s", "is no duration"),
            (".", "is no duration"),
            (".s", "is no duration"),
            ("60", "has a number without a unit"),
            ("1.5", "has a number without a unit"),
            ("1h30", "has a number without a unit"),
            ("--1s", "is no duration"),
            ("1 h", "has the unknown unit \" h\""),
            ("1d", "has the unknown unit \"d\""),
            ("1H", "has the unknown unit \"H\""),
            ("1h-5m", "has the unknown unit \"h-\""),
            ("１h", "is no duration"),
            ("-5m", "is negative"),
            ("9223372036854775808ns", "is longer than 292 years"),
            ("3000000h", "is longer than 292 years"),
            ("99999999999999999999999s", "is longer than 292 years"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in [
            "0s",
            "1ns",
            "999ns",
            "1us",
            "1.5us",
            "100ms",
            "1.5ms",
            "1s",
            "1.5s",
            "20m",
            "1h",
            "1h30m",
            "1m30s",
            "24h",
            "1h0.000000001s",
        ] {
            let duration = parse(text).expect(text);
            assert_eq!(show_duration(duration), text);
        }
    }

    #[test]
    fn no_text_panics() {
        let alphabet = [
            "1", "0", "9", ".", "-", "+", "h", "m", "s", "n", "µ", "é", " ",
        ];
        let mut texts = vec![String::new()];
        for _ in 0..4 {
            texts = texts
                .iter()
                .flat_map(|text| alphabet.map(|letter| format!("{text}{letter}")))
                .collect();
            for text in &texts {
                let _ = parse(text);
            }
        }
    }
}
