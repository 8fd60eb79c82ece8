//! What a service manager is told (sd_notify(3)), by a socket like its own.
#![cfg(feature = "pprof")]

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::common::frozen::Frozen;
use crate::common::keys::{Keys, await_healthy, with_identity};
use crate::common::manager::Manager;
use crate::common::server::Server;
use crate::common::tbot::Start;
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::until;
use crate::common::{http, not_tested};

/// With a manager that it reports to.
fn managed(start: Start) -> (Start, Manager) {
    let manager = Manager::listen(start.directory().join("notify"));
    let socket = manager.path().display().to_string();
    (start.env("NOTIFY_SOCKET", &socket), manager)
}

/// The value of `name` in a message.
fn value<'a>(message: &'a str, name: &str) -> &'a str {
    let mut lines = message.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

#[test]
fn ready_is_told_when_clients_are_served_and_find_their_files() {
    let (start, manager) = managed(Start::multiplexer());
    let tbot = start.start();
    let (ready, before) = manager.until("READY=1");
    assert_eq!(ready, "READY=1");
    assert!(before.iter().all(|one| one.starts_with("STATUS=")));
    // At once, without a second try.
    assert!(tbot.ssh_config().exists());
    assert_echoes(&mut dial(&tbot, Server::echo().address), b"ready");
    assert_eq!(http::get(tbot.address(), "/readyz").0, 200);
    let (status, _) = manager.until("STATUS=healthy");
    assert_eq!(status, "STATUS=healthy: ssh-multiplexer-1");
}

#[test]
fn ready_does_not_wait_for_a_certificate_and_the_status_says_what_is_wrong() {
    let keys = Keys::with_ca();
    let script = keys.script("sign", "echo 'the signer is away' >&2; exit 1");
    let onboarding = format!(
        "{{ join_method: command, command: [{}] }}",
        script.display()
    );
    let (start, manager) = managed(with_identity(&onboarding, "", ""));
    let tbot = start.start();
    // In this order or the other one.
    let (_, mut messages) = manager.until("READY=1");
    let status = loop {
        let status = messages.pop().unwrap_or_else(|| manager.until("STATUS=").0);
        if status.contains("away") && !status.contains("mux: starting") {
            break status;
        }
    };
    let reason = format!(
        "{} failed (exit status 1): the signer is away",
        script.display()
    );
    assert_eq!(
        status,
        format!("STATUS=unhealthy: identity: {reason}; mux: there is no certificate yet")
    );
    keys.script("sign", &super::signing_program::sign(&keys));
    tbot.signal(Signal::HUP);
    let (status, _) = manager.until("STATUS=healthy");
    assert_eq!(status, "STATUS=healthy: identity, mux");
}

#[test]
fn a_reload_ends_when_everything_is_anew() {
    for signal in [Signal::HUP, Signal::USR1] {
        let (start, manager) = managed(Start::multiplexer());
        let tbot = start.start();
        manager.until("READY=1");
        fs::remove_file(tbot.ssh_config()).expect("ours");
        let now = || clock_gettime(ClockId::Monotonic).tv_sec as u128;
        let begun = now();
        tbot.signal(signal);
        let (reloading, _) = manager.until("RELOADING=1");
        let at: u128 = value(&reloading, "MONOTONIC_USEC").parse().expect("a time");
        assert!((begun..=now()).contains(&(at / 1_000_000)), "{reloading:?}");
        manager.until("READY=1");
        assert!(tbot.ssh_config().exists());
    }
}

#[test]
fn stopping_is_told_with_the_time_it_may_take() {
    let (start, manager) = managed(Start::multiplexer().args(["--shutdown-grace", "1h"]));
    let (mut tbot, echo) = (start.start(), Server::echo());
    manager.until("READY=1");
    let mut client = dial(&tbot, echo.address);
    assert_echoes(&mut client, b"before");
    tbot.signal(Signal::TERM);
    let (stopping, _) = manager.until("STOPPING=1");
    let end: u64 = value(&stopping, "EXTEND_TIMEOUT_USEC")
        .parse()
        .expect("a time");
    assert!((3_600_000_000..3_700_000_000).contains(&end));
    let status = value(&stopping, "STATUS");
    assert!(
        status.starts_with("stopping with 1 connection open (1h "),
        "{status}"
    );
    assert_echoes(&mut client, b"after");
    drop(client);
    assert!(tbot.exit().success());
    assert_eq!(
        manager.next(Duration::from_millis(1)),
        None,
        "it is the last"
    );
}

