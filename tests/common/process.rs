//! A child process whose output is read all the time and that dies with its guard.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::{PATIENCE, until};

/// A running child.
pub struct Process {
    child: Child,
    name: String,
    pub stdout: Output,
    pub stderr: Output,
}

/// How a child ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The one line by which the program says why it did not do what it was asked for.
    pub fn error(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let mut errors = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("ERROR: "));
        let (error, more) = (errors.next(), errors.next());
        assert_eq!(more, None, "{self:?}");
        error.unwrap_or_else(|| panic!("no error in {self:?}"))
    }
}

impl Process {
    /// Starts `command` without input.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::null())
    }

    /// Starts `command` with an input that [`Process::close_input`] ends.
    pub fn spawn_with_input(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::piped())
    }

    fn spawn_with(command: &mut Command, stdin: Stdio) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {name}: {error} (`make test` installs it)")
            });
        Self {
            stdout: Output::read(child.stdout.take().expect("stdout is a pipe")),
            stderr: Output::read(child.stderr.take().expect("stderr is a pipe")),
            child,
            name,
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The writing end of its input.
    pub fn input(&mut self) -> &mut ChildStdin {
        self.child
            .stdin
            .as_mut()
            .expect("spawned with an input, not closed")
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the child is there until it is waited for");
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    pub fn exit(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, || self.ended())
    }

    /// Waits for its end and for the end of its output.
    pub fn finish(mut self) -> Finished {
        let status = self.exit();
        Finished {
            status,
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; then both say so, which is as good.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- stderr of {}:\n{}", self.name, self.stderr.so_far());
        }
    }
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Finished {
    Process::spawn(command).finish()
}

/// Runs `command`, which must succeed, and gives its standard output.
pub fn succeed(command: &mut Command) -> String {
    let finished = run(command);
    assert!(finished.status.success(), "{command:?}: {finished:?}");
    finished.stdout
}

/// Puts a program at `to`, by another process: one that a thread of another test forks just now would hold the
/// writing end of this one open, and the kernel runs no file that somebody writes (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("-p").args([from, to]));
}

/// What a child has written to one of its outputs, collected by a thread.
#[derive(Clone)]
pub struct Output {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
    /// Nobody reads on.
    left: bool,
}

impl Output {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let output = Self {
            shared: Arc::default(),
        };
        let writer = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let length = from.read(&mut buffer).unwrap_or(0);
                let mut collected = writer.lock();
                collected.bytes.extend_from_slice(&buffer[..length]);
                collected.ended = length == 0;
                writer.shared.1.notify_all();
                // The pipe stays open, or the child would find it broken.
                while collected.left {
                    collected = writer.shared.1.wait(collected).expect("nobody panics");
                }
                if length == 0 {
                    return;
                }
            }
        });
        output
    }

    /// Reads no more of it, so that the child's next writes fill the pipe.
    pub fn leave(&self) {
        self.lock().left = true;
    }

    /// Reads on, after [`Self::leave`].
    pub fn read_on(&self) {
        self.lock().left = false;
        self.shared.1.notify_all();
    }

    /// Everything up to now.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Everything, once the child has closed it.
    pub fn all(&self) -> String {
        self.wait("its end", |_, ended| ended.then_some(()));
        self.so_far()
    }

    /// The first whole line that holds `part`, once it is there.
    pub fn line(&self, part: &str) -> String {
        self.line_where(&format!("a line with {part:?}"), |line| line.contains(part))
    }

    /// The first whole line that `matches`, once it is there.
    pub fn line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.wait(what, |text, _| {
            let whole = &text[..text.rfind('\n')? + 1];
            whole
                .lines()
                .find(|line| matches(line))
                .map(ToOwned::to_owned)
        })
    }

    fn wait<T>(&self, what: &str, probe: impl Fn(&str, bool) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut collected = self.lock();
        loop {
            let text = String::from_utf8_lossy(&collected.bytes);
            if let Some(found) = probe(&text, collected.ended) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !collected.ended && !left.is_zero(),
                "waited for {what} in:\n{text}"
            );
            drop(text);
            collected = self
                .shared
                .1
                .wait_timeout(collected, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
