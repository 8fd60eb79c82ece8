//! Targets behind a bastion: many streams by few shared connections, with a real `sshd` as the bastion and
//! the real `ssh` as the client of both.
#![cfg(all(feature = "cli", feature = "pprof"))]

mod ansible;
mod attacks;
mod clusters;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod idle;
mod lifetime;
mod network;
mod sessions;
mod soak;
mod templates;

use rustix::process::Pid;

use common::keys::{Keys, await_healthy, readyz, with_identity};
use common::procfs;
use common::sshd::Sshd;
use common::tbot::{Start, Tbot};
use common::v1::{assert_refused, dial_with_stderr};
use common::wait::until;

/// A tbot with certificates of its own behind `bastion`, whose host key the same authority signed, with further lines
/// of its service.
fn certified(keys: &Keys, bastion: &Sshd, lines: &str) -> Tbot {
    let tbot = with_identity(
        &keys.ssh_ca(&bastion.user),
        &format!("proxy_server: '{}'", bastion.address),
        &format!(
            "    cluster_name: prod\n    user: {}\n    host_ca: [{}]\n{lines}",
            bastion.user,
            keys.path("ca.pub").display()
        ),
    )
    .start();
    await_healthy(&tbot, "mux");
    tbot
}

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
