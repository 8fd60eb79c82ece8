//! Connections that are killed, lost, replaced or ended, and what becomes of their streams.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::common::keys::{Keys, await_healthy};
use crate::common::server::Server;
use crate::common::sshd::Sshd;
use crate::common::tbot::Counts;
use crate::common::v1::{assert_echoes, assert_refused, dial};
use crate::common::wait::{finishes, until};
use crate::{await_reason, certified, cluster, masters, refusal, state, through};

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
    // ssh's last lines are what it has counted.
    let line = tbot.stderr.line("was lost: ssh says: ");
    assert!(!line.contains("Bytes per second"), "{line}");
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
fn a_renewed_credential_replaces_connections_without_cutting_a_stream() {
    let keys = Keys::with_ca();
    let (bastion, echo) = (keys.sshd(), Server::echo());
    let tbot = certified(&keys, &bastion, "");
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

#[test]
fn a_control_directory_that_was_taken_away_cuts_no_stream() {
    let (bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "");
    let mut stream = dial(&tbot, echo.address);
    assert_echoes(&mut stream, b"up");
    let before = masters(&tbot);
    fs::remove_dir_all(tbot.destination.join(".masters")).expect("it is there");
    let line = refusal(&tbot, echo.address);
    assert!(line.contains("is gone: restart tbot"), "{line}");
    until("the old one is set aside", || {
        (state(&tbot, "retiring") == 1).then_some(())
    });
    assert_echoes(&mut stream, b"not cut");
    assert_eq!(masters(&tbot), before);
    drop(stream);
    tbot.await_counts(Counts {
        started: 2,
        ok: 1,
        error: 1,
        in_flight: 0,
    });
    until("nothing of ssh is left", || {
        masters(&tbot).is_empty().then_some(())
    });
}

#[test]
fn a_hanging_ssh_whose_bastion_is_gone_is_given_up() {
    let (mut bastion, echo) = (Sshd::start(), Server::echo());
    let tbot = through(&bastion, "");
    let mut stream = dial(&tbot, echo.address);
    assert_echoes(&mut stream, b"up");
    kill_process(masters(&tbot)[0], Signal::STOP).expect("it runs");
    bastion.kill();
    assert_refused(&mut stream);
    await_reason(&tbot, "connection refused by 127.0.0.1");
    tbot.await_counts(Counts {
        started: 1,
        error: 1,
        ..Counts::default()
    });
}
