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
    began: Instant,
    stop: Arc<AtomicBool>,
    asks: JoinHandle<Vec<Asked>>,
    watches: [JoinHandle<Vec<Stall>>; PARTIES],
}

/// The client, who accepts and who answers each have to be let run, and so that many are watched.
const PARTIES: usize = 3;

/// When, and for how long it took.
struct Asked(Instant, Duration);

/// When a thread was due, and for how long it was not let run.
struct Stall(Instant, Duration);

impl Livez {
    pub fn watch(address: SocketAddr, began: Instant) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let asking = stop.clone();
        let watch = |_| {
            let watching = stop.clone();
            std::thread::spawn(move || watch_until(&watching))
        };
        Self {
            began,
            asks: std::thread::spawn(move || ask_until(&asking, address)),
            watches: std::array::from_fn(watch),
            stop,
        }
    }

    pub fn end(self) -> Waits {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.asks.join().expect("every question was answered");
        let watches = self.watches.into_iter();
        let stalls = watches.flat_map(|watch| watch.join().expect("it only sleeps"));
        let stalls: Vec<Stall> = stalls.collect();
        let mut waits: Vec<Wait> = asked
            .iter()
            .map(|Asked(when, took)| {
                let end = *when + *took;
                let meanwhile = stalls
                    .iter()
                    .filter(|Stall(due, _)| (*when..end).contains(due));
                let stalled: Duration = meanwhile.map(|Stall(_, late)| *late).sum();
                Wait {
                    took: *took,
                    own: took.saturating_sub(stalled),
                    when: *when - self.began,
                }
            })
            .collect();
        waits.sort_by_key(|wait| (wait.own, wait.took));
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

/// For one answer.
struct Wait {
    took: Duration,
    /// Without the machine's stalls.
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
