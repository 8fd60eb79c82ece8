//! From an accepted connection to a pair for the relay: one thread, nothing in it blocks.
//!
//! It accepts, reads requests, starts look-ups and dials, and keeps every deadline, so that a client
//! or target that does nothing costs an entry in a map. One thread sets up several times what a
//! machine's sshd takes; the bytes are the relay's.

mod accept;
mod bastion;
mod deadlines;
mod direct;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem::MaybeUninit};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use self::bastion::Stream;
use super::client;
use super::counts::{InFlight, Shared};
use super::destination::Socket;
use super::inbox::Inbox;
use super::limits::Limits;
use super::relay::Relay;
use super::request::{Incoming, LONGEST, Progress, Request};
use super::routes::Routes;
use super::tell::tell;
use super::upstream::Failure;
use super::upstream::direct::{Dial, MOST_ADDRESSES};
use super::upstream::openssh::lease::Lease;
use super::upstream::openssh::mux::Opening;
use super::upstream::resolver::{Answer, Resolver};
use crate::errors::plain;
use crate::metrics::Refusal;
use crate::pulse::Pulse;

/// How often deadlines are looked at while any connection is being set up.
const TICK: Duration = Duration::from_millis(50);

/// How often a master whose queue is full is knocked at again: it takes 64 connections in one go.
const KNOCK: Duration = Duration::from_millis(2);

/// How long the listener rests when the process has no descriptor left: to try again at once would
/// spin, as the connection stays in the queue.
const REST: Duration = Duration::from_millis(20);

/// epoll data of the two descriptors that are no connection's; those of connection `id` begin with
/// `id * STRIDE`: its client, then its dial's attempts, or its control connection.
const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const STRIDE: u64 = 1 + MOST_ADDRESSES as u64;

/// What other threads tell the set-up thread.
#[derive(Debug)]
pub enum Message {
    /// What a look-up brought, for those who asked.
    Answer(Vec<u64>, Answer),
    /// There is a place on masters of the cluster at this place for those who waited, or why there is none.
    Places(usize, Vec<u64>, Option<Failure>),
    /// Accept nothing more.
    StopAccepting,
    /// Accept from this socket instead of the one before.
    Listen(Arc<Socket>),
    /// Nor go on with what is being set up: end the thread.
    Stop,
}

/// The set-up thread's state.
pub struct Setup {
    shared: Arc<Shared>,
    limits: Limits,
    relay: Arc<Relay>,
    resolver: Resolver,
    inbox: Arc<Inbox<Message>>,
    pulse: Arc<Pulse>,
    epoll: OwnedFd,
    listener: Option<Arc<Socket>>,
    resting_until: Option<Instant>,
    routes: Routes,
    pending: HashMap<u64, Pending>,
    /// Connections that masters carry, and those left to them.
    streams: HashMap<u64, Stream>,
    abandoned: usize,
    knocking: Vec<u64>,
    turned_away: usize,
    last_id: u64,
    stopping: bool,
}

/// A connection that is not relayed yet.
struct Pending {
    client: OwnedFd,
    watched: bool,
    /// Beyond the limit: its request is read and not served.
    turned_away: bool,
    stderr: Option<OwnedFd>,
    asked: Option<Asked>,
    stage: Stage,
    deadline: Instant,
    in_flight: InFlight,
}

enum Stage {
    /// The request is not complete.
    Reading(Incoming),
    /// The name is being looked up.
    Resolving,
    /// Connections to the target are being tried.
    Dialling(Dial),
    /// There is no place on a master yet.
    Waiting,
    /// The master has not accepted the last 64 connections.
    Knocking(Lease),
    /// A master was asked for the stream.
    Opening(Opening, Lease, Instant),
}

/// A complete request.
struct Asked {
    request: Request,
    /// That of its cluster, once that is known.
    place: Option<usize>,
    at: Instant,
    /// What came behind it.
    head: Vec<u8>,
}

impl Setup {
    /// Prepares to serve `listener`.
    pub fn new(
        shared: Arc<Shared>,
        limits: Limits,
        relay: Arc<Relay>,
        listener: Arc<Socket>,
        inbox: Arc<Inbox<Message>>,
        routes: Routes,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &*listener,
            epoll::EventData::new_u64(LISTENER),
            epoll::EventFlags::IN,
        )?;
        epoll::add(
            &epoll,
            &*inbox,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let answers = inbox.clone();
        let resolver = Resolver::new(move |who, answer| answers.send(Message::Answer(who, answer)));
        Ok(Self {
            shared,
            limits,
            relay,
            resolver,
            inbox,
            pulse: Arc::default(),
            epoll,
            listener: Some(listener),
            resting_until: None,
            routes,
            pending: HashMap::new(),
            streams: HashMap::new(),
            abandoned: 0,
            knocking: Vec::new(),
            turned_away: 0,
            // The first ids are those of LISTENER and WAKE.
            last_id: 0,
            stopping: false,
        })
    }

