//! The real binary in a directory of its own, with an environment that holds nothing for it.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A directory to run the program in.
pub struct Room(TempDir);

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Room {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file of the room.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).expect("the file is written");
        path
    }

    /// The program, ready to be given more than arguments.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tbot"));
        command
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TBOT_") || text.starts_with("TELEPORT_") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Runs the program to its end.
    pub fn tbot<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        run(&mut self.command(args))
    }

    /// The names in the room, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("the room can be listed");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the program runs");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

impl Run {
    /// The run failed with exactly this message.
    #[track_caller]
    pub fn failed_with(&self, message: &str) {
        assert_eq!(self.stderr, format!("ERROR: {message}\n"));
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""));
    }

    /// The run did what it was asked for, without a word of complaint.
    #[track_caller]
    pub fn succeeded(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        &self.stdout
    }
}
