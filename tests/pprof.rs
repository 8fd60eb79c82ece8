//! `/debug/pprof` of the real program: what it serves, to whom, and what it costs the others.
#![cfg(all(feature = "cli", feature = "pprof"))]

mod common;

use std::collections::BTreeSet;
use std::net::TcpStream;

use rustix::process::Signal;

use common::http::{Answer, begin, end, fetch, request};
use common::tbot::Tbot;
use common::wait::until;
use common::{procfs, v1};

const BUSY: &str = "Could not enable CPU profiling: cpu profiling already in use\n";

/// A profile that lasts until it is ended.
const LONG: &str = "/debug/pprof/profile?seconds=300";

const SHORT: &str = "/debug/pprof/profile?seconds=1";

/// A long profile that has begun, and what the next one was told. Requests may overtake each other: a
/// long one that came behind a short one was turned away, and is sent again.
fn occupy(tbot: &Tbot) -> (TcpStream, Answer) {
    let long = || begin(tbot.address(), &request(tbot.address(), LONG, ""));
    let mut first = long();
    let next = until("a long profile has begun", || {
        let next = fetch(tbot.address(), SHORT);
        if next.status != 200 {
            return Some(next);
        }
        first.set_nonblocking(true).expect("a socket");
        let was_answered = first.peek(&mut [0]).is_ok();
        first.set_nonblocking(false).expect("a socket");
        if was_answered {
            first = long();
        }
        None
    });
    (first, next)
}

#[test]
fn without_debug_there_is_nothing_and_the_log_says_once_how_to_have_it() {
    let tbot = Tbot::start();
    for path in [
        "/debug/pprof",
        "/debug/pprof/",
        "/debug/pprof/profile",
        "/debug/pprof/threads",
    ] {
        assert_eq!(fetch(tbot.address(), path).status, 404, "{path}");
    }
    assert_eq!(fetch(tbot.address(), "/debug/pprofile").status, 404);
    let line = tbot.stderr.line("/debug/pprof was asked for and is off");
    assert!(line.contains("--debug"), "{line}");
    let log = tbot.stderr.so_far();
    assert_eq!(log.matches("/debug/pprof").count(), 1, "{log}");
    let list = fetch(tbot.address(), "/");
    assert!(!list.text().contains("pprof"), "{}", list.text());
}

