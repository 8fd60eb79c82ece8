//! The log: its levels, how its lines look, and what peers cannot put into it.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::process::Signal;

use crate::common::http;
use crate::common::process::run;
use crate::common::server::Server;
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{
    Errors, assert_echoes, assert_refused, connect, dial, send_with_descriptors,
};
use crate::common::wait::until;
use crate::log::{connections, whole_log, with_env};

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
fn what_a_client_sends_can_neither_end_a_line_nor_turn_or_colour_it() {
    const SPITE: &str = "h\u{202e}\u{2066}\u{feff}\u{ad}\u{e0041}\"x\\:22|no";
    for format in ["text", "json"] {
        let tbot = Tbot::with(&["--log-format", format]);
        let mut client = connect(&tbot);
        let (errors, writer) = Errors::pipe();
        let bytes = [SPITE.as_bytes(), b"\0"].concat();
        send_with_descriptors(&client, &bytes, &[writer.as_fd()]);
        drop(writer);
        let line = errors.one_line();
        assert_refused(&mut client);
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
                || matches!(c, '\u{feff}' | '\u{ad}' | '\u{e0041}')
        };
        assert!(!line.contains(is_odd), "{line:?}");
        assert!(line.contains("cannot connect to h\\u{202e}"), "{line:?}");
        assert!(!log.contains(is_odd), "{log:?}");
        assert_eq!(log.matches("is no request").count(), 1, "{log}");
        if format == "json" {
            // A parser of JSON has the very text back.
            assert_eq!(connections(&log)[0]["request"], SPITE);
        } else {
            let line = log.lines().find(|line| line.contains("outcome=cluster"));
            let quoted = r#" request="h\u{202e}\u{2066}\u{feff}\u{ad}\u{e0041}\"x\\:22|no" "#;
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
