//! A client's socket, which passes descriptors as well as bytes (SCM_RIGHTS in unix(7)).
//!
//! Whatever a client passes, nobody waits for its close(2): that of a socket may linger, and that of a
//! file may ask a dead network mount. The kernel closes what nobody took on the thread that reads or
//! closes the client's socket, so all of it is taken, and closed by threads that may hang.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown,
};

/// Threads that may hang in closing at once; descriptors beyond wait for one of them.
const MOST_THREADS: usize = 8;

/// How long one of them waits for the next descriptor: to start it costs more than all else about a connection.
const LINGER: Duration = Duration::from_secs(1);

/// Descriptors that come with one message at most (SCM_MAX_FD, unix(7)).
const MOST_DESCRIPTORS: usize = 253;

static CLOSING: Mutex<Closing> = Mutex::new(Closing {
    descriptors: Vec::new(),
    threads: 0,
    idle: 0,
});
static MORE: Condvar = Condvar::new();

/// Descriptors to close, and the threads that do.
struct Closing {
    descriptors: Vec<OwnedFd>,
    threads: usize,
    idle: usize,
}

/// Reads from a client without blocking; every descriptor that comes along goes to `passed`.
pub fn read(
    client: BorrowedFd<'_>,
    buffer: &mut [u8],
    mut passed: impl FnMut(OwnedFd),
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(client, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptors.for_each(&mut passed);
        }
    }
    Ok(message.bytes)
}

/// Closes a client's connection, and takes what it sent and nobody has read: descriptors for the
/// reason above, and bytes, as a close over them is a reset, of which ssh would complain.
pub fn hang_up(client: OwnedFd) {
    // No more comes.
    let _ = shutdown(&client, Shutdown::Both);
    while read(client.as_fd(), &mut [0; 4096], close).is_ok_and(|len| len > 0) {}
}

/// Closes a descriptor that a client sent.
///
/// What a user's stderr mostly is, a terminal or a pipe, is closed here and now.
pub fn close(descriptor: OwnedFd) {
    // Asked without a word to a remote side.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let quick = statx(&descriptor, "", flags, StatxFlags::TYPE).is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        matches!(kind, FileType::Fifo | FileType::CharacterDevice)
    });
    if quick {
        return drop(descriptor);
    }
    let mut closing = closing();
    closing.descriptors.push(descriptor);
    if closing.idle >= closing.descriptors.len() || closing.threads == MOST_THREADS {
        return MORE.notify_one();
    }
    let spawned = std::thread::Builder::new()
        .name("mux-close".into())
        .stack_size(64 * 1024)
        .spawn(close_all);
    closing.threads += usize::from(spawned.is_ok());
}

/// Closes what there is to close.
fn close_all() {
    let mut waiting = closing();
    loop {
        while let Some(descriptor) = waiting.descriptors.pop() {
            drop(waiting);
            drop(descriptor);
            waiting = closing();
        }
        waiting.idle += 1;
        let woken = MORE.wait_timeout(waiting, LINGER);
        let (now, waited) = woken.unwrap_or_else(PoisonError::into_inner);
        waiting = now;
        waiting.idle -= 1;
        if waited.timed_out() && waiting.descriptors.is_empty() {
            break;
        }
    }
    waiting.threads -= 1;
}

fn closing() -> MutexGuard<'static, Closing> {
    CLOSING.lock().unwrap_or_else(PoisonError::into_inner)
}
