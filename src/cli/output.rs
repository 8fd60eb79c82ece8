//! Text for stdout, or for a file that is written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

use signal_hook::consts::SIGXFSZ;

use super::args::Given;
use crate::config::Error;
use crate::errors::plain;
use crate::logging::harmless;

/// Writes to stdout; a reader that has seen enough is no error.
pub(super) fn print(text: &str) -> Result<(), Error> {
    // The standard library has opened /dev/null in its place.
    if crate::sys::stdout_was_closed() {
        return Err(Error::new("cannot write to stdout: it is closed"));
    }
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let what = format!("cannot write to stdout: {}", plain(&error));
            Err(Error::new(what).caused_by(error))
        }
        _ => Ok(()),
    }
}

/// Tells the operator something that is no error.
pub(super) fn warn(text: &str) {
    // Nobody is left to tell where stderr is closed.
    let _ = writeln!(io::stderr(), "WARN: {}", harmless(text));
}

/// Writes the file that a flag names, in place of what it may hold.
pub(super) fn write(file: &Given, text: &str) -> Result<(), Error> {
    let path = Path::new(&file.value);
    if file.value.is_empty() {
        return Err(Error::new(format!("{}: the path is empty", file.origin)));
    }
    // By default it kills, instead of an error to tell of, where a file grows beyond RLIMIT_FSIZE.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    replace(path, text.as_bytes(), None).map_err(|error| {
        let what = format!("cannot write {}: {}", path.display(), plain(&error));
        Error::new(what).caused_by(error)
    })
}

/// A reader finds the old file or the new one, even after a crash. A file that is there keeps its
/// permissions and, as far as that is allowed, its owner, but for a `mode`: then it is of who runs this, with that one.
/// A symbolic link goes on to lead to it.
pub(super) fn replace(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let there = match fs::metadata(path) {
        Ok(there) if there.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        // A terminal, a pipe.
        Ok(there) if !there.is_file() => {
            return OpenOptions::new()
                .write(true)
                .open(path)?
                .write_all(content);
        }
        Ok(there) => Some(there),
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => None,
        Err(error) => return Err(error),
    };
    let path = match there {
        Some(_) => fs::canonicalize(path)?,
        None => path.to_owned(),
    };
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    // Of a process that had this number and was killed.
    let _ = fs::remove_file(&temporary);
    let permissions = mode.map(Permissions::from_mode);
    let there = there.as_ref().filter(|_| mode.is_none());
    fill(&temporary, there, permissions, content)
        .and_then(|()| fs::rename(&temporary, &path))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn fill(
    path: &Path,
    there: Option<&fs::Metadata>,
    permissions: Option<Permissions>,
    content: &[u8],
) -> io::Result<()> {
    // A new file: where others may write too, the one they left could be a link.
    let mut file = File::create_new(path)?;
    if let Some(there) = there {
        let _ = fchown(&file, Some(there.uid()), Some(there.gid()));
    }
    if let Some(permissions) = permissions.or(there.map(fs::Metadata::permissions)) {
        file.set_permissions(permissions)?;
    }
    file.write_all(content)?;
    file.sync_all()
}
