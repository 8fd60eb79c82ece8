//! `tbot wait`: a real tbot's health for scripts and containers, and servers that are none.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::black_hole::BlackHole;
use crate::common::keys::Keys;
use crate::common::process::{Finished, Process, run};
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::until;
use crate::common::{has_ipv6, http};

/// `tbot wait` with these arguments, in an empty environment.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tbot"));
    command.arg("wait").args(args).env_clear();
    command
}

fn wait(address: impl ToString, args: &[&str]) -> Finished {
    run(command(&["--diag-addr", &address.to_string()]).args(args))
}

/// It succeeded without a word.
#[track_caller]
fn healthy(end: &Finished) {
    let said = (end.stdout.as_str(), end.stderr.as_str());
    assert_eq!((end.status.code(), said), (Some(0), ("", "")));
}

/// It failed after `timeout` with this, and with nothing else on stderr.
#[track_caller]
fn failed(end: &Finished, timeout: &str, seen: &str) {
    let error = format!("ERROR: not ready within {timeout}: {seen}\n");
    assert_eq!((end.status.code(), &*end.stderr), (Some(1), &*error));
    assert_eq!(end.stdout, "");
}

/// A server that reads a request's head and sends this.
fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
    Server::start(move |mut stream| {
        let head = read_head(&mut stream);
        stream.write_all(&answer(&head)).ok();
    })
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a request is ASCII")
}

fn unavailable(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 503 Service Unavailable\r\nContent-Length: {length}\r\n\r\n{body}").into()
}

#[test]
fn a_healthy_tbot_is_not_waited_for() {
    let tbot = Tbot::start();
    let address = tbot.address();
    for address in [
        address.to_string(),
        format!("http://{address}"),
        format!("HTTP://{address}/"),
        format!("localhost:{}", address.port()),
        // Where it listens may be written for all addresses.
        format!("0.0.0.0:{}", address.port()),
    ] {
        healthy(&wait(&address, &["--timeout", "60s"]));
        healthy(&wait(&address, &["--service", "ssh-multiplexer-1"]));
    }
    let mut by_environment = command(&["--timeout=60s"]);
    healthy(&run(
        by_environment.env("TBOT_DIAG_ADDR", address.to_string())
    ));
}

#[test]
fn one_that_listens_on_ipv6_is_asked_there() {
    if !has_ipv6() {
        return crate::common::not_tested("tbot wait by IPv6", "there is no ::1");
    }
    let tbot = Start::multiplexer().diagnostics("[::1]:0").start();
    healthy(&wait(tbot.address(), &["--timeout", "60s"]));
    let server = Server::start_on(IpAddr::V6(Ipv6Addr::LOCALHOST), |mut stream| {
        let head = read_head(&mut stream);
        let host = head.lines().find(|line| line.starts_with("Host: "));
        let body = host.unwrap_or("no host").replace("Host: ", "");
        stream.write_all(&unavailable(&body)).ok();
    });
    let end = wait(server.address, &["--timeout", "2s"]);
    let seen = format!("{0} answers 503: {0}", server.address);
    failed(&end, "2s", &seen);
}

#[test]
fn an_unhealthy_service_is_named_with_its_reason_and_waited_for() {
    let echo = Server::echo();
    let tbot = Start::config(|destination| {
        format!(
            "version: v2\nservices:\n  - type: ssh-multiplexer\n    name: mux\n    \
             max_connections: 1\n    destination: {{ type: directory, path: {} }}\n",
            destination.display()
        )
    })
    .start();
    let mut held = dial(&tbot, echo.address);
    assert_echoes(&mut held, b"up");
    const REASON: &str = "mux is unhealthy: the one connection is in use (max_connections)";
    let end = wait(tbot.address(), &["--timeout", "2s"]);
    failed(&end, "2s", REASON);
    let end = wait(tbot.address(), &["--timeout", "2s", "--service", "mux"]);
    failed(&end, "2s", REASON);
    let address = tbot.address().to_string();
    let waiting = Process::spawn(&mut command(&["--diag-addr", &address]));
    // Without an end it says what it waits for, and goes on.
    assert_eq!(waiting.stderr.line("mux"), format!("tbot wait: {REASON}"));
    drop(held);
    let end = waiting.finish();
    assert_eq!(end.status.code(), Some(0), "{end:?}");
}

