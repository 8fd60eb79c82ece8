//! Where a line is put together.
//!
//! A line has some fifty pieces of few bytes. A `Vec` that each of them extends takes twice as long for them as one
//! that has its length already, and asks for memory for each line.

use std::cell::Cell;
use std::fmt;

/// How much is expected of a line, so that few grow.
const USUAL: usize = 512;

/// The most that a thread keeps for its next line.
const KEPT: usize = 4096;

thread_local! {
    static SPARE: Cell<Buffer> = const { Cell::new(Buffer::new()) };
}

/// Bytes, of which the first are used.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            used: 0,
        }
    }

    /// An empty one, with the memory that this thread's last line had.
    pub fn spare() -> Self {
        // Whoever logs while its thread ends has a new one.
        SPARE.try_with(Cell::take).unwrap_or_default()
    }

    /// Keeps its memory for this thread's next line.
    pub fn keep(mut self) {
        if self.bytes.len() <= KEPT {
            self.used = 0;
            let _ = SPARE.try_with(|spare| spare.set(self));
        }
    }

    pub fn used(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub fn len(&self) -> usize {
        self.used
    }

    pub fn put(&mut self, piece: &[u8]) {
        let end = self.used + piece.len();
        if end > self.bytes.len() {
            self.grow(end);
        }
        self.bytes[self.used..end].copy_from_slice(piece);
        self.used = end;
    }

    pub fn push(&mut self, byte: u8) {
        if self.used == self.bytes.len() {
            self.grow(self.used + 1);
        }
        self.bytes[self.used] = byte;
        self.used += 1;
    }

    /// Takes out what begins there.
    pub fn split_off(&mut self, at: usize) -> Vec<u8> {
        let rest = self.bytes[at..self.used].to_vec();
        self.used = at;
        rest
    }

    #[cold]
    fn grow(&mut self, least: usize) {
        let length = least.max(2 * self.bytes.len()).max(USUAL);
        self.bytes.resize(length, 0);
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_what_is_kept_is_empty_and_not_large() {
        for (pieces, kept) in [(0, USUAL), (1000, 4096), (2000, 0)] {
            let mut buffer = Buffer::spare();
            assert_eq!(buffer.len(), 0);
            let mut expected = Vec::new();
            for n in 0..pieces {
                buffer.put(&[n as u8; 3]);
                buffer.push(b'x');
                expected.extend([n as u8, n as u8, n as u8, b'x']);
            }
            assert_eq!(buffer.used(), expected);
            if pieces == 0 {
                buffer.push(1);
            }
            buffer.keep();
            let spare = Buffer::spare();
            assert_eq!((spare.len(), spare.bytes.len()), (0, kept));
            spare.keep();
        }
        let mut buffer = Buffer::new();
        buffer.put(b"abcdef");
        assert_eq!(buffer.split_off(2), b"cdef");
        buffer.put(b"g");
        assert_eq!(buffer.used(), b"abg");
    }
}