    /// How this thread is.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// Serves until [`Message::Stop`].
    #[inline(never)] // a frame with a name in profiles
    pub fn run(mut self) {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 256];
        let mut next_tick = Instant::now();
        while !self.stopping {
            let timeout = self.timeout();
            self.pulse.rest();
            let woken = epoll::wait(&self.epoll, &mut events, timeout.as_ref());
            self.pulse.beat();
            match woken {
                Ok((events, _)) => {
                    let events: &[epoll::Event] = events;
                    events
                        .iter()
                        .for_each(|event| self.on_event(event.data.u64()));
                }
                Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
            let knocking = std::mem::take(&mut self.knocking);
            knocking.into_iter().for_each(|id| self.knock(id));
            let now = Instant::now();
            if now >= next_tick {
                self.tick(now);
                next_tick = now + TICK;
            }
        }
        self.cut_streams();
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.refuse(pending, Failure::new(Refusal::Local, "tbot is stopping"));
        }
        if !self.resolver.stop(Duration::from_secs(1)) {
            tracing::debug!("a name look-up goes on behind the stop");
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let wait = match self.resting_until {
            _ if !self.knocking.is_empty() => KNOCK,
            Some(_) => REST,
            None if self.pending.is_empty() => return None,
            None => TICK,
        };
        Some(Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    fn on_event(&mut self, data: u64) {
        match data {
            LISTENER => {
                self.accept();
            }
            WAKE => self.take_inbox(),
            _ => match (data / STRIDE, (data % STRIDE) as usize) {
                (id, 0) => self.on_client(id),
                (id, _) if self.streams.contains_key(&id) => self.on_stream(id),
                (id, attempt) => {
                    if let Some(Stage::Opening(..)) = self.pending.get(&id).map(|p| &p.stage) {
                        return self.on_opening(id);
                    }
                    let epoll = self.epoll.as_fd();
                    if let Some(Pending {
                        stage: Stage::Dialling(dial),
                        ..
                    }) = self.pending.get_mut(&id)
                    {
                        let step = dial.ended(attempt, epoll, id * STRIDE, Instant::now());
                        self.on_step(id, step);
                    }
                }
            },
        }
    }

    fn take_inbox(&mut self) {
        for message in self.inbox.take() {
            match message {
                Message::Answer(who, answer) => {
                    who.into_iter().for_each(|id| self.on_answer(id, &answer));
                }
                Message::Places(place, who, failure) => self.on_places(place, who, failure),
                Message::StopAccepting => self.stop_accepting(),
                Message::Listen(listener) => {
                    self.stop_accepting();
                    let data = epoll::EventData::new_u64(LISTENER);
                    // What fails here for want of memory shows as connections that wait.
                    let _ = epoll::add(&self.epoll, &*listener, data, epoll::EventFlags::IN);
                    self.listener = Some(listener);
                }
                Message::Stop => {
                    self.stop_accepting();
                    self.stopping = true;
                }
            }
        }
    }

    /// Its client sent something or went away.
    fn on_client(&mut self, id: u64) {
        // Its stream may have been opened, have served it and be over: epoll tells of that in any order.
        self.on_opening(id);
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let Stage::Reading(incoming) = &mut pending.stage else {
            // Only a hang-up is watched for while the target is sought. Its user pressed ^C and
            // needs no line about that.
            pending.stderr.take().into_iter().for_each(client::close);
            return self.fail(id, Failure::new(Refusal::Gone, "the client went away"));
        };
        let malformed = |message: String| Failure::new(Refusal::Malformed, message);
        let exact = self.routes.have_bastions();
        let progress = incoming.read(pending.client.as_fd(), exact);
        if pending.stderr.is_none() {
            pending.stderr = incoming.stderr.take();
        }
        match progress {
            Ok(Progress::Incomplete) => self.watch(id, epoll::EventFlags::IN),
            Ok(Progress::Eof) | Err(_) => {
                let message = "the client closed before its request was complete";
                self.fail(id, Failure::new(Refusal::Gone, message))
            }
            Ok(_) if pending.turned_away => self.fail(id, self.limits.full()),
            Ok(Progress::TooLong) => self.fail(
                id,
                malformed(format!("the request is longer than {LONGEST} bytes")),
            ),
            Ok(Progress::Complete(bytes, head)) => match Request::parse(&bytes) {
                Err(why) => {
                    let shown =
                        String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).into_owned();
                    self.fail(id, malformed(format!("{shown:?} is no request: {why}")));
                }
                Ok(request) => {
                    pending.in_flight.record.request = String::from_utf8(bytes).ok();
                    self.on_request(id, request, head);
                }
            },
        }
    }

    fn on_request(&mut self, id: u64, request: Request, head: Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let chosen = self.routes.choose(&request);
        let asked = pending.asked.insert(Asked {
            request,
            place: None,
            at: Instant::now(),
            head,
        });
        pending.stage = Stage::Resolving;
        let place = match chosen {
            Err(failure) => return self.fail(id, failure),
            Ok((place, target)) => {
                asked.request = target;
                *asked.place.insert(place)
            }
        };
        let route = &self.routes.clusters[place];
        pending.in_flight.record.route = Some(route.clone());
        pending.deadline = asked.at + route.connect_timeout;
        if route.cluster.is_some() {
            pending.stage = Stage::Waiting;
            self.watch(id, epoll::EventFlags::empty());
            return self.seek(id);
        }
        match asked.request.host.parse::<IpAddr>() {
            Ok(address) => self.dial(id, &[SocketAddr::new(address, 0)]),
            Err(_) => self.resolver.ask(&asked.request.host, id),
        }
        // A user who gives up (^C) should not hold a place until the time-out.
        self.watch(id, epoll::EventFlags::empty());
    }

    /// Makes epoll watch the client for `flags`, and for a hang-up in any case.
    fn watch(&mut self, id: u64, flags: epoll::EventFlags) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let data = epoll::EventData::new_u64(id * STRIDE);
        let result = if std::mem::replace(&mut pending.watched, true) {
            epoll::modify(&self.epoll, &pending.client, data, flags)
        } else {
            epoll::add(&self.epoll, &pending.client, data, flags)
        };
        if let Err(error) = result {
            let message = format!("cannot watch the connection: {}", plain(error));
            self.fail(id, Failure::new(Refusal::Local, message));
        }
    }

