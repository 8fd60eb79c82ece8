//! Start and stop: one tbot a destination, limits, signals, an orderly end.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::common::keys::{Keys, THREADS};
use crate::common::process::succeed;
use crate::common::server::Server;
use crate::common::tbot::{Counts, Start, Tbot};
use crate::common::v1::{assert_echoes, assert_refused, connect, dial, read_to_end, try_connect};
use crate::common::wait::until;
use crate::common::{STRANGER, as_user, http, mode, not_tested, procfs, set_mode};

#[test]
fn a_second_tbot_on_the_same_destination_is_refused_with_the_pid_of_the_first() {
    let (first, echo) = (Tbot::start(), Server::echo());
    let pid = first.pid().as_raw_pid().to_string();
    let lock = fs::read_to_string(first.destination.join(".tbot.lock")).expect("it is held");
    assert_eq!(lock.trim(), pid);

    let second = Start::multiplexer()
        .destination(&first.destination)
        .finish();
    let error = second.error();
    assert!(error.contains(&pid), "{error} names {pid}");
    // The first did not suffer.
    assert_echoes(&mut dial(&first, echo.address), b"served");
}

#[test]
fn the_stale_socket_of_a_killed_one_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let destination = directory.path().join("mux");
    let start = || Start::multiplexer().destination(&destination).start();
    let mut killed = start();
    killed.signal(Signal::KILL);
    killed.exit();
    assert!(killed.socket().exists(), "nobody was left to remove it");
    let (tbot, echo) = (start(), Server::echo());
    assert_echoes(&mut dial(&tbot, echo.address), b"served");
}

#[test]
fn one_service_that_cannot_start_leaves_no_file_of_another() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    fs::create_dir(&bad).expect("the directory is ours");
    set_mode(&bad, 0o777);
    let service = |path: &Path| {
        let path = path.display();
        format!("- type: ssh-multiplexer\n  destination: {{ type: directory, path: {path} }}\n")
    };
    let (first, second) = (service(&good), service(&bad));
    let end = Start::config(|_| format!("version: v2\nservices:\n{first}{second}")).finish();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    assert!(end.stderr.contains("can be written by others"), "{end:?}");
    assert!(!good.join("ssh_config").exists() && !good.join("v1.sock").exists());
}

#[test]
fn a_start_that_fails_leaves_no_socket() {
    let (keys, directory) = (Keys::with_ca(), tempfile::tempdir());
    let directory = directory.expect("a directory for temporary files");
    let destination = directory.path().join("mux");
    fs::create_dir_all(destination.join("agent.sock")).expect("the directory is ours");
    let end = Start::config(|_| {
        format!(
            "version: v2\nonboarding: {}\nservices:\n- type: ssh-multiplexer\n  \
             destination: {{ type: directory, path: {} }}\n",
            keys.ssh_ca("root"),
            destination.display()
        )
    })
    .finish();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    assert!(end.stderr.contains("cannot listen on "), "{end:?}");
    assert!(!destination.join("v1.sock").exists());
}

#[test]
fn the_limit_of_open_files_is_raised_to_the_hard_one() {
    let tbot = Start::multiplexer()
        .through(&["prlimit", "--nofile=256:4096"])
        .start();
    assert_eq!(procfs::descriptor_limits(tbot.pid()), (4096, 4096));
}

/// What makes a process see many cores.
const CORES: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>
int sched_getaffinity(pid_t process, size_t size, cpu_set_t *set) {
    memset(set, 0, size);
    for (int core = 0; core < 300; core++)
        CPU_SET_S(core, size, set);
    return 0;
}
"#;

#[test]
fn as_many_connections_are_served_as_it_says_however_many_cores_there_are() {
    let (keys, target) = (Keys::new(), Server::greeting());
    let tbot = Start::multiplexer()
        .env(
            "LD_PRELOAD",
            &keys.library("cores", CORES).display().to_string(),
        )
        .through(&["prlimit", "--nofile=1024:1024"])
        .start();
    if procfs::serving(tbot.pid()).len() < 300 {
        return not_tested("300 cores", "this system has a quota of CPU time");
    }
    let most = tbot.stderr.line(" serves at most ");
    let most = most
        .split(" serves at most ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let most = most
        .and_then(|most| most.parse::<usize>().ok())
        .expect("a number");
    let mut clients: Vec<_> = (0..most).map(|_| dial(&tbot, target.address)).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("the target greets");
    }
    // What is left is for the diagnostics, among others.
    assert_eq!(tbot.counts().in_flight, most as u64);
}

