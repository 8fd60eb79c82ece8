//! Work that is done again and again: at an interval or when asked, with retries, counted, and with a
//! report of how it went.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::metrics::TaskMetrics;
use crate::readyz::Reporter;

/// Attempts of one iteration.
const ATTEMPTS: u32 = 5;

/// The pause after the first failed attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A thread that repeats one piece of work. Dropped, it ends after the attempt that runs.
#[derive(Debug)]
pub struct Task {
    /// `None` once the task is told to end.
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    turns: Arc<Turns>,
}

/// How often a task was asked, and what its last whole attempt began after.
#[derive(Debug, Default)]
struct Turns {
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Task {
    /// Runs `work` now and then after each `interval`, which is asked for every time, on a thread `name`. Its
    /// error is a sentence, which `reporter` shows until an attempt succeeds. An iteration has five attempts, with
    /// pauses of about 1, 2, 4 and 8 s.
    ///
    /// # Errors
    ///
    /// Where no thread can be started.
    pub fn start(
        name: &str,
        interval: impl Fn() -> Duration + Send + 'static,
        metrics: TaskMetrics,
        reporter: Reporter,
        work: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> io::Result<Self> {
        // One place: asked again before it began, it runs once.
        let (ask, asked) = sync_channel(1);
        let turns = Arc::<Turns>::default();
        let task = Running {
            asked,
            turns: turns.clone(),
            metrics,
            reporter,
            work,
        };
        let thread = std::thread::Builder::new()
            // It would panic for a NUL.
            .name(name.replace('\0', ""))
            .stack_size(256 * 1024);
        let thread = thread.spawn(move || task.run(interval))?;
        Ok(Self {
            ask: Some(ask),
            thread: Some(thread),
            turns,
        })
    }

    /// Asks for an iteration now, or right after the one that runs.
    pub fn run_now(&self) {
        self.turns.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(ask) = &self.ask
            && let Err(TrySendError::Disconnected(())) = ask.try_send(())
        {
            tracing::error!("a task has ended unexpectedly: restart tbot");
        }
    }

    /// Whether an attempt has begun and ended since the last [`run_now`](Self::run_now), well or not.
    pub fn has_run(&self) -> bool {
        let Turns { asked, answered } = &*self.turns;
        answered.load(Ordering::Relaxed) == asked.load(Ordering::Relaxed)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the hook already.
            let _ = thread.join();
        }
    }
}

struct Running<W> {
    asked: Receiver<()>,
    turns: Arc<Turns>,
    metrics: TaskMetrics,
    reporter: Reporter,
    work: W,
}

impl<W: FnMut() -> Result<(), String>> Running<W> {
    #[inline(never)] // a frame with a name in profiles
    fn run(mut self, interval: impl Fn() -> Duration) {
        while self.iterate() {
            if let Err(RecvTimeoutError::Disconnected) = self.asked.recv_timeout(interval()) {
                return;
            }
        }
    }

    /// One iteration with its retries; false when the task is to end.
    fn iterate(&mut self) -> bool {
        let begun = Instant::now();
        self.metrics.iterations.inc();
        let (mut failures, mut goes_on) = (0, true);
        let wait = |pause| {
            // Asked for meanwhile: the pause is over.
            let asked = self.asked.recv_timeout(pause);
            goes_on = asked != Err(RecvTimeoutError::Disconnected);
            goes_on
        };
        let done = attempt(self.reporter.name(), wait, || {
            let turn = self.turns.asked.load(Ordering::Relaxed);
            let done = (self.work)();
            match &done {
                Ok(()) => self.reporter.healthy(),
                Err(problem) => {
                    failures += 1;
                    self.reporter.unhealthy(problem.clone());
                }
            }
            self.turns.answered.store(turn, Ordering::Relaxed);
            done
        });
        match done {
            Ok(()) => self.metrics.successful.observe(failures.into()),
            Err(_) => self.metrics.failed.inc(),
        }
        self.metrics.duration.observe(begun.elapsed().as_secs_f64());
        goes_on
    }
}

/// Runs `work` with the same attempts on this thread, and `wait` for each pause, until that is false; the last
/// one's error is returned.
pub(crate) fn attempt<T>(
    name: &str,
    mut wait: impl FnMut(Duration) -> bool,
    mut work: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let mut attempt = 1;
    loop {
        let problem = match work() {
            Err(problem) => problem,
            done => return done,
        };
        tracing::warn!("{name}: attempt {attempt} of {ATTEMPTS}: {problem}");
        if attempt == ATTEMPTS || !wait(pause(attempt)) {
            return Err(problem);
        }
        attempt += 1;
    }
}

/// The pause after a failed attempt: doubled each time, half to one and a half of it, so that many
/// tbots that failed together do not try again together.
fn pause(attempt: u32) -> Duration {
    let share = RandomState::new().hash_one(attempt) as f64 / u64::MAX as f64;
    (FIRST_PAUSE * 2_u32.pow(attempt - 1)).mul_f64(0.5 + share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::TaskMetricsFamily;
    use crate::readyz::{self, Status};

    #[test]
    fn counts_retries_and_reports_what_failed() {
        let metrics =
            TaskMetricsFamily::register(&prometheus::Registry::new()).expect("empty registry");
        let metrics = metrics.task("mux", "artifacts");
        let registry = readyz::Registry::new();
        let mut left = 2;
        let (done, finished) = sync_channel(0);
        let seen = registry.clone();
        let task = Task::start(
            "t",
            || Duration::from_secs(3600),
            metrics.clone(),
            registry.register("mux"),
            move || {
                left -= 1;
                if left > 0 {
                    return Err("no room".into());
                }
                done.send(seen.service("mux")).expect("the test waits");
                Ok(())
            },
        )
        .expect("a thread");
        // Not to wait for the pause.
        task.run_now();
        let before = finished.recv().expect("the work runs").expect("registered");
        assert_eq!(
            (before.status, before.reason.as_str()),
            (Status::Unhealthy, "no room")
        );
        drop(task);
        assert_eq!(registry.overall().status, Status::Healthy);
        assert_eq!((metrics.iterations.get(), metrics.failed.get()), (1, 0));
        assert_eq!(
            (metrics.successful.count(), metrics.successful.sum()),
            (1, 1.0)
        );
    }

    #[test]
    fn pauses_grow_and_are_spread() {
        for attempt in 1..ATTEMPTS {
            let middle = FIRST_PAUSE * 2_u32.pow(attempt - 1);
            assert!((middle / 2..=middle * 3 / 2).contains(&pause(attempt)));
        }
    }
}
