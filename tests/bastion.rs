//! Targets behind a bastion: many streams by few shared connections, with a real `sshd` as the bastion and
//! the real `ssh` as the client of both.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;

use rustix::process::{Pid, Signal, kill_process};

use common::black_hole::BlackHole;
use common::keys::{Keys, await_healthy, readyz, with_identity};
use common::process::{Process, run, succeed};
use common::procfs;
use common::server::{ClosedPort, Server};
use common::sshd::Sshd;
use common::tbot::{Counts, Start, Tbot};
use common::v1::{
    assert_echoes, assert_refused, connect, dial, dial_with_stderr, request, try_connect,
};
use common::wait::{finishes, until};

/// A tbot whose targets are behind the server at `address`, with further lines of its service.
fn behind(address: impl ToString, lines: &str) -> Start {
    let run = format!("proxy_server: '{}'", address.to_string());
    with_identity("", &run, &format!("    cluster_name: prod\n{lines}"))
}

/// The lines by which it logs in to `bastion`.
fn login(bastion: &Sshd) -> String {
    format!(
        "    user: {}\n    identity_file: {}\n    known_hosts: ['{}']\n",
        bastion.user,
        bastion.file("client_key").display(),
        bastion.known_host()
    )
}

fn through(bastion: &Sshd, lines: &str) -> Tbot {
    let tbot = behind(bastion.address, &(login(bastion) + lines)).start();
    await_healthy(&tbot, "mux");
    tbot
}

/// Its `ssh` processes.
fn masters(tbot: &Tbot) -> Vec<Pid> {
    procfs::descendants(tbot.pid())
}

fn state(tbot: &Tbot, state: &str) -> u64 {
    tbot.metric(&format!(
        "tbot_ssh_bastion_masters{{cluster=\"prod\",state=\"{state}\"}}"
    ))
}

fn cluster(tbot: &Tbot, metric: &str) -> u64 {
    tbot.metric(&format!("tbot_ssh_bastion_{metric}{{cluster=\"prod\"}}"))
}

/// Waits until the multiplexer is unready for a reason with `part` in it.
#[track_caller]
fn await_reason(tbot: &Tbot, part: &str) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until(part, || {
            let (code, _, reason) = readyz(tbot, "mux");
            last = reason;
            (code == 503 && last.contains(part)).then_some(())
        })
    }));
    assert!(found.is_ok(), "{part:?} is not in {last:?}");
    assert!(last.contains("cluster prod: "), "{last}");
}

/// Asks for `target`, which is refused with one line on the user's stderr.
fn refusal(tbot: &Tbot, target: impl ToString) -> String {
    let (mut stream, errors) = dial_with_stderr(tbot, target);
    assert_refused(&mut stream);
    errors.one_line()
}

#[test]
fn a_session_goes_by_the_bastion_with_the_bot_s_own_certificate() {
    let keys = Keys::with_ca();
    let (bastion, target) = (keys.sshd(), keys.sshd());
    let tbot = with_identity(
        &keys.ssh_ca(&bastion.user),
        &format!("proxy_server: '{}'", bastion.address),
        &format!(
            "    cluster_name: prod\n    user: {}\n    host_ca: [{}]\n",
            bastion.user,
            keys.path("ca.pub").display()
        ),
    )
    .start();
    await_healthy(&tbot, "mux");
    for n in 0..3 {
        let mut ssh = common::keys::ssh(&tbot, &target, "127.0.0.1.prod", "echo in; cat >&2");
        let mut session = Process::spawn_with_input(&mut ssh);
        session.stdout.line("in");
        session.input().write_all(b"through\n").expect("it reads");
        session.close_input();
        let end = session.finish();
        assert!(
            end.status.success() && end.stderr == "through\n",
            "{n}: {end:?}"
        );
    }
    tbot.await_counts(Counts {
        started: 3,
        ok: 3,
        ..Counts::default()
    });
    assert_eq!(bastion.log().matches("Accepted publickey").count(), 1);
    assert_eq!(cluster(&tbot, "opens_total"), 3);
    assert_eq!(cluster(&tbot, "streams"), 0);
    for direction in ["sent", "received"] {
        let bytes = tbot.metric(&format!(
            "tbot_ssh_bastion_link_bytes_total{{cluster=\"prod\",direction=\"{direction}\"}}"
        ));
        assert!(bytes > 3000, "{bytes} {direction}");
    }
    let directory = tbot.destination.join(".masters");
    assert_eq!(common::mode(&directory), 0o700);
}

