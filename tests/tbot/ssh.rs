//! Real `ssh`, `scp` and `sftp` to a real `sshd` through the multiplexer.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::common::black_hole::BlackHole;
use crate::common::process::{Finished, Process, run, succeed};
use crate::common::procfs;
use crate::common::server::ClosedPort;
use crate::common::sshd::Sshd;
use crate::common::tbot::{Counts, Start, Tbot};
use crate::common::wait::until;

#[test]
fn fifty_sessions_at_once_are_counted_and_end_well() {
    const SESSIONS: u64 = 50;
    let sshd = Sshd::start();
    let tbot = Tbot::start();
    let mut sessions: Vec<Process> = (0..SESSIONS)
        .map(|number| {
            let mut ssh = sshd.ssh(&tbot.ssh_config());
            ssh.arg(format!("echo in {number}; cat; echo out {number}; exit 3"));
            Process::spawn_with_input(&mut ssh)
        })
        .collect();
    for (number, session) in sessions.iter().enumerate() {
        session.stdout.line(&format!("in {number}"));
    }
    tbot.await_counts(Counts {
        started: SESSIONS,
        in_flight: SESSIONS,
        ..Counts::default()
    });
    for session in &mut sessions {
        session
            .input()
            .write_all(b"through\n")
            .expect("the session reads");
        session.close_input();
    }
    for (number, session) in sessions.into_iter().enumerate() {
        let end = session.finish();
        assert_eq!(
            end.stdout,
            format!("in {number}\nthrough\nout {number}\n"),
            "{end:?}"
        );
        assert_eq!(
            end.status.code(),
            Some(3),
            "the remote exit status is ssh's: {end:?}"
        );
    }
    tbot.await_counts(Counts {
        started: SESSIONS,
        ok: SESSIONS,
        ..Counts::default()
    });
}

#[test]
fn a_20_mb_file_moves_intact_by_scp_and_by_sftp_both_ways() {
    let sshd = Sshd::start();
    let tbot = Tbot::start();
    let directory = sshd.directory.path();
    let content = random_bytes(20_000_000);
    let original = directory.join("original");
    fs::write(&original, &content).expect("the directory is ours");
    let copy = |name: &str| directory.join(name).display().to_string();
    let remote = |path: &str| format!("{}:{path}", sshd.address.ip());
    let original = original.display().to_string();

    let scp = |from: &str, to: &str| {
        succeed(
            sshd.client("scp", &tbot.ssh_config())
                .args(["-q", from, to]),
        );
    };
    scp(&original, &remote(&copy("scp-up")));
    scp(&remote(&original), &copy("scp-down"));

    let sftp = |batch: &str| {
        let file = directory.join("batch");
        fs::write(&file, batch).expect("the directory is ours");
        let mut sftp = sshd.client("sftp", &tbot.ssh_config());
        succeed(sftp.arg("-b").arg(&file).arg(sshd.address.ip().to_string()));
    };
    sftp(&format!("put {original} {}\n", copy("sftp-up")));
    sftp(&format!("get {original} {}\n", copy("sftp-down")));

    for name in ["scp-up", "scp-down", "sftp-up", "sftp-down"] {
        let moved = fs::read(copy(name)).expect("the command succeeded");
        assert!(moved == content, "{name} differs");
    }
    tbot.await_counts(Counts {
        started: 4,
        ok: 4,
        ..Counts::default()
    });
    for direction in ["sent", "received"] {
        let relayed = tbot.metric(&format!(
            "tbot_ssh_multiplexer_relayed_bytes_total{{direction=\"{direction}\"}}"
        ));
        assert!(
            relayed > 40_000_000,
            "{relayed} bytes {direction} for two files of 20 MB"
        );
    }
}

