//! Connections counted: for the metrics, for the limit, and for a stop that waits for the last one;
//! each has one line in the log.

use std::fmt::Arguments;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::record::{CUT, OK, Record, Target};
use super::relay::Carried;
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
}

impl Shared {
    /// Without a connection yet.
    pub fn new(metrics: MultiplexerMetrics) -> Self {
        Self {
            metrics,
            live: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            idle: Default::default(),
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
}

/// One accepted connection, for the counters and the log. Dropped without [`InFlight::done`], it is an error.
pub struct InFlight {
    shared: Arc<Shared>,
    /// For its line.
    pub record: Record,
    done: bool,
    logged: bool,
}

impl InFlight {
    /// Counts one that was accepted.
    pub fn start(shared: &Arc<Shared>) -> Self {
        shared.metrics.started.inc();
        shared.metrics.in_flight.inc();
        shared.live.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: shared.clone(),
            record: Record::new(),
            done: false,
            logged: false,
        }
    }

    /// It ended as it should.
    pub fn done(mut self, target: &dyn Target, carried: Option<Carried>) {
        self.log(OK, Some(target), carried, format_args!("connection ended"));
        self.done = true;
    }

    /// The end of tbot ended it.
    pub fn cut(&mut self, target: &dyn Target, carried: Option<Carried>) {
        let message = format_args!("connection cut, as tbot is stopping");
        self.log(CUT, Some(target), carried, message);
    }

    /// Writes its one line, for an end that is neither of these.
    pub fn log(
        &mut self,
        outcome: &str,
        target: Option<&dyn Target>,
        carried: Option<Carried>,
        message: Arguments<'_>,
    ) {
        self.record.log(outcome, target, carried, message);
        self.logged = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.logged {
            let message = format_args!("connection cut, as its thread has ended");
            self.log(CUT, None, None, message);
        }
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
