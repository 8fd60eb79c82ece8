//! Connections that are relayed to targets by TCP, against HAProxy: opens, round trips, bulk, memory, and how each
//! grows with those that are open.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::churn::{CLIENTS, repeat};
use crate::common::server::Server;
use crate::cores::{self, Core};
use crate::cost::{Cpu, memory};
use crate::frame::{Of, Report, Unit, Wanted};
use crate::held::PAGE;
use crate::peers::{Proxy, Target};
use crate::targets::{drain, flood, receive, send, start_echo};

/// How long each turn opens new ones.
const TIME: Duration = Duration::from_millis(1000);

/// Bytes of a bulk turn, of all its streams, and how many turns there are for one of the others.
const AMOUNT: usize = 400_000_000;
const TURNS: usize = 2;

/// Round trips, and opens one after the other, of a turn.
const TRIPS: usize = 4000;
const OPENS: usize = 400;

/// What two measurements of the same differ by here.
const FLAT: f64 = 1.25;

const RATE: &str = "relay: connections";
const COST: &str = "relay: CPU of a connection";
/// Of all on one core, and of a proxy on another core than client and target.
const TRIPS_ON: [(Core, &str, &str); 2] = [
    (Core::First, "relay: round trip", "relay: round trip, p99"),
    (
        Core::Last,
        "relay: round trip to another core",
        "relay: round trip to another core, p99",
    ),
];
const LATER: &str = "relay: round trip with the most open, to one";
const SLOWER: &str = "relay: open with the most open, to one";
const BULK: [(&str, Carry, usize); 4] = [
    ("relay: from the target", down, 1),
    ("relay: to the target", up, 1),
    ("relay: from the target, 8 streams", down, 8),
    ("relay: to the target, 8 streams", up, 8),
];

type Carry = fn(&Proxy, usize);

/// All of it.
pub fn measure(plan: &Plan, report: &mut Report) {
    let (flood, drain) = (Server::start(flood), Server::start(drain));
    let targets = [start_echo(), flood.address, drain.address];
    report.say("relayed connections, and HAProxy's");
    let proxies = Proxy::all(targets);
    for _ in 0..plan.rounds {
        for proxy in &proxies {
            churn(proxy, plan, report);
        }
    }
    for _ in 0..plan.rounds * TURNS {
        for (what, carry, streams) in BULK {
            for proxy in &proxies {
                bulk(proxy, plan, report, (what, carry, streams));
            }
        }
    }
    drop(proxies);
    report.say("round trips, and relayed connections that are held open");
    cores::on_the(Core::First, || on_one_core(plan, report));
    rows(&levels(plan), report);
}

/// What chance would decide otherwise.
fn on_one_core(plan: &Plan, report: &mut Report) {
    let targets = [start_echo(); 3];
    for (core, median, late) in TRIPS_ON {
        let proxies = cores::on_the(core, || Proxy::all(targets));
        for _ in 0..plan.rounds {
            for proxy in &proxies {
                let mut all = round_trips(proxy, TRIPS / plan.divisor);
                report.add(median, proxy.name(), Of::Median.take(&mut all));
                report.add(late, proxy.name(), Of::Percentile99.take(&mut all));
            }
        }
    }
    for _ in 0..plan.rounds {
        for proxy in Proxy::both(targets) {
            hold(&proxy, plan, report);
        }
    }
}

/// As many as a tbot can have by the limit of open files here.
fn levels(plan: &Plan) -> Vec<usize> {
    let most = tbot::multiplexer::affordable_connections(1, 0) - 2 * CLIENTS;
    let cut = |level: &usize| (*level).min(most / 100 * 100);
    plan.idle.iter().map(cut).collect()
}

fn rows(levels: &[usize], report: &mut Report) {
    let even = Wanted::Ahead(1.0);
    report.row(RATE, Unit::PerSecond, Of::Median, even);
    report.row(COST, Unit::Seconds, Of::Median, even);
    for (_, median, late) in TRIPS_ON {
        report.row(median, Unit::Seconds, Of::Median, even);
        report.row(late, Unit::Seconds, Of::Median, even);
    }
    for (what, ..) in BULK {
        report.row(what, Unit::BytesPerSecond, Of::Median, Wanted::Ahead(1.5));
    }
    for (what, ..) in BULK {
        report.row(&gigabyte(what), Unit::Seconds, Of::Median, Wanted::Nothing);
    }
    for &level in levels {
        let wanted = match level {
            // Less than can be told from none, on either side.
            1 => Wanted::AtMost(PAGE),
            _ => Wanted::Ahead(1.0 / 0.75),
        };
        report.row(&each(level), Unit::Bytes, Of::Median, wanted);
    }
    for what in [LATER, SLOWER] {
        report.row(what, Unit::Times, Of::Median, Wanted::AtMost(FLAT));
    }
}

