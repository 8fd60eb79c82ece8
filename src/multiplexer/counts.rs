//! Connections counted: for the metrics, for the limit, and for a stop that waits for the last one;
//! and the log lines about them, of which there are never too many.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::MultiplexerMetrics;

/// What the threads of one multiplexer share.
#[derive(Debug)]
pub struct Shared {
    /// Counted into by every thread.
    pub metrics: MultiplexerMetrics,
    live: AtomicUsize,
    /// Somebody waits for the last connection to end.
    draining: AtomicBool,
    closed: AtomicBool,
    idle: (Mutex<()>, Condvar),
    complaints: Mutex<Complaints>,
}

/// Lines about connections in the running second.
#[derive(Debug)]
struct Complaints {
    second: Instant,
    lines: u32,
    left_out: u32,
}

impl Shared {
    /// Without a connection yet.
    pub fn new(metrics: MultiplexerMetrics) -> Self {
        let complaints = Mutex::new(Complaints {
            second: Instant::now(),
            lines: 0,
            left_out: 0,
        });
        Self {
            metrics,
            live: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            idle: Default::default(),
            complaints,
        }
    }

    /// Connections between accept and end.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Blocks until no connection is left, at most `patience`; true if none is.
    pub fn wait_until_idle(&self, patience: Duration) -> bool {
        self.draining.store(true, Ordering::SeqCst);
        let guard = self.idle.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.idle.1.wait_timeout_while(guard, patience, |()| {
            self.live() > 0 && !self.closed.load(Ordering::SeqCst)
        });
        self.live() == 0
    }

    /// Ends [`Self::wait_until_idle`].
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.notify();
    }

    fn notify(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _guard = self.idle.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.idle.1.notify_all();
    }

    /// Logs what went wrong with one connection; a flood of them is cut to some lines a second.
    pub fn complain(&self, what: fmt::Arguments<'_>) {
        const MOST_LINES: u32 = 20;
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if complaints.second.elapsed() >= Duration::from_secs(1) {
            if complaints.left_out > 0 {
                tracing::warn!(
                    "{} more lines about connections were left out",
                    complaints.left_out
                );
            }
            *complaints = Complaints {
                second: Instant::now(),
                lines: 0,
                left_out: 0,
            };
        }
        if complaints.lines < MOST_LINES {
            complaints.lines += 1;
            tracing::warn!("{what}");
        } else {
            complaints.left_out += 1;
        }
    }
}

/// One accepted connection, for the counters. Dropped without [`InFlight::done`], it is an error.
pub struct InFlight {
    shared: Arc<Shared>,
    done: bool,
}

impl InFlight {
    /// Counts one that was accepted.
    pub fn start(shared: &Arc<Shared>) -> Self {
        shared.metrics.started.inc();
        shared.metrics.in_flight.inc();
        shared.live.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: shared.clone(),
            done: false,
        }
    }

    /// It ended as it should.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        if self.done {
            &metrics.handled_ok
        } else {
            &metrics.handled_error
        }
        .inc();
        metrics.in_flight.dec();
        if self.shared.live.fetch_sub(1, Ordering::SeqCst) == 1
            && self.shared.draining.load(Ordering::SeqCst)
        {
            self.shared.notify();
        }
    }
}
