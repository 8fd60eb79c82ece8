//! How soon the first byte of a target that speaks first is there, one stream after another.

use std::time::Instant;

use crate::Plan;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::Way;

const GROWTH: &str = "first byte with the most open, to one";

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
                let took = once(*way, stage);
                sum += took;
                report.add(&each(level), way.name(), took);
            }
            report.add(&what, way.name(), sum / turns as f64);
        }
    }
}

/// The rows of the table.
pub fn rows(plan: &Plan, report: &mut Report) {
    for &level in plan.levels {
        report.row(&what(level), Unit::Seconds, Of::Median, Wanted::Ahead(10.0));
    }
    for &level in plan.levels {
        let each = each(level);
        report.row(&each, Unit::Seconds, Of::Percentile99, Wanted::Ahead(1.0));
    }
    report.row(GROWTH, Unit::Times, Of::Median, Wanted::AtMost(FLAT));
}

/// How much dearer the next stream is for those who have many open than for those who have few: in turns, as
/// what is measured at different times differs by what else this machine does.
pub fn compare(
    few: &[&dyn Way],
    many: &[&dyn Way],
    stage: &Stage,
    plan: &Plan,
    report: &mut Report,
) {
    for _ in 0..plan.rounds * 4 {
        for (few, many) in few.iter().zip(many) {
            let turns = match few.name() {
                "tbot" => 60,
                _ => 10,
            };
            let took = |way: &&dyn Way| {
                let mut turns: Vec<f64> = (0..turns).map(|_| once(*way, stage)).collect();
                Of::Median.take(&mut turns)
            };
            let before = took(few);
            report.add(GROWTH, few.name(), took(many) / before);
        }
    }
}

fn once(way: &dyn Way, stage: &Stage) -> f64 {
    let began = Instant::now();
    let mut stream = way.open(stage.greeting(), b"");
    stream.first_byte();
    // Its end does not count.
    began.elapsed().as_secs_f64()
}

fn what(level: usize) -> String {
    format!("first byte, mean, {level} open")
}

fn each(level: usize) -> String {
    format!("first byte, {level} open")
}