    /// Takes out a connection whose target is reached, and tells its user.
    fn set_up(&mut self, id: u64) -> Option<Pending> {
        let mut pending = self.pending.remove(&id)?;
        if pending.watched {
            // It goes to a relay thread, or a master has it open, too, so closing does not do it.
            let _ = epoll::delete(&self.epoll, &pending.client);
        }
        // The reader of the client's stderr sees by its end that the connection is made.
        pending.stderr.take().into_iter().for_each(client::close);
        if let Some(asked) = &pending.asked {
            let took = asked.at.elapsed();
            pending.in_flight.record.connect = Some(took);
            self.shared.metrics.setup.observe(took.as_secs_f64());
        }
        Some(pending)
    }

    fn fail(&mut self, id: u64, failure: Failure) {
        if let Some(mut pending) = self.pending.remove(&id) {
            if let (Stage::Resolving, Some(asked)) = (&pending.stage, &pending.asked) {
                self.resolver.forget(&asked.request.host, id);
            }
            self.leave(id, &mut pending, &failure);
            self.refuse(pending, failure);
        }
    }

    /// Ends a connection with one line to its user and the log.
    fn refuse(&mut self, mut pending: Pending, mut failure: Failure) {
        self.turned_away -= usize::from(pending.turned_away);
        if let Some(Asked { request, .. }) = &pending.asked {
            failure.message = format!("cannot connect to {request}: {}", failure.message);
        }
        self.shared.metrics.refused(failure.reason).inc();
        // Chosen only with its way: before, there is none.
        let target = pending.asked.as_ref().map(|asked| &asked.request as _);
        let target = target.filter(|_| pending.in_flight.record.route.is_some());
        let (outcome, message) = (failure.reason.label(), format_args!("{}", failure.message));
        pending.in_flight.log(outcome, target, None, message);
        if let Some(stderr) = pending.stderr {
            tell(stderr, &failure.message);
        }
        // Counted last, after the client saw the end.
        client::hang_up(pending.client);
        drop(pending.in_flight);
    }
}
