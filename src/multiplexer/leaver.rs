//! A client that has left while its upstream has bytes of it to take: they are delivered for as long as it takes some.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Between two looks.
pub const LOOK: Duration = Duration::from_secs(1);

/// How long it may take nothing. The kernel's own TCP_USER_TIMEOUT is no measure of that: once a window was closed, it
/// ends also who reads, unless a whole segment fits in before it is over.
const PATIENCE: Duration = Duration::from_secs(45);

/// How the upstream is getting on.
#[derive(Debug)]
pub struct Leaver {
    taken: u64,
    since: Instant,
}

impl Leaver {
    /// Of a client that has left at this moment.
    pub fn new(now: Instant) -> Self {
        Self {
            taken: 0,
            since: now,
        }
    }

    /// Whether the upstream, which was written so many bytes, has taken none of them for too long.
    pub fn is_stuck(&mut self, upstream: BorrowedFd<'_>, written: u64, now: Instant) -> bool {
        let taken = written.saturating_sub(crate::sys::unacknowledged(upstream));
        if taken > self.taken {
            *self = Self { taken, since: now };
        }
        now.saturating_duration_since(self.since) >= PATIENCE
    }
}
