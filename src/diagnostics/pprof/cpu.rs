//! CPU profiles: what ran, sampled over some seconds.

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use super::capture::{Sampling, ThreadName};
use super::modules::modules;

/// How often samples are fetched and the client is looked for. The room for samples lasts longer.
const TICK: Duration = Duration::from_millis(20);

/// Different stacks in a profile; further ones are only counted. Some ten megabytes.
const MAX_STACKS: usize = 20_000;

/// What was sampled.
pub(super) struct CpuProfile {
    pub start: SystemTime,
    pub duration: Duration,
    /// CPU time between two samples, as asked for.
    pub period: Duration,
    /// CPU time that was used: more than the samples have periods, where several threads run and the
    /// kernel's ticks are too few for all that are due.
    pub used: Duration,
    /// How often each thread was met with each stack (leaf first).
    pub stacks: HashMap<(ThreadName, Box<[u64]>), u64>,
    /// Samples without a place in `stacks`.
    pub lost: u64,
}

impl CpuProfile {
    /// The CPU time that a sample stands for, in nanoseconds.
    pub fn each(&self) -> f64 {
        let samples = self.stacks.values().sum::<u64>() + self.lost;
        self.used.as_nanos() as f64 / samples.max(1) as f64
    }
}

/// Why there is no profile.
pub(super) enum NoProfile {
    /// One is being taken already.
    Busy,
    /// Whom it was for has gone.
    Gone,
    /// The system refused.
    System(io::Error),
}

/// Samples this process `frequency` times for each second of CPU time it uses, for `length`, or until
/// `is_wanted` says no, which is asked every 20 ms.
pub(super) fn record(
    length: Duration,
    frequency: u32,
    is_wanted: impl Fn() -> bool,
) -> Result<CpuProfile, NoProfile> {
    let period = Duration::from_secs(1) / frequency;
    // What is loaded is looked up before anything is timed.
    drop(modules());
    let sampling = Sampling::start(period).map_err(NoProfile::System)?;
    let sampling = sampling.ok_or(NoProfile::Busy)?;
    let (start, begin, used) = (SystemTime::now(), Instant::now(), cpu_time());
    let mut stacks = HashMap::new();
    let (mut stack, mut lost) = (Vec::new(), 0);
    loop {
        let left = length.saturating_sub(begin.elapsed());
        thread::sleep(TICK.min(left));
        let mut modules = modules();
        sampling.take(|capture| {
            modules.unwind(capture, &mut stack);
            let key = (capture.name, stack.as_slice().into());
            if stacks.len() < MAX_STACKS || stacks.contains_key(&key) {
                *stacks.entry(key).or_default() += 1;
            } else {
                lost += 1;
            }
        });
        drop(modules);
        if !is_wanted() {
            return Err(NoProfile::Gone);
        }
        if left <= TICK {
            break;
        }
    }
    Ok(CpuProfile {
        start,
        duration: begin.elapsed(),
        period,
        used: cpu_time().saturating_sub(used),
        lost: lost + sampling.lost(),
        stacks,
    })
}

/// What this process has used.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
