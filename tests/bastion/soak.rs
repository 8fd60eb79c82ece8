//! Minutes of everything at once: load, slow and hostile clients, kills, limits and a clock that jumps. Then the
//! counters add up, nothing is held that was not held before, and `/livez` was always quick: `make soak`.
//!
//! SOAK_MINUTES is for how long (5), SOAK_SEED another run's seed: what each client does is the same then, if not when.

mod clients;
mod livez;
mod rest;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use self::clients::CLIENTS;
use self::livez::Livez;
use self::rest::Rest;
use self::trouble::TROUBLES;
use crate::common::clock::Clock;
use crate::common::keys::{await_healthy, with_identity};
use crate::common::raise_descriptor_limit;
use crate::common::server::{ClosedPort, Server};
use crate::common::sshd::Sshd;
use crate::common::tbot::Tbot;

/// Between clients of one kind, which are many: the processors are for tbot, too.
const BREATH: usize = 20;

/// The program, and all there is around it.
struct Stage {
    began: Instant,
    tbot: Tbot,
    clock: Clock,
    bastion: Mutex<Sshd>,
    target: Sshd,
    echo: Server,
    closed: ClosedPort,
    /// The clients of this round are to come to an end.
    stop: AtomicBool,
    /// How many of each kind went well, and not.
    tally: Mutex<BTreeMap<&'static str, [u64; 2]>>,
}

impl Stage {
    fn set() -> Self {
        raise_descriptor_limit();
        let clock = Clock::new();
        let (bastion, target) = (clock.keys.sshd(), clock.keys.sshd());
        let ca = clock.keys.path("ca.pub").display().to_string();
        let clusters = format!(
            "    max_connections: 300\n    clusters:\n      - name: prod\n        proxy_server: '{}'\n        \
             user: {}\n        host_ca: [{ca}]\n        max_streams_per_connection: 20\n      \
             - name: near\n        host_ca: [{ca}]\n",
            bastion.address, bastion.user
        );
        let onboarding = clock.keys.ssh_ca(&bastion.user);
        let start = with_identity(&onboarding, "debug: true", &clusters);
        // What threads keep to themselves for reuse would count as in use, which would hide what is.
        let tbot = clock.start(start.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"));
        await_healthy(&tbot, "mux");
        Self {
            began: Instant::now(),
            tbot,
            clock,
            bastion: Mutex::new(bastion),
            target,
            echo: Server::echo(),
            closed: ClosedPort::new(),
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// All clients at work while one trouble after the other comes and goes.
    fn round(&self, seed: u64) {
        self.stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let mut number = 0;
            for (kind, client, threads) in CLIENTS {
                for _ in 0..threads {
                    number += 1;
                    scope.spawn(move || self.clients(kind, client, Random::new(seed + number)));
                }
            }
            // However it goes, the clients end.
            let ends = Ends(&self.stop);
            let mut random = Random::new(seed);
            let mut troubles = TROUBLES.to_vec();
            while !troubles.is_empty() {
                let (what, trouble) = troubles.swap_remove(random.below(troubles.len()));
                eprintln!("  {:6.1} s: {what}", self.began.elapsed().as_secs_f64());
                trouble(self, &mut random);
                random.pause(1500);
            }
            drop(ends);
        });
    }

    fn clients(&self, kind: &'static str, client: clients::Client, mut random: Random) {
        // A thread's own, on Linux. It is tbot that is looked at.
        rustix::process::nice(10).ok();
        while self.goes_on() {
            let went_well = client(self, &mut random).is_some();
            let mut tally = self.tally.lock().expect("nobody panics with it");
            tally.entry(kind).or_default()[usize::from(!went_well)] += 1;
            drop(tally);
            random.pause(BREATH);
        }
    }
}

/// Ends the clients when it goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Numbers that look like any (xorshift64*), the same ones for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = 1 + self.below(most);
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// Some of so many milliseconds.
    fn pause(&mut self, most: usize) {
        std::thread::sleep(Duration::from_millis(self.below(most) as u64));
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {value}")),
    )
}

#[test]
#[ignore = "it takes minutes: make soak"]
fn minutes_of_everything_at_once_leave_nothing_and_all_is_counted() {
    let lasts = Duration::from_secs(60 * number("SOAK_MINUTES").unwrap_or(5));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("SOAK_SEED").unwrap_or_else(|| now.map_or(1, |now| now.as_secs()));
    eprintln!("SOAK_SEED={seed}");
    let stage = Stage::set();
    let livez = Livez::watch(&stage.tbot, stage.began);
    let mut rests: Vec<Rest> = Vec::new();
    while rests.len() < 3 || stage.began.elapsed() < lasts {
        let round = rests.len() as u64;
        eprintln!("round {round}");
        if round == 0 {
            rest::saturate(&stage);
        }
        stage.round(seed.wrapping_add(1000 * round));
        let rest = rest::settled(&stage, rests.first());
        eprintln!("{rest}");
        if rests.is_empty() {
            trouble::limit_memory(&stage);
        }
        rests.push(rest);
    }
    let waits = livez.end();
    for (kind, [good, bad]) in &*stage.tally.lock().expect("nobody panics with it") {
        eprintln!("{kind:>14} {good:>7} went well, {bad:>6} did not");
        assert!(*good > 0, "no client of the kind {kind:?} went well");
    }
    eprintln!("{waits}");
    Rest::have_not_grown(&rests);
    waits.were_short();
}
