//! The only `unsafe` of the program: system calls that `rustix` does not cover soundly.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The user at the other end of a connected Unix socket (SO_PEERCRED, unix(7)).
///
/// Not by `rustix`: its type for the answer has a process id that is never 0, and the kernel's is 0
/// for a peer in another pid namespace, such as a container that mounts the socket.
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointers are to a live `ucred` and its length, which the kernel does not exceed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(credentials.uid)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What glibc's allocator holds, in bytes.
#[cfg(target_env = "gnu")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocated {
    /// In use on its heaps; what threads keep to themselves for reuse counts too.
    pub used: usize,
    /// Free on its heaps.
    pub free: usize,
    /// In blocks so large that each is mapped from the system.
    pub mapped: usize,
}

/// Walks the lists of free blocks, each heap under its lock: microseconds for a hundred blocks,
/// milliseconds for a hundred thousand.
#[cfg(target_env = "gnu")]
pub fn allocated() -> Allocated {
    // SAFETY: it takes no argument, and locks what it reads.
    let info = unsafe { libc::mallinfo2() };
    Allocated {
        used: info.uordblks,
        free: info.fordblks,
        mapped: info.hblkhd,
    }
}