#[test]
fn without_connections_a_signal_ends_it_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        // Were the grace waited for, the test would not end in time.
        let mut tbot = Tbot::with(&["--shutdown-grace", "1h"]);
        tbot.signal(signal);
        let status = tbot.exit();
        assert_eq!(status.code(), Some(0), "{}", tbot.stderr.all());
        assert!(!tbot.socket().exists());
        assert!(try_connect(&tbot.socket()).is_err());
        assert!(tbot.ssh_config().exists(), "files stay, as they stay true");
    }
}

#[test]
fn connections_in_flight_may_end_in_their_own_time() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut tbot, echo) = (Tbot::with(&["--shutdown-grace", "1h"]), Server::echo());
        let mut clients: Vec<_> = (0..3).map(|_| dial(&tbot, echo.address)).collect();
        for client in &mut clients {
            assert_echoes(client, b"before");
        }
        tbot.signal(signal);
        await_still_open(&tbot, 3);
        // Nobody new gets in: either the socket is gone, or it ends without a byte.
        if let Ok(mut late) = try_connect(&tbot.socket()) {
            assert_refused(&mut late);
        }
        for client in &mut clients {
            assert_echoes(client, b"while it stops");
        }
        assert_eq!(tbot.ended(), None);
        drop(clients);
        assert_eq!(tbot.exit().code(), Some(0), "{}", tbot.stderr.all());
        assert!(!tbot.socket().exists());
    }
}

#[test]
fn diagnostics_answer_while_connections_end() {
    let (tbot, echo) = (Tbot::with(&["--shutdown-grace", "1h"]), Server::echo());
    let mut client = dial(&tbot, echo.address);
    assert_echoes(&mut client, b"before");
    tbot.signal(Signal::TERM);
    await_still_open(&tbot, 1);
    assert_eq!(tbot.counts().in_flight, 1);
    // A load balancer or a probe must not send anyone here any more.
    let (status, body) = http::get(tbot.address(), "/readyz");
    assert_eq!(status, 503, "{body}");
}

#[test]
fn connections_are_closed_when_their_grace_is_over() {
    let (mut tbot, echo) = (Tbot::with(&["--shutdown-grace", "1s"]), Server::echo());
    let mut client = dial(&tbot, echo.address);
    assert_echoes(&mut client, b"before");
    tbot.signal(Signal::TERM);
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(tbot.exit().code(), Some(0), "{}", tbot.stderr.all());
    assert!(!tbot.socket().exists());
}

#[test]
fn a_dial_under_way_does_not_hold_up_the_end() {
    let mut tbot = Tbot::with(&["--shutdown-grace", "1s", "--connect-timeout", "1h"]);
    let hole = crate::common::black_hole::BlackHole::open();
    let mut client = dial(&tbot, hole.address);
    tbot.await_in_flight(1);
    tbot.signal(Signal::TERM);
    assert_refused(&mut client);
    assert_eq!(tbot.exit().code(), Some(0), "{}", tbot.stderr.all());
}

#[test]
fn who_waits_to_be_accepted_at_the_end_is_served_like_those_who_were() {
    let (tbot, echo) = (Tbot::with(&["--shutdown-grace", "1h"]), Server::echo());
    let mut first = dial(&tbot, echo.address);
    assert_echoes(&mut first, b"before");
    tbot.signal(Signal::STOP);
    let mut waiting: Vec<_> = (0..500).map(|_| dial(&tbot, echo.address)).collect();
    tbot.signal(Signal::TERM);
    tbot.signal(Signal::CONT);
    for client in &mut waiting {
        assert_echoes(client, b"after");
    }
    assert!(try_connect(&tbot.socket()).is_err());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let (mut tbot, echo) = (Tbot::with(&["--shutdown-grace", "1h"]), Server::echo());
        let mut client = dial(&tbot, echo.address);
        assert_echoes(&mut client, b"before");
        tbot.signal(first);
        await_still_open(&tbot, 1);
        tbot.signal(second);
        tbot.exit();
        read_to_end(&mut client);
        assert!(!tbot.socket().exists());
    }
}

