//! Certificates that renew, and readiness that says whether they did.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::common::keys::{
    Keys, await_healthy, await_reason, client, listed, readyz, signed_by, ssh, with_identity,
};
use crate::common::process::{Process, run};
use crate::common::tbot::Tbot;
use crate::common::wait::{PATIENCE, Stalls, until, within};
use crate::common::{http, set_mode};

const EXPIRY: &str = "tbot_identity_certificate_expiry_timestamp_seconds{service=\"identity\"}";
const VALID: &str = "tbot_identity_certificate_valid{service=\"identity\"}";

fn renewed(tbot: &Tbot, service: &str) -> u64 {
    let label = format!("{{service=\"{service}\",name=\"renewal\"}}");
    let other = format!("{{name=\"renewal\",service=\"{service}\"}}");
    let metrics = tbot.metrics();
    let value = |label: &str| {
        let series = format!("tbot_task_iterations_successful_count{label} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&series)?.parse().ok())
    };
    value(&label)
        .or(value(&other))
        .unwrap_or_else(|| panic!("no renewals of {service} in\n{metrics}"))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("now")
        .as_secs()
}

#[test]
fn a_session_and_new_logins_go_on_across_renewals_of_5_seconds() {
    let keys = Keys::with_ca();
    let sshd = keys.sshd();
    let host_ca = format!("    host_ca: [{}]", keys.path("ca.pub").display());
    // Renewed before it ends, although the interval would be later.
    let run_lines = "credential_ttl: 5s\nrenewal_interval: 4999ms";
    let tbot = with_identity(&keys.ssh_ca(&sshd.user), run_lines, &host_ca).start();
    await_healthy(&tbot, "identity");
    let mut session = Process::spawn_with_input(&mut ssh(&tbot, &sshd, "127.0.0.1", "cat"));
    session.input().write_all(b"begin\n").expect("it reads");
    session.stdout.line("begin");
    let first = listed(&tbot);
    let stalls = Stalls::watch();
    let (begun, from) = (Instant::now(), renewed(&tbot, "identity"));
    let mut logins = 0;
    while renewed(&tbot, "identity") < from + 4 || logins < 5 {
        let ready = http::get(tbot.address(), "/readyz").0 == 200
            && tbot.metric(VALID) == 1
            && tbot.metric(EXPIRY) > now();
        let end = run(&mut ssh(&tbot, &sshd, "127.0.0.1", "echo in"));
        // Of 5 s there are 1.7 left when it renews.
        let stalled = stalls.longest() > Duration::from_secs(1);
        let after = begun.elapsed();
        assert!(ready || stalled, "a gap after {after:?}");
        assert!(end.stdout == "in\n" || stalled, "after {after:?}: {end:?}");
        logins += u64::from(end.stdout == "in\n");
        assert!(after < PATIENCE, "{logins} logins");
    }
    assert!(
        begun.elapsed() > Duration::from_secs(6),
        "too early: {:?}",
        begun.elapsed()
    );
    assert_ne!(listed(&tbot), first);
    session.input().write_all(b"end\n").expect("it reads");
    session.stdout.line("end");
    session.close_input();
    assert!(session.exit().success());
}

#[test]
fn a_programs_certificate_of_6_seconds_has_no_gap() {
    let keys = Keys::with_ca();
    let script = keys.script("sign", &format!(
        "cd {}\ncat >new.pub\nssh-keygen -q -s ca -I x -n root -V -1m:+6s new.pub\ncat new-cert.pub", keys.path("").display()));
    let tbot = with_identity(&signed_by(&script), "", "").start();
    await_healthy(&tbot, "identity");
    let stalls = Stalls::watch();
    until("three renewals", || {
        let valid = tbot.metric(VALID) == 1;
        assert!(valid || stalls.longest() > Duration::from_secs(1), "a gap");
        (renewed(&tbot, "identity") >= 4).then_some(())
    });
}

#[test]
fn readiness_follows_the_authority_and_the_clock() {
    let keys = Keys::with_ca();
    let run_lines = "credential_ttl: 8s\nrenewal_interval: 7s";
    let tbot = with_identity(&keys.ssh_ca("root"), run_lines, "").start();
    await_healthy(&tbot, "identity");
    await_healthy(&tbot, "mux");
    fs::rename(keys.path("ca"), keys.path("away")).expect("ours");
    tbot.signal(Signal::HUP);
    let reason = await_reason(&tbot, "identity");
    assert!(
        reason.contains(&format!("cannot read {}", keys.path("ca").display())),
        "{reason}"
    );
    tbot.stderr.line(&reason);
    let end = tbot.metric(EXPIRY);
    if now() + 1 < end {
        assert_eq!(readyz(&tbot, "mux").0, 200, "the old certificate serves");
        assert_eq!((listed(&tbot).len(), tbot.metric(VALID)), (2, 1));
    }
    let reason = await_reason(&tbot, "mux");
    let at = now();
    assert!(
        (end..=end + 1).contains(&at),
        "unhealthy at {at}, and the end is {end}"
    );
    assert!(
        reason.starts_with("the certificate has expired at 20")
            && reason.ends_with("Z, and there is no new one"),
        "{reason}"
    );
    assert_eq!((tbot.metric(VALID), tbot.metric(EXPIRY)), (0, end));
    assert_eq!(http::get(tbot.address(), "/readyz").0, 503);
    // It recovers by itself: by the next attempt, or by the file that is there again.
    fs::rename(keys.path("away"), keys.path("ca")).expect("ours");
    within(Duration::from_secs(25), "healthy again", || {
        (http::get(tbot.address(), "/readyz").0 == 200).then_some(())
    });
    assert_eq!(tbot.metric(VALID), 1);
}

#[test]
fn an_authority_that_comes_and_goes_is_noticed_with_hours_left() {
    let keys = Keys::with_ca();
    let tbot = with_identity(&keys.ssh_ca("root"), "", "").start();
    await_healthy(&tbot, "identity");
    set_mode(&keys.path("ca"), 0o644);
    let reason = within(Duration::from_secs(25), "noticed", || {
        Some(readyz(&tbot, "identity")).filter(|(code, ..)| *code == 503)
    });
    assert!(reason.2.contains("chmod 600"), "{reason:?}");
    assert_eq!(
        readyz(&tbot, "mux").0,
        200,
        "the certificate is good for an hour"
    );
    set_mode(&keys.path("ca"), 0o600);
    within(Duration::from_secs(25), "healthy again", || {
        (readyz(&tbot, "identity").0 == 200).then_some(())
    });
}

#[test]
fn signals_renew_at_once_and_queue_once() {
    let keys = Keys::with_ca();
    // It runs for as long as `hold` is there, and notes each run.
    let script = keys.script("sign", &format!(
        "cd {}\ncat >new.pub\necho run >>runs\nwhile [ -e hold ]; do sleep 0.05; done\nssh-keygen -q -s ca -I x -n root -V -1m:+1h new.pub\ncat new-cert.pub", keys.path("").display()));
    let tbot = with_identity(&signed_by(&script), "", "").start();
    await_healthy(&tbot, "identity");
    let runs = || keys.text("runs").lines().count();
    let before = listed(&tbot);
    tbot.signal(Signal::HUP);
    let after = until("SIGHUP renews", || {
        Some(listed(&tbot)).filter(|list| *list != before)
    });
    tbot.signal(Signal::USR1);
    until("SIGUSR1 renews", || (listed(&tbot) != after).then_some(()));
    until("it is counted", || {
        (renewed(&tbot, "identity") == 3).then_some(())
    });
    assert_eq!(runs(), 3);
    // Asked for many times while one runs, which is one more.
    keys.write("hold", "");
    tbot.signal(Signal::HUP);
    until("it runs", || (runs() == 4).then_some(()));
    let old = listed(&tbot);
    let asked = || tbot.stderr.so_far().matches("renewing everything").count();
    for number in 4..14 {
        tbot.signal(Signal::HUP);
        until("the signal is seen", || (asked() == number).then_some(()));
    }
    assert_eq!(
        (runs(), listed(&tbot)),
        (4, old),
        "the old one serves until the new one is there"
    );
    fs::remove_file(keys.path("hold")).expect("ours");
    until("both are done", || {
        (renewed(&tbot, "identity") == 5).then_some(())
    });
    tbot.signal(Signal::HUP);
    until("one more, asked for", || {
        (renewed(&tbot, "identity") == 6).then_some(())
    });
    assert_eq!(runs(), 6);
}

#[test]
fn a_service_may_have_a_life_of_its_own() {
    let keys = Keys::with_ca();
    let tbot = with_identity(
        &keys.ssh_ca("root"),
        "",
        "    credential_ttl: 10m\n    renewal_interval: 5m",
    )
    .start();
    await_healthy(&tbot, "identity");
    await_healthy(&tbot, "identity.mux");
    let own = tbot.metric(&EXPIRY.replace("identity\"", "identity.mux\""));
    assert!((now() + 500..=now() + 600).contains(&own), "{own}");
    let usual = tbot.metric(EXPIRY);
    assert!((now() + 3500..=now() + 3600).contains(&usual), "{usual}");
    assert_eq!(
        (renewed(&tbot, "identity"), renewed(&tbot, "identity.mux")),
        (1, 1)
    );
    let certificate =
        tbot::identity::Certificate::from_openssh(&listed(&tbot)[0]).expect("a certificate");
    assert_eq!(
        certificate.valid_before(),
        own,
        "the service's agent has the service's"
    );
}

#[test]
fn every_interval_there_is_a_renewal_and_each_report_is_dated() {
    let keys = Keys::with_ca();
    let tbot = with_identity(&signer(&keys), "renewal_interval: 2s", "").start();
    let mut keys_seen = Vec::new();
    for number in 1..=3 {
        until("the next one", || {
            (renewed(&tbot, "identity") >= number).then_some(())
        });
        keys_seen.push(listed(&tbot));
        let at = updated_at(&tbot, "identity");
        assert!(at + 3 >= now(), "reported at {at}, and it is {}", now());
    }
    keys_seen.dedup();
    assert!(keys_seen.len() > 1, "another key each time");
    for pair in signed_at(&keys).windows(2) {
        assert!(pair[1] - pair[0] >= 2.0, "{pair:?}");
    }
    assert_status(&tbot, "identity", "healthy");
    // Well or not, and of each service.
    fs::remove_file(keys.path("good")).expect("ours");
    await_reason(&tbot, "identity");
    let at = updated_at(&tbot, "identity");
    assert!(at + 3 >= now(), "reported at {at}, and it is {}", now());
    assert_status(&tbot, "identity", "unhealthy");
    keys.write("good", "");
    let at = until("a later second", || Some(now()).filter(|now| *now > at));
    tbot.signal(Signal::USR1);
    for service in ["mux", "identity"] {
        until("both are reported again", || {
            (updated_at(&tbot, service) >= at).then_some(())
        });
    }
    await_healthy(&tbot, "identity");
    assert_status(&tbot, "identity", "healthy");
    assert_status(&tbot, "mux", "healthy");
}

#[test]
fn who_reads_a_status_delays_nobody_who_reports() {
    let keys = Keys::with_ca();
    let tbot = with_identity(&keys.ssh_ca("root"), "", "").start();
    await_healthy(&tbot, "identity");
    // Who asks and does not take the answer.
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let request = http::request(tbot.address(), "/readyz", "");
            http::begin(tbot.address(), &request)
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        for path in ["/readyz", "/readyz/identity", "/readyz/mux", "/metrics"].repeat(3) {
            let (address, done) = (tbot.address(), &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(http::get(address, path).0, 200);
                }
            });
        }
        for number in 2..12 {
            tbot.signal(Signal::HUP);
            until("it renews", || {
                (renewed(&tbot, "identity") == number).then_some(())
            });
        }
    });
    assert!(updated_at(&tbot, "identity") + 5 > now());
    drop(deaf);
}

