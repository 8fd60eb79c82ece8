//! What other threads tell a thread that waits by epoll: a queue, and a descriptor that wakes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Messages for one thread, in the order they were sent.
#[derive(Debug)]
pub struct Inbox<T> {
    messages: Mutex<Vec<T>>,
    wake: OwnedFd,
}

impl<T> Inbox<T> {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let messages = Mutex::default();
        Ok(Self { messages, wake })
    }

    /// Puts a message in and wakes the thread.
    pub fn send(&self, message: T) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(message);
        // Who finds it filled has been preceded by one who woke the thread.
        if messages.len() == 1 {
            drop(messages);
            self.wake();
        }
    }

    /// Wakes the thread, with or without a message.
    pub fn wake(&self) {
        // Fails only where the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Takes everything out.
    pub fn take(&self) -> Vec<T> {
        // The counter goes before the messages: one that comes in between wakes the thread again.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> AsFd for Inbox<T> {
    /// Readable when something is in it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