#[test]
fn hundreds_of_sessions_are_few_connections_to_a_bastion_that_would_drop_some() {
    const AT_ONCE: usize = 50;
    const ROUNDS: usize = 4;
    let bastion = Sshd::configured(|_| "MaxStartups 10:30:100".into());
    let target = Sshd::start();
    let tbot = through(&bastion, "");
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let sessions: Vec<Process> = (0..AT_ONCE)
            .map(|_| {
                let mut ssh = target.ssh_to(&tbot.ssh_config(), "127.0.0.1.prod");
                Process::spawn(ssh.arg("true"))
            })
            .collect();
        for session in sessions {
            let end = session.finish();
            assert!(end.status.success(), "{end:?}\n{}", tbot.stderr.so_far());
            ended += 1;
        }
    }
    tbot.await_counts(Counts {
        started: ended,
        ok: ended,
        ..Counts::default()
    });
    let logins = bastion.log().matches("Accepted publickey").count();
    assert!((1..=3).contains(&logins), "{logins} logins");
}

#[test]
fn what_follows_the_request_reaches_the_target_whole() {
    let (bastion, echo) = (Sshd::start(), Server::greeting());
    let tbot = through(&bastion, "");
    for length in [1, 5000, 3_000_000] {
        let mut stream = connect(&tbot);
        let data: Vec<u8> = (0..length)
            .map(|n: usize| (n * 7 + n / 251) as u8)
            .collect();
        let mut reader = stream.try_clone().expect("descriptors");
        let expected = [b"!", &data[..]].concat();
        let sent = [request(echo.address), data].concat();
        let back = std::thread::spawn(move || {
            let mut back = vec![0; expected.len()];
            reader.read_exact(&mut back).expect("it comes back");
            back == expected
        });
        stream.write_all(&sent).expect("it is read");
        assert!(back.join().expect("no panic"), "{length} bytes");
    }
    tbot.await_ended(3);
    assert_eq!(tbot.counts().ok, 3);
}

#[test]
fn a_silent_target_delays_no_other_and_ends_by_our_clock() {
    let (bastion, echo, hole) = (Sshd::start(), Server::echo(), BlackHole::open());
    let tbot = through(&bastion, "    connect_timeout: 3s\n");
    let mut silent: Vec<_> = (0..20)
        .map(|_| dial_with_stderr(&tbot, hole.address))
        .collect();
    tbot.await_in_flight(20);
    let mut good = dial(&tbot, echo.address);
    assert_echoes(&mut good, b"at once");
    assert_eq!(tbot.refused("timeout"), 0, "the others still wait");
    // One that leaves is not waited for.
    drop(silent.pop());
    for (mut stream, errors) in silent {
        assert_refused(&mut stream);
        let line = errors.one_line();
        assert!(
            line.contains(&hole.address.to_string()) && line.contains("within 3s"),
            "{line}"
        );
    }
    assert_echoes(&mut good, b"still there");
    drop(good);
    tbot.await_counts(Counts {
        started: 21,
        ok: 1,
        error: 20,
        in_flight: 0,
    });
    assert_eq!((tbot.refused("timeout"), tbot.refused("gone")), (19, 1));
    // They keep their places until the bastion has given up, too.
    assert_eq!(cluster(&tbot, "streams"), 20);
    assert_eq!(masters(&tbot).len(), 1);
}

