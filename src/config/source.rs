//! The text of a configuration and the name it has in messages.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::errors::plain;

use super::Error;

/// More than any configuration needs; a wrong path (a core file) ends here.
const MAX_BYTES: usize = 1 << 20;

/// Read to see that there is more.
const MOST: u64 = MAX_BYTES as u64 + 1;

/// For all that comes by a pipe.
const PIPE_TIMEOUT: Duration = Duration::from_secs(5);

/// The text of a configuration.
#[derive(Clone, Debug)]
pub struct Source {
    /// What messages call it: the path as it was given, a flag, or an environment variable.
    pub(super) label: String,
    pub(super) text: String,
}

impl Source {
    /// Reads a file.
    pub fn file(path: &Path) -> Result<Self, Error> {
        let label = path.display().to_string();
        let failed = |error: std::io::Error| {
            let advice = match error.kind() {
                std::io::ErrorKind::NotFound => " (is the path right?)",
                std::io::ErrorKind::PermissionDenied => " (who may read it?)",
                _ => "",
            };
            let what = as_part(&error);
            Error::new(format!("cannot read {label}: {what}{advice}")).caused_by(error)
        };
        if path.as_os_str().is_empty() {
            return Err(Error::new("the path of the configuration file is empty"));
        }
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        // A socket cannot be opened, and a device may do something when it is.
        if !kind.is_file() && !kind.is_fifo() {
            let what = match () {
                () if kind.is_dir() => "it is a directory, not a configuration file",
                () if kind.is_socket() => "it is a socket, not a file",
                () => "it is a device, not a file",
            };
            return Err(Error::new(format!("cannot read {label}: {what}")));
        }
        // It may be another one by now: neither of a pipe is its writer waited for, nor does a terminal become ours.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(flags.bits() as i32);
        let file = options.open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        let read = match kind.is_fifo() {
            true => read_pipe(&file, &mut bytes),
            false => file.take(MOST).read_to_end(&mut bytes).map(drop),
        };
        read.map_err(failed)?;
        Self::bytes(label, bytes)
    }

    /// Decodes base64; `label` is the flag or variable it was given by.
    pub fn base64(label: &str, encoded: &str) -> Result<Self, Error> {
        let encoded: Vec<u8> = encoded
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let bytes = STANDARD_PAD_INDIFFERENT.decode(encoded).map_err(|error| {
            // The error names symbols of what may be a secret: only the chain has it.
            Error::new(format!(
                "{label}: not base64; encode the configuration with: base64 -w0 my-config.yaml"
            ))
            .caused_by(error)
        })?;
        Self::bytes(label.to_owned(), bytes)
    }

    /// Takes a configuration that was read already; `label` is what messages call it.
    pub fn bytes(label: String, bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::new(format!(
                "{label}: larger than 1 MiB, which no configuration is"
            )));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { label, text }),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
                Err(Error::new(format!("{label}:{line}: not UTF-8 text")).caused_by(error))
            }
        }
    }
}

/// Reads what comes by a pipe, such as `/dev/stdin` and a shell's `<(…)`.
fn read_pipe(pipe: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let deadline = Instant::now() + PIPE_TIMEOUT;
    let mut has_ended = false;
    loop {
        let most = MOST - bytes.len() as u64;
        match pipe.take(most).read_to_end(bytes) {
            // Without a writer it reads as ended, also before the first one: then nothing has come, and nothing has
            // been hung up.
            Ok(0) if bytes.is_empty() && !has_ended => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let late = || {
            let seconds = PIPE_TIMEOUT.as_secs();
            io::Error::other(format!(
                "the pipe did not come to its end within {seconds}s"
            ))
        };
        let mut pipes = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut pipes, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Err(late()),
            Ok(_) => has_ended = pipes[0].revents().contains(PollFlags::HUP),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The text of a system error as a part of a sentence.
fn as_part(error: &std::io::Error) -> String {
    let text = plain(error);
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}