#[test]
fn the_pid_file_is_there_while_it_runs() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("tbot.pid");
    let mut tbot = Start::multiplexer()
        .args(["--pid-file".as_ref(), path.as_os_str()])
        .start();
    let pid = fs::read_to_string(&path).expect("it was written");
    assert_eq!(pid.trim(), tbot.pid().as_raw_pid().to_string());
    tbot.signal(Signal::TERM);
    tbot.exit();
    assert!(!path.exists());
}

#[test]
fn a_pid_file_follows_no_link_and_leaves_nothing_beside_it() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let (path, victim) = (
        directory.path().join("tbot.pid"),
        directory.path().join("victim"),
    );
    fs::write(&victim, "precious").expect("the directory is ours");
    // By the name that it writes to before the file is whole, with its own number in it.
    let trap = format!(
        "ln -s {} {}.$$.tmp; exec \"$@\"",
        victim.display(),
        path.display()
    );
    let start = || {
        let arguments = ["--pid-file".as_ref(), path.as_os_str()];
        let start = Start::multiplexer().args(arguments);
        start.through(&["sh", "-c", &trap, "sh"])
    };
    let names = || fs::read_dir(directory.path()).expect("ours").count();
    drop(start().start());
    assert_eq!(
        fs::read_to_string(&victim).expect("it is there"),
        "precious"
    );
    assert_eq!(names(), 2);
    // One that cannot be written.
    fs::remove_file(&path).expect("it was killed");
    fs::create_dir(&path).expect("the directory is ours");
    assert_eq!(start().finish().status.code(), Some(1));
    assert_eq!(names(), 2);
}

#[test]
fn a_pid_file_is_one_tbot_s_whatever_a_killed_one_left() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("tbot.pid");
    let start = || Start::multiplexer().args(["--pid-file".as_ref(), path.as_os_str()]);
    let mut killed = start().start();
    killed.signal(Signal::KILL);
    killed.exit();
    assert!(path.exists(), "nobody was left to remove it");
    // A number that another process may have by now.
    fs::write(&path, format!("{}\n", std::process::id())).expect("the directory is ours");
    let mut first = start().start();
    let pid = first.pid().as_raw_pid().to_string();
    let holds = |expected: &str| {
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, format!("{expected}\n"));
    };
    holds(&pid);
    assert_eq!(mode(&path), 0o644);
    let second = start();
    let destination = second.directory().join("mux/ssh_config");
    let error = second.finish().error().to_owned();
    let expected = format!("tbot.pid: it is that of another tbot, which runs (process {pid})");
    assert!(error.ends_with(&expected), "{error}");
    assert!(!destination.exists());
    holds(&pid);
    // What somebody takes away is back; what somebody puts there is theirs.
    fs::remove_file(&path).expect("the directory is ours");
    until("it is back", || path.exists().then_some(()));
    holds(&pid);
    first
        .stderr
        .line("tbot.pid was taken away: it is written again");
    fs::remove_file(&path).expect("the directory is ours");
    fs::write(&path, "precious\n").expect("the directory is ours");
    first.signal(Signal::TERM);
    first.exit();
    holds("precious");
    assert_eq!(fs::read_dir(directory.path()).expect("ours").count(), 1);
}

#[test]
fn of_many_that_start_together_one_has_the_pid_file() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("tbot.pid");
    fs::write(&path, "1\n").expect("the directory is ours");
    let refused = AtomicUsize::new(0);
    let lines: Vec<_> = std::thread::scope(|scope| {
        let start = || {
            let start = Start::multiplexer().args(["--pid-file".as_ref(), path.as_os_str()]);
            let end = start.finish();
            refused.fetch_add(1, Ordering::Relaxed);
            end.stderr
        };
        let all: Vec<_> = (0..6).map(|_| scope.spawn(start)).collect();
        until("all but one", || {
            (refused.load(Ordering::Relaxed) == 5).then_some(())
        });
        let pid = fs::read_to_string(&path).expect("the last one's");
        succeed(Command::new("kill").arg(pid.trim()));
        all.into_iter()
            .map(|one| one.join().expect("no panic"))
            .collect()
    });
    let served = lines.iter().filter(|lines| lines.contains(" is ready at "));
    assert_eq!(served.count(), 1, "{lines:#?}");
    assert!(!path.exists());
}