#[test]
fn a_killed_server_ends_its_sessions_and_leaves_no_descriptor() {
    const SESSIONS: usize = 5;
    let mut sshd = Sshd::start();
    let tbot = Tbot::start();
    // What is made once, with the first connection, is no leak.
    succeed(sshd.ssh(&tbot.ssh_config()).arg("true"));
    tbot.await_ended(1);
    let before = procfs::descriptors(tbot.pid());

    let sessions: Vec<Process> = (0..SESSIONS)
        .map(|_| {
            let mut ssh = sshd.ssh(&tbot.ssh_config());
            Process::spawn_with_input(ssh.arg("echo in; cat"))
        })
        .collect();
    for session in &sessions {
        session.stdout.line("in");
    }
    assert!(procfs::descriptors(tbot.pid()) >= before + 2 * SESSIONS);
    sshd.kill();
    for session in sessions {
        let end = session.finish();
        assert_eq!(
            end.status.code(),
            Some(255),
            "ssh lost its connection: {end:?}"
        );
    }
    tbot.await_ended(SESSIONS as u64 + 1);
    tbot.await_descriptors(before);
}

#[test]
fn a_refused_target_is_one_readable_line_on_ssh_s_stderr() {
    let sshd = Sshd::start();
    let tbot = Tbot::start();
    let closed = ClosedPort::new();
    let end = ssh_to_dead(&sshd, &tbot, "127.0.0.1", closed.address.port());
    assert_one_line_names(&end, &closed.address.to_string());
    // Of the connection that ended it shows the path that everyone knows.
    assert!(!end.stderr.contains("/proc/"), "{}", end.stderr);
    assert_one_error(&tbot, "refused");
}

#[test]
fn an_unknown_name_is_one_readable_line_on_ssh_s_stderr() {
    let sshd = Sshd::start();
    // Not a name of the DNS (an empty label), so that nobody outside this machine is asked.
    let tbot = Tbot::start();
    let end = ssh_to_dead(&sshd, &tbot, "no..such.host", 22);
    assert_one_line_names(&end, "no..such.host");
    assert_one_error(&tbot, "name");
}

#[test]
fn a_black_hole_is_one_readable_line_on_ssh_s_stderr_after_the_connect_timeout() {
    let sshd = Sshd::start();
    let tbot = Tbot::with(&["--connect-timeout", "2s"]);
    let hole = BlackHole::open();
    let end = ssh_to_dead(&sshd, &tbot, "127.0.0.1", hole.address.port());
    assert_one_line_names(&end, &hole.address.to_string());
    assert_one_error(&tbot, "timeout");
}

#[test]
fn a_tbot_that_does_not_run_is_one_readable_line_on_ssh_s_stderr() {
    let sshd = Sshd::start();
    let mut tbot = Tbot::start();
    tbot.signal(Signal::TERM);
    tbot.exit();
    let end = ssh_to_dead(&sshd, &tbot, "127.0.0.1", sshd.address.port());
    let socket = tbot.socket().display().to_string();
    let ours = end.stderr.lines().filter(|line| line.contains(&socket));
    assert_eq!(ours.count(), 1, "{}", end.stderr);
}

#[test]
fn dead_targets_do_not_delay_a_good_one() {
    let sshd = Sshd::start();
    // Nothing ends by its time-out in this test.
    let tbot = Tbot::with(&["--connect-timeout", "1h"]);
    let hole = BlackHole::open();
    let waiting: Vec<Process> = (0..20)
        .map(|_| {
            let port = hole.address.port();
            let mut ssh = sshd.client_for_port("ssh", &tbot.ssh_config(), port);
            Process::spawn(ssh.args(["127.0.0.1", "true"]))
        })
        .collect();
    tbot.await_in_flight(20);
    let said = succeed(sshd.ssh(&tbot.ssh_config()).arg("echo good"));
    assert_eq!(said, "good\n");
    // Its own end was seen too, with the others still there.
    tbot.await_counts(Counts {
        started: 21,
        ok: 1,
        in_flight: 20,
        ..Counts::default()
    });
    // Users who give up are no longer in flight.
    drop(waiting);
    tbot.await_ended(21);
}