#[test]
fn the_index_lists_what_there_is() {
    let tbot = Tbot::with(&["--debug"]);
    let list = fetch(tbot.address(), "/");
    assert!(list.text().contains("/debug/pprof/"), "{}", list.text());
    let index = fetch(tbot.address(), "/debug/pprof/");
    assert_eq!(index.status, 200);
    assert_eq!(
        index.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    let links: Vec<&str> = index.text().split("href=\"").skip(1).collect();
    let links: Vec<&str> = links
        .iter()
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(links.len() >= 6, "{links:?}");
    for link in links {
        let answer = fetch(tbot.address(), &format!("/debug/pprof/{link}?seconds=1"));
        assert_eq!(answer.status, 200, "{link}: {}", answer.head);
        assert_eq!(
            answer.header("X-Content-Type-Options"),
            Some("nosniff"),
            "{link}"
        );
        assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{link}");
    }
    let moved = fetch(tbot.address(), "/debug/pprof");
    assert_eq!(
        (moved.status, moved.header("Location")),
        (301, Some("/debug/pprof/"))
    );
}

#[test]
fn the_log_says_where_they_are() {
    let tbot = Tbot::with(&["--debug"]);
    let url = format!("http://{}/debug/pprof/", tbot.address());
    tbot.stderr.line(&format!("profiles are served at {url}"));
}

#[test]
fn what_is_not_there_is_an_unknown_profile() {
    let tbot = Tbot::with(&["-d"]);
    if cfg!(not(feature = "heap")) {
        let heap = fetch(tbot.address(), "/debug/pprof/heap");
        assert_eq!(heap.status, 404);
        assert!(heap.text().contains("feature heap"), "{}", heap.text());
    }
    for name in [
        "block",
        "mutex",
        "trace",
        "goroutine",
        "profile/",
        "nonsense",
    ] {
        let answer = fetch(tbot.address(), &format!("/debug/pprof/{name}"));
        assert_eq!(
            (answer.status, answer.text()),
            (404, "Unknown profile\n"),
            "{name}"
        );
        assert_eq!(answer.header("X-Go-Pprof"), Some("1"));
    }
}

#[test]
fn a_bad_parameter_is_a_400_that_names_it() {
    let tbot = Tbot::with(&["-d"]);
    for (query, part) in [
        ("profile?seconds=0", "seconds is 1 to 300, not 0"),
        ("profile?seconds=301", "seconds is 1 to 300, not 301"),
        ("profile?seconds=-1", "seconds"),
        ("profile?seconds=1.5", "seconds"),
        ("profile?seconds=abc", "seconds"),
        ("profile?seconds=99999999999", "seconds"),
        ("profile?seconds=", "seconds"),
        (
            "profile?seconds=1&frequency=0",
            "frequency is 1 to 250, not 0",
        ),
        ("profile?seconds=1&frequency=251", "frequency"),
        ("flamegraph?seconds=0", "seconds"),
        ("threads?debug=x", "debug"),
    ] {
        let answer = fetch(tbot.address(), &format!("/debug/pprof/{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().contains(part), "{query}: {}", answer.text());
        assert_eq!(answer.header("X-Go-Pprof"), Some("1"), "{query}");
    }
}

#[test]
fn a_profile_has_the_form_that_tools_expect() {
    let tbot = Tbot::with(&["-d"]);
    let answer = fetch(
        tbot.address(),
        "/debug/pprof/profile?seconds=1&frequency=250",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("Content-Type"),
        Some("application/octet-stream")
    );
    assert_eq!(
        answer.header("Content-Disposition"),
        Some("attachment; filename=\"profile\"")
    );
    assert_eq!(
        answer.header("Content-Encoding"),
        None,
        "the tools unpack it, not HTTP"
    );
    assert_eq!(answer.body[..2], [0x1f, 0x8b], "gzip");
    let svg = fetch(tbot.address(), "/debug/pprof/flamegraph?seconds=1");
    assert_eq!(svg.header("Content-Type"), Some("image/svg+xml"));
    assert!(svg.text().contains("<svg"), "{}", svg.text());
    // A look at it costs no seconds.
    let head = request(tbot.address(), LONG, "").replace("GET", "HEAD");
    assert_eq!(end(begin(tbot.address(), &head)).status, 200);
}

#[test]
fn one_profile_at_a_time_and_it_ends_with_its_client() {
    let tbot = Tbot::with(&["-d"]);
    let (first, answer) = occupy(&tbot);
    assert_eq!((answer.status, answer.text()), (500, BUSY));
    assert_eq!(answer.header("X-Go-Pprof"), Some("1"));
    let picture = fetch(tbot.address(), "/debug/pprof/flamegraph?seconds=1");
    assert_eq!((picture.status, picture.text()), (500, BUSY));
    // Nobody else is held up.
    for path in ["/livez", "/readyz", "/metrics", "/debug/pprof/threads"] {
        assert_eq!(fetch(tbot.address(), path).status, 200, "{path}");
    }
    drop(first);
    until("a place, since the first client is gone", || {
        Some(fetch(tbot.address(), SHORT)).filter(|answer| answer.status == 200)
    });
}

#[test]
fn a_running_profile_does_not_hold_up_the_end() {
    let mut tbot = Tbot::with(&["-d"]);
    let (running, _) = occupy(&tbot);
    tbot.signal(Signal::TERM);
    let answer = end(running);
    assert_eq!(answer.status, 503, "{}", answer.head);
    assert_eq!(tbot.exit().code(), Some(0));
}

#[test]
fn strangers_pages_get_nothing() {
    let tbot = Tbot::with(&["-d"]);
    let address = tbot.address();
    let status = |path: &str, host: &str, more: &str| {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        end(begin(address, &head)).status
    };
    for host in [
        "localhost",
        "localhost:3001",
        "LocalHost",
        "127.0.0.1:1",
        "10.1.2.3",
        "[::1]:80",
    ] {
        assert_eq!(status("/debug/pprof/", host, ""), 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:3001",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "[::1].evil.example",
        "",
    ] {
        assert_eq!(status("/debug/pprof/cmdline", host, ""), 403, "{host}");
        assert_eq!(status("/debug/pprof/profile", host, ""), 403, "{host}");
        assert_eq!(
            status("/livez", host, ""),
            200,
            "only what is below /debug asks"
        );
    }
    assert_eq!(
        status("http://evil.example/debug/pprof/", "localhost", ""),
        403
    );
    for site in ["cross-site", "same-site"] {
        let header = format!("Sec-Fetch-Site: {site}\r\n");
        assert_eq!(status("/debug/pprof/profile", "localhost", &header), 403);
    }
    assert_eq!(
        status("/debug/pprof/", "localhost", "Sec-Fetch-Site: none\r\n"),
        200
    );
}

#[test]
fn the_name_it_listens_at_is_its_own() {
    let tbot = common::tbot::Start::multiplexer()
        .diagnostics("localhost:0")
        .args(["-d"])
        .start();
    let head = |host: &str| {
        format!("GET /debug/pprof/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    assert_eq!(end(begin(tbot.address(), &head("localhost:1"))).status, 200);
    assert_eq!(end(begin(tbot.address(), &head("elsewhere"))).status, 403);
}

#[test]
fn no_sigprof_kills() {
    for arguments in [&[][..], &["-d"]] {
        let tbot = Tbot::with(arguments);
        for _ in 0..100 {
            tbot.signal(Signal::PROF);
        }
        if !arguments.is_empty() {
            let answer = fetch(tbot.address(), "/debug/pprof/profile?seconds=1");
            assert_eq!(answer.status, 200);
            tbot.signal(Signal::PROF);
        }
        assert_eq!(fetch(tbot.address(), "/livez").status, 200);
        assert!(!tbot.stderr.so_far().contains("panicked"));
    }
}

#[test]
fn it_works_where_the_signal_was_blocked_by_who_started_it() {
    let tbot = common::tbot::Start::multiplexer()
        .through(&["env", "--block-signal=PROF"])
        .args(["-d"])
        .start();
    let threads = fetch(tbot.address(), "/debug/pprof/threads");
    assert!(
        threads.text().contains("tbot::bot::run"),
        "{}",
        threads.text()
    );
}

#[test]
fn every_thread_is_shown_with_its_stack() {
    let server = common::server::Server::echo();
    let tbot = Tbot::with(&["-d"]);
    let mut stream = v1::dial(&tbot, server.address);
    v1::assert_echoes(&mut stream, b"so that a thread has work");
    let answer = fetch(tbot.address(), "/debug/pprof/threads");
    assert_eq!(
        answer.header("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    let text = answer.text();
    let shown: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("thread ")?.split('"').nth(1))
        .collect();
    let running: BTreeSet<String> = procfs::threads(tbot.pid()).into_iter().collect();
    for name in &running {
        assert!(shown.contains(&**name), "no {name} in\n{text}");
    }
    for (thread, function) in [
        ("tbot", "tbot::bot::run"),
        ("mux-0", "threads::Worker::run"),
        ("diag-accept", "listener::Service::accept"),
        ("log", "logging::Shared::write"),
    ] {
        let block = text
            .split("\n\n")
            .find(|block| block.contains(&format!("\"{thread}\"")));
        let block = block.unwrap_or_else(|| panic!("no {thread} in\n{text}"));
        assert!(block.contains(function), "{block}");
        assert!(block.contains("CPU "), "{block}");
    }
    #[cfg(feature = "lines")]
    assert!(text.contains("src/bot/mod.rs:"), "{text}");
    assert!(text.contains("[sleeping, futex"), "{text}");
    assert!(
        text.contains("epoll_pwait") || text.contains("epoll_wait"),
        "{text}"
    );
    let grouped = fetch(tbot.address(), "/debug/pprof/threads?debug=1");
    assert!(
        grouped.text().starts_with("threads profile: total "),
        "{}",
        grouped.text()
    );
    let profile = fetch(tbot.address(), "/debug/pprof/threads?debug=0");
    assert_eq!(profile.body[..2], [0x1f, 0x8b], "gzip");
    let count = fetch(tbot.address(), "/debug/pprof/threadcreate?debug=1");
    let count = count
        .text()
        .strip_prefix("threadcreate profile: total ")
        .map(str::trim_end);
    let count: usize = count
        .and_then(|count| count.parse().ok())
        .expect("a number");
    assert!(count >= running.len(), "{count} of {running:?}");
}

/// Other processes of the same user may have used up what the kernel notes the senders of signals in.
#[test]
fn stacks_are_shown_without_room_for_pending_signals() {
    let tbot = common::tbot::Start::multiplexer()
        .through(&["prlimit", "--sigpending=0:0"])
        .args(["-d"])
        .start();
    let answer = fetch(tbot.address(), "/debug/pprof/threads");
    assert!(
        answer.text().contains("tbot::bot::run"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("no stack"), "{}", answer.text());
}

#[test]
fn addresses_have_names() {
    let tbot = Tbot::with(&["-d"]);
    let threads = fetch(tbot.address(), "/debug/pprof/threads");
    let line = threads
        .text()
        .lines()
        .find(|line| line.contains("tbot::bot::run"));
    let line = line.unwrap_or_else(|| panic!("{}", threads.text())).trim();
    let address = line.split(' ').next().expect("an address");
    let expected = format!("{address} tbot::bot::run");
    let query = format!("/debug/pprof/symbol?{address}+0x1");
    let asked = fetch(tbot.address(), &query);
    let lines: Vec<&str> = asked.text().lines().collect();
    assert_eq!(lines[0], "num_symbols: 1");
    assert!(lines[1].starts_with(address), "{lines:?}");
    let post = |path: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        end(begin(tbot.address(), &(head + body)))
    };
    let posted = post("/debug/pprof/symbol", &format!("{address}+0x1+nonsense"));
    assert_eq!(posted.text(), asked.text());
    assert!(
        posted.text().contains(&expected) || line.contains(" at "),
        "{}",
        posted.text()
    );
    assert_eq!(
        fetch(tbot.address(), "/debug/pprof/symbol").text(),
        "num_symbols: 1\n"
    );
    // A body is for this path only, and not for ever.
    assert_eq!(post("/debug/pprof/cmdline", "x").status, 405);
    assert_eq!(
        post("/debug/pprof/symbol", &"0x1+".repeat(2000)).status,
        413
    );
}

#[test]
fn the_command_line_is_its_words() {
    let tbot = Tbot::with(&["-d"]);
    let answer = fetch(tbot.address(), "/debug/pprof/cmdline");
    let raw = std::fs::read(format!("/proc/{}/cmdline", tbot.pid())).expect("it runs");
    assert_eq!(answer.body, raw[..raw.len() - 1], "without the last NUL");
}
