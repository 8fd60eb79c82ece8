//! How fast one stream carries much, each way.

use std::time::Instant;

use crate::Plan;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::Way;

const DOWN: &str = "bulk from the target";
const UP: &str = "bulk to the target";

/// Bytes of a turn.
const AMOUNT: usize = 300_000_000;

/// The least of a bare master's throughput.
const KEPT: f64 = 0.95;

/// The throughput of a turn.
pub fn measure(ways: &[&dyn Way], stage: &Stage, plan: &Plan, report: &mut Report) {
    let amount = AMOUNT / plan.divisor;
    for _ in 0..plan.rounds {
        for way in ways {
            report.add(DOWN, way.name(), amount as f64 / down(*way, stage, amount));
        }
        for way in ways {
            report.add(UP, way.name(), amount as f64 / up(*way, stage, amount));
        }
    }
}

/// Seconds.
fn down(way: &dyn Way, stage: &Stage, amount: usize) -> f64 {
    let mut stream = way.open(stage.flood(), &(amount as u64).to_le_bytes());
    let mut piece = vec![0; 64 << 10];
    stream.first_byte();
    let (began, mut left) = (Instant::now(), amount - 1);
    while left > 0 {
        let some = stream.reader.read(&mut piece).expect("it goes on");
        assert!(some > 0, "it ended with {left} bytes to come");
        left -= some;
    }
    began.elapsed().as_secs_f64()
}

/// Seconds.
fn up(way: &dyn Way, stage: &Stage, amount: usize) -> f64 {
    let mut stream = way.open(stage.drain(), &(amount as u64).to_le_bytes());
    let piece = vec![b'x'; 64 << 10];
    let (began, mut left) = (Instant::now(), amount);
    while left > 0 {
        let some = left.min(piece.len());
        stream.writer.write_all(&piece[..some]).expect("it goes on");
        left -= some;
    }
    stream.first_byte();
    began.elapsed().as_secs_f64()
}

/// The rows of the table.
pub fn rows(report: &mut Report) {
    for what in [DOWN, UP] {
        report.row(what, Unit::BytesPerSecond, Of::Median, Wanted::Ahead(KEPT));
    }
}
