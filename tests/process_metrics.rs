//! `process_*` and the allocator's figures, beside what the kernel says of the same process.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use common::process::succeed;
use common::server::Server;
use common::tbot::{Start, Tbot};
use common::v1::{assert_echoes, dial};
use common::wait::until;
use common::{not_tested, procfs};

/// The field of that number in /proc/PID/stat, as proc(5) counts them.
fn stat(tbot: &Tbot, field: usize) -> f64 {
    let path = format!("/proc/{}/stat", tbot.pid().as_raw_pid());
    let text = fs::read_to_string(path).expect("the process is there");
    let (_, rest) = text.rsplit_once(") ").expect("a name in parentheses");
    let word = rest.split(' ').nth(field - 3).expect("every kernel has it");
    word.parse().expect("a number")
}

/// A value of the scrape.
fn value(tbot: &Tbot, series: &str) -> f64 {
    let metrics = tbot.metrics();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
        .parse()
        .expect("a number")
}

#[test]
fn cpu_time_is_what_the_kernel_counted_and_finer_than_its_ticks() {
    let tbot = Tbot::start();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let kernel = || (stat(&tbot, 14) + stat(&tbot, 15)) / ticks;
    // User and system time are cut to ticks, each.
    let (before, scraped, after) = (
        kernel(),
        value(&tbot, "process_cpu_seconds_total"),
        kernel(),
    );
    assert!(
        before <= scraped && scraped <= after + 2.0 / ticks,
        "{before} <= {scraped} <= {after}"
    );
    until("a value between two ticks", || {
        let in_ticks = value(&tbot, "process_cpu_seconds_total") * ticks;
        ((in_ticks - in_ticks.round()).abs() > 0.001).then_some(())
    });
}

#[test]
fn open_descriptors_are_counted_exactly() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = dial(&tbot, echo.address);
        assert_echoes(&mut stream, b"up");
        held.push(stream);
    }
    // As the kernel counts: with the one that a thread waiting in accept(2) has taken for what comes.
    let descriptors = || {
        let path = format!("/proc/{}/fd", tbot.pid().as_raw_pid());
        match fs::metadata(path).expect("it runs").size() {
            0 => procfs::descriptors(tbot.pid()),
            size => size as usize,
        }
    };
    // The scrape's own connection is one of those it tells, and gone some time after it was answered.
    let at_rest = || {
        let mut last = descriptors();
        until("no connection comes or goes", || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let before = std::mem::replace(&mut last, descriptors());
            (before == last).then_some(last)
        })
    };
    until("the scrape's connection and the rest", || {
        let before = at_rest();
        let scraped = value(&tbot, "process_open_fds");
        (at_rest() == before && scraped == (before + 1) as f64).then_some(())
    });
    assert!(value(&tbot, "process_open_fds") >= 40.0);
}

#[test]
fn limits_are_those_of_the_process() {
    let tbot = Start::multiplexer()
        .through(&["prlimit", "--nofile=500:900", "--as=8000000000"])
        .start();
    let (soft, _) = procfs::descriptor_limits(tbot.pid());
    assert_eq!(value(&tbot, "process_max_fds"), soft as f64);
    assert_eq!(value(&tbot, "process_virtual_memory_max_bytes"), 8e9);
    // As client_golang shows no limit.
    let unlimited = value(&Tbot::start(), "process_virtual_memory_max_bytes");
    assert_eq!(unlimited, u64::MAX as f64);
}

#[test]
fn memory_and_threads_are_those_of_the_process() {
    let tbot = Tbot::start();
    let page = rustix::param::page_size() as f64;
    until("both to agree, between two changes", || {
        let scrape = ["virtual_memory_bytes", "resident_memory_bytes", "threads"]
            .map(|name| value(&tbot, &format!("process_{name}")));
        let kernel = [stat(&tbot, 23), stat(&tbot, 24) * page, stat(&tbot, 20)];
        (scrape == kernel).then_some(())
    });
}

#[test]
fn network_bytes_are_those_of_the_namespace() {
    let kernel = || {
        let text = fs::read_to_string("/proc/net/netstat").expect("Linux");
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("IpExt: "))
            .collect();
        let at = |name: &str| {
            let place = lines[0].split(' ').position(|found| found == name);
            let value = lines[1].split(' ').nth(place.expect("every kernel has it"));
            value
                .and_then(|value| value.parse::<f64>().ok())
                .expect("a number")
        };
        (at("InOctets"), at("OutOctets"))
    };
    let before = kernel();
    let tbot = Tbot::start();
    let look = || {
        let at = |way| value(&tbot, &format!("process_network_{way}_bytes_total"));
        (at("receive"), at("transmit"))
    };
    let first = look();
    let between = kernel();
    assert!(
        before.0 <= first.0 && first.0 <= between.0,
        "{before:?} {first:?} {between:?}"
    );
    assert!(
        before.1 <= first.1 && first.1 <= between.1,
        "{before:?} {first:?} {between:?}"
    );
    // These scrapes are network traffic too.
    until("a later look", || {
        let now = look();
        (now.0 > between.0 && now.1 > between.1).then_some(())
    });
}

#[test]
fn the_start_time_is_constant_and_right() {
    let before = SystemTime::now();
    let tbot = Tbot::start();
    let after = SystemTime::now();
    let seconds = value(&tbot, "process_start_time_seconds");
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
    // The kernel cuts it to a tick.
    let tick = Duration::from_millis(10);
    assert!(
        before - 2 * tick <= start && start <= after,
        "{before:?} <= {start:?} <= {after:?}"
    );
    assert_eq!(value(&tbot, "process_start_time_seconds"), seconds);
}

#[test]
fn the_allocator_s_bytes_are_part_of_the_process_s() {
    let tbot = Tbot::start();
    let state = |state| value(&tbot, &format!("tbot_allocator_bytes{{state=\"{state}\"}}"));
    assert!(state("used") > 0.0);
    let held = state("used") + state("free") + state("mapped");
    let process = value(&tbot, "process_virtual_memory_bytes");
    assert!(held < process, "{held} of {process}");
    // The first look is before the services start, and that takes memory.
    let before = state("used");
    until("it is looked at again", || {
        (state("used") != before).then_some(())
    });
}

#[test]
fn without_a_proc_the_rest_is_served() {
    if !common::is_root() {
        return not_tested("metrics without /proc", "needs root");
    }
    // A mount namespace of its own, in which another file system hides /proc.
    let hidden = "mount -t tmpfs none /proc && exec \"$@\"";
    let tbot = Start::multiplexer()
        .args(["--proxy-command", "/bin/true"])
        .through(&["unshare", "-m", "sh", "-c", hidden, "sh"])
        .start();
    let metrics = tbot.metrics();
    for there in [
        "process_cpu_seconds_total ",
        "process_max_fds ",
        "tbot_build_info{",
    ] {
        assert!(metrics.contains(there), "no {there} in\n{metrics}");
    }
    for unknown in [
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_threads",
    ] {
        assert!(!metrics.contains(unknown), "{unknown} in\n{metrics}");
    }
    let answer = succeed(std::process::Command::new("curl").args(["-sS", &tbot.url("/livez")]));
    assert_eq!(answer, "OK");
}
