//! tbot and those who do the same, side by side on this machine: `make bench`.
//!
//! The diagnostics are measured against a service in Go, relayed connections against HAProxy, streams through a
//! bastion against OpenSSH alone. Everybody has the same clients and targets, and they take turns, so that what
//! else this machine does meets all of them; the table shows the median of the turns, and by how much tbot is
//! ahead. A file below `target/bench` keeps every figure. With BENCH_QUICK=1 in the environment there are
//! few and short turns: whether it works, rather than how well. BENCH_PROGRAM is the build of tbot that is measured, and
//! `cargo bench --bench peers -- bulk` measures one thing alone, or several: diagnostics, relay, instructions,
//! streams, banner, session, bulk.

mod banner;
mod bulk;
mod churn;
#[path = "../common/mod.rs"]
mod common;
mod cores;
mod cost;
mod diagnostics;
mod first_byte;
mod frame;
mod held;
mod instructions;
mod load;
mod peers;
mod relay;
mod session;
mod stage;
mod targets;
mod ways;

use std::path::PathBuf;

use common::tbot::Start;
use frame::Report;
use held::Held;
use stage::Stage;
use ways::Way;

/// How long and how often.
pub struct Plan {
    /// Streams that are held open while others come and go.
    levels: &'static [usize],
    /// Relayed connections that do nothing, the fewest first.
    idle: &'static [usize],
    /// The most that are held by a login each: a hundred take half a minute of this machine.
    most_logins: usize,
    /// Turns of each way.
    rounds: usize,
    /// By this much less is measured in a turn.
    divisor: usize,
}

const FULL: Plan = Plan {
    levels: &[1, 100, 1000],
    idle: &[1, 1000, 8000],
    most_logins: 100,
    rounds: 5,
    divisor: 1,
};

const QUICK: Plan = Plan {
    levels: &[1, 100],
    idle: &[1, 1000],
    most_logins: 1,
    rounds: 2,
    divisor: 5,
};

fn main() {
    let is_quick = std::env::var_os("BENCH_QUICK").is_some_and(|value| value == "1");
    let plan = if is_quick { QUICK } else { FULL };
    raise_descriptor_limit();
    let mut report = Report::begin();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let chosen: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|word| *word == name);
    if is_chosen("diagnostics") {
        diagnostics::measure(&plan, &mut report);
    }
    if is_chosen("relay") {
        relay::measure(&plan, &mut report);
    }
    if is_chosen("instructions") {
        instructions::measure(&plan, &mut report);
    }
    if ["streams", "banner", "session", "bulk"]
        .into_iter()
        .any(is_chosen)
    {
        let stage = Stage::set_up();
        let ways = stage.ways();
        let ways: Vec<&dyn Way> = ways.iter().map(|way| &**way).collect();
        if is_chosen("streams") {
            streams(&ways, &stage, &plan, &mut report);
        }
        if is_chosen("banner") {
            banner::measure(&ways, &stage, &plan, &mut report);
        }
        if is_chosen("session") {
            session::measure(&ways, &plan, &mut report);
        }
        if is_chosen("bulk") {
            bulk::measure(&ways[..2], &stage, &plan, &mut report);
        }
    }
    report.end();
}

/// The program that is measured.
fn program() -> PathBuf {
    let other = std::env::var_os("BENCH_PROGRAM");
    other.map_or(env!("CARGO_BIN_EXE_tbot").into(), PathBuf::from)
}

/// With that program.
fn chosen(start: Start) -> Start {
    start.program(program())
}

/// As far as thousands of connections need it: two descriptors each here, and two or three in those who relay
/// them. Only root may raise the hard limit.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const ENOUGH: u64 = 65536;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < ENOUGH) {
        (limit.current, limit.maximum) = (Some(ENOUGH), Some(ENOUGH));
        setrlimit(Resource::Nofile, limit).ok();
    }
    common::raise_descriptor_limit();
}

/// What depends on how many are open.
fn streams(ways: &[&dyn Way], stage: &Stage, plan: &Plan, report: &mut Report) {
    let mut held: Vec<Held> = ways.iter().map(|way| Held::by(*way)).collect();
    for &level in plan.levels {
        report.say(&format!("with {level} open"));
        for held in &mut held {
            held.grow(level, stage, plan, report);
        }
        let able = held.iter().filter(|held| held.count() == level);
        let able: Vec<&dyn Way> = able.map(|held| held.way).collect();
        first_byte::measure(&able, level, stage, plan, report);
        churn::measure(&able, level, stage, plan, report);
    }
    report.say("with the most open, and with one");
    let fresh = stage.ways();
    let fresh: Vec<&dyn Way> = fresh.iter().map(|way| &**way).collect();
    // A login each has nothing that could grow.
    let (fresh, many) = (&fresh[..2], &ways[..2]);
    let ones: Vec<_> = fresh
        .iter()
        .map(|way| way.open(stage.greeting(), b""))
        .collect();
    first_byte::compare(fresh, many, stage, plan, report);
    drop(ones);
    first_byte::rows(plan, report);
    churn::rows(plan, report);
    held::rows(plan, report);
}