#[test]
fn a_tbot_that_is_not_there_yet_is_waited_for() {
    // An address of its own, so that no other test takes the port in between.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.44.{high}.{low}:3001");
    let waiting = Process::spawn(&mut command(&["--diag-addr", &address]));
    let line = waiting.stderr.line("refused");
    let expected = format!("tbot wait: {address} took no connection: Connection refused");
    assert_eq!(line, expected);
    let tbot = Start::multiplexer().diagnostics(&address).start();
    let end = waiting.finish();
    assert_eq!(end.status.code(), Some(0), "{end:?}");
    assert_eq!(end.stderr, expected + "\n");
    // A service that is not there may come, too.
    let end = wait(
        tbot.address(),
        &["--service", "no/b\u{fc}$%", "--timeout", "2s"],
    );
    let seen = format!("{address} answers 404: Service named \"no/b\u{fc}$%\" not found.");
    failed(&end, "2s", &seen);
}

#[test]
fn it_asks_until_the_answer_is_200_at_the_path_of_a_url() {
    let asked = AtomicUsize::new(0);
    let server = answering(move |head| {
        assert!(head.starts_with("GET /wait/b%2Bc HTTP/1.0\r\n"), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(),
            1 => unavailable(""),
            2 => b"HTTP/1.1 500 Oh\r\n\r\n".to_vec(),
            // No answer at all.
            3 => Vec::new(),
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec(),
        }
    });
    let url = format!("http://{}/", server.address);
    let end = run(&mut command(&[
        "-d",
        "--diag-addr",
        &url,
        "--service",
        "b+c",
    ]));
    let name = server.address;
    let said = [
        format!("tbot wait: {name} answers 404\n"),
        format!("tbot wait: {name} answers 503\n"),
        format!("tbot wait: {name} answers 500\n"),
        format!("tbot wait: {name} closed without an answer\n"),
    ];
    assert_eq!((end.status.code(), end.stderr), (Some(0), said.concat()));
}

