//! One direction of a relayed pair: what is read, what is left over, and the end of file.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_quickack;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::client;
use super::splice::Pipe;

/// What one read takes at most, and so what a full side can leave over.
///
/// Measured on 2 cores, a Unix socket to TCP and back: 16 KiB as fast as HAProxy 2.6, 32 KiB 1.1 to 1.3
/// times, 64 KiB 0.5 to 0.7 times (it no longer fits the nearest caches). For what need not be copied see
/// [`Pipe`].
///
/// A little more than 32 KiB, as ssh writes packets of that and some tens of bytes, which would be a read and a
/// segment of their own.
pub const BUFFER: usize = 36 * 1024;

/// Bytes one direction may move before the others of its thread have their turn.
const TURN: usize = 16 * BUFFER;

/// From so many bytes on a flow is bulk: those of reads that are not small.
const BULK: usize = 4 << 20;
const SMALL: usize = 8 * 1024;

/// A socket and what its last events said. Both hold until a call says EAGAIN, since epoll speaks
/// only of changes.
pub struct Side {
    /// Non-blocking.
    pub socket: OwnedFd,
    /// It is a Unix socket.
    pub passes_descriptors: bool,
    /// It is the TCP of a bastion's link: what is read is acknowledged at once, and the flag tells of its end
    /// before anyone else can know.
    pub link: Option<Arc<AtomicBool>>,
    /// The last read filled the buffer.
    pub filled: bool,
    /// There may be something to read.
    pub readable: bool,
    /// Its end is behind what there is to read, or an error.
    pub ending: bool,
    /// There may be room to write.
    pub writable: bool,
    /// Neither direction works any more.
    pub hung_up: bool,
}

/// One direction.
#[derive(Default)]
pub struct Flow {
    /// Read, not written yet; starts at `written`.
    rest: Vec<u8>,
    written: usize,
    /// The same for bulk from a target to its client; one that falls silent keeps it until there is more, or the end.
    pipe: Option<Pipe>,
    /// Bytes, at most [`BULK`].
    counted: usize,
    /// The source has ended.
    pub eof: bool,
    /// Nothing more will be moved.
    pub done: bool,
    /// The destination takes nothing: what is read is thrown away.
    deaf: bool,
}

/// Why a direction paused or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A side has to become ready first, or all is done.
    Waiting,
    /// Its turn is over, there is more to do.
    Turn,
    /// The source failed.
    Source(Errno),
    /// The destination failed.
    Destination(Errno),
}

impl Flow {
    /// One whose first bytes are read already.
    pub fn beginning_with(rest: Vec<u8>) -> Self {
        Self {
            rest,
            ..Self::default()
        }
    }

