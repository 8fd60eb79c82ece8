//! Instructions of tbot's own for what it does most, counted by callgrind: whatever else a machine does, they are
//! nearly the same. Those of the kernel are not among them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::Plan;
use crate::common::http;
use crate::common::server::Server;
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::dial;
use crate::frame::{OURS, Of, Report, Unit, Wanted};
use crate::load::{is_complete, request};
use crate::targets::{drain, flood, receive, send, start_echo};

const MIB: usize = 1 << 20;

/// Does something so many times.
type Work<'w> = &'w dyn Fn(&Tbot, usize);

/// What one of each takes.
pub fn measure(plan: &Plan, report: &mut Report) {
    let (echo, flood, drain) = (start_echo(), Server::start(flood), Server::start(drain));
    let livez = |tbot: &Tbot, count| ask(tbot, "/livez", "", count);
    let fresh = |tbot: &Tbot, count| {
        (0..count).for_each(|_| drop(http::get(tbot.address(), "/livez")));
    };
    let metrics = |tbot: &Tbot, count| ask(tbot, "/metrics", "", count);
    let packed = |tbot: &Tbot, count| ask(tbot, "/metrics", "Accept-Encoding: gzip\r\n", count);
    let open = |tbot: &Tbot, count| (0..count).for_each(|_| greet(tbot, echo));
    let down = |tbot: &Tbot, count| receive(dial(tbot, flood.address), count * MIB);
    let up = |tbot: &Tbot, count| send(dial(tbot, drain.address), count * MIB);
    let kinds: [(&str, Work<'_>, usize); 7] = [
        ("a /livez", &livez, 1000),
        ("a /livez, a connection each", &fresh, 300),
        ("a /metrics", &metrics, 100),
        ("a /metrics, gzip", &packed, 100),
        ("a relayed connection, open to end", &open, 300),
        ("a MiB from the target", &down, 20),
        ("a MiB to the target", &up, 20),
    ];
    report.say("instructions");
    for (what, work, count) in kinds {
        let count = (count / plan.divisor).max(4);
        let what = format!("instructions for {what}");
        // What comes before and behind is in both.
        let (few, many) = (counted(work, count), counted(work, 3 * count));
        report.add(&what, OURS, (many - few) / (2 * count) as f64);
        report.row(&what, Unit::Count, Of::Median, Wanted::Nothing);
    }
}

/// All instructions of a tbot from start to end.
fn counted(work: Work<'_>, count: usize) -> f64 {
    let directory = TempDir::new().expect("a directory for temporary files");
    let path = directory.path().join("callgrind.out");
    let out = format!("--callgrind-out-file={}", path.display());
    let start = Start::multiplexer().through(&["valgrind", "--tool=callgrind", &out]);
    // Not another build: see the Makefile.
    let mut tbot = start.start();
    work(&tbot, count);
    tbot.signal(Signal::TERM);
    let status = tbot.exit();
    assert!(status.success(), "tbot by callgrind: {status}");
    let text = fs::read_to_string(&path).expect("callgrind writes it at the end");
    let total = text.lines().find_map(|line| line.strip_prefix("summary: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.expect("callgrind-format(5) has a summary")
}

/// On one connection.
fn ask(tbot: &Tbot, path: &str, headers: &str, count: usize) {
    let request = request(tbot.address(), path, headers);
    let mut stream = TcpStream::connect(tbot.address()).expect("it accepts");
    let mut answer = vec![0; 256 << 10];
    for _ in 0..count {
        stream.write_all(request.as_bytes()).expect("it is read");
        let mut length = 0;
        while !is_complete(&answer[..length]) {
            length += stream.read(&mut answer[length..]).expect("it is answered");
        }
    }
}

fn greet(tbot: &Tbot, target: SocketAddr) {
    let mut stream = dial(tbot, target);
    let greeted = stream.read_exact(&mut [0]);
    greeted.expect("the target speaks first");
}
