//! Running a program that prints a certificate: its input and output, and an end in any case.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::errors::plain;

/// A certificate is a tenth of this.
const MAX_OUTPUT: u64 = 64 * 1024;

/// Of what it complains about, for our own line.
const MAX_ERRORS: u64 = 4 * 1024;

/// Gives a program its input; returns what it printed when it ended well. The error is a sentence with what the
/// program complained about.
pub(super) fn run(words: &[String], input: &[u8], timeout: Duration) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + timeout;
    let [program, arguments @ ..] = words else {
        return Err("there is no command to run".into());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // To end what it starts with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {}", plain(&error)))?;
    let group = Pid::from_child(&child);
    let output = read(child.stdout.take(), MAX_OUTPUT + 1);
    let errors = read(child.stderr.take(), MAX_ERRORS);
    if let Some(mut stdin) = child.stdin.take() {
        // A public key fits into the pipe; a program that does not want it has closed it.
        let _ = stdin.write_all(input);
    }
    let result = (|| {
        let output = output
            .recv_timeout(left(deadline))
            .map_err(|_| Failure::Late)?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(Failure::Much);
        }
        wait(group, deadline)?;
        Ok(output)
    })();
    if result.is_err() {
        // It may have ended meanwhile.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait();
    // Whoever still holds it has had its time.
    let errors = errors.recv_timeout(left(deadline)).unwrap_or_default();
    let errors = last_line(&errors);
    match (result, status) {
        (Err(Failure::Late), _) => Err(format!(
            "{program} did not end within {}{errors}",
            humantime::format_duration(timeout)
        )),
        (Err(Failure::Much), _) => Err(format!(
            "{program} printed more than {MAX_OUTPUT} bytes, which is no certificate{errors}"
        )),
        (Ok(output), Ok(status)) if status.success() => Ok(output),
        (Ok(_), Ok(status)) => Err(format!("{program} failed ({}){errors}", show(status))),
        (Ok(_), Err(error)) => Err(format!("cannot wait for {program}: {}", plain(&error))),
    }
}

enum Failure {
    Late,
    Much,
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Reads on a thread of its own, to the end or `most` bytes, and leaves the rest unread.
fn read(from: Option<impl Read + Send + 'static>, most: u64) -> Receiver<Vec<u8>> {
    let (done, result) = channel();
    let reader = move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            let _ = from.take(most).read_to_end(&mut bytes);
        }
        let _ = done.send(bytes);
    };
    // Without a thread the receiver finds nobody, and says "late".
    let _ = thread::Builder::new()
        .name("credential-io".into())
        .stack_size(128 * 1024)
        .spawn(reader);
    result
}

fn wait(process: Pid, deadline: Instant) -> Result<(), Failure> {
    let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else {
        // Before Linux 5.3; its output has ended, so it is about to.
        return Ok(());
    };
    loop {
        let left = Timespec::try_from(left(deadline)).unwrap_or_default();
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Failure::Late),
            Err(rustix::io::Errno::INTR) => {}
            _ => return Ok(()),
        }
    }
}

fn show(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit status {code}"),
        None => status.to_string(),
    }
}

/// What a program says last is mostly why.
fn last_line(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map_or_else(String::new, |line| format!(": {}", line.escape_debug()))
}
