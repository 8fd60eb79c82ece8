//! What tbot holds when nothing goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::Stage;
use crate::common::keys::readyz;
use crate::common::procfs;
use crate::common::tbot::Tbot;
use crate::common::wait::within;
use crate::{cluster, masters, state};

/// For what comes back after troubles: pauses between attempts have grown to a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// Bytes on the heap that may come and go, as the room of tables and buffers that were full.
const MORE_HEAP: u64 = 64 << 10;

/// The same with what the allocator has not given back to the system, which comes and goes with the crowd.
const MORE_MEMORY: u64 = 16 << 20;

pub struct Rest {
    descriptors: usize,
    /// How many of each name.
    threads: BTreeMap<String, usize>,
    processes: usize,
    workers: usize,
    heap: u64,
    memory: u64,
    connections: u64,
}

/// As many workers of the diagnostics as there may be clients at once, each with a buffer that has once been full: there
/// are no fewer ever after.
pub fn saturate(stage: &Stage) {
    let address = stage.tbot.address();
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let head = format!("GET {path} HTTP/1.0\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        Some(stream)
    };
    let finish = |mut stream: TcpStream| {
        stream.write_all(b"\r\n").ok();
        stream.read_to_end(&mut Vec::new()).ok();
    };
    let held: Vec<TcpStream> = (0..64).filter_map(|_| ask("/metrics")).collect();
    held.into_iter().for_each(finish);
    // The largest answer, so often that none of 64 has not given it (but for one time in 300).
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let again = (0..40).filter_map(|_| ask("/debug/pprof/threads"));
                again.for_each(finish);
            });
        }
    });
}

/// Once all is over and all is well, with one connection to the bastion, a new one.
pub fn settled(stage: &Stage, first: Option<&Rest>) -> Rest {
    let tbot = &stage.tbot;
    let healthy = || {
        within(PATIENCE, "healthy again", || {
            let services = ["mux", "identity"];
            let is_healthy = |name| readyz(tbot, name).0 == 200;
            services.into_iter().all(is_healthy).then_some(())
        });
    };
    healthy();
    within(PATIENCE, "nothing in flight", || {
        (tbot.counts().in_flight == 0 && cluster(tbot, "streams") == 0).then_some(())
    });
    let old = masters(tbot);
    for master in &old {
        kill_process(*master, Signal::KILL).ok();
    }
    within(PATIENCE, "one new connection to the bastion", || {
        let others = state(tbot, "starting") + state(tbot, "retiring");
        let is_new = matches!(masters(tbot)[..], [one] if !old.contains(&one));
        (is_new && state(tbot, "ready") == 1 && others == 0).then_some(())
    });
    healthy();
    let wanted = first.map(|first| (first.descriptors, &first.threads));
    let now = || (procfs::descriptors(tbot.pid()), threads(tbot));
    let mut last = None;
    let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        within(Duration::from_secs(60), "as few as there were", || {
            let (descriptors, threads) = last.insert(now());
            let gone = |name: &str| threads.keys().all(|thread| !thread.starts_with(name));
            let idle = gone("mux-close")
                && gone("mux-resolve")
                && gone("mux-tell")
                && gone("agent-client");
            let few = wanted.is_none_or(|(d, t)| *descriptors <= d && threads == t);
            (idle && few).then_some(())
        });
    }));
    assert!(
        settled.is_ok(),
        "{last:?}, and there were {wanted:?}: {:?}",
        procfs::descriptor_list(tbot.pid())
    );
    // The allocator is looked at every ten seconds.
    std::thread::sleep(Duration::from_secs(11));
    Rest::of(tbot)
}

fn threads(tbot: &Tbot) -> BTreeMap<String, usize> {
    let mut threads = BTreeMap::new();
    for name in procfs::threads(tbot.pid()) {
        // Those of the diagnostics stay, and are bounded.
        if !name.starts_with("diag-worker") {
            *threads.entry(name).or_default() += 1;
        }
    }
    threads
}

impl Rest {
    fn of(tbot: &Tbot) -> Self {
        let counts = tbot.counts();
        assert_eq!(counts.in_flight, 0);
        assert_eq!(counts.started, counts.ok + counts.error, "{counts:?}");
        let refused = refused(&tbot.metrics());
        // The others broke after their first byte.
        assert!(
            refused <= counts.error,
            "{refused} were refused of {counts:?}"
        );
        let workers = procfs::threads(tbot.pid());
        let workers = workers
            .iter()
            .filter(|name| name.starts_with("diag-worker"));
        let workers = workers.count();
        // As the default limits have it: 64 clients, and 16 that wait.
        assert!(workers <= 80, "{workers}");
        let memory = |state| tbot.metric(&format!("tbot_allocator_bytes{{state=\"{state}\"}}"));
        Self {
            descriptors: procfs::descriptors(tbot.pid()),
            threads: threads(tbot),
            processes: procfs::descendants(tbot.pid()).len(),
            workers,
            heap: memory("used") + memory("mapped"),
            memory: procfs::memory(tbot.pid()).0,
            connections: counts.started,
        }
    }

    /// The first round was to warm up.
    pub fn have_not_grown(rests: &[Self]) {
        let [_, first, .., last] = rests else {
            panic!("there are three rounds at the least");
        };
        assert!(last.heap <= first.heap + MORE_HEAP, "{first}\n{last}");
        assert!(last.memory <= first.memory + MORE_MEMORY, "{first}\n{last}");
        assert_eq!(last.processes, first.processes);
    }
}

fn refused(metrics: &str) -> u64 {
    let lines = metrics.lines();
    let of = |line: &str| {
        let value = line.strip_prefix("tbot_ssh_multiplexer_requests_refused_total{")?;
        value.rsplit(' ').next()?.parse::<u64>().ok()
    };
    lines.filter_map(of).sum()
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  after {} connections: {} descriptors, {} threads and {} workers of the diagnostics, {} process, {} bytes on the heap, {} kB resident",
            self.connections,
            self.descriptors,
            self.threads.values().sum::<usize>(),
            self.workers,
            self.processes,
            self.heap,
            self.memory >> 10
        )
    }
}
