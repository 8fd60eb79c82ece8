//! How many streams come and go in a second, some at once, and what CPU time each costs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Plan;
use crate::cost::Cpu;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::Way;

/// Clients at once.
pub const CLIENTS: usize = 8;

/// How long each turn opens new ones. A login each takes longer.
const TIME: Duration = Duration::from_millis(1000);
const TIME_OF_LOGINS: Duration = Duration::from_millis(2500);

/// The rate and the cost of a turn, while `level` streams are open.
pub fn measure(ways: &[&dyn Way], level: usize, stage: &Stage, plan: &Plan, report: &mut Report) {
    for _ in 0..plan.rounds {
        for way in ways {
            let processes = way.processes();
            let time = match processes.is_empty() {
                true => TIME_OF_LOGINS,
                false => TIME,
            };
            let time = time / plan.divisor as u32;
            let before = Cpu::of(&processes);
            let (took, count) = repeat(time, || {
                way.open(stage.greeting(), b"").first_byte();
            });
            let spent = Cpu::of(&way.processes()).since(&before);
            report.add(&rate(level), way.name(), count / took);
            report.add(&cost(level), way.name(), spent / count);
        }
    }
}

/// Has all clients do the same over and over for so long; gives the seconds it took, and how often they did.
pub fn repeat(time: Duration, work: impl Fn() + Sync) -> (f64, f64) {
    let (began, count) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while began.elapsed() < time {
                    work();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (began.elapsed().as_secs_f64(), count.into_inner() as f64)
}

/// The rows of the table.
pub fn rows(plan: &Plan, report: &mut Report) {
    for &level in plan.levels {
        report.row(
            &rate(level),
            Unit::PerSecond,
            Of::Median,
            Wanted::Ahead(1.0),
        );
    }
    for &level in plan.levels {
        report.row(&cost(level), Unit::Seconds, Of::Median, Wanted::Ahead(1.0));
    }
}

fn rate(level: usize) -> String {
    format!("connections, {level} open")
}

fn cost(level: usize) -> String {
    format!("CPU per connection, {level} open")
}
