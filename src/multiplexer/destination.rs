//! The directory a multiplexer serves from: opened so that nobody else can have put it there, locked
//! against a second tbot, and its files written whole.
//!
//! The path is walked component by component with descriptors (as openat(2) is meant to be used), so
//! what was checked is what is used. Everything after that is relative to the directory's descriptor,
//! but for the path a socket is bound by, which is checked against it afterwards.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, fstat, fsync, ftruncate,
    mkdirat, open, openat, readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::Error;
use crate::errors::plain;

/// Symbolic links followed on the way, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Holds the pid of the tbot that serves from here, and its lock.
const LOCK: &str = ".tbot.lock";

/// The bits of a mode by which group or others may write.
const OTHERS_WRITE: u32 = 0o022;

/// Names tbot gives to what it puts here; a directory that holds nothing else is its own.
const OURS: &[&str] = &[
    "ssh_config",
    "known_hosts",
    "v1.sock",
    "agent.sock",
    super::upstream::openssh::DIRECTORY,
    "key",
    "key.pub",
    "key-cert.pub",
    LOCK,
];

/// A directory that is ours as long as this lives.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    directory: Arc<OwnedFd>,
    /// Whether other users may reach into it, to sockets that check who they are.
    shared: bool,
    _lock: OwnedFd,
}

impl Destination {
    /// Opens and locks `path` (absolute), and makes what is missing of it. `shared`: other users may
    /// pass through to the sockets.
    ///
    /// Refused: a symbolic link owned by someone who is neither this user nor root, a directory of
    /// another user or writable by others, and one that another tbot serves from.
    pub fn open(path: &Path, shared: bool) -> Result<Self, Error> {
        let fail = |problem: String| Error::Destination {
            path: path.to_owned(),
            problem,
        };
        let directory = walk(path).map_err(fail)?;
        let stat = fstat(&directory)
            .map_err(|error| fail(format!("cannot be examined: {}", plain(error))))?;
        let uid = rustix::process::geteuid().as_raw();
        if stat.st_uid != uid {
            return Err(fail(format!(
                "belongs to user {}, and this is user {uid}",
                stat.st_uid
            )));
        }
        if stat.st_mode & OTHERS_WRITE != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(fail(format!(
                "can be written by others (mode {mode:04o}): name a directory of its own"
            )));
        }
        let lock = lock(&directory).map_err(|problem| match problem {
            LockProblem::Held(pid) => Error::InUse {
                path: path.to_owned(),
                pid,
            },
            LockProblem::Failed(error) => fail(format!("cannot be locked: {}", plain(error))),
        })?;
        let destination = Self {
            path: path.to_owned(),
            directory: Arc::new(directory),
            shared,
            _lock: lock,
        };
        destination
            .narrow(&stat)
            .map_err(|error| fail(format!("cannot be closed to others: {}", plain(error))))?;
        Ok(destination)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory with nothing in it but ours gets the mode of ours. Any other is left alone: a
    /// `--destination /etc` by root must not close /etc. The sockets and files in it are closed anyhow.
    fn narrow(&self, stat: &Stat) -> Result<(), Errno> {
        let mode = if self.shared { 0o711 } else { 0o700 };
        if stat.st_mode & 0o777 == mode {
            return Ok(());
        }
        let entries = rustix::fs::Dir::read_from(&self.directory)?;
        for entry in entries {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            let is_ours = || {
                OURS.iter().any(|ours| name == *ours)
                    || name
                        .as_bytes()
                        .starts_with(super::artifacts::KNOWN_HOSTS_OF.as_bytes())
            };
            let known = name == "." || name == ".." || is_ours();
            if !known {
                let (path, mode) = (self.path.display(), stat.st_mode & 0o777);
                tracing::warn!(
                    "{path} keeps its mode {mode:04o}, as there are files of others in it, such as {name:?}"
                );
                return Ok(());
            }
        }
        fchmod(&self.directory, Mode::from_raw_mode(mode))
    }

