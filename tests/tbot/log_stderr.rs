//! The log where stderr takes nothing, takes it late, or fails: lines are whole or counted, and nobody waits for it.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, PipeReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::http;
use crate::common::process::succeed;
use crate::common::wait::until;

/// A tbot with a given stderr; killed if the test fails.
struct Child {
    process: std::process::Child,
    _directory: TempDir,
}

impl Child {
    /// That logs all there is, in JSON.
    fn start(arguments: &[&str], stderr: impl Into<Stdio>) -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
        tbot.args(["start", "ssh-multiplexer", "--destination", "mux"]);
        tbot.args(["--diag-addr", "127.0.0.1:0", "--log-format", "json"]);
        tbot.current_dir(directory.path()).env_clear();
        tbot.args(arguments).env("TBOT_LOG", "trace");
        Self {
            process: tbot.stderr(stderr).spawn().expect("it starts"),
            _directory: directory,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it is ours");
    }

    fn exit(&mut self) -> Option<i32> {
        let status = until("its end", || self.process.try_wait().expect("it is ours"));
        status.code()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Reads lines until one holds `part`.
fn read_until(log: &PipeReader, text: &mut String, part: &str) {
    let mut lines = BufReader::with_capacity(1, log);
    while !text.contains(part) {
        assert_ne!(lines.read_line(text).expect("UTF-8"), 0, "{text}");
    }
}

/// Where the diagnostics are, by the log.
fn address(log: &str) -> SocketAddr {
    let (_, rest) = log.split_once("served at http://").expect("its address");
    let (address, _) = rest.split_once('/').expect("it ends so");
    address.parse().expect("an address")
}

fn get(address: SocketAddr, times: usize) {
    (0..times).for_each(|_| drop(http::get(address, "/livez")));
}

fn dropped(address: SocketAddr) -> u64 {
    let (_, metrics) = http::get(address, "/metrics");
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix("tbot_log_lines_dropped_total "));
    value.expect("it is there").parse().expect("a number")
}

#[test]
fn lines_that_were_dropped_are_told_in_the_format_of_all_others() {
    let (mut log, writer) = std::io::pipe().expect("a pipe");
    let (mut tbot, mut text) = (Child::start(&[], writer), String::new());
    read_until(&log, &mut text, " is ready at ");
    let address = address(&text);
    // Nobody reads: the pipe and the queue fill, by a line for each request.
    until("lines are dropped", || {
        get(address, 50);
        (dropped(address) > 0).then_some(())
    });
    let told = " log lines were dropped, as stderr took none";
    read_until(&log, &mut text, told);
    tbot.signal(Signal::TERM);
    log.read_to_string(&mut text).expect("UTF-8");
    assert_eq!(tbot.exit(), Some(0));
    for line in text.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        assert!(object["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_stderr_that_never_blocks_gets_every_line_once_it_has_room() {
    let (mut log, writer) = std::io::pipe().expect("a pipe");
    // As whoever has the same pipe may set it, for all.
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("it can be");
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("it can be");
    let (mut tbot, mut text) = (Child::start(&[], writer), String::new());
    read_until(&log, &mut text, " is ready at ");
    // More than the pipe takes, and less than the queue.
    get(address(&text), 300);
    assert_eq!(dropped(address(&text)), 0);
    tbot.signal(Signal::TERM);
    log.read_to_string(&mut text).expect("UTF-8");
    assert_eq!(tbot.exit(), Some(0));
    assert_eq!(text.matches("\"path\":\"/livez\"").count(), 300);
    assert!(text.contains("\"message\":\"stopped\""), "{text}");
}

/// Lets the files that it writes grow up to so many bytes.
fn limit_files(pid: Pid, bytes: &str) {
    let mut prlimit = Command::new("prlimit");
    succeed(prlimit.args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]));
}

#[test]
fn lines_that_a_file_has_no_room_for_are_counted_and_the_next_one_is_whole() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("log");
    let file = File::options().create(true).append(true).open(&path);
    let mut tbot = Child::start(&[], file.expect("the directory is ours"));
    let await_line = |part: &str| until(part, || read(&path).contains(part).then(|| read(&path)));
    let address = address(&await_line(" is ready at "));
    // Not for a line.
    limit_files(tbot.pid(), &(read(&path).len() + 10).to_string());
    until("lines are dropped", || {
        get(address, 1);
        (dropped(address) > 0).then_some(())
    });
    limit_files(tbot.pid(), "unlimited");
    get(address, 1);
    await_line(" log lines were dropped, as stderr took none");
    tbot.signal(Signal::TERM);
    assert_eq!(tbot.exit(), Some(0));
    for line in read(&path).lines() {
        // What there was room for of one stays alone.
        let is_part = !line.contains("\"level\"");
        assert!(
            is_part || serde_json::from_str::<Value>(line).is_ok(),
            "{line}"
        );
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("UTF-8")
}

#[test]
fn a_start_that_fails_ends_though_stderr_takes_nothing() {
    let (log, mut writer) = std::io::pipe().expect("a pipe");
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("it can be");
    let error = std::iter::repeat_with(|| writer.write_all(&[0; 4096])).find_map(Result::err);
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    fcntl_setfl(&writer, OFlags::empty()).expect("it can be");
    for signals in [false, true] {
        let writer = writer.try_clone().expect("it can be");
        let mut tbot = Child::start(&["--pid-file", "/dev/null/pid"], writer);
        let status = until("its end", || {
            if signals {
                // One that harms nobody, and may interrupt what waits.
                tbot.signal(Signal::CHILD);
            }
            tbot.process.try_wait().expect("it is ours")
        });
        assert_eq!(status.code(), Some(1), "{signals}");
    }
    drop(log);
}
