//! The SSH agent: clients that connect use the key and never see it.
//!
//! A thread accepts, and each connection has one that reads and answers. A connection asks for the
//! credential anew with each message, so one opened before a renewal signs with the new key after it; and
//! with the one before, if that is what it was listed.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown as ShutdownOf, SocketFlags, accept_with, shutdown};

use super::Identity;
use super::protocol::{Client, MAX_MESSAGE};
use crate::errors::plain;
use crate::pulse::{self, Waiter};

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// From one message to the next. ssh holds its connection while it logs in.
const IDLE: Duration = Duration::from_secs(120);

/// For one message, from its first byte, and for its answer to be taken.
const MESSAGE: Duration = Duration::from_secs(10);

/// The pause between clients that are not served, to tell of one again: a line of log is not for them to make.
const TELL: Duration = Duration::from_secs(1);

/// RSA needs some of it.
const STACK: usize = 512 * 1024;

/// A running agent. Dropped, it closes its connections and joins its threads.
#[derive(Debug)]
pub struct Agent<S: AsFd + Send + Sync + 'static> {
    shared: Arc<Shared>,
    socket: Arc<S>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    identity: Identity,
    allowed_uids: Vec<u32>,
    /// Whose answer is made. One at a time: however many ask, signing takes one processor.
    turn: Mutex<()>,
    open: Mutex<Open>,
    waiter: Waiter,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    stopping: bool,
    next: u64,
    streams: HashMap<u64, Arc<UnixStream>>,
    /// When a client that was not served last came.
    told: Option<Instant>,
}

impl<S: AsFd + Send + Sync + 'static> Agent<S> {
    /// Serves `identity` to the users `allowed_uids` (by number) who connect to `socket`, a Unix socket which
    /// listens; its file remains when the agent ends.
    ///
    /// # Errors
    ///
    /// Where no thread can be started.
    pub fn start(socket: Arc<S>, identity: Identity, allowed_uids: Vec<u32>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            identity,
            allowed_uids,
            turn: Mutex::default(),
            open: Mutex::default(),
            waiter: Waiter::new()?,
            ended: Condvar::new(),
        });
        let (accepting, listener) = (shared.clone(), socket.clone());
        let thread = thread::Builder::new()
            .name("agent-accept".into())
            .stack_size(STACK)
            .spawn(move || accepting.accept(&*listener))?;
        Ok(Self {
            shared,
            socket,
            accepting: Some(thread),
        })
    }
}

impl<S: AsFd + Send + Sync + 'static> Agent<S> {
    /// Where it listens.
    #[cfg(feature = "multiplexer")]
    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    /// The same agent at another socket. Clients of this one go on until it is dropped.
    #[cfg(feature = "multiplexer")]
    pub(crate) fn again(&self, socket: Arc<S>) -> io::Result<Self> {
        let shared = &self.shared;
        Self::start(socket, shared.identity.clone(), shared.allowed_uids.clone())
    }

    /// Why a client that connected now would not be served.
    pub fn problem(&self) -> Option<String> {
        let full = || {
            (self.shared.lock().streams.len() >= MAX_CONNECTIONS).then(|| {
                format!(
                    "all {MAX_CONNECTIONS} connections of the agent are in use: end programs that hold them \
                     (`ss -xp` shows who)"
                )
            })
        };
        self.hang().or_else(full)
    }

    /// Why the thread that accepts does no work any more.
    pub fn hang(&self) -> Option<String> {
        let (thread, shared) = (self.accepting.as_ref()?, &self.shared);
        pulse::problem("agent-accept", thread, &shared.waiter.pulse, || {
            shared.waiter.wake();
            shared.ended.notify_all();
        })
    }
}

