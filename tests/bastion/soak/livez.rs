//! `/livez`, asked all the time.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two questions.
const EACH: Duration = Duration::from_millis(50);

/// For an answer, of tbot's time.
const PROMISED: Duration = Duration::from_millis(100);

/// Asks until it is ended, and watches how long this machine keeps a thread waiting that wants to run.
pub struct Livez {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<Vec<Asked>>,
    watches: JoinHandle<Vec<Stall>>,
}

/// When, and for how long it took.
struct Asked(Instant, Duration);

/// When a thread was due, and for how long it was not let run.
struct Stall(Instant, Duration);

impl Livez {
    pub fn watch(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (asking, watching) = (stop.clone(), stop.clone());
        Self {
            stop,
            asks: std::thread::spawn(move || ask_until(&asking, address)),
            watches: std::thread::spawn(move || watch_until(&watching)),
        }
    }

    pub fn end(self) -> Waits {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.asks.join().expect("every question was answered");
        let stalls = self.watches.join().expect("it only sleeps");
        let mut waits: Vec<[Duration; 2]> = asked
            .iter()
            .map(|Asked(when, took)| {
                let end = *when + *took;
                let meanwhile = stalls
                    .iter()
                    .filter(|Stall(due, _)| (*when..end).contains(due));
                let stalled: Duration = meanwhile.map(|Stall(_, late)| *late).sum();
                [*took, took.saturating_sub(stalled)]
            })
            .collect();
        waits.sort();
        Waits(waits)
    }
}

fn ask_until(stop: &AtomicBool, address: SocketAddr) -> Vec<Asked> {
    let mut asked = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        ask(address).unwrap_or_else(|error| panic!("/livez after {:?}: {error}", begin.elapsed()));
        asked.push(Asked(begin, begin.elapsed()));
        std::thread::sleep(EACH.saturating_sub(begin.elapsed()));
    }
    asked
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

fn watch_until(stop: &AtomicBool) -> Vec<Stall> {
    const STEP: Duration = Duration::from_millis(2);
    let mut stalls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now() + STEP;
        std::thread::sleep(STEP);
        let late = due.elapsed();
        if late > STEP {
            stalls.push(Stall(due, late));
        }
    }
    stalls
}

/// How long each took: by the clock, and without the machine's stalls; the longest last.
pub struct Waits(Vec<[Duration; 2]>);

impl Waits {
    fn longest(&self) -> Duration {
        self.0.iter().map(|[_, own]| *own).max().unwrap_or_default()
    }

    pub fn were_short(&self) {
        let longest = self.longest();
        assert!(longest <= PROMISED, "/livez took {longest:?}");
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = |part: usize| self.0[self.0.len() * part / 1000][0];
        write!(
            f,
            "/livez {} times: median {:.1?}, 99 % within {:.1?}, 99.9 % within {:.1?}, the longest {:.1?}, and {:.1?} \
             without this machine's stalls",
            self.0.len(),
            raw(500),
            raw(990),
            raw(999),
            self.0.last().map_or(Duration::ZERO, |last| last[0]),
            self.longest()
        )
    }
}
