//! The program: what [`tbot::cli`] does, as text and an exit code.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match tbot::cli::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell where stderr is closed.
            let _ = writeln!(std::io::stderr(), "ERROR: {failure}");
            ExitCode::FAILURE
        }
    }
}
