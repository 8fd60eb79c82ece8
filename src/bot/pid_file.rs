//! The pid file: it is there while this process serves, and nobody else's.
//!
//! It is locked (flock(2)) for as long as its process lives, so that one left behind is told from one in use,
//! whatever process has its number by now.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{Error, system};
use crate::errors::plain;

/// The process id in a file, from [`write`](Self::write) on for as long as this lives.
#[derive(Debug, Default)]
pub(super) struct PidFile(Arc<Mutex<Option<Written>>>);

#[derive(Debug)]
struct Written {
    path: PathBuf,
    file: File,
    /// Why it could not be written again, as logged.
    problem: String,
}

impl PidFile {
    /// Takes the place of one that was left behind, and not of one whose process lives.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let file = place(path);
        let file = file.map_err(system(&format!("write the pid file {}", path.display())))?;
        *lock(&self.0) = Some(Written {
            path: path.to_owned(),
            file,
            problem: String::new(),
        });
        Ok(())
    }

    /// Writes it again where it was taken away.
    pub fn look(&self) {
        lock(&self.0).iter_mut().for_each(Written::look);
    }

    /// Removes it, for who ends the process without ending this.
    pub fn remover(&self) -> impl Fn() + Clone + Send + use<> {
        let written = self.0.clone();
        move || drop(lock(&written).take())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remover()();
    }
}

fn lock(written: &Mutex<Option<Written>>) -> MutexGuard<'_, Option<Written>> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Written {
    fn look(&mut self) {
        if self.path.symlink_metadata().is_ok() {
            return;
        }
        let path = self.path.display();
        match place(&self.path) {
            Ok(file) => {
                tracing::warn!("the pid file {path} was taken away: it is written again");
                self.file = file;
                self.problem.clear();
            }
            Err(error) => {
                let problem = plain(error);
                if self.problem != problem {
                    tracing::warn!(
                        "the pid file {path} was taken away: cannot write it: {problem}"
                    );
                }
                self.problem = problem;
            }
        }
    }
}

/// Written whole: a reader never finds half a number. The temporary file is a new one: where others may write too,
/// the one they left could be a link.
fn place(path: &Path) -> io::Result<File> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = File::create_new(&temporary)?;
    let written = file
        .set_permissions(fs::Permissions::from_mode(0o644))
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .and_then(|()| Ok(flock(&file, FlockOperation::NonBlockingLockExclusive)?))
        .and_then(|()| put(temporary.as_ref(), path));
    let _ = fs::remove_file(&temporary);
    written.map(|()| file)
}

fn put(temporary: &Path, path: &Path) -> io::Result<()> {
    // Of several that start together, one is first: a link to a name that is taken is refused, and whoever
    // replaces a file holds its lock.
    loop {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let left = File::options()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path);
        match left {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match fs::hard_link(temporary, path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    Ok(()) => return Ok(()),
                    // Some file systems have no links.
                    Err(_) => return fs::rename(temporary, path),
                }
            }
            Ok(left) => {
                let lock = flock(&left, FlockOperation::NonBlockingLockExclusive);
                if lock == Err(rustix::io::Errno::WOULDBLOCK) {
                    let mut pid = String::new();
                    let _ = left.take(20).read_to_string(&mut pid);
                    return Err(io::Error::other(format!(
                        "it is that of another tbot, which runs (process {})",
                        pid.trim().escape_debug()
                    )));
                }
                if is_at(&left, path) {
                    return fs::rename(temporary, path);
                }
            }
            // A link, or one that may not be read: nobody's who serves.
            Err(_) => return fs::rename(temporary, path),
        }
    }
}

/// Whether `path` leads to `file`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), path.symlink_metadata()) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

impl Drop for Written {
    fn drop(&mut self) {
        // What somebody has put in its place is theirs.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
