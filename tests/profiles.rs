//! Whether profiles tell the truth, by the tool that people read them with, on optimised static builds.
#![cfg(all(feature = "cli", feature = "pprof"))]

mod common;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use common::built::static_program;
use common::http::fetch;
use common::process::{Process, copy_program, succeed};
use common::server::Server;
use common::tbot::Start;
use common::v1;

/// `tests/examples/busy.rs`, at work until this is dropped or [`Busy::end`]ed.
struct Busy {
    process: Process,
    address: SocketAddr,
}

impl Busy {
    fn start(work: &str) -> Self {
        Self::start_from(&static_program("examples/busy"), work)
    }

    fn start_from(program: &Path, work: &str) -> Self {
        let process = Process::spawn_with_input(Command::new(program).arg(work));
        let line = process.stdout.line("http://");
        let address = line.trim_start_matches("http://").parse();
        Self {
            process,
            address: address.unwrap_or_else(|_| panic!("no address in {line:?}")),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/debug/pprof/{path}", self.address)
    }

    /// What it has done.
    fn end(mut self) -> String {
        self.process.close_input();
        let end = self.process.finish();
        assert_eq!(end.status.code(), Some(0), "{end:?}");
        end.stdout
    }
}

/// `go tool pprof`, which gets names from the profile or not at all.
fn go(directory: &TempDir, arguments: &[&str]) -> String {
    succeed(
        Command::new("go")
            .args(["tool", "pprof", "-symbolize=none"])
            .args(arguments)
            .env("HOME", directory.path())
            .env("PPROF_TMPDIR", directory.path()),
    )
}

/// The first function in the output of `-top`, with its own share in percent.
fn hottest(top: &str) -> (String, f64) {
    let (_, rows) = top
        .split_once("cum%\n")
        .unwrap_or_else(|| panic!("no table in {top}"));
    let row = rows
        .lines()
        .next()
        .unwrap_or_else(|| panic!("no row in {top}"));
    let (share, function) = share(row, 1);
    (function, share)
}

/// A row of `-top`: the percentage in a column, and the function.
fn share(row: &str, column: usize) -> (f64, String) {
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    let percent = words[column].trim_end_matches('%').parse();
    (
        percent.unwrap_or_else(|_| panic!("no share in {row:?}")),
        words[5..].join(" "),
    )
}

fn download(busy: &Busy, path: &str, to: &Path) {
    let answer = fetch(busy.address, &format!("/debug/pprof/{path}"));
    assert_eq!(answer.status, 200, "{}", answer.head);
    fs::write(to, answer.body).expect("the directory is ours");
}

#[test]
fn what_burns_is_the_hottest_however_one_looks() {
    let directory = tempfile::tempdir().expect("a directory");
    let busy = Busy::start("burn");
    let top = go(&directory, &["-top", &busy.url("profile?seconds=2")]);
    let (function, share) = hottest(&top);
    assert_eq!(function, "busy::burn", "{top}");
    assert!(share >= 90.0, "{top}");

    // One profile as it is served, unpacked, and in the tool's own words.
    let packed = directory.path().join("profile.gz");
    download(&busy, "profile?seconds=2&frequency=200", &packed);
    let bytes = succeed(
        Command::new("sh")
            .args(["-c", "gzip -dc \"$0\" >\"$0.raw\"; echo ok"])
            .arg(&packed),
    );
    assert_eq!(bytes, "ok\n");
    let unpacked = directory.path().join("profile.gz.raw");
    for file in [&packed, &unpacked] {
        let top = go(&directory, &["-top", &file.to_string_lossy()]);
        assert_eq!(hottest(&top).0, "busy::burn", "{top}");
        assert!(hottest(&top).1 >= 90.0, "{top}");
    }
    let raw = go(&directory, &["-raw", &packed.to_string_lossy()]);
    assert!(
        raw.contains("PeriodType: cpu nanoseconds\nPeriod: 5000000\n"),
        "{raw}"
    );
    assert!(raw.contains("samples/count cpu/nanoseconds\n"), "{raw}");
    assert!(raw.contains("thread:[burner]"), "{raw}");
    assert_eq!(most_sampled(&raw), "busy::burn", "{raw}");
    let program = static_program("examples/busy");
    let (_, mappings) = raw.split_once("Mappings\n").expect("a section");
    let mapping = mappings
        .lines()
        .find(|line| line.contains(&*program.to_string_lossy()));
    assert!(
        mapping.is_some_and(|line| line.contains("[FN]")),
        "{mappings}"
    );

    let svg = fetch(busy.address, "/debug/pprof/flamegraph?seconds=2");
    let (function, share) = hottest_in_flame_graph(svg.text());
    assert_eq!(function, "busy::burn");
    assert!(share >= 90.0, "{share}");
    busy.end();
}

/// The function at the top of the stack with most samples, in the output of `-raw`.
fn most_sampled(raw: &str) -> &str {
    let samples = raw.lines().filter_map(|line| {
        let (values, stack) = line.split_once(": ")?;
        let count: u64 = values.split_ascii_whitespace().next()?.parse().ok()?;
        let leaf: u32 = stack.split_ascii_whitespace().next()?.parse().ok()?;
        (values.split_ascii_whitespace().count() == 2).then_some((count, leaf))
    });
    let (_, leaf) = samples
        .max()
        .unwrap_or_else(|| panic!("no samples in {raw}"));
    let (_, locations) = raw.split_once("Locations\n").expect("a section");
    let line = locations
        .lines()
        .find(|line| line.trim_start().starts_with(&format!("{leaf}: ")));
    let words: Vec<&str> = line
        .expect("the location")
        .split_ascii_whitespace()
        .collect();
    words.get(3).expect("a function")
}

/// The uppermost frame with most of the samples. One is drawn as
/// `<title>name (count samples, share%)</title><rect … y="29" …`.
fn hottest_in_flame_graph(svg: &str) -> (String, f64) {
    let frames = svg.split("<title>").skip(1).filter_map(|rest| {
        let (title, rect) = rest.split_once("</title>")?;
        let (name, figures) = title.rsplit_once(" (")?;
        let share: f64 = figures
            .split_once(", ")?
            .1
            .trim_end_matches("%)")
            .parse()
            .ok()?;
        let y: u32 = rect
            .split_once(" y=\"")?
            .1
            .split_once('"')?
            .0
            .parse()
            .ok()?;
        (share >= 90.0).then(|| (y, name.to_owned(), share))
    });
    let top = frames.min_by_key(|(y, ..)| *y);
    let (_, name, share) = top.unwrap_or_else(|| panic!("no frame with 90 % in {svg}"));
    (name, share)
}

#[test]
fn a_multiplexer_that_moves_bytes_shows_how() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::counting();
    let tbot = Start::multiplexer()
        .program(static_program("tbot"))
        .args(["-d"])
        .start();
    let stop = AtomicBool::new(false);
    let top = std::thread::scope(|scope| {
        let mut stream = v1::dial(&tbot, server.address);
        let stop = &stop;
        scope.spawn(move || {
            let block = vec![0_u8; 256 * 1024];
            while !stop.load(Relaxed) {
                stream.write_all(&block).expect("it is relayed");
            }
        });
        let top = go(
            &directory,
            &["-top", "-cum", &tbot.url("/debug/pprof/profile?seconds=2")],
        );
        stop.store(true, Relaxed);
        top
    });
    for function in [
        "tbot::multiplexer::threads::Worker::run",
        "tbot::multiplexer::flow::Flow::pump",
    ] {
        let row = top.lines().find(|row| row.ends_with(function));
        let row = row.unwrap_or_else(|| panic!("no {function} in {top}"));
        assert!(share(row, 4).0 >= 50.0, "{top}");
    }
}

