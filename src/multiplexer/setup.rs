//! From an accepted connection to a pair for the relay, on each thread for those that it accepted; nothing in it
//! blocks.
//!
//! It accepts, reads requests, starts look-ups and dials, and keeps every deadline, so that a client
//! or target that does nothing costs an entry in a map.

mod accept;
mod bastion;
mod deadlines;
mod direct;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use self::bastion::Stream;
use super::client;
use super::counts::{InFlight, Place, Shared};
use super::destination::Socket;
use super::limits::Limits;
use super::relay::Pair;
use super::request::{Incoming, LONGEST, Progress, Request};
use super::routes::Routes;
use super::tell::tell;
use super::threads::{LISTENER, Plan};
use super::upstream::Failure;
use super::upstream::direct::{Dial, MOST_ADDRESSES};
use super::upstream::openssh::lease::Lease;
use super::upstream::openssh::mux::Opening;
use super::upstream::resolver::Resolver;
use crate::errors::plain;
use crate::metrics::Refusal;

/// How often deadlines are looked at while any connection is being set up.
const TICK: Duration = Duration::from_millis(50);

/// How often a master whose queue is full is knocked at again: it takes 64 connections in one go.
const KNOCK: Duration = Duration::from_millis(2);

/// How long the listener rests when the process has no descriptor left: to try again at once would
/// spin, as the connection stays in the queue.
const REST: Duration = Duration::from_millis(20);

/// epoll data of connection `id` begin with `id * STRIDE`: its client, then its dial's attempts, or its control
/// connection.
const STRIDE: u64 = 1 + MOST_ADDRESSES as u64;

/// What a thread is setting up, and the streams that masters carry for it.
pub struct Setup {
    shared: Arc<Shared>,
    limits: Limits,
    resolver: Resolver,
    epoll: Arc<OwnedFd>,
    listener: Option<Arc<Socket>>,
    resting_until: Option<Instant>,
    next_tick: Instant,
    routes: Arc<Routes>,
    pending: HashMap<u64, Pending>,
    /// Connections that masters carry, and those left to them.
    streams: HashMap<u64, Stream>,
    knocking: Vec<u64>,
    made: Vec<Pair>,
    number: u64,
    threads: u64,
}

/// A connection that is not relayed yet.
struct Pending {
    client: OwnedFd,
    watched: bool,
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
    /// Begins to serve, as the thread with that number, of so many.
    pub fn new(
        plan: &Plan,
        (number, threads): (usize, usize),
        epoll: Arc<OwnedFd>,
        resolver: Resolver,
    ) -> io::Result<Self> {
        let setup = Self {
            shared: plan.shared.clone(),
            limits: plan.limits.clone(),
            resolver,
            epoll,
            listener: Some(plan.listener.clone()),
            resting_until: None,
            next_tick: Instant::now(),
            routes: plan.routes.clone(),
            pending: HashMap::new(),
            streams: HashMap::new(),
            knocking: Vec::new(),
            made: Vec::new(),
            number: number as u64,
            threads: threads as u64,
        };
        setup.watch_listener()?;
        Ok(setup)
    }

    /// How long there is nothing to do unless something happens.
    pub fn timeout(&self) -> Option<Duration> {
        match self.resting_until {
            _ if !self.knocking.is_empty() => Some(KNOCK),
            Some(_) => Some(REST),
            None if self.pending.is_empty() => None,
            None => Some(TICK),
        }
    }

    /// Something happened to what belongs to a connection.
    pub fn on_event(&mut self, data: u64) {
        match (data / STRIDE, (data % STRIDE) as usize) {
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
        }
    }

    /// Those whose targets have been reached, to be relayed.
    pub fn made(&mut self) -> Vec<Pair> {
        std::mem::take(&mut self.made)
    }

    /// Ends all of it.
    pub fn close(&mut self) {
        self.stop_accepting();
        self.cut_streams();
        let pending: Vec<u64> = self.pending.keys().copied().collect();
        for id in pending {
            self.fail(id, Failure::new(Refusal::Local, "tbot is stopping"));
        }
        // What masters have not answered yet.
        self.cut_streams();
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
            Ok(_) if pending.in_flight.place == Place::TurnedAway => {
                self.fail(id, self.limits.full())
            }
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
            // It goes to the relay, or a master has it open, too, so closing does not do it.
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
