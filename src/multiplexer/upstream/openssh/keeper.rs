//! The thread that keeps the masters of one cluster: what it waits for, and a master's way until it is ready.
//! How many there are, and how they end, is [`upkeep`](super::upkeep)'s.
//!
//! The thread is the parent of every `ssh`, which the kernel kills when it ends, however that comes.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::lease::Cluster;
use super::master::{Master, Phase, Running};
use super::pool::{Generation, Message};
use super::process::{Login, Process};
use super::upkeep::PATIENCE;
use crate::metrics::bastion::Down;
use crate::multiplexer::threads::Handle;
use crate::multiplexer::upstream::direct::{Dial, MOST_ADDRESSES, Step};
use crate::multiplexer::upstream::resolver::{Answer, Resolver};
use crate::pulse::Pulse;

/// How often a login, or an `ssh` on its way out, is looked at; a look-up or a dial, which tells of its end itself
/// and may go on for as long as a bastion is down; and everything else.
const SOON: Duration = Duration::from_millis(20);
const DIALLED: Duration = Duration::from_millis(100);
pub const TICK: Duration = Duration::from_secs(1);

/// epoll data of the inbox; that of master `id` begins with `id * STRIDE`: its stderr, then its dial.
const WAKE: u64 = 0;
pub const STRIDE: u64 = 1 + MOST_ADDRESSES as u64;

/// The state of the thread.
pub struct Keeper {
    pub(super) cluster: Arc<Cluster>,
    pub(super) login: Login,
    pub(super) dial_timeout: Duration,
    /// What its name was last known to stand for.
    pub(super) addresses: Vec<SocketAddr>,
    /// `None`: the credential is not ours.
    pub(super) credential: Option<Generation>,
    pub(super) generation: Option<u64>,
    pub(super) threads: Handle,
    pub(super) resolver: Resolver,
    pub(super) pulse: Arc<Pulse>,
    pub(super) epoll: OwnedFd,
    pub(super) masters: BTreeMap<u64, Master>,
    pub(super) last_id: u64,
    /// Told to end, and by when.
    pub(super) ending: Vec<(Process, Instant)>,
    pub(super) failures: u32,
    /// The last failure that was logged.
    pub(super) told: String,
    /// One failed or was lost since the last was ready.
    pub(super) again: bool,
    pub(super) next_start: Instant,
    pub(super) next_tick: Instant,
    pub(super) begun: bool,
    pub(super) stopping: bool,
}

