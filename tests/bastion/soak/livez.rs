//! `/livez`, asked all the time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::common::tbot::Tbot;

/// Between two questions.
const EACH: Duration = Duration::from_millis(50);

/// For an answer, of tbot's time.
const PROMISED: Duration = Duration::from_millis(100);

/// Asks until it is ended.
pub struct Livez {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<Vec<Wait>>,
}

impl Livez {
    pub fn watch(tbot: &Tbot, began: Instant) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (asking, address, pid) = (stop.clone(), tbot.address(), tbot.pid());
        Self {
            stop,
            asks: std::thread::spawn(move || ask_until(&asking, address, pid, began)),
        }
    }

    pub fn end(self) -> Waits {
        self.stop.store(true, Ordering::Relaxed);
        let mut waits = self.asks.join().expect("every question was answered");
        waits.sort_by_key(|wait| (wait.own, wait.took));
        Waits(waits)
    }
}

fn ask_until(stop: &AtomicBool, address: SocketAddr, pid: Pid, began: Instant) -> Vec<Wait> {
    let mut waits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (before, begin) = (Queued::now(pid), Instant::now());
        ask(address).unwrap_or_else(|error| panic!("/livez after {:?}: {error}", begin.elapsed()));
        let took = begin.elapsed();
        let queued = Queued::now(pid).since(&before);
        waits.push(Wait {
            took,
            own: took.saturating_sub(queued),
            when: begin - began,
        });
        std::thread::sleep(EACH.saturating_sub(begin.elapsed()));
    }
    waits
}

/// For how long threads have waited for a processor: ours, and by their numbers those of tbot's diagnostics.
struct Queued(Duration, HashMap<OsString, (bool, Duration)>);

impl Queued {
    fn now(pid: Pid) -> Self {
        let tasks = format!("/proc/{}/task", pid.as_raw_pid());
        let tasks = fs::read_dir(tasks).expect("it runs");
        let of = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let is_worker = name.starts_with("diag-worker");
            let is_meant = is_worker || name.starts_with("diag-accept");
            is_meant.then_some((task.file_name(), (is_worker, queued(&task.path())?)))
        };
        let all = tasks.filter_map(|task| of(task.ok()?)).collect();
        Self(
            queued(Path::new("/proc/thread-self")).unwrap_or_default(),
            all,
        )
    }

    /// Of the three that an answer takes: who asks, who accepts, and a worker, of which it is not known which.
    fn since(&self, before: &Self) -> Duration {
        let longest = |workers: bool| {
            let of = self
                .1
                .iter()
                .filter(|(_, (is_worker, _))| *is_worker == workers);
            let since = of.map(|(thread, (_, queued))| {
                let earlier = before
                    .1
                    .get(thread)
                    .map_or(Duration::ZERO, |(_, queued)| *queued);
                queued.saturating_sub(earlier)
            });
            since.max().unwrap_or_default()
        };
        self.0.saturating_sub(before.0) + longest(false) + longest(true)
    }
}

/// The second number of its `schedstat` (proc(5)), where the kernel has it.
fn queued(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    let nanoseconds = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// From a new connection to its end.
fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK") {
        true => Ok(()),
        false => Err(std::io::Error::other(answer)),
    }
}

/// For one answer.
struct Wait {
    took: Duration,
    /// Without what threads waited for a processor.
    own: Duration,
    /// Since the begin of all.
    when: Duration,
}

/// All, those last that tbot itself took the longest for.
pub struct Waits(Vec<Wait>);

impl Waits {
    pub fn were_short(&self) {
        let longest = self.0.last().expect("it was asked").own;
        assert!(longest <= PROMISED, "/livez took {longest:?}");
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wait in self.0.iter().rev().take(5) {
            let Wait { took, own, when } = wait;
            let when = when.as_secs_f64();
            writeln!(
                f,
                "/livez at {when:.1} s: {took:.1?}, {own:.1?} of them its own"
            )?;
        }
        let mut took: Vec<Duration> = self.0.iter().map(|wait| wait.took).collect();
        took.sort();
        let within = |part: usize| took[(took.len() * part / 1000).min(took.len() - 1)];
        write!(
            f,
            "/livez {} times: median {:.1?}, 99 % within {:.1?}, 99.9 % within {:.1?}, the longest {:.1?}",
            took.len(),
            within(500),
            within(990),
            within(999),
            within(1000)
        )
    }
}