impl<S: AsFd + Send + Sync + 'static> Drop for Agent<S> {
    fn drop(&mut self) {
        {
            let mut open = self.shared.lock();
            open.stopping = true;
            for stream in open.streams.values() {
                // It may be closed by its client.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.ended.notify_all();
        // Wakes the thread that accepts. Fails only for a socket that does not listen.
        let _ = shutdown(&*self.socket, ShutdownOf::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let mut open = self.shared.lock();
        while !open.streams.is_empty() {
            open = self
                .shared
                .ended
                .wait(open)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    #[inline(never)] // a frame with a name in profiles
    fn accept(self: Arc<Self>, socket: &impl AsFd) {
        loop {
            let mut open = self.lock();
            while open.streams.len() >= MAX_CONNECTIONS && !open.stopping {
                self.waiter.pulse.rest();
                open = self
                    .ended
                    .wait(open)
                    .unwrap_or_else(PoisonError::into_inner);
                self.waiter.pulse.beat();
            }
            if open.stopping {
                return;
            }
            drop(open);
            self.waiter.wait(socket);
            match accept_with(socket, SocketFlags::CLOEXEC) {
                Ok(stream) => self.admit(stream.into()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) if self.lock().stopping => return,
                // Out of descriptors or memory: others give some back.
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) {
        match crate::sys::peer(stream.as_fd()).map(|peer| peer.uid) {
            Ok(uid) if self.allowed_uids.contains(&uid) => {}
            Ok(uid) => {
                return self.tell(format_args!(
                    "user {uid} may not connect (allowed_uids lists who else may)"
                ));
            }
            Err(_) => return,
        }
        let stream = Arc::new(stream);
        let number = {
            let mut open = self.lock();
            if open.stopping {
                return;
            }
            open.next += 1;
            let number = open.next;
            open.streams.insert(number, stream.clone());
            number
        };
        let place = Place(self.clone(), number);
        let serve = move || {
            // Why it ends is told to nobody: a client that breaks off has its reasons.
            let _ = place.0.serve(&stream);
        };
        let thread = thread::Builder::new()
            .name("agent-client".into())
            .stack_size(STACK);
        // Without a thread the connection is closed, as dropping this does.
        if let Err(error) = thread.spawn(serve) {
            self.tell(format_args!("no thread for a client: {}", plain(error)));
        }
    }

    /// Says why a client was not served, once in a while.
    fn tell(&self, why: std::fmt::Arguments) {
        let told = self.lock().told.replace(Instant::now());
        if told.is_none_or(|told| told.elapsed() > TELL) {
            tracing::warn!("agent: {why}");
        }
    }

    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        let (mut client, mut message) = (Client::default(), Vec::new());
        loop {
            let mut length = [0; 4];
            read(stream, &mut length[..1], Instant::now() + IDLE)?;
            let deadline = Instant::now() + MESSAGE;
            read(stream, &mut length[1..], deadline)?;
            let length = u32::from_be_bytes(length) as usize;
            if length == 0 || length > MAX_MESSAGE {
                return Err(ErrorKind::InvalidData.into());
            }
            message.resize(length, 0);
            read(stream, &mut message, deadline)?;
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = client.answer(self.identity.current(), &message);
            drop(turn);
            message.clear();
            message.shrink_to(4096);
            let mut bytes = (answer.len() as u32).to_be_bytes().to_vec();
            bytes.extend(answer);
            stream.set_write_timeout(Some(MESSAGE))?;
            let mut stream = stream;
            stream.write_all(&bytes)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, given back however its thread ends.
struct Place(Arc<Shared>, u64);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().streams.remove(&self.1);
        self.0.ended.notify_all();
    }
}

/// Serves one client to its end.
#[cfg(all(feature = "cli", feature = "pprof", any(fuzzing, test)))]
pub(crate) fn serve(identity: Identity, stream: &UnixStream) -> io::Result<()> {
    let shared = Shared {
        identity,
        allowed_uids: Vec::new(),
        turn: Mutex::default(),
        open: Mutex::default(),
        ended: Condvar::new(),
        waiter: Waiter::new()?,
    };
    shared.serve(stream)
}

/// Fills `into` before `deadline`.
fn read(mut stream: &UnixStream, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(into) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => into = &mut into[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // All that was left is over, too.
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