/// Connections that come, hear of the target, and go.
fn churn(proxy: &Proxy, plan: &Plan, report: &mut Report) {
    let time = TIME / plan.divisor as u32;
    let processes = Vec::from_iter(proxy.pid());
    let before = Cpu::of(&processes);
    let (took, count) = repeat(time, || drop(open(proxy)));
    report.add(RATE, proxy.name(), count / took);
    let spent = Cpu::of(&processes).since(&before);
    if !processes.is_empty() {
        report.add(COST, proxy.name(), spent / count);
    }
}

fn bulk(
    proxy: &Proxy,
    plan: &Plan,
    report: &mut Report,
    (what, carry, streams): (&str, Carry, usize),
) {
    let each = AMOUNT / plan.divisor / streams;
    let processes = Vec::from_iter(proxy.pid());
    let (before, began) = (Cpu::of(&processes), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| carry(proxy, each));
        }
    });
    let (took, amount) = (began.elapsed().as_secs_f64(), (each * streams) as f64);
    let spent = Cpu::of(&processes).since(&before);
    report.add(what, proxy.name(), amount / took);
    if !processes.is_empty() {
        report.add(&gigabyte(what), proxy.name(), spent * 1e9 / amount);
    }
}

fn down(proxy: &Proxy, amount: usize) {
    receive(proxy.open(Target::Flood), amount);
}

fn up(proxy: &Proxy, amount: usize) {
    send(proxy.open(Target::Drain), amount);
}

/// A fresh proxy's memory, and how fast it is, with more and more connections that do nothing.
fn hold(proxy: &Proxy, plan: &Plan, report: &mut Report) {
    // What is there after the first connections stays.
    (0..100).for_each(|_| drop(open(proxy)));
    let before = memory(proxy.pid());
    let mut held = Vec::new();
    let mut first = None;
    let levels = levels(plan);
    for &level in &levels {
        let missing = level - held.len();
        held.extend((0..missing).map(|_| open(proxy)));
        let each_takes = (memory(proxy.pid()) - before) / level as f64;
        report.add(
            &each(level),
            proxy.name(),
            each_takes.max(PAGE / level as f64),
        );
        let trip = Of::Median.take(&mut round_trips(proxy, TRIPS / plan.divisor));
        let opens = || {
            let began = Instant::now();
            drop(open(proxy));
            began.elapsed().as_secs_f64()
        };
        let mut opens: Vec<f64> = (0..OPENS / plan.divisor).map(|_| opens()).collect();
        let speed = (trip, Of::Median.take(&mut opens));
        let (first_trip, first_open) = *first.get_or_insert(speed);
        if level == levels[levels.len() - 1] {
            report.add(LATER, proxy.name(), speed.0 / first_trip);
            report.add(SLOWER, proxy.name(), speed.1 / first_open);
        }
    }
}

/// A connection over which the target's first byte has come.
fn open(proxy: &Proxy) -> UnixStream {
    let mut stream = proxy.open(Target::Echo);
    let greeted = stream.read_exact(&mut [0]);
    greeted.expect("the target speaks first");
    stream
}

/// How long each took.
fn round_trips(proxy: &Proxy, count: usize) -> Vec<f64> {
    let mut stream = open(proxy);
    let mut piece = [b'x'; 64];
    let trip = |_| {
        let began = Instant::now();
        stream.write_all(&piece).expect("it goes on");
        stream.read_exact(&mut piece).expect("it comes back");
        began.elapsed().as_secs_f64()
    };
    (0..count).map(trip).collect()
}

fn each(level: usize) -> String {
    format!("relay: memory of an idle connection, {level} open")
}

fn gigabyte(what: &str) -> String {
    format!("{what}, CPU of a GB")
}
