//! A program to look into: it embeds the diagnostics with profiles, and keeps its threads busy in ways
//! that tests know. `busy big|burn|clock|crowd|hold|park|stress` prints the address of its diagnostics, works until its
//! input ends, and then prints what was done.

#![allow(missing_docs, reason = "these are tests")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{Read, stdin};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use tbot::diagnostics::Diagnostics;

static STOP: AtomicBool = AtomicBool::new(false);

/// Turns of each kind of work.
type Turns = Mutex<BTreeMap<&'static str, Arc<AtomicU64>>>;

fn main() {
    let diagnostics = Diagnostics::builder()
        .profiling(true)
        .bind("127.0.0.1:0")
        .expect("a free port");
    let turns = Turns::default();
    let threads = match std::env::args().nth(1).as_deref() {
        Some("big") => vec![keep(&turns, "burner", || burn_below(1000))],
        Some("burn") => vec![keep(&turns, "burner", || _ = black_box(burn(100_000)))],
        Some("clock") => vec![keep(&turns, "clock", || _ = black_box(Instant::now()))],
        Some("crowd") => crowd(&turns),
        Some("hold") => {
            let held = fill();
            vec![keep(&turns, "holder", move || {
                black_box(&held);
                sleep_until_stopped();
            })]
        }
        Some("park") => park(),
        Some("stress") => stress(&turns),
        other => panic!("big, burn, clock, crowd, hold, park or stress, not {other:?}"),
    };
    println!("http://{}", diagnostics.local_addr());
    let _ = stdin().read_to_end(&mut Vec::new());
    STOP.store(true, Relaxed);
    for thread in threads {
        thread.join().expect("no thread panics for good");
    }
    diagnostics.shutdown();
    for (name, turns) in turns.into_inner().expect("nobody panicked with it") {
        println!("{name} {}", turns.load(Relaxed));
    }
}

/// Where `burn` spends its time.
#[inline(never)]
fn burn(turns: u64) -> u64 {
    (0..turns).fold(1, |sum, turn| black_box(sum ^ sum << 7 ^ turn))
}

/// The same at the end of a stack of that many kilobytes and frames.
#[inline(never)]
fn burn_below(frames: u32) {
    let room = black_box([0_u8; 1024]);
    match frames {
        0 => _ = black_box(burn(1_000_000)),
        _ => burn_below(frames - 1),
    }
    black_box(&room);
}

/// 1,500 threads that sleep, and two that do not, one with a name that the kernel cuts within a letter.
fn crowd(turns: &Turns) -> Vec<JoinHandle<()>> {
    let sleepers = (0..1500).map(|_| {
        let thread = Builder::new().name("sleeper".into()).stack_size(64 * 1024);
        thread.spawn(wait_for_the_end).expect("a thread")
    });
    let mut threads: Vec<_> = sleepers.collect();
    for name in ["burner", "brûleuréééé"] {
        threads.push(keep(turns, name, || _ = black_box(burn(100_000))));
    }
    threads
}

#[inline(never)]
fn wait_for_the_end() {
    while !STOP.load(Relaxed) {
        thread::sleep(Duration::from_millis(500));
    }
}

/// 64 MiB in blocks of 1 KiB.
#[inline(never)]
fn fill() -> Vec<Vec<u8>> {
    (0..64 * 1024).map(|_| vec![1; 1024]).collect()
}

/// A thread that does the same again and again, and counts.
fn keep(turns: &Turns, name: &'static str, work: impl Fn() + Send + 'static) -> JoinHandle<()> {
    let count = Arc::new(AtomicU64::new(0));
    turns
        .lock()
        .expect("nobody panicked with it")
        .insert(name, count.clone());
    let thread = Builder::new().name(name.into());
    let work = move || {
        while !STOP.load(Relaxed) {
            work();
            count.fetch_add(1, Relaxed);
        }
    };
    thread.spawn(work).expect("a thread")
}

/// 100 threads: one holds a lock that 33 wait for, others allocate without end, others sleep.
fn park() -> Vec<JoinHandle<()>> {
    static LOCK: Mutex<()> = Mutex::new(());
    let all = Arc::new(Barrier::new(101));
    let threads = (0..100).map(|number| {
        let all = all.clone();
        let work = move || {
            if number == 0 {
                let held = LOCK.lock().expect("nobody panics with it");
                all.wait();
                hold(held);
                return;
            }
            all.wait();
            match number % 3 {
                0 => drop(LOCK.lock().expect("nobody panics with it")),
                1 => allocate_until_stopped(),
                _ => sleep_until_stopped(),
            }
        };
        let thread = Builder::new().name(format!("parked-{number}"));
        thread.spawn(work).expect("a thread")
    });
    let threads = threads.collect();
    all.wait();
    threads
}

#[inline(never)]
fn hold<T>(held: T) {
    sleep_until_stopped();
    drop(held);
}

#[inline(never)]
fn sleep_until_stopped() {
    while !STOP.load(Relaxed) {
        thread::park_timeout(Duration::from_millis(50));
    }
}

#[inline(never)]
fn allocate_until_stopped() {
    while !STOP.load(Relaxed) {
        drop(black_box(vec![0_u8; 1000]));
        thread::yield_now();
    }
}

/// What interrupts a thread at the worst moments: inside the allocator, the formatter, the unwinder,
/// and at its birth and death.
fn stress(turns: &Turns) -> Vec<JoinHandle<()>> {
    // Its panics are expected, thousands of them.
    std::panic::set_hook(Box::new(|_| {}));
    let shared = Arc::new(Mutex::new(BTreeMap::new()));
    let locks = shared.clone();
    vec![
        keep(turns, "allocates", || {
            let all: Vec<Vec<u8>> = (1..200).map(|size| vec![0; size * 37]).collect();
            drop(black_box(all));
        }),
        keep(turns, "formats", || {
            drop(black_box(format!(
                "{:?} {:.3} {}",
                Some("text"),
                1.5,
                1_u64 << 40
            )));
        }),
        keep(turns, "spawns", || {
            let thread = Builder::new().name("short-lived".into());
            let thread = thread.spawn(|| black_box(burn(10)));
            drop(thread.expect("a thread").join());
        }),
        keep(turns, "panics", || {
            let caught = catch_unwind(|| recurse(20));
            assert!(caught.is_err());
        }),
        keep(turns, "locks", move || {
            let mut map = locks.lock().expect("nobody panics with it");
            let length = map.len();
            map.insert(length % 100, format!("{length}"));
        }),
        keep(turns, "calls", || {
            drop(std::fs::read("/proc/self/stat"));
            drop(std::net::TcpStream::connect(("127.0.0.1", 9)));
        }),
    ]
}

#[inline(never)]
fn recurse(depth: u32) -> u32 {
    if depth == 0 {
        panic!("as planned");
    }
    black_box(recurse(depth - 1)) + 1
}
