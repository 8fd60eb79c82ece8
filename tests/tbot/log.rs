//! The log: a line for each connection, levels, lines that are folded, and what peers cannot put into it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::http;
use crate::common::process::run;
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{
    Errors, assert_echoes, assert_refused, connect, dial, read_to_end, request,
    send_with_descriptors,
};
use crate::common::wait::until;

/// A multiplexer with this in its environment.
fn with_env(name: &str, value: &str) -> Tbot {
    Start::multiplexer().env(name, value).start()
}

fn in_json() -> Tbot {
    Tbot::with(&["--log-format", "json"])
}

/// What is in the log once tbot has ended.
fn whole_log(mut tbot: Tbot) -> String {
    tbot.signal(Signal::TERM);
    tbot.exit();
    tbot.stderr.all()
}

/// The objects of a log in JSON that are about connections.
fn connections(log: &str) -> Vec<Value> {
    let objects = log.lines().map(|line| {
        let object = serde_json::from_str(line);
        object.unwrap_or_else(|error| panic!("{line:?}: {error}"))
    });
    objects
        .filter(|object: &Value| object.get("outcome").is_some())
        .collect()
}

/// The `key=value` of a line of text.
fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ')
        .filter_map(|word| word.split_once('='))
        .collect()
}

fn milliseconds(text: &str) -> f64 {
    text.parse().expect("a number of milliseconds")
}

#[test]
fn a_connection_is_one_line_at_its_end() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let address = echo.address.to_string();
    let mut client = dial(&tbot, &address);
    assert_echoes(&mut client, b"seven b");
    assert!(!tbot.stderr.so_far().contains(&address), "it goes on");
    drop(client);
    tbot.await_ended(1);
    let line = tbot.stderr.line(" connection ended ");
    let uid = rustix::process::geteuid().as_raw().to_string();
    let pid = std::process::id().to_string();
    let fields = fields(&line);
    for (key, value) in [
        ("request", &*address),
        ("target", &address),
        ("outcome", "ok"),
        ("sent", "7"),
        ("received", "7"),
        ("uid", &uid),
        ("pid", &pid),
    ] {
        assert_eq!(fields.get(key), Some(&value), "{key} in {line}");
    }
    let (connect, total) = (fields["connect_ms"], fields["total_ms"]);
    assert!(milliseconds(connect) > 0.0 && milliseconds(total) > milliseconds(connect));
    assert!(line.contains(" INFO "), "{line}");
    let log = whole_log(tbot);
    let about = log.lines().filter(|line| line.contains(&address)).count();
    assert_eq!(about, 1, "{log}");
}

#[test]
fn json_has_what_is_known_under_keys_and_one_line_for_a_failure_too() {
    let (tbot, echo, closed) = (in_json(), Server::counting(), ClosedPort::new());
    let mut client = dial(&tbot, echo.address);
    client.write_all(&[0; 100_000]).expect("it reads");
    client.shutdown(std::net::Shutdown::Write).expect("open");
    assert_eq!(read_to_end(&mut client), b"100000");
    drop(client);
    tbot.await_ended(1);
    let (wrong, gone) = (closed.address.to_string(), "db1:22|nowhere");
    assert_refused(&mut dial(&tbot, &wrong));
    tbot.await_ended(2);
    assert_refused(&mut dial(&tbot, gone));
    tbot.await_ended(3);
    let log = whole_log(tbot);
    let all = connections(&log);
    let [ok, refused, unknown] = &all[..] else {
        panic!("{log}")
    };
    assert_eq!(
        (&ok["level"], &ok["outcome"]),
        (&"INFO".into(), &"ok".into())
    );
    assert_eq!(ok["request"], echo.address.to_string());
    assert_eq!(ok["target"], echo.address.to_string());
    assert_eq!((&ok["sent"], &ok["received"]), (&100_000.into(), &6.into()));
    assert!(ok["connect_ms"].is_f64() && ok["total_ms"].is_f64());
    assert_eq!(ok["pid"], std::process::id());
    assert_eq!(refused["level"], "WARN");
    assert_eq!(refused["outcome"], "refused");
    assert_eq!(refused["request"], *wrong);
    let message = format!("cannot connect to {wrong}: connection refused by 127.0.0.1");
    assert_eq!(refused["message"], *message);
    // What is not known is not there.
    assert_eq!(refused.get("sent"), None);
    assert_eq!(refused.get("connect_ms"), None);
    assert_eq!(unknown["outcome"], "cluster");
    assert_eq!(unknown["request"], gone);
    assert_eq!(unknown.get("cluster"), None);
    for object in &all {
        let time = object["timestamp"].as_str().expect("text");
        assert!(time.ends_with('Z'), "{time}");
        humantime::parse_rfc3339(time).expect("a time by RFC 3339");
    }
}

