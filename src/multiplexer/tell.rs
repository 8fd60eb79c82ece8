//! One line on a client's stderr, by the descriptor it sent with its request.
//!
//! Whatever that descriptor is, nobody waits for it: pipes, sockets and terminals are written without
//! blocking, and where the kernel cannot promise that (a file, which may lie on a dead network
//! mount), a thread of its own writes. There are at most [`MOST_THREADS`] of those.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, pwritev2, write};

use super::client::close;
use crate::harmful::is_harmful;

/// Writers that may hang at once; a line beyond is dropped (the log has it).
const MOST_THREADS: usize = 8;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Writes `line`, with harmful characters escaped, to a client's stderr, and closes it.
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

/// What a user types comes back to a terminal, and must not move the cursor there.
fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        if is_harmful(c) {
            text.extend(c.escape_unicode())
        } else {
            text.push(c)
        }
    }
    text
}
