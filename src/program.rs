//! This program's own file, and others that it starts.

/// How a service manager tells a service where to report to: sd_notify(3), sd_watchdog_enabled(3). Programs that
/// the service starts are not meant.
#[cfg(any(feature = "identity", feature = "multiplexer"))]
const OF_THE_SERVICE: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Another program, with this one's environment.
#[cfg(any(feature = "identity", feature = "multiplexer"))]
pub fn command(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for name in OF_THE_SERVICE {
        command.env_remove(name);
    }
    command
}

/// The file that this program was started from.
#[cfg(any(feature = "cli", feature = "pprof"))]
pub fn path() -> std::io::Result<std::path::PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // An empty root has no /proc; what is left there is the path that whoever started it gave.
    std::env::current_exe().or_else(|error| {
        std::env::args_os()
            .next()
            .filter(|path| path.as_bytes().contains(&b'/'))
            .map_or(Err(error), std::path::absolute)
    })
}
