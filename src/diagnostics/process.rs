//! What the process uses, by the names of Prometheus' process-metrics convention.
//!
//! Our own, as the `process` feature of the `prometheus` crate counts CPU time in whole seconds, one
//! descriptor too many and no limit of memory. A scrape takes some microseconds whatever is open: one
//! small file of `/proc` and a few system calls. The `process_network_*` of Go's client are not among
//! them: to read those takes 30 µs, so the program looks at them now and again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::metrics::{Form, head, print};

/// Name and help, in the order in which [`ProcessCollector::values`] gives the values.
const FAMILIES: [(&str, &str); 8] = [
    (
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
    ),
    ("process_open_fds", "Number of open file descriptors."),
    (
        "process_max_fds",
        "Maximum number of open file descriptors.",
    ),
    (
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
    ),
    (
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
    ),
    (
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
    ),
    (
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
    ),
    ("process_threads", "Number of OS threads in the process."),
];

/// The `process_*` metrics of this process. What cannot be read, as without a `/proc`, is left out.
///
/// ```
/// let registry = prometheus::Registry::new();
/// registry.register(Box::new(tbot::diagnostics::ProcessCollector::new()))?;
/// # assert!(registry.gather().iter().any(|family| family.name() == "process_threads"));
/// # Ok::<_, prometheus::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ProcessCollector {
    descriptions: Vec<Desc>,
    /// Head and line of each family.
    forms: Arc<[(Vec<u8>, Form)]>,
    /// Looked up once: the clock may be set later, and a process does not start again.
    start: Option<f64>,
}

/// What `/proc/self/stat` has for us.
struct Stat {
    threads: f64,
    /// Since the machine's start, in seconds.
    start: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl ProcessCollector {
    /// A collector to register.
    pub fn new() -> Self {
        Self {
            descriptions: FAMILIES.map(description).into(),
            forms: FAMILIES.map(form).into(),
            start: Stat::read().and_then(|stat| start_time(&stat)),
        }
    }

    fn values(&self) -> [Option<f64>; FAMILIES.len()] {
        let stat = Stat::read();
        let stat = stat.as_ref();
        [
            // The sum of user and system time in `/proc`, before that is cut to ticks of 10 ms.
            Some(seconds(ClockId::ProcessCPUTime)),
            open_descriptors(),
            Some(limit(Resource::Nofile)),
            stat.map(|stat| stat.virtual_bytes),
            Some(limit(Resource::As)),
            stat.map(|stat| stat.resident_bytes),
            self.start,
            stat.map(|stat| stat.threads),
        ]
    }
}

impl Default for ProcessCollector {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let known = FAMILIES.iter().zip(&*self.forms).zip(self.values());
        let families = known.filter_map(|(((name, help), (head, form)), value)| {
            let value = value?;
            let printed = print(name, |text| {
                text.extend_from_slice(head);
                form.numbers(text)(value);
            });
            Some(printed.unwrap_or_else(|| family(name, help, value)))
        });
        families.collect()
    }
}

fn form((name, help): (&str, &str)) -> (Vec<u8>, Form) {
    let family = family(name, help, 0.0);
    (head(&family), Form::of(&family))
}

fn description((name, help): (&str, &str)) -> Desc {
    Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new())
        .expect("our own names are well-formed")
}

/// One without labels; by its name a counter or a gauge.
fn family(name: &str, help: &str, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    let kind = if name.ends_with("_total") {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        MetricType::COUNTER
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        MetricType::GAUGE
    };
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

impl Stat {
    fn read() -> Option<Self> {
        // 52 numbers and a name of 16 bytes fit, and then one read is whole.
        let mut text = [0; 2048];
        let length = File::open("/proc/self/stat").ok()?.read(&mut text).ok()?;
        Self::parse(&text[..length])
    }

    /// Fields are numbered as in proc(5); the second, a name in parentheses, may hold anything.
    fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(&text[name_end + 1..]).ok()?;
        let mut fields = rest.split_ascii_whitespace().skip(20 - 3);
        let mut next = || fields.next()?.parse::<f64>().ok();
        let (threads, _, start) = (next()?, next()?, next()?);
        let (virtual_bytes, pages) = (next()?, next()?);
        Some(Self {
            threads,
            // `rustix` may ask `/proc` for these two, and panics without; here is one.
            start: start / clock_ticks_per_second() as f64,
            virtual_bytes,
            resident_bytes: pages * page_size() as f64,
        })
    }
}

/// Since the epoch, finer than by the `btime` of `/proc/stat`, which is in whole seconds.
fn start_time(stat: &Stat) -> Option<f64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Some(now.ok()?.as_secs_f64() - seconds(ClockId::Boottime) + stat.start)
}

/// How long this process has been running, the time that the machine slept included; no clock that is set changes it.
pub(super) fn uptime() -> Option<Duration> {
    let up = seconds(ClockId::Boottime) - Stat::read()?.start;
    Duration::try_from_secs_f64(up).ok()
}

fn seconds(clock: ClockId) -> f64 {
    Duration::try_from(clock_gettime(clock)).map_or(0.0, |time| time.as_secs_f64())
}

/// Where the descriptors are.
const DESCRIPTORS: &str = "/proc/self/fd";

/// The directory's size is the number of its entries (Linux 6.2), with the one that a thread which waits in accept(2)
/// has taken for what comes; before that it is 0.
fn open_descriptors() -> Option<f64> {
    let count = match fs::metadata(DESCRIPTORS).ok()?.size() {
        0 => count_descriptors()?,
        count => count,
    };
    Some(count as f64)
}

/// Without the one by which it is read.
fn count_descriptors() -> Option<u64> {
    let entries = fs::read_dir(DESCRIPTORS).ok()?.count() as u64;
    Some(entries.saturating_sub(1))
}

/// The soft limit, which counts; none is the largest number, as Go's client shows it.
fn limit(resource: Resource) -> f64 {
    getrlimit(resource).current.unwrap_or(u64::MAX) as f64
}

/// Bytes that the network namespace of this process has received and sent (`IpExt` in proc_pid_net(5)).
#[cfg(feature = "cli")]
pub(crate) fn network_bytes() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/net/netstat").ok()?;
    // A line of names, and one of values.
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some((value("InOctets")?, value("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_ends_a_name() {
        let text = b"7 (a) R 1 (b)) S 1 7 7 0 -1 0 0 0 0 0 3 4 0 0 20 0 5 0 200 8192 2 99";
        let stat = Stat::parse(text).expect("it is whole");
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!((stat.threads, stat.start), (5.0, 200.0 / ticks));
        assert_eq!(stat.virtual_bytes, 8192.0);
        assert_eq!(stat.resident_bytes, 2.0 * page_size() as f64);
        assert!(Stat::parse(&text[..40]).is_none(), "half of it");
    }

    #[test]
    fn counting_descriptors_gives_what_newer_kernels_say() {
        // Other tests of this process open and close some meanwhile.
        let agree = || {
            let size = fs::metadata(DESCRIPTORS).expect("Linux").size();
            size == 0 || count_descriptors() == Some(size)
        };
        assert!((0..10_000).any(|_| agree()));
    }
}