#[test]
fn a_request_is_told_as_it_was_made_and_the_target_as_it_was_dialled() {
    let echo = Server::echo();
    let tbot = Start::config(|destination| {
        format!(
            "version: v2\nlog_format: json\nservices:\n  - type: ssh-multiplexer\n    destination: \
             {{ type: directory, path: {} }}\n    cluster_name: prod\n    proxy_templates: \
             [{{ template: '^alias:', host: '{}' }}]\n",
            destination.display(),
            echo.address
        )
    })
    .start();
    assert_echoes(&mut dial(&tbot, "alias:22|prod"), b"there");
    tbot.await_ended(1);
    let log = whole_log(tbot);
    let [line] = &connections(&log)[..] else {
        panic!("{log}")
    };
    assert_eq!(line["request"], "alias:22|prod");
    assert_eq!(line["target"], echo.address.to_string());
    assert_eq!(line["cluster"], "prod");
}

#[test]
fn what_breaks_and_what_is_cut_has_one_line_with_its_bytes() {
    // Five bytes, and then a reset.
    let breaking = Server::start(|mut stream| {
        let mut five = [0; 5];
        stream.read_exact(&mut five).ok();
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).ok();
    });
    let (tbot, echo) = (
        Tbot::with(&["--log-format", "json", "--shutdown-grace", "0s"]),
        Server::echo(),
    );
    let mut client = dial(&tbot, breaking.address);
    client.write_all(b"fiver").expect("it reads");
    assert_refused(&mut client);
    tbot.await_ended(1);
    let mut open = dial(&tbot, echo.address);
    assert_echoes(&mut open, b"open");
    let log = whole_log(tbot);
    let [broken, cut] = &connections(&log)[..] else {
        panic!("{log}")
    };
    assert_eq!(broken["outcome"], "broken");
    assert_eq!(
        (&broken["sent"], &broken["level"]),
        (&5.into(), &"WARN".into())
    );
    assert_eq!(cut["outcome"], "cut");
    assert_eq!((&cut["sent"], &cut["received"]), (&4.into(), &4.into()));
}

#[test]
fn a_client_that_may_not_connect_or_asks_for_nothing_has_its_line() {
    let tbot = in_json();
    drop(connect(&tbot));
    tbot.await_ended(1);
    let mut client = connect(&tbot);
    client.write_all(&request("no request")).expect("it reads");
    assert_refused(&mut client);
    tbot.await_ended(2);
    let log = whole_log(tbot);
    let [gone, malformed] = &connections(&log)[..] else {
        panic!("{log}")
    };
    assert_eq!(gone["outcome"], "gone");
    assert_eq!(
        (&malformed["outcome"], malformed.get("request")),
        (&"malformed".into(), None)
    );
    assert_eq!(malformed["uid"], rustix::process::geteuid().as_raw());
}

#[test]
fn levels_are_chosen_by_the_environment() {
    let echo = Server::echo();
    let log_of = |levels: &str| {
        let tbot = with_env("TBOT_LOG", levels);
        assert_echoes(&mut dial(&tbot, echo.address), b"x");
        tbot.await_ended(1);
        assert_refused(&mut dial(&tbot, "there:22|nowhere"));
        tbot.await_ended(2);
        whole_log(tbot)
    };
    // tests wait for lines of tbot::bot.
    for (levels, details, ended, refused) in [
        ("warn,tbot::bot=info", false, false, true),
        (
            "warn,tbot::bot=info,tbot::connection=info",
            false,
            true,
            true,
        ),
        ("tbot::connection=error", false, false, false),
        ("Error, TBOT::bot=Info", false, false, false),
        ("info", false, true, true),
        ("debug", true, true, true),
        ("trace,tbot::connection=warn", true, false, true),
    ] {
        let log = log_of(levels);
        assert_eq!(log.contains(" DEBUG "), details, "{levels}: {log}");
        assert_eq!(log.contains("outcome=ok"), ended, "{levels}: {log}");
        let has_refused = log.contains("outcome=cluster");
        assert_eq!(has_refused, refused, "{levels}: {log}");
    }
    let once = |levels: &str| {
        let start = Start::multiplexer().args(["--oneshot"]);
        start.env("TBOT_LOG", levels).finish().stderr
    };
    assert_eq!(once("warn"), "");
    assert!(once("").contains(" INFO "));
}

