//! `/readyz` says whether a client that connected now would be served, without being told.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::frozen::Frozen;
use crate::common::keys::{Keys, THREADS, await_healthy, listed, readyz, with_identity};
use crate::common::process::{run, succeed};
use crate::common::server::Server;
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, connect, dial};
use crate::common::wait::until;
use crate::common::{http, not_tested};

/// Waits until the multiplexer is unready for a reason with `part` in it.
fn await_reason(tbot: &Tbot, part: &str) {
    until(part, || {
        let (status, body) = http::get(tbot.address(), "/readyz/ssh-multiplexer-1");
        (status == 503 && body.contains(part)).then_some(())
    });
    let metric = "tbot_service_status{service=\"ssh-multiplexer-1\",status=";
    assert_eq!(tbot.metric(&format!("{metric}\"unhealthy\"}}")), 1);
    assert_eq!(tbot.metric(&format!("{metric}\"healthy\"}}")), 0);
}

fn await_ready(tbot: &Tbot) {
    until("it is ready", || {
        (http::get(tbot.address(), "/readyz").0 == 200).then_some(())
    });
    let metric = "tbot_service_status{service=\"ssh-multiplexer-1\",status=";
    assert_eq!(tbot.metric(&format!("{metric}\"healthy\"}}")), 1);
    assert_eq!(tbot.metric(&format!("{metric}\"unhealthy\"}}")), 0);
    assert_eq!(tbot.metric(&format!("{metric}\"initializing\"}}")), 0);
}

#[test]
fn a_full_multiplexer_is_not_ready_until_a_connection_ends() {
    let echo = Server::echo();
    let tbot = Start::config(|destination| {
        format!(
            "version: v2\nservices:\n  - type: ssh-multiplexer\n    max_connections: 2\n    \
             destination: {{ type: directory, path: {} }}\n",
            destination.display()
        )
    })
    .start();
    await_ready(&tbot);
    let mut held: Vec<_> = (0..2).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut held {
        assert_echoes(stream, b"up");
    }
    await_reason(&tbot, "all 2 connections are in use");
    held.pop();
    await_ready(&tbot);
}

#[test]
fn one_without_descriptors_is_not_ready_until_it_has_some() {
    let tbot = Tbot::start();
    await_ready(&tbot);
    let limit = |most: usize| {
        let process = tbot.pid().as_raw_pid().to_string();
        succeed(Command::new("prlimit").args(["--pid", &process, &format!("--nofile={most}:")]));
    };
    // Enough for what asks, and no more: the service's own connection is one.
    let open = crate::common::procfs::descriptors(tbot.pid());
    limit(open + 2);
    await_reason(&tbot, "no file descriptors are left");
    limit(1000);
    await_ready(&tbot);
}

#[test]
fn one_without_descriptors_is_alive_all_the_same() {
    let tbot = Tbot::start();
    await_ready(&tbot);
    let process = tbot.pid().as_raw_pid().to_string();
    let limit = |most: u64| {
        succeed(Command::new("prlimit").args(["--pid", &process, &format!("--nofile={most}:")]));
    };
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("it is ours");
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    limit(numbers.max().expect("there are some") + 1);
    // Each takes one that is left, until none is; they have ten seconds for their requests.
    let mut held = Vec::new();
    until("none is left", || {
        held.push(connect(&tbot));
        let log = tbot.stderr.so_far();
        log.contains("Too many open files").then_some(())
    });
    for _ in 0..20 {
        let (status, body) = http::get(tbot.address(), "/livez");
        assert_eq!((status, &*body), (200, "OK"));
    }
    // Nor does it matter who comes behind a probe that has connected and not asked yet.
    let mut prompt = 0;
    while prompt < 20 {
        let connecting = Instant::now();
        let mut probe = http::begin(tbot.address(), "");
        let others = ["", "GET /livez", "", ""].map(|it| http::begin(tbot.address(), it));
        let sent = probe.write_all(http::request(tbot.address(), "/livez", "").as_bytes());
        // A machine that stood still for so long says nothing.
        if connecting.elapsed() < Duration::from_millis(20) {
            sent.expect("it has its time");
            assert_eq!(http::end(probe).status, 200);
            prompt += 1;
        }
        drop(others);
    }
    let log = tbot.stderr.so_far();
    assert!(
        !log.contains("no complete request"),
        "it waited for one to end: {log}"
    );
    limit(1000);
    drop(held);
    await_ready(&tbot);
}

#[test]
fn one_without_threads_is_not_ready_until_it_has_some() {
    let keys = Keys::with_ca();
    let (library, none) = (keys.library("threads", THREADS), keys.path("none"));
    let tbot = with_identity(&keys.ssh_ca("root"), "", "")
        .env("LD_PRELOAD", &library.display().to_string())
        .env("NO_THREADS", &none.display().to_string())
        .start();
    await_healthy(&tbot, "mux");
    keys.write("none", "");
    let reason = crate::common::keys::await_reason(&tbot, "mux");
    let expected = "no thread can be started: Resource temporarily unavailable (";
    assert!(reason.starts_with(expected), "{reason}");
    let list = run(crate::common::keys::client(&tbot, "ssh-add").arg("-l"));
    assert!(!list.status.success(), "{list:?}");
    tbot.stderr
        .line("WARN agent: no thread for a client: Resource temporarily unavailable");
    fs::remove_file(&none).expect("ours");
    await_healthy(&tbot, "mux");
    assert_eq!(listed(&tbot).len(), 2);
}