#[test]
fn names_stay_when_the_program_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("busy");
    copy_program(&static_program("examples/busy"), &program);
    let busy = Busy::start_from(&program, "burn");
    fs::remove_file(&program).expect("the directory is ours");
    fs::write(&program, "another one").expect("the directory is ours");
    let top = go(&directory, &["-top", &busy.url("profile?seconds=1")]);
    assert_eq!(hottest(&top).0, "busy::burn", "{top}");
    // It may be met between two turns.
    common::wait::until("busy::burn in a stack", || {
        let threads = fetch(busy.address, "/debug/pprof/threads");
        threads.text().contains("busy::burn").then_some(())
    });
    busy.end();
}

#[test]
fn a_hundred_threads_are_shown_whatever_they_hold() {
    let busy = Busy::start("park");
    let wanted = [
        ("busy::hold", 1),
        ("busy::sleep_until_stopped", 34),
        ("busy::allocate_until_stopped", 33),
        ("Mutex>::lock_contended", 33),
    ];
    let look = || {
        let threads = fetch(busy.address, "/debug/pprof/threads");
        let text = threads.text().to_owned();
        assert!(!text.contains("no stack"), "{text}");
        wanted.map(|(function, _)| {
            text.split("\n\n")
                .filter(|block| block.contains(function))
                .count()
        })
    };
    // They may still be on their way when they are first seen.
    common::wait::until(&format!("{wanted:?}"), || {
        (look() == wanted.map(|w| w.1)).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(look(), wanted.map(|(_, count)| count));
    }
    busy.end();
}

#[test]
fn a_crowd_is_shown_beside_a_profile() {
    let directory = tempfile::tempdir().expect("a directory");
    let busy = Busy::start("crowd");
    let file = directory.path().join("profile");
    let unseen = std::thread::scope(|scope| {
        scope.spawn(|| download(&busy, "profile?seconds=4&frequency=250", &file));
        let look = || {
            let threads = fetch(busy.address, "/debug/pprof/threads");
            let text = threads.text();
            assert!(text.contains("\"brûleuréé"), "{}", text.len());
            text.matches("no stack").count()
        };
        let looks: Vec<_> = (0..6).map(|_| scope.spawn(look)).collect();
        let unseen = looks.into_iter().map(|look| look.join().expect("no panic"));
        unseen.sum::<usize>()
    });
    assert!(unseen < 6 * 1500 / 10, "{unseen}");
    let raw = go(&directory, &["-raw", &file.to_string_lossy()]);
    let seconds = raw.split_once("Duration: ").and_then(|(_, rest)| {
        let duration = rest.lines().next()?.split(' ').next()?;
        duration.parse::<f64>().ok()
    });
    assert!(seconds.is_some_and(|seconds| seconds < 5.0), "{raw}");
    let comments = go(&directory, &["-comments", &file.to_string_lossy()]);
    let lost = comments.split_once(" samples were lost");
    let lost: u32 = lost.map_or(0, |(count, _)| count.parse().expect("a number"));
    assert!(lost < 500, "{lost} of some 1000 to 2000");
    busy.end();
}

/// One thread has as many samples as are due; two at this frequency have fewer.
#[test]
fn a_profile_adds_up_to_the_cpu_time_used() {
    let directory = tempfile::tempdir().expect("a directory");
    for work in ["burn", "crowd"] {
        let busy = Busy::start(work);
        let used = || {
            let stat = fs::read(format!("/proc/{}/stat", busy.process.pid())).expect("it runs");
            let stat = String::from_utf8_lossy(&stat).into_owned();
            let (_, fields) = stat.rsplit_once(')').expect("a name");
            let ticks = fields.split_ascii_whitespace().skip(11).take(2);
            let ticks = ticks.map(|ticks| ticks.parse::<u64>().expect("a number"));
            ticks.sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
        };
        let before = used();
        let file = directory.path().join("profile");
        download(&busy, "profile?seconds=3&frequency=250", &file);
        let used = used() - before;
        let top = go(&directory, &["-top", "-unit=s", &file.to_string_lossy()]);
        let (_, total) = top.split_once("Total samples = ").expect("a total");
        let total: f64 = total
            .split_once("s ")
            .and_then(|(seconds, _)| seconds.parse().ok())
            .unwrap_or_else(|| panic!("{top}"));
        assert!((total / used - 1.0).abs() < 0.1, "{used} s in {top}");
        busy.end();
    }
}

#[test]
fn a_stack_that_is_too_deep_keeps_its_end_and_one_in_the_vdso_its_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let busy = Busy::start("big");
    let top = go(&directory, &["-top", &busy.url("profile?seconds=1")]);
    assert_eq!(hottest(&top).0, "busy::burn", "{top}");
    assert!(top.contains("busy::burn_below"), "{top}");
    let threads = fetch(busy.address, "/debug/pprof/threads");
    let cut = threads
        .text()
        .split("\n\n")
        .filter(|block| block.contains("cut off"));
    let cut: Vec<&str> = cut.collect();
    assert!(
        cut.len() == 1 && cut[0].contains("\"burner\""),
        "{}",
        threads.text()
    );
    busy.end();
    let busy = Busy::start("clock");
    let top = go(
        &directory,
        &["-top", "-cum", &busy.url("profile?seconds=1")],
    );
    let root = top.lines().find(|row| row.ends_with(" clone3"));
    let root = root.unwrap_or_else(|| panic!("no clone3 in {top}"));
    assert!(share(root, 4).0 >= 95.0, "{top}");
    assert!(top.contains("[linux-vdso.so.1]"), "{top}");
    busy.end();
}

