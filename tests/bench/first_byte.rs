//! How soon the first byte of a target that speaks first is there, one stream after another.

use std::time::Instant;

use crate::Plan;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::Way;

/// No dearer: what two measurements of the same differ by here.
const FLAT: f64 = 1.25;

/// The mean of a turn, while `level` streams are open.
pub fn measure(ways: &[&dyn Way], level: usize, stage: &Stage, plan: &Plan, report: &mut Report) {
    let what = what(level);
    for _ in 0..plan.rounds {
        for way in ways {
            // About a second each.
            let turns = match way.name() {
                "tbot" => 200,
                "ssh -W" => 30,
                _ => 5,
            };
            let turns = (turns / plan.divisor).max(2);
            let mut sum = 0.0;
            for _ in 0..turns {
                let began = Instant::now();
                let mut stream = way.open(stage.greeting(), b"");
                stream.first_byte();
                let took = began.elapsed().as_secs_f64();
                sum += took;
                report.add(&each(level), way.name(), took);
            }
            report.add(&what, way.name(), sum / turns as f64);
        }
    }
}

/// The rows of the table, and whether many open streams make the next one dearer.
pub fn rows(plan: &Plan, report: &mut Report) {
    for &level in plan.levels {
        report.row(&what(level), Unit::Seconds, Of::Median, Wanted::Ahead(10.0));
    }
    for &level in plan.levels {
        let each = each(level);
        report.row(&each, Unit::Seconds, Of::Percentile99, Wanted::Ahead(1.0));
    }
    let (few, many) = (plan.levels[0], plan.levels[plan.levels.len() - 1]);
    let growth = format!("first byte with {many} open / with {few}");
    for name in report.names() {
        let of = |level| report.value(&each(level), name, Of::Median);
        if let (Some(few), Some(many)) = (of(few), of(many)) {
            report.add(&growth, name, many / few);
        }
    }
    report.row(&growth, Unit::Times, Of::Median, Wanted::AtMost(FLAT));
}

fn what(level: usize) -> String {
    format!("first byte, mean, {level} open")
}

fn each(level: usize) -> String {
    format!("first byte, {level} open")
}
