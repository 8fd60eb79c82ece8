//! Which core a process runs on.
//!
//! A round trip wakes four threads one after the other. On one core that takes 13 µs here, across cores 55 to 200, and
//! where the kernel puts threads of different programs is chance: of ten connections in a row by HAProxy eight had
//! the one, two the other, on an idle machine. So who is measured by single bytes shares one core with its client and
//! target, or has another one, but neither by chance.

use std::sync::OnceLock;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Those that there are, as the first caller has them.
static ALL: OnceLock<CpuSet> = OnceLock::new();

/// Runs `what` on one core only, the first or the last one that there is, with the threads and processes it starts.
pub fn on_the<T>(which: Core, what: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None::<Pid>).expect("a running thread");
    let all = ALL.get_or_init(|| before);
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    let core = match which {
        Core::First => cores.next(),
        Core::Last => cores.next_back(),
    };
    let mut one = CpuSet::new();
    one.set(core.expect("this thread runs on one"));
    sched_setaffinity(None, &one).expect("it is one of those");
    let result = what();
    sched_setaffinity(None, &before).expect("it was so before");
    result
}

/// Which core.
#[derive(Clone, Copy)]
pub enum Core {
    First,
    Last,
}