#[test]
fn what_is_no_pid_file_stays_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("tbot.pid");
    let start = || Start::multiplexer().args(["--pid-file".as_ref(), path.as_os_str()]);
    succeed(Command::new("mkfifo").arg(&path));
    let error = start().finish().error().to_owned();
    assert!(
        error.ends_with("tbot.pid: it is no regular file"),
        "{error}"
    );
    assert!(!path.is_file());
    fs::remove_file(&path).expect("the directory is ours");
    fs::write(&path, "version: v2\n").expect("the directory is ours");
    let error = start().finish().error().to_owned();
    assert!(
        error.ends_with("tbot.pid: what is there is no process id"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(&path).expect("it is there"),
        "version: v2\n"
    );
    // The number of none, however it is locked: anyone may who may read it.
    fs::write(&path, format!("{}\n", i32::MAX)).expect("the directory is ours");
    let held = fs::File::open(&path).expect("it is there");
    held.lock().expect("nobody else has it");
    let tbot = start().start();
    let pid = tbot.pid().as_raw_pid().to_string();
    assert_eq!(fs::read_to_string(&path).expect("it is there").trim(), pid);
}

#[test]
fn a_start_that_fails_leaves_no_pid_file() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let missing = directory.path().join("no/tbot.pid");
    let start = Start::multiplexer().args(["--pid-file".as_ref(), missing.as_os_str()]);
    let destination = start.directory().join("mux/ssh_config");
    let end = start.finish();
    let expected = "no/tbot.pid: No such file or directory";
    assert!(end.error().ends_with(expected), "{end:?}");
    assert!(!destination.exists());
    // Where it fails behind it, for want of threads.
    let (keys, path) = (Keys::new(), directory.path().join("tbot.pid"));
    let library = keys.library("threads", THREADS);
    let end = Start::multiplexer()
        .args(["--pid-file".as_ref(), path.as_os_str()])
        .env("LD_PRELOAD", &library.display().to_string())
        .env("NO_THREADS", &path.display().to_string())
        .finish();
    let expected = "cannot start a thread: Resource temporarily unavailable";
    assert!(end.error().ends_with(expected), "{end:?}");
    assert!(!path.exists());
}

#[test]
fn a_file_configures_what_flags_do() {
    let echo = Server::echo();
    let mut tbot = Start::config(|destination| {
        format!(
            "version: v2\n\
             diag_addr: 127.0.0.1:0\n\
             shutdown_grace: 1h\n\
             services:\n\
             - type: ssh-multiplexer\n\
             \x20 name: mux\n\
             \x20 destination:\n\
             \x20   type: directory\n\
             \x20   path: {}\n\
             \x20 cluster_name: prod\n\
             \x20 connect_timeout: 2s\n\
             \x20 max_connections: 1\n",
            destination.display()
        )
    })
    .start();
    tbot.stderr.line("ssh-multiplexer \"mux\" is ready at ");
    let target = format!("{}|prod", echo.address);
    assert_echoes(&mut dial(&tbot, &target), b"served");
    tbot.await_ended(1);
    let mut first = dial(&tbot, &target);
    assert_echoes(&mut first, b"served");
    assert_refused(&mut dial(&tbot, &target));
    tbot.await_counts(Counts {
        started: 3,
        ok: 1,
        error: 1,
        in_flight: 1,
    });
    drop(first);
    tbot.signal(Signal::TERM);
    assert_eq!(tbot.exit().code(), Some(0));
}

#[test]
fn the_example_starts_with_paths_that_hold_from_everywhere() {
    let start = Start::config(|_| include_str!("../example.yaml").to_owned());
    let destination = start.directory().join(".tbot");
    let tbot = start.start();
    tbot.stderr.line("ssh-multiplexer \"mux\" is ready at ");
    let config = fs::read_to_string(destination.join("ssh_config")).expect("it was written");
    let socket = destination.join("v1.sock").display().to_string();
    assert!(config.contains(&socket), "{config} names {socket}");
}

