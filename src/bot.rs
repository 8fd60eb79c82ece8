//! Placeholder until the services are here: says what it was told, and ends.

use crate::config::Settings;

/// Why a run failed.
#[derive(Debug)]
pub struct Error;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot run")
    }
}

impl std::error::Error for Error {}

/// Runs the services of `settings`.
pub fn run(settings: Settings, warnings: Vec<String>) -> Result<(), Error> {
    let _ = settings;
    for warning in warnings {
        eprintln!("WARN {warning}");
    }
    Ok(())
}