#[test]
fn the_real_reason_of_a_refusal_reaches_the_user() {
    let bastion = Sshd::configured(|_| "PermitOpen 127.0.0.1:* no..such.host:*".into());
    let (echo, closed) = (Server::echo(), ClosedPort::new());
    let tbot = through(&bastion, "");
    assert_echoes(&mut dial(&tbot, echo.address), b"one that works");
    let cases = [
        (closed.address.to_string(), "Connection refused", "refused"),
        ("no..such.host:22".into(), "not known", "name"),
        (
            "127.0.0.2:22".into(),
            "administratively prohibited",
            "prohibited",
        ),
    ];
    // All at once: each gets its own.
    let asked: Vec<_> = (0..10)
        .flat_map(|_| &cases)
        .map(|(target, why, _)| (dial_with_stderr(&tbot, target), target, why))
        .collect();
    for ((mut stream, errors), target, why) in asked {
        assert_refused(&mut stream);
        let line = errors.one_line();
        assert!(
            line.contains(target.as_str()) && line.contains(why),
            "{line}"
        );
    }
    for (_, _, reason) in cases {
        assert_eq!(tbot.refused(reason), 10, "{reason}");
        let metric = "tbot_ssh_bastion_open_failures_total";
        let series = format!("{metric}{{cluster=\"prod\",reason=\"{reason}\"}}");
        assert_eq!(tbot.metric(&series), 10);
    }
    await_healthy(&tbot, "mux");
}

#[test]
fn a_killed_master_ends_its_streams_as_errors_and_is_replaced() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "");
    for round in 1..=2 {
        let mut streams: Vec<_> = (0..10).map(|_| dial(&tbot, echo.address)).collect();
        for stream in &mut streams {
            assert_echoes(stream, b"up");
        }
        let before = masters(&tbot);
        for master in &before {
            kill_process(*master, Signal::KILL).expect("it runs");
        }
        for stream in &mut streams {
            assert_refused(stream);
        }
        let mut next = dial(&tbot, echo.address);
        assert_echoes(&mut next, b"again");
        assert!(masters(&tbot).iter().all(|master| !before.contains(master)));
        drop(next);
        tbot.await_counts(Counts {
            started: 11 * round,
            ok: round,
            error: 10 * round,
            in_flight: 0,
        });
        assert_eq!(cluster(&tbot, "reconnects_total"), round);
    }
    await_healthy(&tbot, "mux");
}

#[test]
fn a_lost_bastion_ends_streams_as_errors_and_is_found_again() {
    let mut bastion = Sshd::start();
    let echo = Server::echo();
    let tbot = through(&bastion, "");
    let mut stream = dial(&tbot, echo.address);
    assert_echoes(&mut stream, b"up");
    bastion.kill();
    assert_refused(&mut stream);
    tbot.await_counts(Counts {
        started: 1,
        error: 1,
        ..Counts::default()
    });
    await_reason(&tbot, "connection refused by 127.0.0.1");
    let line = refusal(&tbot, echo.address);
    assert!(line.contains("connection refused by 127.0.0.1"), "{line}");
    assert_eq!(tbot.refused("bastion_down"), 1);
    bastion.restart(None);
    await_healthy(&tbot, "mux");
    assert_echoes(&mut dial(&tbot, echo.address), b"again");
}

#[test]
fn a_silent_bastion_is_given_up() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "");
    let mut stream = dial(&tbot, echo.address);
    assert_echoes(&mut stream, b"up");
    bastion.freeze_sessions();
    assert_refused(&mut stream);
    let line = tbot.stderr.line("was lost: ssh says: ");
    assert!(line.contains("not responding"), "{line}");
    assert_echoes(&mut dial(&tbot, echo.address), b"on another connection");
    tbot.await_counts(Counts {
        started: 2,
        ok: 1,
        error: 1,
        in_flight: 0,
    });
}