#[test]
fn the_environment_wins_over_debug_which_still_brings_profiles() {
    let profiles = |tbot: &Tbot| http::get(tbot.address(), "/debug/pprof/").0;
    let start = Start::multiplexer().args(["--debug"]);
    let tbot = start.env("TBOT_LOG", "info").start();
    if cfg!(feature = "pprof") {
        assert_eq!(profiles(&tbot), 200);
    }
    assert!(!has_details(tbot));
    let tbot = with_env("TBOT_LOG", "debug");
    assert_eq!(profiles(&tbot), 404);
    assert!(has_details(tbot));
    // What is said of a part leaves the rest to debug.
    let start = Start::multiplexer().args(["--debug"]);
    let tbot = start.env("TBOT_LOG", "tbot::connection=warn").start();
    assert!(has_details(tbot));
}

/// Whether there are lines of debug, some of which come with a check of its files.
fn has_details(tbot: Tbot) -> bool {
    let checks = || {
        tbot.metric("tbot_task_iterations_total{name=\"artifacts\",service=\"ssh-multiplexer-1\"}")
    };
    let before = checks();
    tbot.signal(Signal::HUP);
    until("its files are checked", || {
        (checks() > before).then_some(())
    });
    whole_log(tbot).contains(" DEBUG ")
}

#[test]
fn a_request_to_the_diagnostics_is_a_line_of_trace() {
    let tbot = with_env("TBOT_LOG", "trace");
    http::get(tbot.address(), "/nowhere%0aERROR%20all%20is%20lost");
    let line = tbot.stderr.line(" TRACE diagnostics: ");
    assert!(line.contains("status=404"), "{line}");
    assert!(!whole_log(tbot).contains("\nERROR"));
}

#[test]
fn the_same_failure_again_is_counted_and_told_when_some_seconds_are_over() {
    let tbot = Tbot::start();
    let (dead, other) = (ClosedPort::new(), ClosedPort::new());
    let warnings = || tbot.metric("tbot_log_messages_total{level=\"warn\"}");
    let before = warnings();
    for n in 1..=42 {
        assert_refused(&mut dial(&tbot, dead.address));
        tbot.await_ended(n);
    }
    assert_refused(&mut dial(&tbot, other.address));
    tbot.await_ended(43);
    tbot.stderr.line(&format!("request={}", other.address));
    let line = tbot.stderr.line(" times in ");
    let message = format!(
        " WARN cannot connect to {0}: connection refused by 127.0.0.1 (repeated 41 times in 10 s) request={0} \
         target={0} outcome=refused repeated=41",
        dead.address
    );
    assert!(line.ends_with(&message), "{line}");
    assert_eq!(warnings() - before, 43, "each counts");
    let log = whole_log(tbot);
    let request = format!("request={}", dead.address);
    assert_eq!(log.matches(&request).count(), 2, "{log}");
}

#[test]
fn what_was_counted_is_told_at_the_end() {
    let (tbot, dead) = (in_json(), ClosedPort::new());
    for n in 1..=4 {
        assert_refused(&mut dial(&tbot, dead.address));
        tbot.await_ended(n);
    }
    let log = whole_log(tbot);
    let [first, rest] = &connections(&log)[..] else {
        panic!("{log}")
    };
    assert_eq!(
        (first.get("repeated"), &rest["repeated"]),
        (None, &3.into())
    );
    assert_eq!(first["request"], rest["request"]);
    let message = rest["message"].as_str().expect("text");
    assert!(message.contains(" (repeated 3 times in "), "{message}");
    // What was so of one of them alone is not said of all.
    assert_eq!(rest.get("total_ms"), None);
}

#[test]
fn a_flood_of_different_failures_is_so_many_lines_and_a_number() {
    const ALL: u64 = 300;
    let begun = std::time::Instant::now();
    let tbot = in_json();
    for n in 1..=ALL {
        assert_refused(&mut dial(&tbot, format!("db{n}:22|nowhere")));
        tbot.await_ended(n);
    }
    let took = begun.elapsed();
    let log = whole_log(tbot);
    let lines = connections(&log).len() as u64;
    let left_out = |line: &str| {
        let object: Value = serde_json::from_str(line).expect("JSON");
        object["left_out"].as_u64().unwrap_or(0)
    };
    let left_out: u64 = log.lines().map(left_out).sum();
    assert_eq!(lines + left_out, ALL, "{log}");
    if took.as_secs() < 10 {
        assert_eq!(lines, 200);
    }
    assert!(
        log.contains("more lines of tbot::connection were left out in "),
        "{log}"
    );
}

