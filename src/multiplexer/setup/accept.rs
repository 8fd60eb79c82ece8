//! The set-up thread's part before the request: who is accepted, and who is turned away.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use super::{LISTENER, Pending, REST, Setup, Stage};
use crate::errors::plain;
use crate::metrics::Refusal;
use crate::multiplexer::counts::InFlight;
use crate::multiplexer::request::Incoming;
use crate::multiplexer::upstream::Failure;

/// Connections beyond the limit that are kept until their request, and with it the descriptor for the
/// answer, is there. Beyond these they are closed at once.
const MOST_TURNED_AWAY: usize = 64;

/// How long one of them may take for that.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

impl Setup {
    /// Who comes now is refused by the kernel, and who has connected is served: in the queue nobody
    /// would answer until the end.
    pub(super) fn stop_accepting(&mut self) {
        if let Some(listener) = self.listener.clone() {
            let _ = shutdown(&*listener, Shutdown::Read);
            while self.accept() {}
            let _ = epoll::delete(&self.epoll, &*listener);
            self.listener = None;
        }
    }

    /// Takes what waits, at most so many that the others have their turn; true if there may be more.
    pub(super) fn accept(&mut self) -> bool {
        for _ in 0..64 {
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
                    self.watch_listener(epoll::EventFlags::empty());
                    self.resting_until = Some(Instant::now() + REST);
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn watch_listener(&self, flags: epoll::EventFlags) {
        if let Some(listener) = &self.listener {
            let _ = epoll::modify(
                &self.epoll,
                &**listener,
                epoll::EventData::new_u64(LISTENER),
                flags,
            );
        }
    }

    fn begin(&mut self, client: OwnedFd) {
        let in_flight = InFlight::start(&self.shared);
        let now = Instant::now();
        let full = self.shared.live() - self.turned_away > self.limits.max_connections;
        let timeout = if full {
            TURN_AWAY_TIMEOUT
        } else {
            self.limits.request_timeout
        };
        let mut pending = Pending {
            client,
            watched: false,
            turned_away: false,
            stderr: None,
            asked: None,
            stage: Stage::Reading(Incoming::default()),
            deadline: now + timeout,
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
        if full && self.turned_away >= MOST_TURNED_AWAY {
            return self.refuse(pending, self.limits.full());
        }
        pending.turned_away = full;
        self.turned_away += usize::from(full);
        self.last_id += 1;
        let id = self.last_id;
        self.pending.insert(id, pending);
        // The request is often there already.
        self.on_client(id);
    }
}
