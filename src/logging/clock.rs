//! The time in front of a line.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::readyz::{at_most_9999, rfc3339};

/// How much of `2025-11-23T00:13:38Z` comes before the parts of a second.
const SECONDS: usize = 19;

/// Knows the second that was last asked for: its date is the work.
#[derive(Default)]
pub(super) struct Clock {
    second: Option<u64>,
    text: [u8; SECONDS],
}

impl Clock {
    /// Adds the time in UTC, with microseconds (RFC 3339); a year is one from 1970 to 9999.
    pub fn write(&mut self, line: &mut Vec<u8>, at: SystemTime) {
        let since = at_most_9999(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if self.second.replace(second) != Some(second) {
            // All that has room.
            let _ = write!(&mut self.text[..], "{}", rfc3339(second));
        }
        line.extend_from_slice(&self.text);
        let mut parts = *b".000000Z";
        let mut rest = since.subsec_micros();
        for digit in parts[1..7].iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        line.extend_from_slice(&parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_time_is_told_in_four_digits_for_a_year() {
        let mut clock = Clock::default();
        let mut shown = |at| {
            let mut line = b"at ".to_vec();
            clock.write(&mut line, at);
            String::from_utf8(line).expect("ASCII")
        };
        let micros = |micros| UNIX_EPOCH + Duration::from_micros(micros);
        let year = Duration::from_secs(365 * 24 * 3600);
        for (at, text) in [
            (micros(1_763_856_818_569_217), "2025-11-23T00:13:38.569217Z"),
            (micros(1_763_856_818_000_001), "2025-11-23T00:13:38.000001Z"),
            (micros(1_763_856_819_999_999), "2025-11-23T00:13:39.999999Z"),
            // It is set back.
            (micros(1_763_856_818_500_000), "2025-11-23T00:13:38.500000Z"),
            (micros(951_782_400_000_000), "2000-02-29T00:00:00.000000Z"),
            (UNIX_EPOCH - year, "1970-01-01T00:00:00.000000Z"),
            (UNIX_EPOCH + 20_000 * year, "9999-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(shown(at), format!("at {text}"));
        }
    }
}
