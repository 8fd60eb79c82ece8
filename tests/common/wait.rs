//! Waiting for events, always with an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The longest any test waits for what must come. It says nothing of speed: a machine with 2 busy
/// cores must get there.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `probe` until it gives something; panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe)
}

/// Polls `probe` until it gives something; panics with `what` after `limit`.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs blocking `work` on a thread of its own; panics with `what` if it takes [`PATIENCE`].
pub fn finishes<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    match result.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not within {PATIENCE:?}: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked: {what}"),
    }
}

/// Looks how long this machine keeps a thread waiting that wants to run: where a test is about seconds, a machine
/// that stands still for one says nothing of the program.
pub struct Stalls {
    longest: Arc<AtomicU64>,
}

impl Stalls {
    pub fn watch() -> Self {
        let longest = Arc::<AtomicU64>::default();
        let seen = Arc::downgrade(&longest);
        std::thread::spawn(move || {
            const STEP: Duration = Duration::from_millis(20);
            let mut last = Instant::now();
            while let Some(longest) = seen.upgrade() {
                std::thread::sleep(STEP);
                let late = last.elapsed().saturating_sub(STEP).as_millis() as u64;
                longest.fetch_max(late, Ordering::Relaxed);
                last = Instant::now();
            }
        });
        Self { longest }
    }

    /// The longest since the last question.
    pub fn longest(&self) -> Duration {
        let longest = self.longest.swap(0, Ordering::Relaxed);
        Duration::from_millis(longest)
    }
}