#[test]
fn one_whose_socket_was_taken_away_is_not_ready_until_it_has_a_new_one() {
    let (keys, echo) = (Keys::with_ca(), Server::echo());
    let tbot = with_identity(&keys.ssh_ca("root"), "", "").start();
    await_healthy(&tbot, "identity");
    let mut open = dial(&tbot, echo.address);
    assert_echoes(&mut open, b"before");
    for name in ["v1.sock", "agent.sock"] {
        let path = tbot.destination.join(name);
        fs::remove_file(&path).expect("the directory is ours");
        let lost = crate::common::keys::await_reason(&tbot, "mux");
        let expected = format!("/{name} is not this tbot's socket any more: ");
        assert!(lost.contains(&expected), "{lost}");
        // By itself, and what was open is so still.
        await_healthy(&tbot, "mux");
        assert_eq!(crate::common::mode(&path), 0o600);
    }
    assert_echoes(&mut open, b"on");
    assert_echoes(&mut dial(&tbot, echo.address), b"anew");
    assert_eq!(listed(&tbot).len(), 2);
    // Something else in its place is for others to take away.
    fs::remove_file(tbot.socket()).expect("ours");
    fs::create_dir(tbot.socket()).expect("ours");
    tbot.signal(Signal::HUP);
    let problem = until("the reason", || {
        let (_, _, reason) = readyz(&tbot, "mux");
        reason.contains("cannot listen on ").then_some(reason)
    });
    assert!(
        problem.ends_with("/v1.sock again: there is something that is no socket"),
        "{problem}"
    );
    fs::remove_dir(tbot.socket()).expect("ours");
    tbot.signal(Signal::HUP);
    await_healthy(&tbot, "mux");
    assert_echoes(&mut dial(&tbot, echo.address), b"anew");
    // Nor is it put into somebody else's directory.
    let away = tbot.destination.with_extension("away");
    fs::rename(&tbot.destination, &away).expect("ours");
    fs::create_dir(&tbot.destination).expect("ours");
    tbot.signal(Signal::HUP);
    until("the reason", || {
        let (_, _, reason) = readyz(&tbot, "mux");
        reason
            .contains("is not the directory any more that this tbot serves from: restart tbot")
            .then_some(())
    });
    assert_eq!(fs::read_dir(&tbot.destination).expect("ours").count(), 0);
    fs::remove_dir(&tbot.destination).expect("ours");
    fs::rename(&away, &tbot.destination).expect("ours");
    await_healthy(&tbot, "mux");
}

#[test]
fn one_whose_directory_was_taken_away_says_so_five_times_and_no_more() {
    let keys = Keys::with_ca();
    let files = keys.path("files");
    let other = format!(
        "  - type: identity\n    name: files\n    destination: {{ type: directory, path: {} }}",
        files.display()
    );
    let tbot = with_identity(&keys.ssh_ca("root"), "", &other).start();
    await_healthy(&tbot, "mux");
    let away = tbot.destination.with_extension("away");
    fs::rename(&tbot.destination, &away).expect("ours");
    tbot.stderr.line("WARN mux: attempt 5 of 5: ");
    let runs = || tbot.metric("tbot_task_iterations_total{name=\"artifacts\",service=\"mux\"}");
    let before = runs();
    // What else is looked at with it was, twice.
    for _ in 0..2 {
        fs::remove_dir_all(&files).expect("ours");
        until("what was deleted", || {
            files.join("known_hosts").exists().then_some(())
        });
    }
    assert_eq!(runs(), before);
    fs::rename(&away, &tbot.destination).expect("ours");
    await_healthy(&tbot, "mux");
}

#[test]
fn a_thread_that_hangs_is_noticed_after_5_seconds_until_it_goes_on() {
    let echo = Server::echo();
    let tbot = Tbot::start();
    await_ready(&tbot);
    // It waits for work, and one that hangs then looks the same from outside.
    let begun = Instant::now();
    let Some(frozen) = Frozen::thread(tbot.pid(), "mux-0") else {
        return not_tested("a thread that hangs", "this system lets nobody freeze it");
    };
    await_reason(&tbot, "the thread mux-0 has been stuck for ");
    assert!(begun.elapsed() > Duration::from_secs(5));
    assert_eq!(http::get(tbot.address(), "/livez").0, 200);
    if crate::common::procfs::serving(tbot.pid()).len() > 1 {
        // The others go on, and give it nothing of theirs.
        let mut clients: Vec<_> = (0..10).map(|_| dial(&tbot, echo.address)).collect();
        for client in &mut clients {
            assert_echoes(client, b"served");
        }
    }
    drop(frozen);
    await_ready(&tbot);
    assert_echoes(&mut dial(&tbot, echo.address), b"up");
}