#[test]
fn who_does_not_answer_in_time_does_not_hold_it_up() {
    let hole = BlackHole::open();
    // Each goes on for as long as it is listened to.
    let silent = Server::start(|mut stream| {
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let drips = |bytes: &'static [u8]| {
        Server::start(move |mut stream| {
            for byte in bytes.iter().chain(std::iter::repeat(&b'x')) {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let (in_head, in_body) = (
        drips(b"HTTP/1.1 200 OK\r\nX: "),
        drips(b"HTTP/1.1 503 No\r\nContent-Length: 100000\r\n\r\nwait "),
    );
    let begun = Instant::now();
    let waits = [
        (hole.address, "took no connection in time"),
        (silent.address, "did not answer in time"),
        (in_head.address, "did not answer in time"),
        (in_body.address, "answers 503: wait x"),
    ]
    .map(|(address, seen)| {
        let mut wait = command(&["--timeout", "1.5s"]);
        wait.args(["--diag-addr", &address.to_string()]);
        (address, seen, Process::spawn(&mut wait))
    });
    for (address, seen, waiting) in waits {
        let end = waiting.finish();
        assert!(begun.elapsed() >= Duration::from_millis(1490), "{end:?}");
        let expected = format!("ERROR: not ready within 1.5s: {address} {seen}");
        assert!(end.stderr.starts_with(&expected), "{end:?}");
        assert_eq!(end.status.code(), Some(1));
    }
}

#[test]
fn a_look_takes_5_seconds_at_most_where_nobody_set_a_time() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |mut stream| {
        read_head(&mut stream);
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => drop(stream.read_to_end(&mut Vec::new())),
            _ => drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")),
        }
    });
    let begun = Instant::now();
    let end = wait(server.address, &[]);
    assert!(begun.elapsed() >= Duration::from_millis(4990), "{end:?}");
    let said = format!("tbot wait: {} did not answer in time\n", server.address);
    assert_eq!((end.status.code(), end.stderr), (Some(0), said));
}

#[test]
fn a_service_that_has_not_reported_is_named() {
    let room = tempfile::tempdir().expect("a directory");
    let yaml = format!(
        "version: v2\ndiag_addr: 127.0.0.1:0\nonboarding: {{ join_method: command, command: [sleep, \"600\"] }}\n\
         services:\n  - type: ssh-multiplexer\n    name: mux\n    destination: {{ type: directory, path: {} }}\n",
        room.path().join("mux").display()
    );
    let file = room.path().join("tbot.yaml");
    std::fs::write(&file, yaml).expect("the directory is ours");
    let mut start = Command::new(env!("CARGO_BIN_EXE_tbot"));
    start.args(["start", "-c"]).arg(file).env_clear();
    start.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let tbot = Process::spawn(&mut start);
    let line = tbot.stderr.line("diagnostics are served at ");
    let (_, url) = line.split_once(" at ").expect("it was found by it");
    let end = wait(url, &["--timeout", "2s", "--service", "identity"]);
    failed(&end, "2s", "identity is initializing");
    let end = wait(url, &["--timeout", "2s"]);
    assert!(end.stderr.contains("identity is initializing"), "{end:?}");
    // Also where others wait in all the places there are.
    let (_, address) = url.trim_end_matches('/').split_once("//").expect("a URL");
    let address = address.parse().expect("an address");
    let ask = http::request(address, "/wait", "");
    let mut held = Vec::new();
    until("every place is taken", || {
        let more = http::begin(address, &ask);
        more.set_nonblocking(true).expect("a socket");
        held.push(more);
        // It is answered at once where there is no place, as while a look of before still has one.
        assert_eq!(http::get(address, "/livez").0, 200);
        held.retain(|held| held.peek(&mut [0]).is_err());
        (held.len() == 16).then_some(())
    });
    let end = wait(url, &["--timeout", "2s"]);
    assert!(end.stderr.contains("identity is initializing"), "{end:?}");
    let end = wait(url, &["--timeout", "2s", "--service", "identity"]);
    failed(&end, "2s", "identity is initializing");
    drop(held);
    tbot.signal(Signal::TERM);
    assert!(tbot.finish().status.success());
}

#[test]
fn who_finds_no_place_to_wait_asks_often() {
    let asked = AtomicUsize::new(0);
    let server = answering(move |head| {
        if head.starts_with("GET /wait/mux ") {
            return unavailable("16 long requests are being answered already, try again later\n");
        }
        assert!(head.starts_with("GET /readyz/mux "), "{head}");
        match asked.fetch_add(1, Ordering::SeqCst) {
            0..20 => unavailable("{\"status\": \"initializing\"}"),
            _ => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        }
    });
    // With pauses that grow it would have to be a minute.
    let words = ["--service", "mux", "--timeout", "20s"];
    healthy(&wait(server.address, &words));
}

#[test]
fn what_was_seen_last_is_told_where_there_is_no_more_time_to_look() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |mut stream| {
        let answer = match &*read_head(&mut stream) {
            head if head.starts_with("GET /wait/mux ") => {
                unavailable("16 long requests are being answered already, try again later\n")
            }
            _ if asked.fetch_add(1, Ordering::SeqCst) == 0 => {
                unavailable("{\"status\": \"initializing\"}")
            }
            // None, until the client has had enough.
            _ => return drop(stream.read(&mut [0])),
        };
        stream.write_all(&answer).ok();
    });
    let end = wait(server.address, &["--service", "mux", "--timeout", "2s"]);
    failed(&end, "2s", "mux is initializing");
}

