//! `/readyz` says whether a client that connected now would be served, without being told.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::process::Command;

use common::http;
use common::process::succeed;
use common::server::Server;
use common::tbot::{Start, Tbot};
use common::v1::{assert_echoes, dial};
use common::wait::until;

/// Waits until the multiplexer is unready for a reason with `part` in it.
fn await_reason(tbot: &Tbot, part: &str) {
    until(part, || {
        let (status, body) = http::get(tbot.address(), "/readyz/ssh-multiplexer-1");
        (status == 503 && body.contains(part)).then_some(())
    });
    let metric = "tbot_service_status{service=\"ssh-multiplexer-1\",status=";
    assert_eq!(tbot.metric(&format!("{metric}\"unhealthy\"}}")), 1);
    assert_eq!(tbot.metric(&format!("{metric}\"healthy\"}}")), 0);
}

fn await_ready(tbot: &Tbot) {
    until("it is ready", || {
        (http::get(tbot.address(), "/readyz").0 == 200).then_some(())
    });
    let metric = "tbot_service_status{service=\"ssh-multiplexer-1\",status=";
    assert_eq!(tbot.metric(&format!("{metric}\"healthy\"}}")), 1);
    assert_eq!(tbot.metric(&format!("{metric}\"unhealthy\"}}")), 0);
    assert_eq!(tbot.metric(&format!("{metric}\"initializing\"}}")), 0);
}

#[test]
fn a_full_multiplexer_is_not_ready_until_a_connection_ends() {
    let echo = Server::echo();
    let tbot = Start::config(|destination| {
        format!(
            "version: v2\nservices:\n  - type: ssh-multiplexer\n    max_connections: 2\n    \
             destination: {{ type: directory, path: {} }}\n",
            destination.display()
        )
    })
    .start();
    await_ready(&tbot);
    let mut held: Vec<_> = (0..2).map(|_| dial(&tbot, echo.address)).collect();
    for stream in &mut held {
        assert_echoes(stream, b"up");
    }
    await_reason(&tbot, "all 2 connections are in use");
    held.pop();
    await_ready(&tbot);
}

#[test]
fn one_without_descriptors_is_not_ready_until_it_has_some() {
    let tbot = Tbot::start();
    await_ready(&tbot);
    let limit = |most: usize| {
        let process = tbot.pid().as_raw_pid().to_string();
        succeed(Command::new("prlimit").args(["--pid", &process, &format!("--nofile={most}:")]));
    };
    // Enough for what asks, and no more: the service's own connection is one.
    let open = common::procfs::descriptors(tbot.pid());
    limit(open + 2);
    await_reason(&tbot, "no file descriptors are left");
    limit(1000);
    await_ready(&tbot);
}

#[test]
fn one_whose_socket_was_taken_away_is_not_ready() {
    let tbot = Tbot::start();
    await_ready(&tbot);
    let away = tbot.destination.join("away");
    fs::rename(tbot.socket(), &away).expect("the directory is ours");
    await_reason(&tbot, "v1.sock is not this tbot's socket any more");
    fs::rename(&away, tbot.socket()).expect("the directory is ours");
    await_ready(&tbot);
}
