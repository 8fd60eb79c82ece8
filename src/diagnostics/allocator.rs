//! What the C library's allocator holds, which the process's memory alone does not tell: whether it
//! is in use, or free and kept.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::{IntGauge, IntGaugeVec, Opts};

use crate::sys::{Allocated, allocated};

/// A look is not repeated for this many times as long as it took, so that it takes at most a
/// thousandth of one core, and of the time of a thread that waits for the allocator meanwhile.
const PAUSE: u32 = 1000;

/// `tbot_allocator_bytes`: what glibc's allocator holds from the system, by `state`. Rust uses it
/// unless a program names another.
///
/// `used` are bytes in use on its heaps, `free` those kept for reuse, `mapped` large blocks mapped
/// one by one. A look costs a few microseconds, but grows with the number of free blocks (100,000
/// take milliseconds, in which the allocator is locked); one that took long is not repeated soon,
/// and the last figures are shown until then.
#[derive(Debug)]
pub struct AllocatorCollector {
    family: IntGaugeVec,
    used: IntGauge,
    free: IntGauge,
    mapped: IntGauge,
    next_look: Mutex<Option<Instant>>,
}

impl AllocatorCollector {
    /// A collector to register.
    pub fn new() -> Self {
        let opts = Opts::new(
            "tbot_allocator_bytes",
            "Bytes that the allocator holds from the system, by state.",
        );
        let family = IntGaugeVec::new(opts, &["state"]).expect("a good name and label");
        let state = |state| family.with_label_values(&[state]);
        Self {
            used: state("used"),
            free: state("free"),
            mapped: state("mapped"),
            family,
            next_look: Mutex::default(),
        }
    }

    fn look(&self) {
        // Nothing panics while it is held.
        let mut next = self
            .next_look
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        if next.is_some_and(|next| begin < next) {
            return;
        }
        let Allocated { used, free, mapped } = allocated();
        *next = Some(begin + begin.elapsed() * PAUSE);
        self.used.set(used as i64);
        self.free.set(free as i64);
        self.mapped.set(mapped as i64);
    }
}

impl Default for AllocatorCollector {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for AllocatorCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.look();
        self.family.collect()
    }
}
