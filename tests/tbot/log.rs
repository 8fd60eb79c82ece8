//! The log: a line for each connection, and lines that are folded.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::http;
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, assert_refused, connect, dial, read_to_end, request};
use crate::common::{STRANGER, as_user, is_root, not_tested, set_mode};

/// A multiplexer with this in its environment.
pub fn with_env(name: &str, value: &str) -> Tbot {
    Start::multiplexer().env(name, value).start()
}

pub fn in_json() -> Tbot {
    Tbot::with(&["--log-format", "json"])
}

/// What is in the log once tbot has ended.
pub fn whole_log(mut tbot: Tbot) -> String {
    tbot.signal(Signal::TERM);
    tbot.exit();
    tbot.stderr.all()
}

/// The objects of a log in JSON that are about connections.
pub fn connections(log: &str) -> Vec<Value> {
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
         target={0} outcome=refused uid={1} repeated=41",
        dead.address,
        rustix::process::geteuid().as_raw()
    );
    assert!(line.ends_with(&message), "{line}");
    assert_eq!(warnings() - before, 43, "each counts");
    let log = whole_log(tbot);
    let request = format!("request={}", dead.address);
    assert_eq!(log.matches(&request).count(), 2, "{log}");
}

#[test]
fn what_is_repeated_by_several_users_is_told_of_none_of_them_alone() {
    if !is_root() {
        return not_tested("failures of other users", "only root can be one");
    }
    let (one, other) = (STRANGER, STRANGER - 1);
    let allowed = ["--allowed-uid", &one.to_string(), "--allowed-uid"];
    let start = Start::multiplexer().args(allowed).args([other.to_string()]);
    let start = start.args(["--log-format", "json"]);
    set_mode(start.directory(), 0o711);
    let (tbot, common, of_one) = (start.start(), ClosedPort::new(), ClosedPort::new());
    let mut ended = 0;
    let mut fail = |uid, target: &ClosedPort| {
        as_user(uid, || assert_refused(&mut dial(&tbot, target.address)));
        ended += 1;
        tbot.await_ended(ended);
    };
    for uid in [0, one, one, other, one] {
        fail(uid, &common);
    }
    for uid in [0, one, one] {
        fail(uid, &of_one);
    }
    let log = whole_log(tbot);
    let all = connections(&log);
    let repeated = |target: &ClosedPort| {
        let is_it = |line: &&Value| {
            line["request"] == target.address.to_string() && line.get("repeated").is_some()
        };
        all.iter().find(is_it).expect("it is told")
    };
    let line = repeated(&common);
    assert_eq!((&line["repeated"], &line["users"]), (&4.into(), &2.into()));
    assert_eq!(line.get("uid"), None);
    let message = line["message"].as_str().expect("text");
    assert!(message.contains(" (repeated 4 times in ") && message.ends_with(" s, by 2 users)"));
    let line = repeated(&of_one);
    assert_eq!((&line["repeated"], &line["uid"]), (&2.into(), &one.into()));
    assert_eq!(line.get("users"), None);
    assert_eq!(line.get("pid"), None);
}

#[test]
fn a_storm_of_signals_is_ten_renewals_and_lines_a_second() {
    let tbot = Tbot::start();
    let begun = std::time::Instant::now();
    let lines = || tbot.stderr.so_far().matches(" renewing everything").count() as u64;
    // A signal that comes while another one waits is that one (signal(7)), so they are spread.
    for _ in 0..300 {
        tbot.signal(Signal::HUP);
        http::get(tbot.address(), "/livez");
    }
    tbot.stderr.line(" signals asked for");
    let most = begun.elapsed().as_millis() as u64 / 100 + 1;
    assert!(lines() <= most, "{} lines, not {most}", lines());
    let renewals =
        tbot.metric("tbot_task_iterations_total{name=\"artifacts\",service=\"ssh-multiplexer-1\"}");
    assert!(renewals <= most + 1, "{renewals} renewals");
    let log = whole_log(tbot);
    assert!(log.contains(", as a signal asked for\n"), "{log}");
}

#[test]
fn what_was_counted_is_told_at_the_end() {
    let (tbot, dead) = (in_json(), ClosedPort::new());
    for n in 1..=4 {
        assert_refused(&mut dial(&tbot, dead.address));
        tbot.await_ended(n);
    }
    let log = whole_log(tbot);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("\"message\":\"stopped\""), "{log}");
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