/// Threads that allocate, format, spawn, panic, lock and call, while profiles are taken one after the
/// other and signals come from elsewhere: `TBOT_STRESS_SECONDS`, 5 if not set.
#[test]
fn nothing_breaks_under_stress() {
    let seconds = std::env::var("TBOT_STRESS_SECONDS").map_or(5, |text| {
        text.parse()
            .expect("TBOT_STRESS_SECONDS is a number of seconds")
    });
    let directory = tempfile::tempdir().expect("a directory");
    let busy = Busy::start("stress");
    let end = Instant::now() + Duration::from_secs(seconds);
    let (profiles, stacks) = (AtomicU32::new(0), AtomicU32::new(0));
    let on = || Instant::now() < end;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while on() {
                let answer = fetch(busy.address, "/debug/pprof/profile?seconds=1&frequency=250");
                assert_eq!(answer.status, 200, "{}", answer.head);
                profiles.fetch_add(1, Relaxed);
            }
        });
        scope.spawn(|| {
            while on() {
                let answer = fetch(busy.address, "/debug/pprof/threads");
                assert_eq!(answer.status, 200, "{}", answer.head);
                stacks.fetch_add(1, Relaxed);
            }
        });
        scope.spawn(|| {
            while on() {
                busy.process.signal(Signal::PROF);
                assert_eq!(fetch(busy.address, "/livez").status, 200);
            }
        });
    });
    let file = directory.path().join("profile");
    download(&busy, "profile?seconds=1", &file);
    let top = go(&directory, &["-top", "-cum", &file.to_string_lossy()]);
    assert!(top.contains("busy::"), "{top}");
    // Each stack reaches a thread's beginning.
    let root = top.lines().find(|row| row.ends_with(" clone3"));
    let root = root.unwrap_or_else(|| panic!("no clone3 in {top}"));
    assert!(share(root, 4).0 >= 95.0, "{top}");
    let done = busy.end();
    for work in ["allocates", "calls", "formats", "locks", "panics", "spawns"] {
        let line = done.lines().find(|line| line.starts_with(work));
        let turns = line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        assert!(turns.is_some_and(|turns| turns > 0), "{work}: {done}");
    }
    assert!(profiles.into_inner() > 0 && stacks.into_inner() > 0);
}

/// Of the build that `cargo test` makes beside this one.
#[cfg(feature = "heap")]
#[test]
fn who_holds_memory_is_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let program = target.expect("it has one").join("debug/examples/busy");
    let busy = Busy::start_from(&program, "hold");
    let top = go(&directory, &["-top", "-cum", &busy.url("heap")]);
    assert!(top.contains("Type: inuse_space"), "{top}");
    let row = top.lines().find(|row| row.ends_with("busy::fill"));
    let row = row.unwrap_or_else(|| panic!("no busy::fill in {top}"));
    let (percent, _) = share(row, 4);
    assert!(percent >= 90.0, "{top}");
    // 64 MiB and the vectors around them, as far as samples tell.
    let megabytes: f64 = row
        .split_ascii_whitespace()
        .nth(3)
        .and_then(|size| size.strip_suffix("MB")?.parse().ok())
        .unwrap_or_else(|| panic!("no size in {row}"));
    assert!((50.0..90.0).contains(&megabytes), "{top}");
    let text = fetch(busy.address, "/debug/pprof/heap?debug=1");
    assert!(text.text().starts_with("heap profile: "), "{}", text.text());
    assert!(text.text().contains("busy::fill"), "{}", text.text());
    busy.end();
}
