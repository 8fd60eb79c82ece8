//! What other threads tell the set-up thread: look-ups that ended, and to stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::upstream::resolver::Answer;

/// What other threads tell the set-up thread.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Look-ups that ended, with those who asked.
    pub answers: Vec<(Vec<u64>, Answer)>,
    /// How far to stop.
    pub stop: Option<Stop>,
}

/// How far to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Accept nothing more.
    Accepting,
    /// Give up what is being set up as well, and end the thread.
    Everything,
}

/// The way to the set-up thread.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: Arc<Mutex<Inbox>>,
    wake: Arc<OwnedFd>,
}

impl Handle {
    /// An empty inbox.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            inbox: Arc::default(),
            wake: Arc::new(wake),
        })
    }

    /// Stops so far.
    pub fn stop(&self, how: Stop) {
        self.tell(|inbox| inbox.stop = inbox.stop.max(Some(how)));
    }

    /// Hands on what a look-up brought.
    pub fn answer(&self, who: &[u64], answer: Answer) {
        self.tell(|inbox| inbox.answers.push((who.to_vec(), answer)));
    }

    /// Takes everything out.
    pub fn take(&self) -> Inbox {
        // The counter goes before the inbox: what comes in between wakes the thread again.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        // Fails only where the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl AsFd for Handle {
    /// Readable when something is in the inbox.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