    /// Moves what is there, at most [`TURN`]; also the number of bytes written.
    #[inline(never)] // a frame with a name in profiles
    pub fn pump(&mut self, from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> (End, usize) {
        let (mut moved, mut thrown) = (0, 0);
        let mut end = End::Waiting;
        while !self.done {
            if !self.rest.is_empty() {
                match write_bytes(to, &self.rest[self.written..]) {
                    Ok(n) => {
                        moved += n;
                        self.written += n;
                    }
                    Err(error) => return (self.fail(error), moved),
                }
                if self.written < self.rest.len() {
                    break;
                }
                // The allocation goes, too: an idle pair holds none.
                (self.rest, self.written) = (Vec::new(), 0);
            }
            if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.filled() > 0) {
                match write(to, pipe.filled(), |socket, _| pipe.drain(socket)) {
                    Ok(n) => moved += n,
                    Err(error) => return (self.fail(error), moved),
                }
                if pipe.filled() > 0 {
                    break;
                }
            }
            if self.eof {
                (self.done, self.pipe) = (true, None);
                // One whose source is gone altogether is closed at once. It fails where the other side is gone, which
                // its own direction finds out.
                if !from.hung_up {
                    let _ = shutdown(&to.socket, Shutdown::Write);
                }
                break;
            }
            if !from.readable || !(to.writable || self.deaf) {
                break;
            }
            if moved + thrown >= TURN {
                return (End::Turn, moved);
            }
            self.choose(from, to);
            let got = match &mut self.pipe {
                Some(pipe) => pipe.fill(&from.socket),
                None => read(from, buffer),
            };
            match got {
                Ok(0) => self.eof = true,
                Ok(n) if self.pipe.is_some() => {
                    if n < SMALL {
                        self.counted = 0;
                    }
                }
                Ok(n) if self.deaf => thrown += n,
                Ok(n) => match write_bytes(to, &buffer[..n]) {
                    Ok(written) => {
                        moved += written;
                        self.rest.extend_from_slice(&buffer[written..n]);
                        if n >= SMALL {
                            self.counted = BULK.min(self.counted + n);
                        }
                    }
                    Err(error) => return (self.fail(error), moved),
                },
                // It cannot, or may not.
                Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) if self.pipe.is_some() => {
                    self.counted = 0;
                }
                Err(Errno::AGAIN) => from.readable = false,
                Err(Errno::INTR) => {}
                Err(error) => (self.eof, end) = (true, End::Source(error)),
            }
        }
        (end, moved)
    }

    /// Has a pipe for what is read next, or none.
    fn choose(&mut self, from: &Side, to: &Side) {
        let is_direct = to.passes_descriptors && from.link.is_none();
        if !is_direct || self.deaf || self.counted < BULK {
            self.pipe = None;
        } else if self.pipe.is_none() {
            self.pipe = Pipe::new();
            if self.pipe.is_none() {
                self.counted = 0;
            }
        }
    }

    /// Goes on after its destination has failed, for the sake of the source alone: one that waits for its bytes to be
    /// taken might read nothing itself until then.
    pub fn discard(&mut self) {
        self.done = false;
        self.deaf = true;
        self.pipe = None;
    }

    /// Ends this direction, as its destination takes nothing any more.
    fn fail(&mut self, error: Errno) -> End {
        self.done = true;
        self.rest = Vec::new();
        self.pipe = None;
        End::Destination(error)
    }
}

fn read(from: &mut Side, buffer: &mut [u8]) -> Result<usize, Errno> {
    let wanted = buffer.len();
    if from.passes_descriptors {
        let mut passed = false;
        let read = client::read(from.socket.as_fd(), buffer, |descriptor| {
            passed = true;
            client::close(descriptor);
        })?;
        // A read ends with the bytes that descriptors came with, whatever is behind them (unix(7)).
        from.readable = passed || !is_drained(read, wanted, from);
        return Ok(read);
    }
    let Some(down) = &from.link else {
        let (_, read) = recv(&from.socket, buffer, RecvFlags::empty())?;
        from.readable = !is_drained(read, wanted, from);
        return Ok(read);
    };
    // The server's Nagle waits for our delayed ACK (44 ms for the first byte of a stream); the option is
    // not sticky (tcp(7)). Amid bulk nobody waits, and the read that ends it is none that fills the buffer.
    if !from.filled {
        let _ = set_tcp_quickack(&from.socket, true);
    }
    let read = recv(&from.socket, &mut *buffer, RecvFlags::empty()).map(|(_, len)| len);
    from.filled = read == Ok(buffer.len());
    if !matches!(read, Ok(1..) | Err(Errno::AGAIN | Errno::INTR)) {
        down.store(true, Ordering::Release);
    }
    read
}

/// Whether nothing is left behind a read: a stream socket that gave less than was wanted has no more, and epoll
/// tells of what comes next (epoll(7), "Do I need to continuously read/write"), but not again of an end.
fn is_drained(read: usize, wanted: usize, from: &Side) -> bool {
    read < wanted && !from.ending
}

fn write_bytes(to: &mut Side, bytes: &[u8]) -> Result<usize, Errno> {
    write(to, bytes.len(), |socket, at| {
        send(socket, &bytes[at..], SendFlags::NOSIGNAL)
    })
}

/// Writes what the socket takes now of so many bytes; 0 when it is full.
fn write(
    to: &mut Side,
    length: usize,
    mut send: impl FnMut(&OwnedFd, usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut written = 0;
    while written < length && to.writable {
        match send(&to.socket, written) {
            Ok(n) => written += n,
            Err(Errno::AGAIN) => to.writable = false,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
