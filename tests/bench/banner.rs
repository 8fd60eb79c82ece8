//! How soon a real SSH server's greeting is there when the client has sent its own at once, as ssh does.

use std::time::Instant;

use crate::Plan;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::Way;

const WHAT: &str = "ssh's greeting";

/// Every exchange of a turn.
pub fn measure(ways: &[&dyn Way], stage: &Stage, plan: &Plan, report: &mut Report) {
    report.say("ssh's greeting");
    for _ in 0..plan.rounds {
        for way in ways {
            let turns = match way.processes().is_empty() {
                true => 5,
                false => 60,
            };
            for _ in 0..(turns / plan.divisor).max(1) {
                let began = Instant::now();
                let mut stream = way.open(stage.sshd(), b"SSH-2.0-bench\r\n");
                stream.first_byte();
                report.add(WHAT, way.name(), began.elapsed().as_secs_f64());
            }
        }
    }
    report.row(WHAT, Unit::Seconds, Of::Median, Wanted::Ahead(1.0));
    report.row(WHAT, Unit::Seconds, Of::Percentile99, Wanted::Ahead(2.0));
}