#[test]
fn what_is_no_answer_of_diagnostics_is_said() {
    let endless = |first: &'static str| {
        Server::start(move |mut stream| {
            let part = [b'x'; 4096];
            if stream.write_all(first.as_bytes()).is_ok() {
                while stream.write_all(&part).is_ok() {}
            }
        })
    };
    let servers = [
        (
            answering(|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "ADDRESS answers something that is not HTTP",
        ),
        (
            answering(|_| b"HTTP/1.1 200 OK\r\nX: y\r\n".to_vec()),
            "ADDRESS broke off its answer",
        ),
        (
            answering(|_| b"HTTP/9.9 200 OK\r\n\r\n".to_vec()),
            "ADDRESS answers something that is not HTTP",
        ),
        (
            answering(|_| b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n".to_vec()),
            "ADDRESS answers 302",
        ),
        (
            answering(|_| unavailable("{\"services\": [[[")),
            "ADDRESS answers 503: {\"services\": [[[",
        ),
        (
            answering(|_| unavailable("{\"services\": {\"a\": 5}}")),
            "a is of no status",
        ),
        (
            answering(|_| unavailable(&"[".repeat(60_000))),
            "ADDRESS answers 503: [[",
        ),
        (endless(""), "ADDRESS answers something that is not HTTP"),
        (
            endless("HTTP/1.1 200 OK\r\nX: "),
            "ADDRESS answers something that is not HTTP",
        ),
        (
            endless("HTTP/1.1 503 No\r\n\r\n"),
            "ADDRESS answers 503: xx",
        ),
        (
            endless("HTTP/1.1 503 No\r\nContent-Length: 18446744073709551615\r\n\r\n"),
            "ADDRESS answers 503: xx",
        ),
        (
            endless("HTTP/1.1 503 No\r\nContent-Length: -1\r\n\r\n"),
            "ADDRESS answers 503: xx",
        ),
    ];
    // All at once, and long enough for a machine with other things to do.
    let waits: Vec<_> = servers
        .iter()
        .map(|(server, seen)| {
            let address = server.address.to_string();
            let mut wait = command(&["--timeout", "2s", "--diag-addr", &address]);
            (address, seen, Process::spawn(&mut wait))
        })
        .collect();
    for (address, seen, waiting) in waits {
        let end = waiting.finish();
        let seen = seen.replace("ADDRESS", &address);
        let expected = format!("ERROR: not ready within 2s: {seen}");
        assert!(end.stderr.starts_with(&expected), "{seen}: {end:?}");
        assert_eq!(
            (end.status.code(), end.stderr.lines().count()),
            (Some(1), 1)
        );
        assert!(end.stderr.len() < 1000, "{end:?}");
    }
}

#[test]
fn a_peers_words_cannot_do_anything_to_a_terminal() {
    let server = answering(|_| {
        unavailable(
            r#"{"status": "unhealthy", "services": {
                "a\u001b[2J": {"status": "un\nhealthy", "reason": "it \"is\"\r\u009b31m \u202e over"},
                "b": {"status": "healthy"},
                "c": {"status": "initializing", "updated_at": null},
                "d": {"status": "unhealthy"}, "e": {}, "f": {"status": 1}}}"#,
        )
    });
    let end = wait(server.address, &["--timeout", "2s"]);
    let seen = "a\\u{1b}[2J is un\\nhealthy: it \"is\"\\r\\u{9b}31m \\u{202e} over; \
                c is initializing; d is unhealthy; and 2 more";
    failed(&end, "2s", seen);
    let long = answering(|_| unavailable(&format!("\x07{}", "ü".repeat(30_000))));
    let end = wait(long.address, &["--timeout", "2s"]);
    let seen = format!("{} answers 503: \\u{{7}}{}…", long.address, "ü".repeat(499));
    failed(&end, "2s", &seen);
}

