//! Running a program that prints a certificate: its input and output, and an end in any case.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::Stop;
use crate::errors::plain;

/// A certificate is a tenth of this.
const MAX_OUTPUT: usize = 64 * 1024;

/// Of what it complains about, the end, which is mostly why.
const MAX_ERRORS: usize = 4 * 1024;

/// Of that, for our own line.
const MAX_SHOWN: usize = 400;

/// How often to look whether it has ended: its output may be held open by what it started.
const TICK: Duration = Duration::from_millis(20);

/// For the rest of its output when it has ended: a shell's `exec > >(tee log)` writes after it.
const REST: Duration = Duration::from_millis(500);

/// For a program that was killed to be gone.
const KILLED: Duration = Duration::from_secs(1);

/// Programs that could not be killed, such as another user's by sudo.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());
const MOST_LEFT: usize = 4;

/// Gives a program its input; returns what it printed when it ended well. The error is a sentence with what the
/// program complained about.
pub(super) fn run(
    words: &[String],
    input: &[u8],
    timeout: Duration,
    stop: &Stop,
) -> Result<Vec<u8>, String> {
    // A time for which the clock has no end is as good as a day.
    let timeout = timeout.min(Duration::from_secs(24 * 60 * 60));
    let deadline = Instant::now() + timeout;
    let [program, arguments @ ..] = words else {
        return Err("there is no command to run".into());
    };
    // Nothing panics while it is held.
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    if let ([.., last], true) = (&**left, left.len() >= MOST_LEFT) {
        return Err(format!(
            "{program} was run {MOST_LEFT} times, never ended and cannot be killed (process {}, …): end it",
            last.id()
        ));
    }
    drop(left);
    let mut child = crate::program::command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // To end what it starts with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {}", plain(&error)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A public key fits into the pipe; a program that does not want it has closed it.
        let _ = stdin.write_all(input);
    }
    let mut output = Pipe::new(child.stdout.take());
    let mut errors = Pipe::new(child.stderr.take());
    let mut ended = None;
    let end = loop {
        let now = Instant::now();
        if output.bytes.len() > MAX_OUTPUT {
            break End::Much;
        }
        if ended.is_none() && has_ended(&child) {
            ended = Some(now);
        }
        match ended {
            Some(when) if output.from.is_none() || now >= when + REST => break End::Ended,
            None if now >= deadline || stop.is_asked() => break End::Late,
            _ => {}
        }
        wait_for([&output, &errors], TICK);
        output.read();
        errors.read();
        errors.keep_the_last(MAX_ERRORS);
    };
    let ended = end_all(child);
    // What is left in the pipe (pipe(7)), and no more: somebody who got away may still write.
    for _ in 0..4 {
        errors.read();
    }
    let errors = last_line(&errors.bytes);
    match (end, ended) {
        (End::Much, _) => Err(format!(
            "{program} printed more than {MAX_OUTPUT} bytes, which is no certificate{errors}"
        )),
        (End::Late, _) if stop.is_asked() => {
            Err(format!("{program} was ended, as tbot is stopping"))
        }
        (End::Late, _) => Err(format!(
            "{program} did not end within {}{errors}",
            humantime::format_duration(timeout)
        )),
        (End::Ended, Some(status)) if status.success() => Ok(output.bytes),
        (End::Ended, Some(status)) => Err(format!("{program} failed ({}){errors}", show(status))),
        (End::Ended, None) => Err(format!("{program} ended, and how is not known{errors}")),
    }
}

enum End {
    Ended,
    Late,
    Much,
}

/// What a program writes, as far as it was read; none once it is closed.
struct Pipe<R> {
    from: Option<R>,
    bytes: Vec<u8>,
}

impl<R: Read + AsFd> Pipe<R> {
    fn new(from: Option<R>) -> Self {
        if let Some(from) = &from {
            // It fails for no pipe.
            let _ = fcntl_setfl(from, OFlags::NONBLOCK);
        }
        Self {
            from,
            bytes: Vec::new(),
        }
    }

    /// Takes some of what is there.
    fn read(&mut self) {
        let Some(from) = &mut self.from else {
            return;
        };
        let mut buffer = [0; 16 * 1024];
        match from.read(&mut buffer) {
            Ok(length) if length > 0 => self.bytes.extend(&buffer[..length]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.from = None,
        }
    }

    fn keep_the_last(&mut self, most: usize) {
        self.bytes.drain(..self.bytes.len().saturating_sub(most));
    }
}

fn wait_for(pipes: [&dyn Waited; 2], at_most: Duration) {
    let mut fds: Vec<PollFd> = pipes.iter().filter_map(|pipe| pipe.poll()).collect();
    let at_most = Timespec::try_from(at_most).unwrap_or_default();
    // Whatever comes of it, there is another look.
    let _ = poll(&mut fds, Some(&at_most));
}

trait Waited {
    fn poll(&self) -> Option<PollFd<'_>>;
}

impl<R: AsFd> Waited for Pipe<R> {
    fn poll(&self) -> Option<PollFd<'_>> {
        let from = self.from.as_ref()?;
        Some(PollFd::new(from, PollFlags::IN))
    }
}

/// Without waiting for it, so that its number, which is its group's, stays its own.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(
        waitid(WaitId::Pid(Pid::from_child(child)), options),
        Ok(None)
    )
}

/// Ends it and whatever it started and left in its group; says how it ended.
fn end_all(mut child: Child) -> Option<ExitStatus> {
    // Another user's cannot be killed.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let deadline = Instant::now() + KILLED;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(TICK),
            Ok(None) => {
                let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
                left.push(child);
                return None;
            }
            ended => return ended.ok().flatten(),
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
    let Some(line) = line else {
        return String::new();
    };
    let shown: String = line.escape_debug().take(MAX_SHOWN).collect();
    let more = if line.chars().count() > MAX_SHOWN {
        "…"
    } else {
        ""
    };
    format!(": {shown}{more}")
}
