//! Numbers in a line of the log, as both formats have them.
//!
//! Not by `std::fmt`, by which those of a connection's line cost several times as much.

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
            Self::Unsigned(value) => whole(line, value),
            Self::Signed(value) => whole(line, value),
            Self::Float(value) => float(line, value),
            Self::Truth(true) => line.extend_from_slice(b"true"),
            Self::Truth(false) => line.extend_from_slice(b"false"),
        }
    }
}

/// Adds a whole number.
fn whole(line: &mut Vec<u8>, value: impl itoa::Integer) {
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Adds a number of any size and sign, as `{:?}` does; JSON has none that is infinite or none.
fn float(line: &mut Vec<u8>, value: f64) {
    // With fifteen digits or fewer, and no other number of so many is the same `f64`: so these are the shortest.
    const EXACT: f64 = 1e12;
    let thousandths = (value * 1000.0).round();
    if (0.0..EXACT).contains(&value) && thousandths / 1000.0 == value && value.is_sign_positive() {
        let thousandths = thousandths as u64;
        whole(line, thousandths / 1000);
        // A thousand more has all three digits, and gives its one up for the dot.
        let dot = line.len();
        whole(line, 1000 + thousandths % 1000);
        line[dot] = b'.';
        while line.ends_with(b"0") && line.len() > dot + 2 {
            line.pop();
        }
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
