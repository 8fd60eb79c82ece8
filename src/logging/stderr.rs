//! Lines to stderr, whatever it is: each is there as a whole, or counted.

use std::io::{self, ErrorKind, Write};

use rustix::event::{PollFd, PollFlags, poll};

/// What is known of stderr.
#[derive(Default)]
pub(super) struct Stderr {
    /// The last line there lacks its end.
    torn: bool,
}

impl Stderr {
    /// Writes `lines`, and gives the number of those for which there was no room, such as on a full disk.
    pub fn write(&mut self, lines: &[u8]) -> u64 {
        if self.torn && !lines.is_empty() {
            // Or the next one would be torn, too.
            self.torn = put(b"\n") == 0;
        }
        let (taken, left) = match self.torn {
            true => (&[][..], lines),
            false => lines.split_at(put(lines)),
        };
        if let Some(last) = taken.last() {
            self.torn = *last != b'\n';
        }
        left.iter().filter(|byte| **byte == b'\n').count() as u64
    }
}

/// Writes `bytes`, and gives the number of those that it took.
fn put(bytes: &[u8]) -> usize {
    let (mut stderr, mut taken) = (io::stderr(), 0);
    while taken < bytes.len() {
        match stderr.write(&bytes[taken..]) {
            Ok(0) => break,
            Ok(length) => taken += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever else has the same pipe or terminal can make it one that never blocks (fcntl(2), F_SETFL).
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            Err(_) => break,
        }
    }
    taken
}
