//! Whether a thread still gets through its work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A round of work takes microseconds; one that takes this long hangs in something.
const STALL: Duration = Duration::from_secs(5);

/// How often a thread that waits is woken to show that it is alive, in milliseconds: who asks a thousand times a second
/// costs no more than ten do.
const OFTEN: u64 = 100;

/// Beats with each round of a thread's work, and rests while the thread waits for some. One that has nothing
/// to do wakes up only when it is asked whether it is alive.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    /// Milliseconds from the origin to the start of this round, and one more; 0 at rest.
    round: AtomicU64,
    /// When it may be woken again, in the same milliseconds.
    again: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            round: AtomicU64::new(0),
            again: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// A round begins.
    pub fn beat(&self) {
        let now = self.origin.elapsed().as_millis() as u64;
        self.round.store(now + 1, Ordering::Relaxed);
    }

    /// The thread waits for work.
    pub fn rest(&self) {
        self.round.store(0, Ordering::Relaxed);
    }

    /// Expects a beat of a thread that waits, unless it was asked just now; true if it has to be woken for it.
    pub fn ask(&self) -> bool {
        let now = self.origin.elapsed().as_millis() as u64;
        let asks = now >= self.again.load(Ordering::Relaxed)
            && self
                .round
                .compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if asks {
            self.again.store(now + OFTEN, Ordering::Relaxed);
        }
        asks
    }

    /// For how long the thread has been at one round, if that is too long.
    pub fn stall(&self) -> Option<Duration> {
        let began = self.round.load(Ordering::Relaxed).checked_sub(1)?;
        let began = Duration::from_millis(began);
        let took = self.origin.elapsed().saturating_sub(began);
        (took > STALL).then_some(took)
    }
}

/// Why a thread does no work any more. One that waits is woken: the next one to look knows whether it was.
pub fn problem(
    name: &str,
    thread: &JoinHandle<()>,
    pulse: &Pulse,
    wake: impl FnOnce(),
) -> Option<String> {
    if thread.is_finished() {
        return Some(format!(
            "the thread {name} has ended unexpectedly: restart tbot"
        ));
    }
    if pulse.ask() {
        wake();
    }
    let stall = pulse.stall()?.as_secs();
    Some(format!(
        "the thread {name} has been stuck for {stall} s (/debug/pprof/threads shows where): restart tbot"
    ))
}

/// The pulse of a thread that waits for a descriptor, and can be woken to beat.
#[cfg(feature = "identity")]
#[derive(Debug)]
pub struct Waiter {
    pub pulse: Pulse,
    wake: std::os::fd::OwnedFd,
}

#[cfg(feature = "identity")]
impl Waiter {
    pub fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let pulse = Pulse::default();
        Ok(Self { pulse, wake })
    }

    /// Blocks until `awaited` has something to read, or an end.
    pub fn wait(&self, awaited: impl std::os::fd::AsFd) {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            let mut both = [
                PollFd::new(&awaited, PollFlags::IN),
                PollFd::new(&self.wake, PollFlags::IN),
            ];
            self.pulse.rest();
            let polled = poll(&mut both, None);
            self.pulse.beat();
            let [awaited, wake] = both.map(|one| !one.revents().is_empty());
            if wake {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            }
            if awaited || polled.is_err() {
                return;
            }
        }
    }

    /// Ends the wait for a moment.
    pub fn wake(&self) {
        // Fails only where the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_does_not_end_is_a_stall() {
        // As if it had been at work for that long.
        let pulse = |seconds| Pulse {
            origin: Instant::now() - Duration::from_secs(seconds),
            round: AtomicU64::new(1),
            again: AtomicU64::new(0),
        };
        assert!(pulse(6).stall().is_some_and(|took| took.as_secs() == 6));
        assert_eq!(pulse(4).stall(), None);
        let resting = pulse(60);
        resting.rest();
        assert_eq!(resting.stall(), None);
        // Asked, it has its time from then on, and no more of it when asked again.
        assert!(resting.ask() && !resting.ask());
        assert_eq!(resting.stall(), None);
        let beating = pulse(60);
        assert!(!beating.ask() && beating.stall().is_some());
        beating.beat();
        assert_eq!(beating.stall(), None);
        // Who has just shown that he is alive is left alone for a while.
        resting.rest();
        assert!(!resting.ask());
        resting.again.fetch_sub(OFTEN, Ordering::Relaxed);
        assert!(resting.ask());
    }
}