impl Keeper {
    /// A thread's state, with nothing started.
    pub fn new(
        cluster: Arc<Cluster>,
        login: Login,
        dial_timeout: Duration,
        credential: Option<Generation>,
        threads: Handle,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &*cluster.inbox, wake, epoll::EventFlags::IN)?;
        let answers = cluster.inbox.clone();
        Ok(Self {
            cluster,
            login,
            dial_timeout,
            addresses: Vec::new(),
            credential,
            generation: None,
            threads,
            resolver: Resolver::new(move |who, answer| answers.send(Message::Answer(who, answer))),
            pulse: Arc::default(),
            epoll,
            masters: BTreeMap::new(),
            last_id: 0,
            ending: Vec::new(),
            failures: 0,
            told: String::new(),
            again: false,
            next_start: Instant::now(),
            next_tick: Instant::now(),
            begun: false,
            stopping: false,
        })
    }

    /// How the thread is.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// Keeps masters until [`Message::Stop`].
    #[inline(never)] // a frame with a name in profiles
    pub fn run(mut self) {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 64];
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
            if self.begun && !self.stopping {
                self.look(Instant::now());
            }
        }
        self.end_all();
        self.resolver.stop(PATIENCE);
    }

    fn timeout(&self) -> Option<Timespec> {
        if !self.begun {
            return None;
        }
        let is_urgent = |master: &Master| {
            let is_held_up = matches!(&master.phase, Phase::Ready(_, ready) if ready.is_held_up());
            matches!(&master.phase, Phase::Login(_)) || master.suspect || is_held_up
        };
        let soon = !self.ending.is_empty()
            || self.masters.values().any(is_urgent)
            // It comes soon after the start.
            || (self.credential.is_some() && self.generation.is_none());
        let to_start = self.next_start.saturating_duration_since(Instant::now());
        let wait = match soon {
            true => SOON,
            false if self.masters.values().any(Master::is_starting) => DIALLED,
            false if to_start.is_zero() => TICK,
            false => TICK.min(to_start + Duration::from_millis(1)),
        };
        Timespec::try_from(wait).ok()
    }

    fn on_event(&mut self, data: u64) {
        if data == WAKE {
            return self.take_inbox();
        }
        let (id, attempt) = (data / STRIDE, (data % STRIDE) as usize);
        let Some(master) = self.masters.get_mut(&id) else {
            return;
        };
        if let Phase::Dialling(dial, ..) = &mut master.phase {
            let step = dial.ended(attempt, self.epoll.as_fd(), id * STRIDE, Instant::now());
            return self.on_step(id, step);
        }
        let epoll = self.epoll.as_fd();
        let suspect = master.running().is_some_and(|running| {
            let mut complaints = running.complaints();
            let ended = !complaints.read();
            if ended {
                let _ = epoll::delete(epoll, complaints.as_fd());
            }
            ended
        });
        master.suspect |= suspect;
    }

    fn take_inbox(&mut self) {
        let inbox = self.cluster.inbox.clone();
        for message in inbox.take() {
            match message {
                Message::Begin => self.begun = true,
                Message::Look => {}
                Message::Answer(who, answer) => {
                    who.into_iter().for_each(|id| self.on_answer(id, &answer));
                }
                Message::LinkEnded(id) => {
                    if let Some(master) = self.masters.get_mut(&id) {
                        master.suspect = true;
                        if let Some(running) = master.running() {
                            running.tcp = None;
                        }
                    }
                }
                Message::Stop => self.stopping = true,
            }
        }
    }

    pub fn start(&mut self, generation: u64) {
        if self.again {
            self.cluster.metrics.reconnects.inc();
        }
        self.last_id += 1;
        let id = self.last_id;
        self.masters.insert(id, Master::new(generation));
        match self.login.bastion.host.parse::<IpAddr>() {
            Ok(address) => self.dial(id, &[SocketAddr::new(address, 0)]),
            Err(_) => self.resolver.ask(&self.login.bastion.host, id),
        }
    }

    pub fn on_answer(&mut self, id: u64, answer: &Answer) {
        if let Ok(addresses) = answer {
            self.addresses.clone_from(addresses);
        }
        let is_asking = |master: &Master| match &master.phase {
            Phase::Resolving => true,
            // It was where those are, and has moved.
            Phase::Dialling(_, old, _) => answer.as_ref().is_ok_and(|new| new != old),
            _ => false,
        };
        if !self.masters.get(&id).is_some_and(is_asking) {
            return;
        }
        match answer {
            Ok(addresses) => self.dial(id, addresses),
            // Who is there shows its host key.
            Err(_) if !self.addresses.is_empty() => self.dial(id, &self.addresses.clone()),
            Err(why) => self.fail(id, (Down::Name, format!("its name: {why}"))),
        }
    }

    pub fn dial(&mut self, id: u64, addresses: &[SocketAddr]) {
        let port = self.login.bastion.port;
        let Some(master) = self.masters.get_mut(&id) else {
            return;
        };
        let mut dial = Dial::new(addresses.iter().map(|address| {
            let mut address = *address;
            address.set_port(port);
            address
        }));
        let now = Instant::now();
        let step = dial.advance(self.epoll.as_fd(), id * STRIDE, now);
        master.phase = Phase::Dialling(dial, addresses.to_vec(), now);
        self.on_step(id, step);
    }

    pub fn on_step(&mut self, id: u64, step: Step) {
        use crate::metrics::Refusal;
        match step {
            Step::Waiting => {}
            Step::Failed(failure) => {
                let down = match failure.reason {
                    Refusal::Name => Down::Name,
                    Refusal::Refused => Down::Refused,
                    Refusal::Timeout => Down::Timeout,
                    Refusal::Local => Down::Local,
                    _ => Down::Unreachable,
                };
                self.fail(id, (down, failure.message));
            }
            Step::Connected(tcp, _) => {
                let (epoll, data) = (self.epoll.as_fd(), id * STRIDE);
                let running = Running::start(
                    id,
                    tcp,
                    &self.login,
                    &self.cluster,
                    &self.threads,
                    epoll,
                    data,
                );
                match (running, self.masters.get_mut(&id)) {
                    (Ok(running), Some(master)) => master.phase = Phase::Login(running),
                    (Err(problem), _) => self.fail(id, problem),
                    (Ok(_), None) => {}
                }
            }
        }
    }

    pub fn on_ready(&mut self, id: u64) {
        let Some(mut master) = self.masters.remove(&id) else {
            return;
        };
        if let Phase::Login(running) = master.phase {
            let old = running.complaints().too_old();
            if let Some(old) = old {
                master.phase = Phase::Resolving;
                self.masters.insert(id, master);
                self.ending.push((running.process, Instant::now()));
                return self.fail(id, (Down::Local, old));
            }
            running.complaints().forget();
            self.told.clear();
            let took = master.began.elapsed();
            self.cluster.metrics.handshake.observe(took.as_secs_f64());
            let ready = running.ready();
            if std::mem::take(&mut self.again) || self.last_id == 1 {
                let Cluster { name, bastion, .. } = &*self.cluster;
                tracing::info!("cluster {name}: connected to the bastion {bastion}");
            }
            master.phase = Phase::Ready(running, ready.clone());
            master.began = Instant::now();
            self.cluster.add(ready);
        }
        self.masters.insert(id, master);
    }
}
