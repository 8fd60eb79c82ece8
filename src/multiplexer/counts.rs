//! Connections counted: for the metrics, for the limit, and for a stop that waits for the last one;
//! each has one line in the log.

use std::fmt::{Arguments, Display};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::record::{CUT, OK, Record};
use super::relay::Carried;
use crate::metrics::MultiplexerMetrics;

/// Connections beyond the limit that are kept until their request, and with it the descriptor for the
/// answer, is there. Beyond these they are closed at once.
const MOST_TURNED_AWAY: usize = 64;

/// Whether a connection can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is.
    Served,
    /// Beyond the limit: its request is read and not served.
    TurnedAway,
    /// Nor is its request read.
    None,
}

/// What the threads of one multiplexer share.
#[derive(Debug)]
pub struct Shared {
    /// Counted into by every thread.
    pub metrics: MultiplexerMetrics,
    last: AtomicU64,
    live: AtomicUsize,
    served: AtomicUsize,
    turned_away: AtomicUsize,
    /// Streams that masters were asked for, in vain or not, and that nobody waits for any more.
    pub abandoned: AtomicUsize,
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
            last: AtomicU64::new(0),
            live: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            turned_away: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            idle: Default::default(),
        }
    }

    /// A number that is greater than all before.
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed)
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

    /// A place, as far as there is one.
    fn take_place(&self, most: usize) -> Place {
        let take = |count: &AtomicUsize, most| {
            let more = |taken| (taken < most).then_some(taken + 1);
            let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            taken.is_ok()
        };
        if take(&self.served, most) {
            Place::Served
        } else if take(&self.turned_away, MOST_TURNED_AWAY) {
            Place::TurnedAway
        } else {
            Place::None
        }
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
    pub place: Place,
    /// For its line.
    pub record: Record,
    done: bool,
    logged: bool,
}

impl InFlight {
    /// Counts one that was accepted.
    pub fn start(shared: &Arc<Shared>, most: usize) -> Self {
        shared.metrics.started.inc();
        shared.metrics.in_flight.inc();
        shared.live.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: shared.clone(),
            place: shared.take_place(most),
            record: Record::new(),
            done: false,
            logged: false,
        }
    }

    /// It ended as it should.
    pub fn done(mut self, target: &dyn Display, carried: Option<Carried>) {
        self.log(OK, Some(target), carried, format_args!("connection ended"));
        self.done = true;
    }

    /// The end of tbot ended it.
    pub fn cut(&mut self, target: &dyn Display, carried: Option<Carried>) {
        let message = format_args!("connection cut, as tbot is stopping");
        self.log(CUT, Some(target), carried, message);
    }

    /// Writes its one line, for an end that is neither of these.
    pub fn log(
        &mut self,
        outcome: &str,
        target: Option<&dyn Display>,
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
        // Whoever sees by the metrics that it has ended finds its place free.
        match self.place {
            Place::Served => self.shared.served.fetch_sub(1, Ordering::SeqCst),
            Place::TurnedAway => self.shared.turned_away.fetch_sub(1, Ordering::SeqCst),
            Place::None => 0,
        };
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

/// One of the streams that nobody waits for any more, until its master has an answer.
pub struct Abandoned {
    shared: Arc<Shared>,
}

impl Abandoned {
    /// One more.
    pub fn of(shared: &Arc<Shared>) -> Self {
        shared.abandoned.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        Self { shared }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.shared.abandoned.fetch_sub(1, Ordering::Relaxed);
    }
}