#[test]
fn a_crowd_at_once_is_served_and_leaves_no_descriptor() {
    const CROWD: usize = 300;
    common::raise_descriptor_limit();
    let (bastion, echo, closed) = (Sshd::start(), Server::echo(), ClosedPort::new());
    let tbot = through(&bastion, "    max_streams_per_connection: 1000\n");
    assert_echoes(&mut dial(&tbot, echo.address), b"first");
    tbot.await_ended(1);
    let master = masters(&tbot)[0];
    let before = (procfs::descriptors(tbot.pid()), procfs::descriptors(master));
    // More than the queue of a control socket holds.
    let mut streams: Vec<_> = (0..CROWD).map(|_| dial(&tbot, echo.address)).collect();
    let refused: Vec<_> = (0..CROWD).map(|_| dial(&tbot, closed.address)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
    for mut stream in refused {
        assert_refused(&mut stream);
    }
    assert_eq!(tbot.refused("refused"), CROWD as u64);
    drop(streams);
    tbot.await_ended(1 + 2 * CROWD as u64);
    assert_eq!(tbot.counts().ok, 1 + CROWD as u64);
    tbot.await_descriptors(before.0 + 2);
    until("ssh's descriptors are closed", || {
        (procfs::descriptors(master) <= before.1).then_some(())
    });
}

#[test]
fn a_bastion_that_says_nothing_hangs_nobody() {
    let mute = Server::start(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let key = Sshd::start();
    let tbot = behind(mute.address, &(login(&key) + "    connect_timeout: 1s\n")).start();
    let line = refusal(&tbot, "127.0.0.1:1");
    assert!(line.contains("connecting to the bastion"), "{line}");
    await_reason(&tbot, "there was no login within 31s");
    // Who comes now need not wait for that.
    let line = refusal(&tbot, "127.0.0.1:1");
    assert!(line.contains("there was no login within 31s"), "{line}");
    assert_eq!(tbot.refused("bastion_down"), 2);
}

#[test]
fn a_target_s_first_byte_waits_for_no_delayed_acknowledgement() {
    let (bastion, greeting) = (Sshd::start(), Server::greeting());
    let tbot = through(&bastion, "");
    let mut times: Vec<_> = (0..60)
        .map(|_| {
            let begun = std::time::Instant::now();
            let mut stream = dial(&tbot, greeting.address);
            stream.read_exact(&mut [0]).expect("it greets");
            begun.elapsed()
        })
        .collect();
    times.sort();
    // The kernel's clock for it is 40 ms at least.
    assert!(times[30].as_millis() < 35, "{times:?}");
}

#[test]
fn a_low_limit_of_descriptors_is_told_and_kept_to() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = behind(bastion.address, &login(&bastion))
        .through(&["prlimit", "--nofile=110:110"])
        .start();
    tbot.stderr
        .line("carries at most 26 streams instead of 100, by the limit of 110");
    await_healthy(&tbot, "mux");
    let mut streams: Vec<_> = (0..18).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"up");
    }
}

#[test]
fn no_ssh_outlives_tbot_however_that_ends() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    for signal in [Signal::KILL, Signal::TERM] {
        let mut tbot = through(&bastion, "    max_streams_per_connection: 1\n");
        let mut streams: Vec<_> = (0..3).map(|_| dial(&tbot, echo.address)).collect();
        for stream in &mut streams {
            assert_echoes(stream, b"up");
        }
        let pids = masters(&tbot);
        assert!(pids.len() >= 3, "{pids:?}");
        if signal == Signal::TERM {
            // Not to wait for the grace.
            drop(streams);
        }
        tbot.signal(signal);
        tbot.exit();
        for pid in pids {
            until("ssh is gone", || {
                let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
                let stat = stat.unwrap_or_default();
                (!stat.contains("(ssh)") || stat.contains(") Z ")).then_some(())
            });
        }
    }
}

#[test]
fn a_full_connection_has_a_successor_before_it_is_full() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "    max_streams_per_connection: 4\n");
    let mut streams = Vec::new();
    for (wanted, masters) in [(3, 1), (4, 2), (16, 5)] {
        while streams.len() < wanted {
            let mut stream = dial(&tbot, echo.address);
            assert_echoes(&mut stream, b"up");
            streams.push(stream);
        }
        until(&format!("{masters} for {wanted}"), || {
            (state(&tbot, "ready") == masters).then_some(())
        });
    }
    // More at once than there is room for.
    let mut crowd: Vec<_> = (0..40).map(|_| dial(&tbot, echo.address)).collect();
    for stream in crowd.iter_mut().chain(&mut streams) {
        assert_echoes(stream, b"up");
    }
    assert_eq!(cluster(&tbot, "streams"), 56);
}

