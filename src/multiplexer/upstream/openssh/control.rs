//! The directory of the masters' control sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::multiplexer::destination::Destination;

/// Its name in the destination.
pub const NAME: &str = ".masters";

/// It is the working directory of each master, which then names its socket, agent and known hosts by short
/// relative paths: ssh binds `NAME.16characters` first, and a path has 107 bytes (unix(7)).
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    directory: OwnedFd,
}

impl Control {
    /// Makes it, mode 0700, and empties it of what a killed tbot left: ssh refuses a name that is taken.
    pub fn open(destination: &Destination) -> io::Result<Self> {
        Ok(Self {
            path: destination.path().join(NAME),
            directory: destination.private(NAME)?,
        })
    }

    /// What masters start in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A non-blocking connection to the socket `name`. `AGAIN`: the master has not yet accepted the last 64.
    pub fn connect(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(self.path.join(name)).or_else(|_| {
            let directory = self.directory.as_fd().as_raw_fd();
            SocketAddrUnix::new(format!("/proc/self/fd/{directory}/{name}"))
        })?;
        connect(&socket, &address)?;
        Ok(socket)
    }

    /// Takes the name away, if its master has not.
    pub fn remove(&self, name: &str) {
        let _ = unlinkat(&self.directory, name, AtFlags::empty());
    }
}
