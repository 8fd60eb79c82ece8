//! How fast one stream carries much, each way.

use std::time::Instant;

use crate::Plan;
use crate::cost::Cpu;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::Way;

const DOWN: &str = "bulk from the target";
const UP: &str = "bulk to the target";

/// Bytes of a turn, and how many turns there are for one of the others: what else this machine does comes and
/// goes within a second, and short turns meet it alike.
const AMOUNT: usize = 60_000_000;
const TURNS: usize = 4;

/// The least of a bare master's throughput.
const KEPT: f64 = 0.95;

/// The throughput of a turn, and the CPU time of a gigabyte.
pub fn measure(ways: &[&dyn Way], stage: &Stage, plan: &Plan, report: &mut Report) {
    report.say("bulk");
    for _ in 0..plan.rounds * TURNS / plan.divisor.min(2) {
        for (what, carry) in [(DOWN, down as Carry), (UP, up)] {
            for way in ways {
                let processes = way.processes();
                let before = Cpu::of(&processes);
                let seconds = carry(*way, stage, AMOUNT);
                let spent = Cpu::of(&processes).since(&before);
                report.add(what, way.name(), AMOUNT as f64 / seconds);
                report.add(&cost(what), way.name(), spent * 1e9 / AMOUNT as f64);
            }
        }
    }
    for what in [DOWN, UP] {
        report.row(what, Unit::BytesPerSecond, Of::Median, Wanted::Ahead(KEPT));
    }
    for what in [DOWN, UP] {
        report.row(&cost(what), Unit::Seconds, Of::Median, Wanted::Nothing);
    }
}

type Carry = fn(&dyn Way, &Stage, usize) -> f64;

fn cost(what: &str) -> String {
    format!("CPU per GB, {what}")
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