/// True when this goes, however its test ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Certificates by a program, which fails where `good` is not there, and notes when it ran.
fn signer(keys: &Keys) -> String {
    let script = keys.script("sign", &format!(
        "cd {}\ndate +%s.%N >>runs\ncat >new.pub\n[ -e good ] || exit 3\nssh-keygen -q -s ca -I x -n root -V -1m:+1h new.pub\ncat new-cert.pub",
        keys.path("").display()
    ));
    keys.write("good", "");
    signed_by(&script)
}

/// When that program ran.
fn signed_at(keys: &Keys) -> Vec<f64> {
    let times = keys.text("runs");
    times.lines().filter_map(|line| line.parse().ok()).collect()
}

/// When a service last reported, in seconds since 1970.
fn updated_at(tbot: &Tbot, service: &str) -> u64 {
    let (_, body) = http::get(tbot.address(), &format!("/readyz/{service}"));
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let time = json["updated_at"].as_str().expect("it has reported");
    let time = humantime::parse_rfc3339(time).expect("RFC 3339");
    time.duration_since(UNIX_EPOCH).expect("now").as_secs()
}

/// The metric says 1 for this status, and 0 for each other.
fn assert_status(tbot: &Tbot, service: &str, status: &str) {
    let metrics = tbot.metrics();
    for one in ["initializing", "healthy", "unhealthy"] {
        let value = u8::from(one == status);
        let line =
            format!("tbot_service_status{{service=\"{service}\",status=\"{one}\"}} {value}\n");
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
}

#[test]
fn five_attempts_fail_and_the_next_renewal_succeeds() {
    let keys = Keys::with_ca();
    let source = signer(&keys);
    fs::remove_file(keys.path("good")).expect("ours");
    let tbot = with_identity(&source, "", "").start();
    let task = |metric: &str| {
        tbot.metric(&format!(
            "tbot_task_{metric}{{name=\"renewal\",service=\"identity\"}}"
        ))
    };
    until("five attempts", || {
        (task("iterations_failed") == 1).then_some(())
    });
    assert_eq!(
        (
            task("iterations_total"),
            task("iterations_successful_count")
        ),
        (1, 0)
    );
    assert_eq!(tbot.metric(VALID), 0);
    let list = run(client(&tbot, "ssh-add").arg("-l"));
    assert!(list.stdout.contains("has no identities"), "{list:?}");
    let line = tbot.stderr.line("identity: attempt 5 of 5: ");
    assert!(line.contains("/sign failed (exit status 3)"), "{line}");
    let times = signed_at(&keys);
    assert_eq!(times.len(), 5);
    for (number, pair) in times.windows(2).enumerate() {
        // A second, doubled each time, and between half and one and a half of it.
        let (pause, usual) = (pair[1] - pair[0], 2_f64.powi(number as i32));
        assert!(
            (usual * 0.5..usual * 1.5 + 5.0).contains(&pause),
            "pause {number}: {pause} s"
        );
    }
    // Without a certificate at all, the next one is soon.
    keys.write("good", "");
    until("it succeeds", || {
        (task("iterations_successful_count") == 1).then_some(())
    });
    assert_eq!(
        (
            task("iterations_total"),
            task("iterations_failed"),
            signed_at(&keys).len()
        ),
        (2, 1, 6)
    );
    await_healthy(&tbot, "mux");
    // Asked for in a pause, the next attempt is at once, and its retries are counted.
    fs::remove_file(keys.path("good")).expect("ours");
    tbot.signal(Signal::HUP);
    await_reason(&tbot, "identity");
    keys.write("good", "");
    tbot.signal(Signal::USR1);
    until("it succeeds", || {
        (task("iterations_successful_count") == 2).then_some(())
    });
    assert!(task("iterations_successful_sum") >= 1);
    assert_eq!(
        (task("iterations_total"), task("iterations_failed")),
        (3, 1)
    );
    assert_eq!(task("iteration_duration_seconds_count"), 3);
}

#[test]
fn a_storm_of_signals_renews_in_time_and_delays_nobody() {
    let keys = Keys::with_ca();
    let tbot = with_identity(&keys.ssh_ca("root"), "", "").start();
    await_healthy(&tbot, "identity");
    for good in [true, false] {
        if !good {
            fs::rename(keys.path("ca"), keys.path("away")).expect("ours");
        }
        for number in 0..1000 {
            tbot.signal([Signal::HUP, Signal::USR1][number % 2]);
            if number % 100 == 0 {
                assert_eq!(http::get(tbot.address(), "/livez").0, 200);
                assert_eq!(readyz(&tbot, "mux").0, 200, "the old certificate serves");
                assert_eq!(listed(&tbot).len(), 2);
            }
        }
    }
    await_reason(&tbot, "identity");
    fs::rename(keys.path("away"), keys.path("ca")).expect("ours");
    tbot.signal(Signal::HUP);
    await_healthy(&tbot, "identity");
    assert_status(&tbot, "mux", "healthy");
}
