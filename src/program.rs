//! This program's own file.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The file that this program was started from.
pub fn path() -> io::Result<PathBuf> {
    // An empty root has no /proc; what is left there is the path that whoever started it gave.
    std::env::current_exe().or_else(|error| {
        std::env::args_os()
            .next()
            .filter(|path| path.as_bytes().contains(&b'/'))
            .map_or(Err(error), std::path::absolute)
    })
}
