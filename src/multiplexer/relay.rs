//! Bytes between two sockets, for any number of pairs on one thread.
//!
//! Its epoll(7) instance is told of them edge-triggered: a pair costs two registrations when it
//! comes and nothing after. A direction is read only while its other side takes bytes; what a
//! full side leaves over is kept (at most one buffer a direction) and nothing more is read, so a slow
//! reader slows its own writer and nobody else. An end of file is passed on as a half-close once
//! everything before it is written, and the other direction goes on.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use slab::Slab;

use super::client;
use super::flow::{BUFFER, End, Flow, Side};
use super::leaver::{self, Leaver};
use super::threads::RELAYED;
use crate::metrics::IntCounter;

/// Two connected, non-blocking stream sockets and what to do when they are done.
pub struct Pair {
    /// The side that asked.
    pub client: OwnedFd,
    /// The side that was asked for.
    pub upstream: OwnedFd,
    /// Bytes that were read from the client already and go to the upstream first.
    pub head: Vec<u8>,
    /// For the link of a shared connection, whose bytes are nobody's stream.
    pub link: Option<Link>,
    /// Called once, after both sockets are closed.
    pub ended: Box<dyn FnOnce(Ending, Carried) + Send>,
}

/// How many bytes a pair was relayed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// From client to upstream.
    pub sent: u64,
    /// From upstream to client.
    pub received: u64,
}

/// The encrypted link of a shared connection: between its `ssh` (the client) and its bastion.
#[derive(Debug)]
pub struct Link {
    /// Bytes to the bastion.
    pub sent: IntCounter,
    /// Bytes from it.
    pub received: IntCounter,
    /// Set when the bastion's side has ended, before `ssh` can know.
    pub down: Arc<AtomicBool>,
}

/// How a pair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides closed, or the client left.
    Done,
    /// The upstream broke while the client was there, or took nothing any more when it had left.
    Broken(Errno),
    /// [`Pairs::close_all`] cut it.
    Cut,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("client", &self.client)
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

/// How long pairs are pumped until the thread looks at what else there is.
const SLICE: Duration = Duration::from_millis(1);

/// The pairs of one thread. In epoll, the data of a socket are twice its pair's place in the slab, plus one for the
/// upstream, and [`RELAYED`].
pub struct Pairs {
    epoll: Arc<OwnedFd>,
    pairs: Slab<Entry>,
    /// Pairs with something to do, each once: those with bulk, and those who need not wait for all of that.
    bulk: VecDeque<usize>,
    ready: VecDeque<usize>,
    buffer: Box<[u8]>,
    /// How many have ended since that was asked.
    ended: usize,
    /// When to look at those whose clients have left, if there are any.
    look: Option<Instant>,
}

struct Entry {
    client: Side,
    upstream: Side,
    /// From client to upstream.
    up: Flow,
    /// From upstream to client.
    down: Flow,
    queued: bool,
    /// Its last turn filled the buffer.
    has_bulk: bool,
    /// The client has left.
    left: Option<Leaver>,
    broken: Option<Errno>,
    /// Where bytes are counted, if not with all others.
    counters: Option<(IntCounter, IntCounter)>,
    carried: Carried,
    ended: Box<dyn FnOnce(Ending, Carried) + Send>,
}

impl Pairs {
    /// None yet.
    pub fn new(epoll: Arc<OwnedFd>) -> Self {
        Self {
            epoll,
            pairs: Slab::new(),
            bulk: VecDeque::new(),
            ready: VecDeque::new(),
            buffer: vec![0; BUFFER].into(),
            ended: 0,
            look: None,
        }
    }

    /// How long there is nothing to do unless something happens.
    pub fn timeout(&self) -> Option<Duration> {
        match self.look {
            _ if self.to_do() > 0 => Some(Duration::ZERO),
            look => look.map(|look| look.saturating_duration_since(Instant::now())),
        }
    }

    fn to_do(&self) -> usize {
        self.ready.len() + self.bulk.len()
    }

