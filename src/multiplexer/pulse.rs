//! Whether a thread still gets through its work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A round of work takes microseconds; one that takes this long hangs in something.
const STALL: Duration = Duration::from_secs(5);

/// Beats with each round of a thread's work, and rests while the thread waits for some. One that has nothing
/// to do wakes up only when it is asked whether it is alive.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    /// Milliseconds from the origin to the start of this round, and one more; 0 at rest.
    round: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            round: AtomicU64::new(0),
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

    /// Expects a beat of a thread that waits; true if it has to be woken for it.
    pub fn ask(&self) -> bool {
        let now = self.origin.elapsed().as_millis() as u64;
        self.round
            .compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// For how long the thread has been at one round, if that is too long.
    pub fn stall(&self) -> Option<Duration> {
        let began = self.round.load(Ordering::Relaxed).checked_sub(1)?;
        let began = Duration::from_millis(began);
        let took = self.origin.elapsed().saturating_sub(began);
        (took > STALL).then_some(took)
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
    }
}
