//! Descriptors that clients send: one line on a client's stderr, by the one that came with its request.
//!
//! Whatever that descriptor is, nobody waits for it: pipes, sockets and terminals are written without
//! blocking, and where the kernel cannot promise that (a file, which may lie on a dead network
//! mount), a thread of its own writes. There are at most [`MOST_THREADS`] of those. To close it can
//! take as long, and is done in the same manner.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::io::{Errno, ReadWriteFlags, pwritev2, write};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown,
};

/// Writers that may hang at once; a line beyond is dropped (the log has it). As many may hang in
/// closing; descriptors beyond wait for one of them.
const MOST_THREADS: usize = 8;

/// Descriptors that come with one message at most (SCM_MAX_FD, unix(7)).
const MOST_DESCRIPTORS: usize = 253;

static THREADS: AtomicUsize = AtomicUsize::new(0);

static CLOSING: Mutex<Closing> = Mutex::new(Closing {
    descriptors: Vec::new(),
    threads: 0,
});

/// Descriptors to close, and the threads that do.
struct Closing {
    descriptors: Vec<OwnedFd>,
    threads: usize,
}

/// Writes `line`, with control characters escaped, to a client's stderr, and closes it.
pub fn tell(stderr: OwnedFd, line: &str) {
    let line = format!("tbot: {}\n", printable(line));
    // Offset -1: the current position, as write(2).
    match pwritev2(
        &stderr,
        &[IoSlice::new(line.as_bytes())],
        u64::MAX,
        ReadWriteFlags::NOWAIT,
    ) {
        Err(Errno::OPNOTSUPP | Errno::SPIPE | Errno::NOSYS) => {}
        // Written, or full, or broken: there is nothing more to do for it.
        _ => return close(stderr),
    }
    if THREADS.fetch_add(1, Ordering::Relaxed) >= MOST_THREADS {
        THREADS.fetch_sub(1, Ordering::Relaxed);
        return close(stderr);
    }
    let writer = move || {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let takes_bytes =
            poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now)).is_ok_and(|n| n > 0);
        if takes_bytes {
            let _ = write(&stderr, line.as_bytes());
        }
        close(stderr);
        THREADS.fetch_sub(1, Ordering::Relaxed);
    };
    let spawned = std::thread::Builder::new()
        .name("mux-tell".into())
        .stack_size(64 * 1024)
        .spawn(writer);
    if spawned.is_err() {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads from a client without blocking; every descriptor that comes along goes to `passed`. What is
/// not taken, the kernel closes on the thread that reads, however long that takes.
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

/// Closes a client's connection. Descriptors in what it sent and nobody has read would be closed with
/// it.
pub fn hang_up(client: OwnedFd) {
    // No more comes.
    let _ = shutdown(&client, Shutdown::Both);
    while read(client.as_fd(), &mut [0; 4096], close).is_ok_and(|len| len > 0) {}
}

/// Closes a descriptor that a client sent.
///
/// The last to close a socket waits for its unsent bytes if it lingers (SO_LINGER in socket(7)), and
/// of a file for a network mount. So only what a terminal or a pipe is, is closed here and now.
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
    if closing.threads == MOST_THREADS {
        return;
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
    while let Some(descriptor) = waiting.descriptors.pop() {
        drop(waiting);
        drop(descriptor);
        waiting = closing();
    }
    waiting.threads -= 1;
}

fn closing() -> std::sync::MutexGuard<'static, Closing> {
    CLOSING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a user types comes back to a terminal, and must not move the cursor there.
fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() {
            text.extend(c.escape_unicode())
        } else {
            text.push(c)
        }
    }
    text
}
