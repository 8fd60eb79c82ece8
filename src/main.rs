//! The program: what [`tbot::cli`] does, as text and an exit code.

use std::io::{Stderr, Write};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a stderr that takes nothing is waited for: whoever starts tbot again has to see its end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

fn main() -> ExitCode {
    match tbot::cli::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut stderr = std::io::stderr();
            if has_room(&stderr) {
                // Nobody is left to tell where stderr is closed.
                let _ = writeln!(stderr, "ERROR: {failure}");
            }
            ExitCode::FAILURE
        }
    }
}

fn has_room(stderr: &Stderr) -> bool {
    let room = poll(&mut [PollFd::new(stderr, PollFlags::OUT)], Some(&PATIENCE));
    // A signal that comes meanwhile ends that. What cannot be waited for is tried.
    !matches!(room, Ok(0) | Err(Errno::INTR))
}