#[test]
fn a_key_that_is_unknown_starts_nothing() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let destination = directory.path().join("mux");
    let end = Start::config(|_| {
        format!(
            "version: v2\n\
             services:\n\
             - type: ssh-multiplexer\n\
             \x20 destination: {{ type: directory, path: {} }}\n\
             \x20 max_conections: 5\n",
            destination.display()
        )
    })
    .finish();
    let error = end.error();
    for part in ["tbot.yaml", "5", "max_conections", "max_connections"] {
        assert!(error.contains(part), "{error} names {part}");
    }
    assert!(!destination.exists());
}

#[test]
fn logs_hold_no_escapes_where_stderr_is_no_terminal() {
    let tbot = Tbot::start();
    assert!(!tbot.stderr.so_far().contains('\x1b'));
    assert_eq!(tbot.stdout.so_far(), "");
}

#[test]
fn json_logs_are_one_object_a_line() {
    let mut tbot = Tbot::with(&["--log-format", "json"]);
    tbot.signal(Signal::TERM);
    tbot.exit();
    for line in tbot.stderr.all().lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(object.is_object(), "{line}");
    }
}

#[test]
fn others_cannot_reach_the_socket() {
    if !crate::common::is_root() {
        return crate::common::not_tested("other users", "only root can be one");
    }
    let tbot = reachable(&[]);
    let error = as_user(STRANGER, || try_connect(&tbot.socket())).expect_err("closed to others");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(tbot.counts(), Counts::default());
}

#[test]
fn others_who_reach_the_socket_are_refused() {
    if !crate::common::is_root() {
        return crate::common::not_tested("other users", "only root can be one");
    }
    let (tbot, echo) = (reachable(&[]), Server::echo());
    set_mode(&tbot.destination, 0o711);
    set_mode(&tbot.socket(), 0o666);
    assert_sent_away(&tbot, STRANGER);
    assert_eq!(tbot.refused("peer"), 1);
    assert_echoes(&mut dial(&tbot, echo.address), b"its own user");
}

#[test]
fn only_listed_users_are_served_beside_its_own() {
    if !crate::common::is_root() {
        return crate::common::not_tested("other users", "only root can be one");
    }
    let listed = STRANGER.to_string();
    let (tbot, echo) = (reachable(&["--allowed-uid", &listed]), Server::echo());
    assert_eq!(mode(&tbot.destination), 0o711);
    assert_eq!(mode(&tbot.socket()), 0o666);
    let mut client = as_user(STRANGER, || dial(&tbot, echo.address));
    assert_echoes(&mut client, b"listed");
    assert_echoes(&mut dial(&tbot, echo.address), b"its own user");
    assert_sent_away(&tbot, STRANGER - 1);
    assert_eq!(tbot.refused("peer"), 1);
}

/// A tbot in a directory that others may pass through.
fn reachable(arguments: &[&str]) -> Tbot {
    let start = Start::multiplexer().args(arguments);
    set_mode(start.directory(), 0o711);
    start.start()
}

/// Nothing is read from someone who may not connect, so the log alone says who it was.
fn assert_sent_away(tbot: &Tbot, uid: u32) {
    let mut client = as_user(uid, || connect(tbot));
    assert_refused(&mut client);
    tbot.stderr
        .line_where("who was sent away", |line| line.contains(&uid.to_string()));
}

/// Waits for the line that says how many connections are still open.
fn await_still_open(tbot: &Tbot, count: usize) {
    let count = count.to_string();
    tbot.stderr
        .line_where(&format!("{count} still open"), |line| {
            line.contains("open")
                && line
                    // The time has numbers too.
                    .split_once("INFO")
                    .or_else(|| line.split_once("WARN"))
                    .is_some_and(|(_, text)| {
                        text.split(|c: char| !c.is_alphanumeric())
                            .any(|word| word == count)
                    })
        });
}

#[test]
fn a_profiler_s_signal_does_not_kill_where_there_are_no_profiles() {
    for start in [
        Start::multiplexer(),
        Start::multiplexer().args(["-d"]).without_diagnostics(),
    ] {
        let tbot = start.start();
        tbot.signal(Signal::PROF);
        // It is answered after the other one.
        tbot.signal(Signal::HUP);
        tbot.stderr.line("renewing everything");
    }
}