#[test]
fn a_renewed_credential_replaces_connections_without_cutting_a_stream() {
    let keys = Keys::with_ca();
    let (bastion, echo) = (keys.sshd(), Server::echo());
    let tbot = with_identity(
        &keys.ssh_ca(&bastion.user),
        &format!("proxy_server: '{}'", bastion.address),
        &format!(
            "    cluster_name: prod\n    user: {}\n    host_ca: [{}]\n",
            bastion.user,
            keys.path("ca.pub").display()
        ),
    )
    .start();
    await_healthy(&tbot, "mux");
    let mut old = dial(&tbot, echo.address);
    assert_echoes(&mut old, b"up");
    let first = masters(&tbot);
    tbot.signal(Signal::HUP);
    until("a second login", || {
        (state(&tbot, "ready") == 1 && state(&tbot, "retiring") == 1).then_some(())
    });
    assert_echoes(&mut old, b"not cut");
    let mut new = dial(&tbot, echo.address);
    assert_echoes(&mut new, b"on the new one");
    drop(old);
    until("the first is gone", || {
        let now = masters(&tbot);
        (now.len() == 1 && now != first).then_some(())
    });
    assert_echoes(&mut new, b"not cut either");
    assert_eq!(bastion.log().matches("Accepted publickey").count(), 2);
}

#[test]
fn why_there_is_no_connection_is_in_readyz_and_on_the_user_s_stderr() {
    let bastion = Sshd::start();
    let stranger = Sshd::start();
    let closed = ClosedPort::new();
    let hole = BlackHole::open();
    let login = login(&bastion);
    let with_key = |key: &Sshd| {
        let key = key.file("client_key").display().to_string();
        login.replace(&bastion.file("client_key").display().to_string(), &key)
    };
    let with_host = |host: &str| login.replace(&bastion.known_host(), host);
    let of_stranger = stranger
        .known_host()
        .split_once(' ')
        .expect("a key")
        .1
        .to_owned();
    let changed = format!("[127.0.0.1]:{} {of_stranger}", bastion.address.port());
    let timeout = format!("{login}    connect_timeout: 1s\n");
    let cases: [(SocketAddr, String, &str, &str, &str); 5] = [
        (
            bastion.address,
            with_key(&stranger),
            "Permission denied (publickey",
            "auth",
            "auth",
        ),
        (
            bastion.address,
            with_host(&changed),
            "its host key is not the one that is known",
            "host_key",
            "host_key",
        ),
        (
            bastion.address,
            with_host(&stranger.known_host()),
            "its host key is not trusted",
            "host_key",
            "host_key",
        ),
        (
            closed.address,
            login.clone(),
            "connection refused by 127.0.0.1",
            "refused",
            "bastion_down",
        ),
        (
            hole.address,
            timeout,
            "no answer within 1s from 127.0.0.1",
            "timeout",
            "bastion_down",
        ),
    ];
    for (address, lines, reason, down, refused) in cases {
        let tbot = behind(address, &lines).start();
        assert_down(&tbot, reason, down, refused);
    }
    let tbot = behind("no-such-host.invalid:22", &login).start();
    assert_down(&tbot, "its name: ", "name", "bastion_down");
    let tbot = behind(bastion.address, &login)
        .env("PATH", "/nowhere")
        .start();
    assert_down(&tbot, "there is no ssh in PATH", "local", "local");
    let keys = Keys::new();
    keys.script(
        "ssh",
        "echo 'OpenSSH_6.6.1p1, OpenSSL 1.0.1e-fips 11 Feb 2013' >&2; exit 255",
    );
    let path = keys.path("").display().to_string();
    let tbot = behind(bastion.address, &login).env("PATH", &path).start();
    assert_down(
        &tbot,
        "ssh is OpenSSH_6.6.1p1, and must be",
        "local",
        "local",
    );
    let tbot = behind(
        bastion.address,
        &format!("{login}    ssh_config_path: /nowhere/x\n"),
    )
    .start();
    assert_down(
        &tbot,
        "Can't open user config file /nowhere/x",
        "local",
        "local",
    );
}

