//! Running a program that prints a certificate: its input and output, and an end in any case.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Stop;
use crate::errors::plain;

/// A certificate is a tenth of this.
const MAX_OUTPUT: usize = 64 * 1024;

/// Of what it complains about, for our own line.
const MAX_ERRORS: usize = 4 * 1024;

/// How often to look whether it has ended: its output may be held open by what it started.
const TICK: Duration = Duration::from_millis(20);

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
    let mut child = Command::new(program)
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
    let mut output = Pipe::new(child.stdout.take(), MAX_OUTPUT + 1);
    let mut errors = Pipe::new(child.stderr.take(), MAX_ERRORS);
    let end = loop {
        if output.bytes.len() > MAX_OUTPUT {
            break End::Much;
        }
        let ended = child.try_wait();
        let now = Instant::now();
        if let Ok(None) = ended
            && (now >= deadline || stop.is_asked())
        {
            break End::Late;
        }
        let wait = match &ended {
            Ok(None) => TICK.min(deadline.saturating_duration_since(now)),
            // What it printed is in the pipes; nobody else's counts.
            _ => Duration::ZERO,
        };
        wait_for([&output, &errors], wait);
        let news = output.read() | errors.read();
        match ended {
            Ok(None) => {}
            Ok(Some(_)) if news => {}
            Ok(Some(status)) => break End::Ended(status),
            Err(error) => break End::Lost(error),
        }
    };
    if matches!(end, End::Late | End::Much) {
        kill(child);
        errors.read();
    }
    let errors = last_line(&errors.bytes);
    match end {
        End::Ended(status) if status.success() => Ok(output.bytes),
        End::Ended(status) => Err(format!("{program} failed ({}){errors}", show(status))),
        End::Late if stop.is_asked() => Err(format!("{program} was ended, as tbot is stopping")),
        End::Late => Err(format!(
            "{program} did not end within {}{errors}",
            humantime::format_duration(timeout)
        )),
        End::Much => Err(format!(
            "{program} printed more than {MAX_OUTPUT} bytes, which is no certificate{errors}"
        )),
        End::Lost(error) => Err(format!("cannot wait for {program}: {}", plain(&error))),
    }
}

enum End {
    Ended(ExitStatus),
    Late,
    Much,
    Lost(std::io::Error),
}

/// What a program writes, as far as it was read; none once it is closed.
struct Pipe<R> {
    from: Option<R>,
    bytes: Vec<u8>,
    most: usize,
}

impl<R: Read + AsFd> Pipe<R> {
    fn new(from: Option<R>, most: usize) -> Self {
        if let Some(from) = &from {
            // It fails for no pipe.
            let _ = fcntl_setfl(from, OFlags::NONBLOCK);
        }
        Self {
            from,
            bytes: Vec::new(),
            most,
        }
    }

    /// Takes what is there; what is too much is thrown away. True if anything was there.
    fn read(&mut self) -> bool {
        let Some(from) = &mut self.from else {
            return false;
        };
        let mut buffer = [0; 4096];
        match from.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let room = self.most - self.bytes.len();
                self.bytes.extend(&buffer[..length.min(room)]);
                true
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                false
            }
            _ => {
                self.from = None;
                false
            }
        }
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

/// Ends it and what it started.
fn kill(mut child: Child) {
    // It is not waited for, so the number is still its own. Another user's cannot be killed.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let deadline = Instant::now() + KILLED;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= deadline {
            let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
            left.push(child);
            return;
        }
        std::thread::sleep(TICK);
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
