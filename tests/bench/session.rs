//! How long a whole `ssh host true` takes, with all its processes.

use std::time::Instant;

use crate::Plan;
use crate::common::process::succeed;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::ways::Way;

const WHAT: &str = "ssh host true";

/// Every session, the ways one after the other.
pub fn measure(ways: &[&dyn Way], plan: &Plan, report: &mut Report) {
    report.say("whole sessions");
    for _ in 0..(40 / plan.divisor) {
        for way in ways {
            let mut ssh = way.ssh();
            let began = Instant::now();
            succeed(ssh.arg("true"));
            report.add(WHAT, way.name(), began.elapsed().as_secs_f64());
        }
    }
    report.row(WHAT, Unit::Seconds, Of::Median, Wanted::Ahead(1.0));
    report.row(WHAT, Unit::Seconds, Of::Percentile99, Wanted::Nothing);
}
