//! Numbers in a line of the log, as both formats have them.
//!
//! By hand, as those of a connection's line cost several times as much by `std::fmt`.

use std::io::Write;

/// A number, or true or false.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Figure {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Truth(bool),
}

impl Figure {
    /// Adds it to a line.
    pub fn write(self, line: &mut Vec<u8>) {
        match self {
            Self::Unsigned(value) => unsigned(line, value),
            Self::Signed(value) => signed(line, value),
            Self::Float(value) => float(line, value),
            Self::Truth(true) => line.extend_from_slice(b"true"),
            Self::Truth(false) => line.extend_from_slice(b"false"),
        }
    }
}

/// Room for the digits of the largest `u64`, and then some.
const MOST: usize = 24;

/// Adds a number.
fn unsigned(line: &mut Vec<u8>, value: u64) {
    if value < 10 {
        // As often as not: no bytes, the user root.
        return line.push(b'0' + value as u8);
    }
    let mut digits = [0; MOST];
    let begin = write(&mut digits, MOST, value);
    line.extend_from_slice(&digits[begin..]);
}

/// Writes the digits that end before `end`, and gives their beginning back.
fn write(digits: &mut [u8; MOST], end: usize, mut value: u64) -> usize {
    let mut begin = end;
    loop {
        begin -= 1;
        digits[begin] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return begin;
        }
    }
}

/// Adds one that may be below 0.
fn signed(line: &mut Vec<u8>, value: i64) {
    if value < 0 {
        line.push(b'-');
    }
    unsigned(line, value.unsigned_abs());
}

/// Adds a number of any size and sign, as `{:?}` does; JSON has none that is infinite or none.
fn float(line: &mut Vec<u8>, value: f64) {
    // With fifteen digits or fewer, and no other number of so many is the same `f64`: so these are the shortest.
    const EXACT: f64 = 1e12;
    let thousandths = (value * 1000.0).round();
    if (0.0..EXACT).contains(&value) && thousandths / 1000.0 == value && value.is_sign_positive() {
        let thousandths = thousandths as u64;
        let (whole, rest) = (thousandths / 1000, thousandths % 1000);
        let mut digits = [0; MOST];
        // A thousand more has all three, and gives its one up for the dot.
        let dot = write(&mut digits, MOST, 1000 + rest);
        digits[dot] = b'.';
        let begin = write(&mut digits, dot, whole);
        let zeros = match rest {
            _ if rest % 100 == 0 => 2,
            _ if rest % 10 == 0 => 1,
            _ => 0,
        };
        line.extend_from_slice(&digits[begin..MOST - zeros]);
    } else if value.is_finite() {
        // Writing to memory does not fail.
        let _ = write!(line, "{value:?}");
    } else {
        line.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_as_the_standard_library_writes_them() {
        let mut number = 1_u64;
        for n in 0..20_000_u64 {
            // Of all sizes.
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(n);
            let random = number >> (n % 64);
            for value in [n, random, u64::MAX - n] {
                let mut line = Vec::new();
                unsigned(&mut line, value);
                assert_eq!(line, value.to_string().as_bytes());
                let (mut line, value) = (Vec::new(), value as i64);
                signed(&mut line, value);
                assert_eq!(line, value.to_string().as_bytes());
            }
            let (milli, bits) = (random as f64 / 1000.0, f64::from_bits(number));
            for value in [
                n as f64,
                n as f64 / 1000.0,
                milli,
                -milli,
                milli / 16.0,
                bits,
                f64::from(n as u32) * 1e9,
            ] {
                let mut line = Vec::new();
                float(&mut line, value);
                let expected = match value.is_finite() {
                    true => format!("{value:?}"),
                    false => "null".into(),
                };
                assert_eq!(line, expected.as_bytes());
            }
        }
        let mut line = Vec::new();
        float(&mut line, -0.0);
        assert_eq!(line, b"-0.0");
    }
}