#[track_caller]
fn assert_down(tbot: &Tbot, reason: &str, down: &str, refused: &str) {
    await_reason(tbot, reason);
    let line = refusal(tbot, "127.0.0.1:1");
    assert!(line.contains(reason), "{line}");
    assert_eq!(tbot.refused(refused), 1, "{refused}");
    let failures = "tbot_ssh_bastion_connect_failures_total";
    let failures = tbot.metric(&format!("{failures}{{cluster=\"prod\",reason=\"{down}\"}}"));
    assert!(failures >= 1, "{down}");
    until("nothing of ssh is left", || {
        masters(tbot).is_empty().then_some(())
    });
}

#[test]
fn a_bastion_that_forbids_forwarding_is_told_of_and_heals() {
    let mut bastion = Sshd::configured(|_| "AllowTcpForwarding no".into());
    let echo = Server::echo();
    let tbot = through(&bastion, "");
    let line = refusal(&tbot, echo.address);
    assert!(
        line.contains("prohibited") && line.contains("AllowTcpForwarding"),
        "{line}"
    );
    await_reason(&tbot, "forwards nothing for us (AllowTcpForwarding");
    assert_eq!(tbot.refused("prohibited"), 1);
    bastion.kill();
    bastion.restart(Some(""));
    await_healthy(&tbot, "mux");
    assert_echoes(&mut dial(&tbot, echo.address), b"now");
}

#[test]
fn users_configure_what_else_ssh_can_do() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let keys = Keys::new();
    let config = keys.write(
        "ssh_config",
        format!(
            "Host 127.0.0.1\n  IdentityFile {}\n  User {}\n  UserKnownHostsFile {}\n  HostKeyAlias sshd-under-test\n  \
             ForkAfterAuthentication yes\n  LogLevel QUIET\n  ControlMaster no\n  ServerAliveInterval 0\n",
            bastion.file("client_key").display(),
            bastion.user,
            bastion.file("known_hosts").display()
        ),
    );
    let lines = format!("    ssh_config_path: {}\n", config.display());
    let tbot = behind(bastion.address, &lines).start();
    await_healthy(&tbot, "mux");
    assert_echoes(&mut dial(&tbot, echo.address), b"in");
    assert_eq!(masters(&tbot).len(), 1);
}

#[test]
fn an_awkward_destination_works() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    for name in ["it's 5% of \"$HOME\"", &"long".repeat(40)] {
        let path = directory.path().join(name);
        let run = format!("proxy_server: '{}'", bastion.address);
        let yaml = format!(
            "version: v2\n{run}\nservices:\n  - type: ssh-multiplexer\n    name: mux\n    destination: {{ type: \
             directory, path: '{}' }}\n{}",
            path.display().to_string().replace('\'', "''"),
            login(&bastion)
        );
        let tbot = Start::config(|_| yaml).destination(path).start();
        await_healthy(&tbot, "mux");
        // The path may be too long for a client's own bind.
        let short = directory.path().join("short");
        fs::remove_file(&short).ok();
        std::os::unix::fs::symlink(&tbot.destination, &short).expect("it is free");
        let mut stream = try_connect(&short.join("v1.sock")).expect("it accepts");
        stream.write_all(&request(echo.address)).expect("it reads");
        assert_echoes(&mut stream, b"in");
    }
}

#[test]
fn connections_end_within_the_grace_at_a_stop() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let mut tbot = through(&bastion, "");
    let mut stream = dial(&tbot, echo.address);
    assert_echoes(&mut stream, b"up");
    tbot.signal(Signal::TERM);
    tbot.stderr.line("stopping with 1 connection open");
    assert_echoes(&mut stream, b"goes on");
    drop(stream);
    let tbot = finishes("the stop", move || {
        assert!(tbot.exit().success());
        tbot
    });
    assert!(!tbot.stderr.so_far().contains("still open"));
    let left = fs::read_dir(tbot.destination.join(".masters")).expect("it is there");
    assert_eq!(left.count(), 0);
}

/// The harness itself: what fails here is this machine's ssh.
#[test]
fn the_bastion_under_test_is_reached_without_tbot() {
    let bastion = Sshd::start();
    let mut ssh = bastion.ssh(std::path::Path::new("none"));
    assert_eq!(succeed(ssh.arg("echo in")), "in\n");
    assert!(
        run(std::process::Command::new("ssh").arg("-V"))
            .status
            .success()
    );
}