#[test]
fn what_it_is_given_has_to_be_right() {
    const ADDRESS: &str = "it must be host:port, such as 127.0.0.1:3001";
    let refused = |args: &[&str], message: &str| {
        let end = run(&mut command(args));
        assert_eq!(end.stderr, format!("ERROR: {message}\n"));
        assert_eq!(end.status.code(), Some(1));
    };
    refused(
        &[],
        "tbot wait needs --diag-addr or TBOT_DIAG_ADDR: the address of a tbot's diagnostics, such as 127.0.0.1:3001",
    );
    for (address, message) in [
        (
            "https://a:1",
            "diagnostics are served by http, and https is not spoken here; write http://HOST:PORT or HOST:PORT",
        ),
        (
            "ftp://a:1",
            "\"ftp\" is of an unknown scheme; write http://HOST:PORT or HOST:PORT",
        ),
        (
            "http://me:secret@a:1",
            "has a user, which diagnostics do not ask for; write HOST:PORT",
        ),
        (
            "http://a:1/x?y",
            "\"/x?y\" stands behind the port, and tbot serves its diagnostics at / alone; write http://HOST:PORT or HOST:PORT",
        ),
        (
            "http://a:1/x\r\ny",
            "\"/x\\r\\ny\" stands behind the port, and tbot serves its diagnostics at / alone; write http://HOST:PORT or HOST:PORT",
        ),
        ("a", &format!("\"a\" has no port; {ADDRESS}")),
        (
            "3001",
            &format!("\"3001\" is a port without a host; {ADDRESS}"),
        ),
        (
            "a:0",
            &format!("\"a:0\" is nothing to connect to; {ADDRESS}"),
        ),
        (
            "http://",
            &format!(
                "\":80\" has no host (for every address of this machine: 0.0.0.0:80); {ADDRESS}"
            ),
        ),
        (
            "::1:3001",
            &format!(
                "\"::1:3001\" needs its IPv6 address in brackets, as in [::1]:3001; {ADDRESS}"
            ),
        ),
        ("a:1/x", &format!("\"a:1/x\" has a path; {ADDRESS}")),
        ("a\u{1b}:1", "has a control character: \"a\\u{1b}:1\""),
    ] {
        refused(
            &["--diag-addr", address],
            &format!("--diag-addr: {message}"),
        );
    }
    let closed = ClosedPort::new().address.to_string();
    for (flag, value, message) in [
        (
            "--timeout",
            "0s",
            "must be longer than 0s; leave it out to wait for ever",
        ),
        (
            "--timeout",
            "2",
            "\"2\" has a number without a unit: ns, us, ms, s, m or h (a duration is written like 1h30m, 90s or 100ms)",
        ),
        ("--service", "", "the name is empty"),
    ] {
        refused(
            &["--diag-addr", &closed, flag, value],
            &format!("{flag}: {message}"),
        );
    }
    refused(
        &["-c", "x", "--diag-addr", &closed],
        "--config is no flag of `tbot wait`, but one of `tbot start`, `tbot configure`, `tbot install systemd`",
    );
    let end = run(command(&[]).env("TBOT_DIAG_ADDR", "https://a"));
    assert!(
        end.stderr
            .starts_with("ERROR: TBOT_DIAG_ADDR: diagnostics are served by http")
    );
    // A name that nobody has may be had later, and a name service that does not answer is not waited for.
    let keys = Keys::with_ca();
    const NAMES: &str = "#include <netdb.h>\n#include <unistd.h>\n\
                         int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,\n\
                         struct addrinfo **found) {\n\
                         for (; name[0] == 's';) pause();\nreturn EAI_NONAME;\n}\n";
    let library = keys.library("names", NAMES);
    for (name, why) in [
        (
            "nobody:1",
            "nobody cannot be looked up: Name or service not known",
        ),
        (
            "silent:1",
            "silent cannot be looked up: the name service does not answer",
        ),
    ] {
        let mut waiting = command(&["--diag-addr", name, "--timeout", "1s"]);
        failed(&run(waiting.env("LD_PRELOAD", &library)), "1s", why);
    }
    // The longest there is never ends, and is no error.
    let waiting = Process::spawn(&mut command(&[
        "--diag-addr",
        &closed,
        "--timeout",
        "9223372036854775807ns",
        "-d",
    ]));
    waiting.stderr.line("took no connection");
}
