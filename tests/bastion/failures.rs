//! Targets and bastions that refuse, forbid or say nothing: what users, readiness and metrics are told.

use std::net::SocketAddr;

use crate::common;
use crate::common::black_hole::BlackHole;
use crate::common::keys::{Keys, await_healthy};
use crate::common::server::{ClosedPort, Server};
use crate::common::sshd::Sshd;
use crate::common::tbot::{Counts, Tbot};
use crate::common::v1::{assert_echoes, assert_refused, dial, dial_with_stderr};
use crate::common::wait::until;
use crate::{await_reason, behind, cluster, login, masters, refusal, through};

#[test]
fn a_silent_target_delays_no_other_and_ends_by_our_clock() {
    let (bastion, echo, hole) = (Sshd::start(), Server::echo(), BlackHole::open());
    let tbot = through(&bastion, "    connect_timeout: 6s\n");
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
            line.contains(&hole.address.to_string()) && line.contains("within 6s"),
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
    let keys = Keys::new();
    let (open, none) = (keys.write("open", "no key"), keys.path("none"));
    common::set_mode(&open, 0o644);
    for (key, reason) in [
        (&none, "no such identity: "),
        (&open, "bad permissions"),
        // Nobody is asked for the passphrase.
        (
            &keys.generate("locked", &["-t", "ed25519"], "secret"),
            "Permission denied",
        ),
    ] {
        let lines = login.replace(
            &bastion.file("client_key").display().to_string(),
            &key.display().to_string(),
        );
        let tbot = behind(bastion.address, &lines).start();
        assert_down(&tbot, reason, "auth", "auth");
    }
    let tbot = behind("no-such-host.invalid:22", &login).start();
    assert_down(&tbot, "its name: ", "name", "bastion_down");
    let tbot = behind(bastion.address, &login)
        .env("PATH", "/nowhere")
        .start();
    assert_down(&tbot, "there is no ssh in PATH", "local", "local");
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
