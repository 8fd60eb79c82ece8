//! A clock that is set while tbot runs, and a machine that has slept: noticed at once, told, and answered by a
//! renewal.
#![cfg(feature = "pprof")]

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tbot::identity::Certificate;

use crate::common::clock::Clock;
use crate::common::keys::{await_healthy, await_reason, listed, readyz, with_identity};
use crate::common::output;
use crate::common::process::Process;
use crate::common::tbot::Tbot;
use crate::common::wait::within;

/// Longer than tbot may take to notice, and to try again where it failed for a minute.
const NOTICED: Duration = Duration::from_secs(25);

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("it is later").as_secs()
}

/// Begin and end of the certificate that the agent lists.
fn validity(tbot: &Tbot) -> (u64, u64) {
    let certificate = Certificate::from_openssh(&listed(tbot)[0]).expect("a certificate");
    (certificate.valid_after(), certificate.valid_before())
}

#[test]
fn set_forth_or_back_it_is_noticed_and_answered_by_a_renewal() {
    let clock = Clock::new();
    let tbot = clock.start(with_identity(&clock.keys.ssh_ca("root"), "", ""));
    await_healthy(&tbot, "identity");
    let hours = 3600;
    for (seconds, reason) in [
        (2 * hours, "the certificate has expired at 20"),
        (-2 * hours, "the certificate is valid from 20"),
        // As a machine without a battery for its clock, which the network sets.
        (-400_000 * hours, "the certificate is valid from 20"),
        (24 * hours, "the certificate has expired at 19"),
    ] {
        clock.set(seconds);
        // At once: before tbot has looked at it itself.
        for service in ["mux", "identity"] {
            let found = await_reason(&tbot, service);
            assert!(found.starts_with(reason), "{found}");
        }
        tbot.stderr
            .line(&format!("WARN identity: renewing: {reason}"));
        within(NOTICED, "renewed", || {
            (readyz(&tbot, "mux").0 == 200).then_some(())
        });
        await_healthy(&tbot, "identity");
        let (begin, end) = validity(&tbot);
        let there = now() as i64 + seconds;
        let age = there.max(0) as u64 - (begin + 60).min(there.max(0) as u64);
        assert!(
            age < 30 && end - begin <= 3660,
            "from {begin} to {end} at {there}"
        );
    }
    assert_eq!(
        tbot.stderr.so_far().matches("WARN").count(),
        5,
        "each is told once"
    );
}

#[test]
fn set_forth_without_an_authority_it_stays_unready_until_there_is_one() {
    let clock = Clock::new();
    let tbot = clock.start(with_identity(&clock.keys.ssh_ca("root"), "", ""));
    await_healthy(&tbot, "identity");
    let (ca, away) = (clock.keys.path("ca"), clock.keys.path("away"));
    fs::rename(&ca, &away).expect("ours");
    clock.set(7200);
    let expired = await_reason(&tbot, "mux");
    assert!(
        expired.starts_with("the certificate has expired at "),
        "{expired}"
    );
    let cannot = format!("cannot read {}: No such file", ca.display());
    within(NOTICED, "why there is no new one", || {
        readyz(&tbot, "identity")
            .2
            .starts_with(&cannot)
            .then_some(())
    });
    tbot.stderr.line(&cannot);
    assert_eq!(readyz(&tbot, "mux").2, expired, "it stays so");
    fs::rename(&away, &ca).expect("ours");
    within(NOTICED, "renewed", || {
        (readyz(&tbot, "mux").0 == 200).then_some(())
    });
}

#[test]
fn after_a_sleep_beyond_the_renewal_it_renews_before_the_end() {
    let clock = Clock::new();
    let tbot = clock.start(with_identity(&clock.keys.ssh_ca("root"), "", ""));
    await_healthy(&tbot, "identity");
    let before = validity(&tbot);
    // Still good for two minutes, and the renewal would be in 20.
    clock.set(58 * 60);
    within(NOTICED, "renewed", || {
        (validity(&tbot).1 > before.1 + 3000).then_some(())
    });
    assert_eq!(readyz(&tbot, "mux").0, 200);
    tbot.stderr
        .line("identity: renewing, as the clock was set, or this machine has slept");
    // And no more than once.
    let after = validity(&tbot);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(validity(&tbot), after);
}

#[test]
fn files_are_renewed_too() {
    let clock = Clock::new();
    let variables = clock.variables.clone();
    let onboarding = clock.keys.ssh_ca("root");
    let room = output::Room::of(clock.keys, &onboarding, "");
    let clock = |seconds: &str| {
        let new = room.keys.write("clock.new", seconds);
        fs::rename(new, room.path("clock")).expect("ours");
    };
    let tbot = Process::spawn(room.tbot().envs(variables));
    output::await_healthy(&tbot);
    for (seconds, reason) in [
        ("7200", "the certificate has expired at "),
        ("-7200", "the certificate is valid from "),
    ] {
        let before = room.contents();
        clock(seconds);
        output::await_unhealthy(&tbot, reason);
        output::await_healthy(&tbot);
        let after = room.contents();
        assert!(after[0] == before[0] && after[2] != before[2], "renewed");
    }
}