#[test]
fn a_host_with_an_ipv6_address_is_reached() {
    if !crate::common::has_ipv6() {
        return crate::common::not_tested("ssh to ::1", "this machine has no ::1");
    }
    let sshd = Sshd::start_on(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let tbot = Tbot::start();
    assert_eq!(
        succeed(sshd.ssh(&tbot.ssh_config()).arg("echo six")),
        "six\n"
    );
}

#[test]
fn a_host_is_reached_by_its_name_in_the_cluster() {
    let sshd = Sshd::start();
    let tbot = Tbot::with(&["--cluster-name", "prod"]);
    let config = fs::read_to_string(tbot.ssh_config()).expect("it was written");
    assert!(
        config.lines().any(|line| line.trim() == "Host *.prod"),
        "{config}"
    );
    let mut ssh = sshd.ssh_to(&tbot.ssh_config(), "127.0.0.1.prod");
    assert_eq!(succeed(ssh.arg("echo in")), "in\n");
    tbot.await_counts(Counts {
        started: 1,
        ok: 1,
        ..Counts::default()
    });
}

#[test]
fn other_hosts_are_left_alone_where_the_cluster_has_a_name() {
    let sshd = Sshd::start();
    let tbot = Tbot::with(&["--cluster-name", "prod"]);
    assert_eq!(
        succeed(sshd.ssh(&tbot.ssh_config()).arg("echo direct")),
        "direct\n"
    );
    assert_eq!(tbot.counts(), Counts::default());
}

#[test]
fn the_proxy_command_is_gone_once_the_session_is_up() {
    let sshd = Sshd::start();
    let tbot = Tbot::start();
    let mut ssh = sshd.ssh(&tbot.ssh_config());
    let session = Process::spawn_with_input(ssh.arg("echo in; cat"));
    session.stdout.line("in");
    assert_eq!(procfs::descendants(session.pid()), []);
}

#[test]
fn a_socket_path_too_long_for_the_kernel_works() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let long = directory.path().join("d".repeat(120)).join("e".repeat(120));
    works_in(&Sshd::start(), &long);
}

#[test]
fn a_destination_with_every_awkward_character_works() {
    let sshd = Sshd::start();
    for name in [
        "with space",
        "it's",
        "\"double\"",
        "100%h %d",
        "$HOME `id` ; & | < > * ? # ~",
        "back\\slash",
    ] {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        works_in(&sshd, &directory.path().join(name));
    }
}

/// A session through a tbot in `destination` works.
fn works_in(sshd: &Sshd, destination: &Path) {
    let tbot = Start::multiplexer().destination(destination).start();
    let end = run(sshd.ssh(&tbot.ssh_config()).arg("echo in"));
    assert_eq!(end.stdout, "in\n", "{}: {end:?}", destination.display());
    tbot.await_counts(Counts {
        started: 1,
        ok: 1,
        ..Counts::default()
    });
}

/// A session to a target that is not there.
fn ssh_to_dead(sshd: &Sshd, tbot: &Tbot, host: &str, port: u16) -> Finished {
    let mut ssh = sshd.client_for_port("ssh", &tbot.ssh_config(), port);
    let end = run(ssh.args([host, "true"]));
    assert_eq!(end.status.code(), Some(255), "{end:?}");
    end
}

/// ssh adds its own lines about the connection that ended; ours comes once and says why.
fn assert_one_line_names(end: &Finished, target: &str) {
    let ours: Vec<&str> = end
        .stderr
        .lines()
        .filter(|line| line.starts_with("tbot: "))
        .collect();
    assert_eq!(ours.len(), 1, "{}", end.stderr);
    assert!(ours[0].contains(target), "{} names {target}", ours[0]);
}

fn assert_one_error(tbot: &Tbot, reason: &str) {
    tbot.await_counts(Counts {
        started: 1,
        error: 1,
        ..Counts::default()
    });
    assert_eq!(tbot.refused(reason), 1, "{}", tbot.metrics());
}

fn random_bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .expect("the kernel has random bytes");
    bytes
}

/// The harness itself: what fails here is this machine's ssh or sshd, not ours.
#[test]
fn the_server_under_test_is_reached_without_tbot() {
    let mut sshd = Sshd::start();
    let mut ssh = sshd.ssh(Path::new("none"));
    assert_eq!(succeed(ssh.arg("echo in")), "in\n");
    let mut ssh = sshd.ssh(Path::new("none"));
    let session = Process::spawn_with_input(ssh.arg("echo in; cat"));
    session.stdout.line("in");
    sshd.kill();
    assert_eq!(session.finish().status.code(), Some(255));
    until("sshd's port is closed", || {
        let mut connect = Command::new("ssh-keyscan");
        connect.args(["-p", &sshd.address.port().to_string(), "127.0.0.1"]);
        run(&mut connect).stdout.is_empty().then_some(())
    });
}