#[test]
fn an_abstract_socket_is_one_as_well_and_no_sign_of_life_goes_to_another_s_manager() {
    let name = format!("tbot-test-{}", rand());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let socket = UnixDatagram::bind_addr(&address).expect("nobody has it");
    let tbot = Start::multiplexer()
        .env("NOTIFY_SOCKET", &format!("@{name}"))
        .env("WATCHDOG_USEC", "1000000")
        .env("WATCHDOG_PID", "1")
        .start();
    let mut messages = Vec::new();
    let mut until = |part: &str| {
        let mut buffer = [0; 4096];
        while messages.last() != Some(&part.to_owned()) {
            let length = socket.recv(&mut buffer).expect("a message");
            messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    };
    until("READY=1");
    // The first one would have come before this, and the second.
    until("STATUS=healthy: ssh-multiplexer-1");
    tbot.signal(Signal::HUP);
    until("READY=1");
    assert!(!messages.contains(&"WATCHDOG=1".to_owned()), "{messages:?}");
}

/// A number that no other test has.
fn rand() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[test]
fn a_manager_that_is_not_there_stops_nobody_and_is_told_when_it_is() {
    let start = Start::multiplexer();
    let path = start.directory().join("notify");
    let tbot = start
        .env("NOTIFY_SOCKET", &path.display().to_string())
        .start();
    let line = tbot.stderr.line("the service manager cannot be told: ");
    assert!(line.ends_with("No such file or directory"), "{line}");
    let manager = Manager::listen(path);
    manager.until("READY=1");
    manager.until("STATUS=healthy");
    let tbot = Start::multiplexer().env("NOTIFY_SOCKET", "nowhere").start();
    let line = tbot.stderr.line(" WARN NOTIFY_SOCKET: ");
    assert!(
        line.ends_with("at nowhere: it is neither a path nor @NAME"),
        "{line}"
    );
}

#[test]
fn no_sign_of_life_comes_while_a_thread_hangs() {
    let keys = Keys::with_ca();
    let bastion = Server::greeting();
    let proxy = format!("proxy_server: {}", bastion.address);
    // Together: each takes the seconds until a thread counts as one that hangs.
    std::thread::scope(|scope| {
        for name in [
            "mux-0",
            "mux-masters",
            "agent-accept",
            "diag-accept",
            "tbot",
        ] {
            let start = with_identity(&keys.ssh_ca("root"), &proxy, "");
            scope.spawn(move || stops_with(start, name));
        }
    });
}

fn stops_with(start: Start, name: &str) {
    let (start, manager) = managed(start);
    let tbot = start.env("WATCHDOG_USEC", "2000000").start();
    manager.until("READY=1");
    manager.until("WATCHDOG=1");
    let Some(frozen) = Frozen::thread(tbot.pid(), name) else {
        return not_tested("a thread that hangs", "this system lets nobody freeze it");
    };
    if name == "tbot" {
        // The main thread: it is who speaks.
        while manager.next(Duration::from_secs(2)).is_some() {}
    } else {
        let line = tbot.stderr.line(" gets no sign of life");
        assert!(
            line.contains(&format!("the thread {name} has been stuck for ")),
            "{line}"
        );
        manager.is_alive();
        // Three are due.
        let quiet = (0..20).all(|_| {
            manager
                .next(Duration::from_millis(100))
                .is_none_or(|m| m != "WATCHDOG=1")
        });
        assert!(quiet, "{name} hangs");
    }
    drop(frozen);
    manager.until("WATCHDOG=1");
}

#[test]
fn programs_that_it_starts_are_not_taken_for_it() {
    let keys = Keys::with_ca();
    let at = keys.path("").display().to_string();
    let sign = super::signing_program::sign(&keys);
    let script = keys.script("sign", &format!("env >{at}env.sign\n{sign}"));
    // As a bastion that never answers: it is the environment that counts.
    keys.script(
        "ssh",
        &format!("env >{at}env.new; mv {at}env.new {at}env.ssh; exec cat"),
    );
    let onboarding = format!(
        "{{ join_method: command, command: [{}] }}",
        script.display()
    );
    let bastion = Server::greeting();
    let proxy = format!("proxy_server: {}", bastion.address);
    let (start, manager) = managed(with_identity(&onboarding, &proxy, ""));
    let path = format!("{at}:{}", std::env::var("PATH").unwrap_or_default());
    let tbot = start
        .env("PATH", &path)
        .env("WATCHDOG_USEC", "60000000")
        .start();
    manager.until("WATCHDOG=1");
    await_healthy(&tbot, "identity");
    until("ssh was started", || {
        keys.path("env.ssh").exists().then_some(())
    });
    for name in ["env.sign", "env.ssh"] {
        let environment = keys.text(name);
        assert!(environment.contains("\nHOME=") || environment.starts_with("HOME="));
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_"] {
            assert!(!environment.contains(variable), "{name}: {environment}");
        }
    }
    let own = fs::read_to_string(format!("/proc/{}/environ", tbot.pid())).expect("it runs");
    assert!(own.contains("NOTIFY_SOCKET"), "{own}");
}