    /// Makes the file `name` hold `content`, whole or not at all; true if it had to be written.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        let staged = self.stage(name, content)?;
        let is_new = staged.is_some();
        staged.map_or(Ok(()), Staged::take_place)?;
        Ok(is_new)
    }

    /// Writes `content` beside the file `name`, for it to take its place; `None` if it holds that already.
    pub fn stage<'a>(&'a self, name: &'a str, content: &[u8]) -> io::Result<Option<Staged<'a>>> {
        let mode = Mode::from_raw_mode(if self.shared { 0o644 } else { 0o600 });
        let staged = Staged {
            directory: &self.directory,
            temporary: format!(".{name}.tmp"),
            name,
        };
        // Of a tbot that was killed; the lock keeps others out.
        let _ = unlinkat(&self.directory, &staged.temporary, AtFlags::empty());
        if self.holds(name, content, mode) {
            return Ok(None);
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, &staged.temporary, flags, mode)?;
        // Not what the umask made of it.
        fchmod(&file, mode)?;
        let mut file = std::fs::File::from(file);
        file.write_all(content)?;
        file.sync_all()?;
        Ok(Some(staged))
    }

    fn holds(&self, name: &str, content: &[u8], mode: Mode) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(&self.directory, name, flags, Mode::empty()) else {
            return false;
        };
        let as_expected = fstat(&file).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_size as u64 == content.len() as u64
                && Mode::from_raw_mode(stat.st_mode & 0o7777) == mode
        });
        let mut held = vec![0; content.len()];
        let mut file = std::fs::File::from(file);
        as_expected && io::Read::read_exact(&mut file, &mut held).is_ok() && held == content
    }

    /// A directory `name` in it for this tbot alone, with nothing in it.
    pub fn private(&self, name: &str) -> io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o700);
        match mkdirat(&self.directory, name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.directory, name, flags, Mode::empty())?;
        fchmod(&directory, mode)?;
        for entry in rustix::fs::Dir::read_from(&directory)? {
            // Neither "." nor ".." can be removed so.
            let _ = unlinkat(&directory, entry?.file_name(), AtFlags::empty());
        }
        Ok(directory)
    }

    /// Removes a file, if it is there.
    #[cfg(feature = "cli")]
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A listening socket `name` in the directory; a dead one of that name is replaced.
    pub fn listen(&self, name: &str) -> io::Result<Socket> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
                return Err(io::Error::other("there is something that is no socket"));
            }
            _ => {}
        }
        // The lock says that its tbot is dead.
        let _ = unlinkat(&self.directory, name, AtFlags::empty());
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // ssh shows a user the path that was bound. One over 107 bytes (unix(7)) goes by the descriptor.
        let address = SocketAddrUnix::new(self.path.join(name)).or_else(|_| {
            let directory = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
            if !Path::new(&directory).exists() {
                let why = "a path of more than 107 bytes needs /proc, and it is not mounted";
                return Err(io::Error::other(why));
            }
            Ok(SocketAddrUnix::new(format!("{directory}/{name}"))?)
        })?;
        bind(&socket, &address)?;
        // Fails if the path has led elsewhere since it was walked.
        let mode = Mode::from_raw_mode(if self.shared { 0o666 } else { 0o600 });
        rustix::fs::chmodat(&self.directory, name, mode, AtFlags::empty())?;
        listen(&socket, 4096)?;
        let stat = statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Socket {
            socket,
            directory: self.directory.clone(),
            name: name.to_owned(),
            inode: stat.st_ino,
        })
    }

    /// Whether clients that go by the path find `socket` there.
    pub fn leads_to(&self, socket: &Socket) -> bool {
        rustix::fs::stat(self.path.join(&socket.name)).is_ok_and(|stat| stat.st_ino == socket.inode)
    }

    /// Whether it is still what its path leads to.
    pub fn is_in_place(&self) -> bool {
        let (ours, there) = (fstat(&self.directory), rustix::fs::stat(&self.path));
        matches!((ours, there), (Ok(ours), Ok(there)) if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
    }

    /// Whether there is something called `name`.
    #[cfg(feature = "cli")]
    pub fn has(&self, name: &str) -> bool {
        statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether someone else could put files of theirs here by now.
    pub fn is_open_to_others(&self) -> bool {
        fstat(&self.directory).is_ok_and(|stat| stat.st_mode & OTHERS_WRITE != 0)
    }
}

/// A file that is written whole, and not in its place yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Staged<'a> {
    directory: &'a OwnedFd,
    temporary: String,
    name: &'a str,
}

