//! The diagnostics service against one in Go: answers a second, how soon they come, what they cost, the start, memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;

use crate::Plan;
use crate::common::process::Process;
use crate::common::procfs;
use crate::common::tbot::Start;
use crate::cost::Cpu;
use crate::frame::{OURS, Of, Report, Unit, Wanted};
use crate::load::{Load, fresh, is_complete, kept, request};
use crate::peers::{build_go, free_address, start_go};

const GO: &str = "Go";

/// Connections at once.
const CLIENTS: usize = 16;

/// Of a turn.
const TIME: Duration = Duration::from_millis(1500);

const START: &str = "start to first answer";
const FRESH_MEMORY: &str = "resident memory at start";
const LOADED_MEMORY: &str = "resident memory after load";

type Turn = fn(SocketAddr, &str, usize, Duration) -> Load;

/// What is asked for: what it is called, path, header lines, on which connections, how far ahead we want to be.
const KINDS: [(&str, &str, &str, Turn, f64); 5] = [
    ("/livez", "/livez", "", kept, 1.2),
    (
        "/livez, a connection each",
        "/livez",
        "Connection: close\r\n",
        fresh,
        1.2,
    ),
    ("/metrics", "/metrics", "", kept, 4.0),
    (
        "/metrics, gzip",
        "/metrics",
        "Accept-Encoding: gzip\r\n",
        kept,
        4.0,
    ),
    (
        "/metrics, gzip, a connection each",
        "/metrics",
        "Accept-Encoding: gzip\r\nConnection: close\r\n",
        fresh,
        4.0,
    ),
];

/// All of it.
pub fn measure(plan: &Plan, report: &mut Report) {
    report.say("the diagnostics, and a service in Go");
    let program = build_go();
    let directory = TempDir::new().expect("a directory for temporary files");
    let tbot = crate::chosen(Start::multiplexer()).start();
    // Until they are all there: those of a status code come with its first answer.
    tbot.metrics();
    let (go, address) = start_go(&program, &directory, &tbot.metrics());
    let services = [(OURS, tbot.address(), tbot.pid()), (GO, address, go.pid())];
    for (name, path, headers, turn, _) in KINDS {
        for _ in 0..plan.rounds {
            for (service, address, pid) in services {
                let request = request(address, path, headers);
                let before = Cpu::of(&[pid]);
                let load = turn(address, &request, CLIENTS, TIME / plan.divisor as u32);
                let spent = Cpu::of(&[pid]).since(&before);
                report.add(&rate(name), service, load.rate);
                report.add(&late(name), service, load.p99);
                report.add(&cost(name), service, spent / load.count);
            }
        }
    }
    let memory = |report: &mut Report, what, name, pid: Pid| {
        report.add(what, name, procfs::memory(pid).0 as f64);
    };
    for (name, _, pid) in services {
        memory(report, LOADED_MEMORY, name, pid);
    }
    for _ in 0..40 / plan.divisor {
        let address = free_address();
        let (took, process) = start(&mut ours(&directory, address), address);
        report.add(START, OURS, took);
        memory(report, FRESH_MEMORY, OURS, process.pid());
        let address = free_address();
        let mut go = Command::new(&program);
        let (took, process) = start(go.args(["-address", &address.to_string()]), address);
        report.add(START, GO, took);
        memory(report, FRESH_MEMORY, GO, process.pid());
    }
    for (name, .., goal) in KINDS {
        let rate = rate(name);
        report.row(&rate, Unit::PerSecond, Of::Median, Wanted::Ahead(goal));
    }
    for (name, ..) in KINDS {
        report.row(&late(name), Unit::Seconds, Of::Median, Wanted::Ahead(1.0));
    }
    for (name, .., goal) in KINDS {
        report.row(&cost(name), Unit::Seconds, Of::Median, Wanted::Ahead(goal));
    }
    report.row(START, Unit::Seconds, Of::Median, Wanted::Ahead(2.0));
    for what in [FRESH_MEMORY, LOADED_MEMORY] {
        report.row(what, Unit::Bytes, Of::Median, Wanted::Ahead(3.0));
    }
}

fn ours(directory: &TempDir, address: SocketAddr) -> Command {
    let mut tbot = Command::new(crate::program());
    tbot.args(["start", "ssh-multiplexer", "--diag-addr"])
        .arg(address.to_string())
        .arg("--destination")
        .arg(directory.path().join("mux"));
    tbot
}

/// From before the process until it has answered.
fn start(command: &mut Command, address: SocketAddr) -> (f64, Process) {
    let request = request(address, "/livez", "Connection: close\r\n");
    let began = Instant::now();
    let process = Process::spawn(command);
    let mut answer = Vec::new();
    while !is_complete(&answer) {
        assert!(began.elapsed().as_secs() < 60, "no answer at {address}");
        let Ok(mut stream) = TcpStream::connect(address) else {
            // Often enough to see a millisecond, without a core of its own.
            std::thread::sleep(Duration::from_micros(100));
            continue;
        };
        stream.write_all(request.as_bytes()).expect("it is read");
        stream.read_to_end(&mut answer).expect("it is answered");
    }
    (began.elapsed().as_secs_f64(), process)
}

fn rate(name: &str) -> String {
    format!("{name}, answers a second")
}

fn late(name: &str) -> String {
    format!("{name}, p99")
}

fn cost(name: &str) -> String {
    format!("{name}, CPU of an answer")
}
