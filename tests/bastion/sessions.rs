//! Streams that go well: how few connections they share, and how soon they are there.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use rustix::process::{Signal, kill_process};

use crate::common::keys::{Keys, await_healthy, with_identity};
use crate::common::process::{Process, run, succeed};
use crate::common::procfs;
use crate::common::server::{ClosedPort, Server};
use crate::common::sshd::Sshd;
use crate::common::tbot::{Counts, Start};
use crate::common::v1::{
    assert_echoes, assert_refused, connect, dial, read_to_end, request, try_connect,
};
use crate::common::wait::until;
use crate::{behind, certified, cluster, login, masters, state, through};

#[test]
fn a_session_goes_by_the_bastion_with_the_bot_s_own_certificate() {
    let keys = Keys::with_ca();
    let (bastion, target) = (keys.sshd(), keys.sshd());
    let tbot = certified(&keys, &bastion, "");
    for n in 0..3 {
        let mut ssh =
            crate::common::keys::ssh(&tbot, &target, "127.0.0.1.prod", "echo in; cat >&2");
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
    assert_eq!(crate::common::mode(&directory), 0o700);
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
fn either_side_may_end_first() {
    let bastion = Sshd::start();
    let tbot = through(&bastion, "");
    let farewell = Server::start(|mut stream| {
        stream.write_all(b"bye").ok();
    });
    let mut stream = dial(&tbot, farewell.address);
    assert_eq!(read_to_end(&mut stream), b"bye");
    // What the client has sent is delivered, and the answer to it.
    let counting = Server::counting();
    let mut stream = dial(&tbot, counting.address);
    stream.write_all(&[7; 100_000]).expect("it is read");
    stream.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(read_to_end(&mut stream), b"100000");
    drop(stream);
    tbot.await_counts(Counts {
        started: 2,
        ok: 2,
        ..Counts::default()
    });
}

#[test]
fn the_bastion_s_host_names_the_cluster_and_is_cut_off_as_it_is() {
    let (bastion, target) = (Sshd::start(), Sshd::start());
    for (name, host) in [
        ("", "127.0.0.1.127.0.0.1"),
        ("    cluster_name: prod\n", "127.0.0.1.prod"),
    ] {
        let run = format!("proxy_server: '{}'", bastion.address);
        let tbot = with_identity("", &run, &(login(&bastion) + name)).start();
        await_healthy(&tbot, "mux");
        let mut ssh = target.ssh_to(&tbot.ssh_config(), host);
        assert_eq!(succeed(ssh.arg("echo in")), "in\n");
        let by_host = format!("127.0.0.1.127.0.0.1:{}", target.address.port());
        let mut stream = dial(&tbot, by_host);
        stream.read_exact(&mut [0; 8]).expect("the target greets");
        drop(stream);
        assert_eq!(tbot.await_ended(2).ok, 2);
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
fn a_stream_that_is_over_in_a_moment_counts_as_ok() {
    const EACH: u64 = 400;
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..EACH).for_each(|_| assert_echoes(&mut dial(&tbot, echo.address), b"x"));
            });
        }
    });
    tbot.await_counts(Counts {
        started: 4 * EACH,
        ok: 4 * EACH,
        ..Counts::default()
    });
}

#[test]
fn a_crowd_at_once_is_served_and_leaves_no_descriptor() {
    const CROWD: usize = 300;
    crate::common::raise_descriptor_limit();
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
    // The kernel's clock for it is 40 ms at least, and with it nearly all took that; a busy machine delays some.
    assert!(times[20].as_millis() < 35, "{times:?}");
}

#[test]
fn users_configure_what_else_ssh_can_do() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let keys = Keys::new();
    let config = keys.write(
        "ssh_config",
        format!(
            "Host 127.0.0.1\n  IdentityFile {}\n  User {}\n  UserKnownHostsFile {}\n  HostKeyAlias sshd-under-test\n  \
             ForkAfterAuthentication yes\n  RemoteCommand uptime\n  RequestTTY force\n  LogLevel QUIET\n  ControlMaster no\n  ServerAliveInterval 0\n",
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
    for name in ["%d\"' of \"$HOME\"", &"long".repeat(40)] {
        let path = directory.path().join(name);
        let run = format!("proxy_server: '{}'", bastion.address);
        let key = directory.path().join(format!("{} key", name.split_at(4).0));
        fs::copy(bastion.file("client_key"), &key).expect("it is there");
        let own = bastion.file("client_key").display().to_string();
        let quoted = format!("'{}'", key.display().to_string().replace('\'', "''"));
        let yaml = format!(
            "version: v2\n{run}\nservices:\n  - type: ssh-multiplexer\n    name: mux\n    destination: {{ type: \
             directory, path: '{}' }}\n{}",
            path.display().to_string().replace('\'', "''"),
            login(&bastion).replace(&own, &quoted)
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

#[test]
fn a_stream_is_one_line_of_the_log_without_bytes_that_nobody_here_counts() {
    let (bastion, echo, closed) = (Sshd::start(), Server::echo(), ClosedPort::new());
    let tbot = through(&bastion, "");
    let line_of = |outcome: &str, request: String, target: SocketAddr| {
        let rest = format!(
            " request={request} cluster=prod target={target} bastion={} outcome={outcome} ",
            bastion.address
        );
        let line = tbot.stderr.line(&rest);
        assert!(
            line.contains(" total_ms=") && line.contains(" uid="),
            "{line}"
        );
        assert!(
            !line.contains(" sent=") && !line.contains(" received="),
            "{line}"
        );
        assert_eq!(tbot.stderr.so_far().matches(&rest).count(), 1);
        line
    };
    let named = format!("{}|prod", echo.address);
    assert_echoes(&mut dial(&tbot, &named), b"through");
    let line = line_of("ok", named, echo.address);
    assert!(line.contains(" INFO connection ended "), "{line}");
    assert!(line.contains(" connect_ms="), "{line}");
    assert_refused(&mut dial(&tbot, closed.address));
    let line = line_of("refused", closed.address.to_string(), closed.address);
    assert!(line.contains(" WARN cannot connect to "), "{line}");
    let mut open = dial(&tbot, echo.address);
    assert_echoes(&mut open, b"open");
    let master = masters(&tbot)[0];
    kill_process(master, Signal::KILL).expect("it runs");
    assert_refused(&mut open);
    line_of("broken", echo.address.to_string(), echo.address);
}