impl Staged<'_> {
    /// The name it is for.
    #[cfg(feature = "cli")]
    pub fn name(&self) -> &str {
        self.name
    }

    /// Puts it there.
    pub fn take_place(self) -> io::Result<()> {
        renameat(self.directory, &self.temporary, self.directory, self.name)?;
        Ok(fsync(self.directory)?)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Where it took its place there is none.
        let _ = unlinkat(self.directory, &self.temporary, AtFlags::empty());
    }
}

/// A listening socket of a destination. Dropped, its name is taken away, too.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    directory: Arc<OwnedFd>,
    name: String,
    inode: u64,
}

impl Socket {
    /// Its name in the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes its name away, so that no client waits for an answer from it.
    pub fn unlink(&self) {
        let stat = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        // What has that number is this one, for as long as it is open.
        if stat.is_ok_and(|stat| stat.st_ino == self.inode) {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.unlink();
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The directory at the end of `path`, made where it is missing.
fn walk(path: &Path) -> Result<OwnedFd, String> {
    let uid = rustix::process::geteuid().as_raw();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at =
        open("/", flags | OFlags::DIRECTORY, Mode::empty()).map_err(|error| error.to_string())?;
    let mut links = 0;
    let mut so_far = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = components(path);
    while let Some(name) = ahead.pop_front() {
        let here = so_far.join(&name);
        let problem = |error: Errno| format!("cannot open {}: {}", here.display(), plain(error));
        let next = match openat(&at, &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match mkdirat(&at, &name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(problem(error)),
                }
                openat(&at, &name, flags, Mode::empty())
            }
            opened => opened,
        }
        .map_err(problem)?;
        let stat = fstat(&next).map_err(problem)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => (at, so_far) = (next, here),
            FileType::Symlink if stat.st_uid != uid && stat.st_uid != 0 => {
                return Err(format!(
                    "{} is a symbolic link of user {}, who could point it elsewhere",
                    here.display(),
                    stat.st_uid
                ));
            }
            FileType::Symlink => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(problem(Errno::LOOP));
                }
                let target = readlinkat(&next, "", Vec::new()).map_err(problem)?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
                if target.is_absolute() {
                    at = open("/", flags | OFlags::DIRECTORY, Mode::empty()).map_err(problem)?;
                    so_far = "/".into();
                }
                let mut rest = components(&target);
                rest.append(&mut ahead);
                ahead = rest;
            }
            _ => return Err(format!("{} is not a directory", here.display())),
        }
    }
    // What was opened for its place only (O_PATH) cannot be read or locked.
    openat(
        &at,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(plain)
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| {
            !matches!(
                component,
                Component::RootDir | Component::CurDir | Component::Prefix(_)
            )
        })
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

enum LockProblem {
    Held(String),
    Failed(io::Error),
}

/// Locks the directory by a file in it that says who did. The kernel drops the lock when its holder
/// dies; the file stays, as to remove it would race with the next one to lock it.
fn lock(directory: &OwnedFd) -> Result<OwnedFd, LockProblem> {
    let failed = |error: Errno| LockProblem::Failed(error.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, LOCK, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = [0; 20];
            let len = rustix::io::pread(&file, &mut pid, 0).unwrap_or(0);
            let pid = String::from_utf8_lossy(&pid[..len]).trim().to_owned();
            return Err(LockProblem::Held(pid));
        }
        Err(error) => return Err(failed(error)),
    }
    // For whoever finds it locked. A full disk has no room for it, and the lock holds all the same.
    let pid = format!("{}\n", std::process::id());
    let _ = ftruncate(&file, 0).and_then(|()| rustix::io::pwrite(&file, pid.as_bytes(), 0));
    Ok(file)
}