    /// Moves what there is, for some time; the bytes sent and received, without those of links, and how many pairs
    /// have ended since the last time.
    pub fn pump(&mut self) -> (u64, u64, usize) {
        let (mut sent, mut received) = (0, 0);
        let until = (self.to_do() > 1).then(|| Instant::now() + SLICE);
        // One each time, whatever else there is.
        let mut bulk = self.bulk.pop_front();
        for _ in 0..self.to_do() + usize::from(bulk.is_some()) {
            let next = bulk.take().or_else(|| self.ready.pop_front());
            let Some(key) = next.or_else(|| self.bulk.pop_front()) else {
                break;
            };
            let Some(entry) = self.pairs.get_mut(key) else {
                continue;
            };
            entry.queued = false;
            let (mut up, mut down) = (0, 0);
            let again = entry.pump(&mut self.buffer, &mut up, &mut down);
            entry.carried.sent += up;
            entry.carried.received += down;
            entry.has_bulk = up + down >= BUFFER as u64;
            if let Some((sent, received)) = &entry.counters {
                sent.inc_by(up);
                received.inc_by(down);
            } else {
                sent += up;
                received += down;
            }
            if entry.left.is_some() && self.look.is_none() {
                self.look = Some(Instant::now() + leaver::LOOK);
            }
            if entry.is_done() {
                self.remove(key, None);
            } else if again {
                self.queue(key);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        if self.look.is_some_and(|look| look <= Instant::now()) {
            self.look_at_leavers();
        }
        (sent, received, std::mem::take(&mut self.ended))
    }

    /// Ends those whose clients have left and whose upstreams take nothing any more.
    fn look_at_leavers(&mut self) {
        let now = Instant::now();
        let (mut stuck, mut any) = (Vec::new(), false);
        for (key, entry) in &mut self.pairs {
            if let Some(left) = &mut entry.left {
                any = true;
                if left.is_stuck(entry.upstream.socket.as_fd(), entry.carried.sent, now) {
                    stuck.push(key);
                }
            }
        }
        self.look = any.then(|| now + leaver::LOOK);
        for key in stuck {
            self.remove(key, Some(Ending::Broken(Errno::TIMEDOUT)));
        }
    }

    /// Takes down what an event says; nothing is moved yet, so no event of a round can meet a socket
    /// that another event of it closed.
    pub fn note(&mut self, data: u64, flags: epoll::EventFlags) {
        let key = ((data & !RELAYED) >> 1) as usize;
        let Some(entry) = self.pairs.get_mut(key) else {
            return;
        };
        let side = if data & 1 == 0 {
            &mut entry.client
        } else {
            &mut entry.upstream
        };
        let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        side.ending |= gone || flags.contains(epoll::EventFlags::RDHUP);
        side.readable |= side.ending || flags.contains(epoll::EventFlags::IN);
        side.writable |= gone || flags.contains(epoll::EventFlags::OUT);
        side.hung_up |= gone;
        self.queue(key);
    }

    fn queue(&mut self, key: usize) {
        if let Some(entry) = self.pairs.get_mut(key)
            && !std::mem::replace(&mut entry.queued, true)
        {
            match entry.has_bulk {
                true => self.bulk.push_back(key),
                false => self.ready.push_back(key),
            }
        }
    }

    /// Takes a pair.
    pub fn add(&mut self, pair: Pair) {
        let (link, counters) = match pair.link {
            Some(link) => (Some(link.down), Some((link.sent, link.received))),
            None => (None, None),
        };
        let side = |socket, passes_descriptors, link| Side {
            socket,
            passes_descriptors,
            link,
            filled: false,
            // epoll begins with what there is.
            readable: false,
            ending: false,
            writable: true,
            hung_up: false,
        };
        let key = self.pairs.insert(Entry {
            // ssh passes no descriptors.
            client: side(pair.client, link.is_none(), None),
            upstream: side(pair.upstream, false, link),
            up: Flow::beginning_with(pair.head),
            down: Flow::default(),
            queued: false,
            has_bulk: false,
            left: None,
            broken: None,
            counters,
            carried: Carried::default(),
            ended: pair.ended,
        });
        let entry = &self.pairs[key];
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let data = RELAYED | (key as u64) << 1;
        let added = epoll::add(
            &*self.epoll,
            &entry.client.socket,
            epoll::EventData::new_u64(data),
            flags,
        )
        .and_then(|()| {
            epoll::add(
                &*self.epoll,
                &entry.upstream.socket,
                epoll::EventData::new_u64(data | 1),
                flags,
            )
        });
        match added {
            Ok(()) => self.queue(key),
            // The user's limit of watches (/proc/sys/fs/epoll/max_user_watches).
            Err(error) => self.remove(key, Some(Ending::Broken(error))),
        }
    }

    /// Closes every pair there is.
    pub fn close_all(&mut self) {
        let keys: Vec<usize> = self.pairs.iter().map(|(key, _)| key).collect();
        keys.into_iter()
            .for_each(|key| self.remove(key, Some(Ending::Cut)));
    }

    /// Closes a pair; closing takes its sockets out of epoll.
    fn remove(&mut self, key: usize, ending: Option<Ending>) {
        let Entry {
            client,
            upstream,
            up,
            broken,
            carried,
            ended,
            ..
        } = self.pairs.remove(key);
        if upstream.link.is_some() {
            // It is open elsewhere, too.
            let _ = epoll::delete(&*self.epoll, &upstream.socket);
        }
        drop(upstream);
        if up.eof {
            drop(client);
        } else {
            client::hang_up(client.socket);
        }
        self.ended += 1;
        let ending = ending.or(broken.map(Ending::Broken));
        ended(ending.unwrap_or(Ending::Done), carried);
    }
}

impl Entry {
    /// Moves bytes both ways until nothing moves or the turn is over; true for the latter.
    #[inline(never)] // a frame with a name in profiles
    fn pump(&mut self, buffer: &mut [u8], sent: &mut u64, received: &mut u64) -> bool {
        let Self {
            client,
            upstream,
            up,
            down,
            left,
            broken,
            ..
        } = self;
        let (up_end, up_bytes) = up.pump(client, upstream, buffer);
        let (down_end, down_bytes) = down.pump(upstream, client, buffer);
        *sent += up_bytes as u64;
        *received += down_bytes as u64;
        // A client that cannot be read or written has left: what it sent before is still delivered,
        // and it loses nothing by an upstream that breaks now.
        client.hung_up |=
            matches!(up_end, End::Source(_)) || matches!(down_end, End::Destination(_));
        if let (End::Destination(error), _) | (_, End::Source(error)) = (up_end, down_end)
            && !client.hung_up
        {
            *broken = broken.or(Some(error));
        }
        if client.hung_up && left.is_none() {
            *left = Some(Leaver::new(Instant::now()));
        }
        let is_deaf = matches!(down_end, End::Destination(_));
        if is_deaf {
            down.discard();
        }
        is_deaf || up_end == End::Turn || down_end == End::Turn
    }

    /// Both directions ended, or one did and nobody is left at the end of the other.
    fn is_done(&self) -> bool {
        (self.up.done && (self.down.done || self.client.hung_up))
            || (self.down.done && self.upstream.hung_up)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_little_waits_for_one_turn_of_bulk_and_not_for_all() {
        const LAST: usize = 19;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        let mut pairs = Pairs::new(Arc::new(epoll));
        let ended = Arc::<Mutex<Vec<usize>>>::default();
        let mut ends: Vec<_> = (0..=LAST)
            .map(|number| {
                let sockets = || UnixStream::pair().expect("two sockets");
                let ((client, near), (upstream, target)) = (sockets(), sockets());
                for one in [&near, &upstream] {
                    one.set_nonblocking(true).expect("a socket");
                }
                let ended = ended.clone();
                pairs.add(Pair {
                    client: near.into(),
                    upstream: upstream.into(),
                    head: Vec::new(),
                    link: None,
                    ended: Box::new(move |_, _| ended.lock().expect("no panic").push(number)),
                });
                (client, target)
            })
            .collect();
        let mut pump = |flags| {
            // Their places in the slab are those in which they came.
            for key in 0..=LAST as u64 {
                pairs.note(RELAYED | key << 1, flags);
            }
            while pairs.timeout() == Some(Duration::ZERO) {
                pairs.pump();
            }
        };
        let length = |number| if number == LAST { 1 } else { 2 * BUFFER };
        for (number, (client, _)) in ends.iter_mut().enumerate() {
            client
                .write_all(&vec![0; length(number)])
                .expect("there is room");
        }
        pump(epoll::EventFlags::IN);
        let mut targets = Vec::new();
        for (number, (client, mut target)) in ends.into_iter().enumerate() {
            target
                .read_exact(&mut vec![0; length(number)])
                .expect("it was relayed");
            drop(client);
            targets.push(target);
        }
        pump(epoll::EventFlags::IN | epoll::EventFlags::HUP);
        let ended = ended.lock().expect("no panic");
        assert_eq!((ended.len(), ended[1]), (LAST + 1, LAST), "{ended:?}");
    }
}
