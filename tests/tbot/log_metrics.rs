//! Log lines are counted, those that nobody reads too.

use crate::common::http;
use crate::common::server::ClosedPort;
use crate::common::tbot::Tbot;
use crate::common::v1::{assert_refused, dial};
use crate::common::wait::until;
use crate::log::with_env;

fn messages(tbot: &Tbot, level: &str) -> u64 {
    tbot.metric(&format!("tbot_log_messages_total{{level=\"{level}\"}}"))
}

fn lines(tbot: &Tbot, level: &str) -> u64 {
    let log = tbot.stderr.so_far();
    log.lines()
        .filter(|line| line.split_whitespace().nth(1) == Some(level))
        .count() as u64
}

/// Waits until the log's thread has written every line that is counted.
fn await_lines_as_counted(tbot: &Tbot) {
    for (level, word) in [
        ("error", "ERROR"),
        ("warn", "WARN"),
        ("info", "INFO"),
        ("debug", "DEBUG"),
    ] {
        until(&format!("as many {word} lines as counted"), || {
            (messages(tbot, level) == lines(tbot, word)).then_some(())
        });
    }
}

#[test]
fn messages_are_counted_by_level_from_the_first_on() {
    // The first is a warning, logged before anything runs.
    let tbot = Tbot::with(&["--storage", "./state"]);
    assert_refused(&mut dial(&tbot, ClosedPort::new().address));
    tbot.await_ended(1);
    assert!(messages(&tbot, "warn") > 0 && messages(&tbot, "info") > 0);
    assert_eq!((messages(&tbot, "error"), messages(&tbot, "debug")), (0, 0));
    await_lines_as_counted(&tbot);
    assert_eq!(tbot.metric("tbot_log_lines_dropped_total"), 0);
}

#[test]
fn details_are_counted_where_they_are_logged() {
    let tbot = Tbot::with(&["--debug"]);
    assert_refused(&mut dial(&tbot, ClosedPort::new().address));
    tbot.await_ended(1);
    await_lines_as_counted(&tbot);
}

#[test]
fn lines_that_stderr_does_not_take_are_counted_as_dropped() {
    let tbot = with_env("TBOT_LOG", "trace");
    tbot.stderr.leave();
    until("lines are dropped", || {
        // Each is a line.
        (0..50).for_each(|_| drop(http::get(tbot.address(), "/livez")));
        (tbot.metric("tbot_log_lines_dropped_total") > 0).then_some(())
    });
    // Those that wait for stderr come first.
    assert!(messages(&tbot, "info") + messages(&tbot, "debug") > 1024);
}
