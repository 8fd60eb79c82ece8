//! Bulk from a target to its client without a copy: by splice(2), through a pipe.
//!
//! Measured from TCP to a Unix socket on 2 cores: with pipes of 1 MiB a GiB takes 0.1 s of CPU time instead of 0.25 to
//! 0.5, with those of 64 KiB that the kernel makes 0.35. The other way it takes three times as long as to copy.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe holds. An unprivileged user has 64 MiB of all his pipes (pipe(7)).
const SIZE: usize = 1 << 20;

/// Pipes of this process: two descriptors each. Further flows are copied.
const MOST: usize = 16;

/// How many there are.
static PIPES: AtomicUsize = AtomicUsize::new(0);

/// What one flow has on its way.
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled: usize,
    _place: Place,
}

/// One of [`MOST`].
struct Place;

impl Pipe {
    /// An empty one, if there are not too many, and the system has it.
    pub fn new() -> Option<Self> {
        let place = Place::take()?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        fcntl_setpipe_size(&writer, SIZE).ok()?;
        Some(Self {
            reader,
            writer,
            filled: 0,
            _place: place,
        })
    }

    /// Bytes in it.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Takes from a non-blocking socket what it has, 0 at its end. Only while it is empty: a full pipe is EAGAIN, too.
    pub fn fill(&mut self, from: &OwnedFd) -> Result<usize, Errno> {
        let flags = SpliceFlags::NONBLOCK;
        self.filled = splice(from, None, &self.writer, None, SIZE, flags)?;
        Ok(self.filled)
    }

    /// Gives a socket some. Where that is closed, SIGPIPE comes with the error, which programs in Rust ignore.
    pub fn drain(&mut self, to: &OwnedFd) -> Result<usize, Errno> {
        let flags = SpliceFlags::NONBLOCK;
        let moved = splice(&self.reader, None, to, None, self.filled, flags)?;
        self.filled -= moved;
        Ok(moved)
    }
}

impl Place {
    fn take() -> Option<Self> {
        let more = |taken| (taken < MOST).then_some(taken + 1);
        let taken = PIPES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        // Not made where there is none, as it would give one back.
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}
