//! Lines between those who log and the thread that writes: bounded, and nobody waits in it but that thread.
//!
//! They are in one buffer, as they are written, so that a line costs a copy rather than a piece of memory that one
//! thread takes and another gives back. A line gets its time when it comes here, so no time is before the one above,
//! unless the clock is set back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::clock::Clock;

/// Lines that wait for stderr, and their bytes: as many again are being written.
const MOST: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;

/// Room that is kept for the next lines.
const KEPT: usize = 64 * 1024;

/// Where lines wait.
pub(super) struct Queue {
    /// What is in front of the time.
    head: &'static str,
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    clock: Clock,
    bytes: Vec<u8>,
    lines: usize,
    /// The thread that writes sleeps.
    waits: bool,
    stopped: bool,
}

impl Queue {
    /// Of lines that begin with `head` and their time.
    pub fn new(head: &'static str) -> Self {
        Self {
            head,
            state: Mutex::default(),
            woken: Condvar::new(),
        }
    }

    /// Adds a line, which begins behind its time; false if there is no room, or will be nobody to write it.
    pub fn push(&self, line: &[u8]) -> bool {
        let mut state = self.lock();
        if state.lines >= MOST || state.bytes.len() >= MOST_BYTES || state.stopped {
            return false;
        }
        self.add(&mut state, line);
        if std::mem::take(&mut state.waits) {
            drop(state);
            self.woken.notify_one();
        }
        true
    }

    /// Adds one of few, for which there is always room, before the thread that writes looks again.
    pub fn push_last(&self, line: &[u8]) {
        self.add(&mut self.lock(), line);
    }

    fn add(&self, state: &mut State, line: &[u8]) {
        let State { clock, bytes, .. } = state;
        if !self.head.is_empty() {
            bytes.extend_from_slice(self.head.as_bytes());
        }
        clock.write(bytes, SystemTime::now());
        bytes.extend_from_slice(line);
        state.lines += 1;
    }

    /// Puts all of them into `lines`, whose content is done with, and waits for some until `due`; true if there will
    /// be no more.
    pub fn take(&self, lines: &mut Vec<u8>, due: Option<Instant>) -> bool {
        lines.clear();
        if lines.capacity() > KEPT {
            *lines = Vec::new();
        }
        let mut state = self.lock();
        while state.bytes.is_empty() && !state.stopped {
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            state.waits = true;
            state = match left {
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let (state, _) = unpoisoned(self.woken.wait_timeout(state, left));
                    state
                }
                None => unpoisoned(self.woken.wait(state)),
            };
        }
        state.waits = false;
        state.lines = 0;
        std::mem::swap(&mut state.bytes, lines);
        state.stopped
    }

    /// Ends the thread that writes, with what is here by now.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.woken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }
}

/// Nothing panics while it is held: that would be a line of the log.
fn unpoisoned<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many lines are taken until `due`.
    fn taken(queue: &Queue, due: Instant) -> (usize, bool) {
        let mut lines = b"gone".to_vec();
        let stopped = queue.take(&mut lines, Some(due));
        let lines = String::from_utf8(lines).expect("UTF-8");
        let is_whole = |line: &str| line.starts_with("{\"at\":\"") && line.ends_with("Z\"}");
        assert!(lines.lines().all(is_whole), "{lines}");
        (lines.lines().count(), stopped)
    }

    #[test]
    fn it_is_bounded_by_lines_and_bytes_and_has_room_again() {
        let now = Instant::now();
        let queue = Queue::new("{\"at\":\"");
        assert_eq!(taken(&queue, now), (0, false), "it does not wait");
        for _ in 0..2 {
            assert!((0..MOST).all(|_| queue.push(b"\"}\n")));
            assert!(!queue.push(b"\"}\n"));
            queue.push_last(b"\"}\n");
            assert_eq!(taken(&queue, now), (MOST + 1, false));
        }
        let long = [&b"\"} "[..], &[b' '; MOST_BYTES], b"{\"at\":\"Z\"}\n"].concat();
        assert!(queue.push(&long));
        assert!(!queue.push(b"\"}\n"));
        assert_eq!(taken(&queue, now), (1, false));
        assert!(queue.push(b"\"}\n"));
        queue.stop();
        assert!(!queue.push(b"\"}\n"));
        queue.push_last(b"\"}\n");
        assert_eq!(taken(&queue, now), (2, true));
    }

    #[test]
    fn who_waits_is_woken_by_a_line_and_by_the_end() {
        let queue = Queue::new("{\"at\":\"");
        let later = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| taken(&queue, later));
            while !queue.lock().waits {
                std::thread::yield_now();
            }
            assert!(queue.push(b"\"}\n"));
            assert_eq!(waiting.join().expect("no panic"), (1, false));
            let waiting = scope.spawn(|| taken(&queue, later));
            while !queue.lock().waits {
                std::thread::yield_now();
            }
            queue.stop();
            assert_eq!(waiting.join().expect("no panic"), (0, true));
        });
        assert!(Instant::now() < later);
    }
}
