//! The time in front of a line.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::readyz::rfc3339;

/// Where the parts of a second are.
const MICROS: std::ops::Range<usize> = 20..26;

/// Knows the second that was last asked for: its date is the work.
pub(super) struct Clock {
    second: u64,
    text: [u8; 27],
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            second: 0,
            text: *b"1970-01-01T00:00:00.000000Z",
        }
    }
}

impl Clock {
    /// Adds the time in UTC, with microseconds (RFC 3339); a year is one from 1970 to 9999.
    pub fn write(&mut self, line: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() {
            self.second = since.as_secs();
            // There is room for all, and a dot instead of its Z.
            let _ = write!(&mut self.text[..], "{}", rfc3339(self.second));
            self.text[MICROS.start - 1] = b'.';
        }
        let mut rest = since.subsec_micros();
        for digit in self.text[MICROS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        line.extend_from_slice(&self.text);
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
            (micros(1), "1970-01-01T00:00:00.000001Z"),
            (micros(951_782_400_000_000), "2000-02-29T00:00:00.000000Z"),
            (UNIX_EPOCH - year, "1970-01-01T00:00:00.000000Z"),
            (UNIX_EPOCH + 20_000 * year, "9999-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(shown(at), format!("at {text}"));
        }
    }
}