#[test]
fn what_a_client_sends_can_neither_end_a_line_nor_turn_or_colour_it() {
    const SPITE: &str = "h\u{202e}\u{2066}\u{feff}\"x\\:22|no";
    for format in ["text", "json"] {
        let tbot = Tbot::with(&["--log-format", format]);
        assert_refused(&mut dial(&tbot, SPITE));
        tbot.await_ended(1);
        // Not of the protocol, so shown in a message.
        let mut client = connect(&tbot);
        let bytes = b"h\x1b[31m\x07\n\r\x7f\xc2\x9b2J\xff\xe2\x80\xae:22\0";
        let (errors, writer) = Errors::pipe();
        send_with_descriptors(&client, bytes, &[writer.as_fd()]);
        drop(writer);
        errors.one_line();
        assert_refused(&mut client);
        tbot.await_ended(2);
        let log = whole_log(tbot);
        let is_odd = |c: char| {
            (c.is_control() && c != '\n')
                || ('\u{2028}'..='\u{206f}').contains(&c)
                || c == '\u{feff}'
        };
        assert!(!log.contains(is_odd), "{log:?}");
        assert_eq!(log.matches("is no request").count(), 1, "{log}");
        if format == "json" {
            // A parser of JSON has the very text back.
            assert_eq!(connections(&log)[0]["request"], SPITE);
        } else {
            let line = log.lines().find(|line| line.contains("outcome=cluster"));
            let quoted = r#" request="h\u{202e}\u{2066}\u{feff}\"x\\:22|no" "#;
            assert!(line.expect("it is there").contains(quoted), "{line:?}");
        }
    }
}

/// What a short run of tbot with these words and variable shows on a terminal.
fn on_a_terminal(words: &str, name: &str, value: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let tbot = env!("CARGO_BIN_EXE_tbot");
    let line = format!("{tbot} start ssh-multiplexer --destination mux --oneshot {words}");
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]);
    script.current_dir(directory.path()).env_clear();
    script.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let end = run(script.env("TERM", "xterm").env(name, value));
    assert!(end.status.success(), "{end:?}");
    assert!(end.stdout.contains("one-shot mode"), "{end:?}");
    end.stdout
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    assert!(on_a_terminal("", "X", "").contains("\x1b[32m INFO\x1b[0m "));
    // https://no-color.org: "when present and not an empty string".
    assert!(on_a_terminal("", "NO_COLOR", "").contains('\x1b'));
    for (words, name, value) in [
        ("", "NO_COLOR", "0"),
        ("", "TERM", "dumb"),
        ("--log-format json", "X", ""),
    ] {
        let shown = on_a_terminal(words, name, value);
        assert!(!shown.contains('\x1b'), "{words} {name}: {shown:?}");
    }
}

#[test]
fn lines_that_were_dropped_are_told_in_the_format_of_all_others() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let (mut log, writer) = std::io::pipe().expect("a pipe");
    let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
    tbot.args(["start", "ssh-multiplexer", "--destination", "mux", "-d"]);
    tbot.args(["--diag-addr", "127.0.0.1:0", "--log-format", "json"]);
    tbot.current_dir(directory.path()).env_clear();
    let mut process = Child(tbot.stderr(writer).spawn().expect("it starts"));
    // It holds the writing end, too.
    drop(tbot);
    let mut text = String::new();
    let address = {
        let mut lines = BufReader::with_capacity(1, &log);
        while !text.contains(" is ready at ") {
            assert_ne!(lines.read_line(&mut text).expect("UTF-8"), 0, "{text}");
        }
        let (_, rest) = text.split_once("served at http://").expect("its address");
        let (address, _) = rest.split_once('/').expect("it ends so");
        address.parse().expect("an address")
    };
    // Nobody reads: the pipe and the queue fill.
    until("lines are dropped", || {
        (0..50).for_each(|_| process.signal(Signal::HUP));
        let (_, metrics) = http::get(address, "/metrics");
        (!metrics.contains("tbot_log_lines_dropped_total 0")).then_some(())
    });
    process.signal(Signal::TERM);
    log.read_to_string(&mut text).expect("UTF-8");
    process.0.wait().expect("it is ours");
    for line in text.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        assert!(object["timestamp"].is_string(), "{line}");
    }
    assert!(text.contains(" log lines were dropped, as stderr took none"));
}

/// Killed if the test fails.
struct Child(std::process::Child);

impl Child {
    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("it is ours");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
