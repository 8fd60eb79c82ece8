//! Setting up before the request: who is accepted, and who is turned away.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use super::{LISTENER, Pending, REST, Setup, Stage};
use crate::errors::plain;
use crate::metrics::Refusal;
use crate::multiplexer::counts::{InFlight, Place};
use crate::multiplexer::destination::Socket;
use crate::multiplexer::request::Incoming;
use crate::multiplexer::upstream::Failure;

/// Connections that one thread takes before it looks after what it relays, and before another one may: a few, as
/// those who wait are then shared.
const AT_ONCE: usize = 8;

/// How long one beyond the limit may take for its request, with which the descriptor for the answer comes.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

impl Setup {
    /// Somebody has connected.
    pub fn on_listener(&mut self) {
        self.accept();
    }

    /// Who comes now is refused by the kernel, and who has connected is served: in the queue nobody
    /// would answer until the end.
    pub fn stop_accepting(&mut self) {
        if let Some(listener) = self.listener.clone() {
            let _ = shutdown(&*listener, Shutdown::Read);
            while self.accept() {}
            let _ = epoll::delete(&*self.epoll, &*listener);
            self.listener = None;
            self.resting_until = None;
        }
    }

    /// Accepts from another socket.
    pub fn listen(&mut self, listener: Arc<Socket>) {
        self.stop_accepting();
        self.listener = Some(listener);
        if self.watch_listener().is_err() {
            self.resting_until = Some(Instant::now() + REST);
        }
    }

    /// Takes what waits, at most so many that the others have their turn; true if there may be more.
    fn accept(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            let Some(listener) = &self.listener else {
                return false;
            };
            match accept_with(&**listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => self.begin(client),
                // The latter is what an empty queue is after its shutdown.
                Err(Errno::AGAIN | Errno::INVAL) => return false,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {}", plain(error));
                    let _ = epoll::delete(&*self.epoll, &**listener);
                    self.resting_until = Some(Instant::now() + REST);
                    return false;
                }
            }
        }
        true
    }

    /// Hears of who connects. One thread that waits is woken, and not all of them.
    pub(super) fn watch_listener(&self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let data = epoll::EventData::new_u64(LISTENER);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        Ok(epoll::add(&*self.epoll, &**listener, data, flags)?)
    }

    fn begin(&mut self, client: OwnedFd) {
        let in_flight = InFlight::start(&self.shared, self.limits.max_connections);
        let timeout = match in_flight.place {
            Place::Served => self.limits.request_timeout,
            _ => TURN_AWAY_TIMEOUT,
        };
        let mut pending = Pending {
            client,
            watched: false,
            stderr: None,
            asked: None,
            stage: Stage::Reading(Incoming::default()),
            deadline: Instant::now() + timeout,
            in_flight,
        };
        let peer = crate::sys::peer(pending.client.as_fd());
        pending.in_flight.record.peer = peer.as_ref().ok().copied();
        match peer.map(|peer| peer.uid) {
            Ok(uid) if self.limits.allowed_uids.contains(&uid) => {}
            Ok(uid) => {
                let message =
                    format!("user {uid} may not connect (allowed_uids lists who else may)");
                return self.refuse(pending, Failure::new(Refusal::Peer, message));
            }
            Err(error) => {
                let message = format!("cannot tell whose connection it is: {}", plain(error));
                return self.refuse(pending, Failure::new(Refusal::Peer, message));
            }
        }
        if pending.in_flight.place == Place::None {
            return self.refuse(pending, self.limits.full());
        }
        // It tells whose it is, and who came first: those who wait for a master are served in that order.
        let id = self.shared.next() * self.threads + self.number;
        self.pending.insert(id, pending);
        // The request is often there already.
        self.on_client(id);
    }
}
