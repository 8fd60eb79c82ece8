//! The masters of one cluster: a thread that starts them, watches over them, replaces and ends them.
//!
//! One is kept warm, and the next is started before the last is full. One that fails or is lost is tried
//! again, with pauses that double and are spread. One that logged in with a credential that was renewed
//! since is replaced, and ends when its streams have. The thread is the parent of every `ssh`, which the
//! kernel kills when it ends, however that comes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::control::Control;
use super::lease::{Cluster, Tell};
use super::master::{Master, Phase, Problem, Running};
use super::process::{Login, Process};
use crate::metrics::bastion::{ClusterMetrics, Down};
use crate::multiplexer::inbox::Inbox;
use crate::multiplexer::pulse::Pulse;
use crate::multiplexer::relay::{self, Relay};
use crate::multiplexer::upstream::direct::{Dial, MOST_ADDRESSES, Step};
use crate::multiplexer::upstream::resolver::{Answer, Resolver};

/// How often a connection on its way, or an `ssh` on its way out, is looked at; and everything else.
const SOON: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_secs(1);

/// For a login, from the connected bastion on.
const LOGIN: Duration = Duration::from_secs(30);

/// How long a master without streams is kept, if it is not the last.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// One that is lost sooner than this has not worked, and is no reason to try again at once.
const SHORT: Duration = Duration::from_secs(10);

/// Logins at once: sshd's default `MaxStartups 10:30:100` drops some from the tenth on.
const MOST_STARTING: usize = 4;

/// Masters at once, those that only wait for their last streams among them.
const MOST_MASTERS: usize = 1024;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// For an `ssh` to end by itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// epoll data of the inbox; that of master `id` begins with `id * STRIDE`: its stderr, then its dial.
const WAKE: u64 = 0;
const STRIDE: u64 = 1 + MOST_ADDRESSES as u64;

/// The number of the credential that is served now, which grows; `None` before the first.
pub type Generation = Box<dyn FnMut() -> Option<u64> + Send>;

/// What a pool is to do.
pub struct Plan {
    /// The cluster's.
    pub name: String,
    pub login: Login,
    pub control: Control,
    pub metrics: ClusterMetrics,
    /// On one master.
    pub most_streams: usize,
    /// For the look-up and the dial of the bastion.
    pub dial_timeout: Duration,
    /// `None`: the credential is not ours.
    pub credential: Option<Generation>,
    pub tell: Tell,
}

/// What the thread is told.
#[derive(Debug)]
pub enum Message {
    /// The files that `ssh` reads are there.
    Begin,
    /// More masters may be wanted, or fewer.
    Look,
    /// What a look-up brought.
    Answer(Vec<u64>, Answer),
    /// The relay has closed a master's link.
    LinkEnded(u64),
    /// End them all, and the thread.
    Stop,
}

/// A running pool. Dropped, it ends its masters.
#[derive(Debug)]
pub struct Pool {
    cluster: Arc<Cluster>,
    thread: Option<JoinHandle<()>>,
    pulse: Arc<Pulse>,
}

struct Keeper {
    cluster: Arc<Cluster>,
    login: Login,
    dial_timeout: Duration,
    /// `None`: the credential is not ours.
    credential: Option<Generation>,
    generation: Option<u64>,
    relay: Arc<Relay>,
    resolver: Resolver,
    pulse: Arc<Pulse>,
    epoll: OwnedFd,
    masters: BTreeMap<u64, Master>,
    last_id: u64,
    /// Told to end, and by when.
    ending: Vec<(Process, Instant)>,
    failures: u32,
    /// One failed or was lost since the last was ready.
    again: bool,
    next_start: Instant,
    next_tick: Instant,
    begun: bool,
    stopping: bool,
}

impl Pool {
    /// Starts the thread; it waits for [`Self::begin`].
    pub fn start(plan: Plan, relay: Arc<Relay>) -> io::Result<Self> {
        let cluster = Arc::new(Cluster {
            name: plan.name,
            bastion: plan.login.bastion.clone(),
            control: plan.control,
            metrics: plan.metrics,
            inbox: Arc::new(Inbox::new()?),
            most_streams: plan.most_streams,
            tell: plan.tell,
            state: Mutex::default(),
        });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &*cluster.inbox, wake, epoll::EventFlags::IN)?;
        let answers = cluster.inbox.clone();
        let pulse = Arc::new(Pulse::default());
        let keeper = Keeper {
            cluster: cluster.clone(),
            login: plan.login,
            dial_timeout: plan.dial_timeout,
            credential: plan.credential,
            generation: None,
            relay,
            resolver: Resolver::new(move |who, answer| answers.send(Message::Answer(who, answer))),
            pulse: pulse.clone(),
            epoll,
            masters: BTreeMap::new(),
            last_id: 0,
            ending: Vec::new(),
            failures: 0,
            again: false,
            next_start: Instant::now(),
            next_tick: Instant::now(),
            begun: false,
            stopping: false,
        };
        let thread = std::thread::Builder::new()
            .name("mux-masters".into())
            .stack_size(256 * 1024)
            .spawn(move || keeper.run())?;
        Ok(Self {
            cluster,
            thread: Some(thread),
            pulse,
        })
    }

    /// What it shares with those who open streams.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// The files that `ssh` reads are there: from now on masters are started.
    pub fn begin(&self) {
        self.cluster.inbox.send(Message::Begin);
    }

    /// Cuts every stream.
    pub fn stop(&self) {
        self.cluster.inbox.send(Message::Stop);
    }

    /// Why a stream could not be opened now: a sentence.
    pub fn problem(&self) -> Option<String> {
        let thread = self.thread.as_ref()?;
        relay::thread_problem("mux-masters", thread, &self.pulse).or_else(|| self.cluster.problem())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the hook already.
            let _ = thread.join();
        }
    }
}

impl Keeper {
    #[inline(never)] // a frame with a name in profiles
    fn run(mut self) {
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
        let soon = !self.ending.is_empty()
            || self.masters.values().any(|master| master.is_starting() || master.suspect)
            // It comes soon after the start.
            || (self.credential.is_some() && self.generation.is_none());
        let to_start = self.next_start.saturating_duration_since(Instant::now());
        let wait = match soon {
            true => SOON,
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
        if let Phase::Dialling(dial) = &mut master.phase {
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
                    }
                }
                Message::Stop => self.stopping = true,
            }
        }
    }

    /// Looks after every master, and whether more are wanted.
    fn look(&mut self, now: Instant) {
        let tick = now >= self.next_tick;
        if tick {
            self.next_tick = now + TICK;
        }
        if let Some(credential) = &mut self.credential
            && (tick || self.generation.is_none())
        {
            self.generation = credential();
        }
        self.ending.retain_mut(|(process, by)| {
            if now >= *by {
                process.end(Signal::KILL);
            }
            let ended = process.ended().is_some();
            if ended {
                self.cluster.control.remove(&process.name);
            }
            !ended
        });
        let ids: Vec<u64> = self.masters.keys().copied().collect();
        ids.into_iter()
            .for_each(|id| self.look_after(id, now, tick));
        self.replace_and_trim(now, tick);
        self.start_wanted(now);
        let count = |is: fn(&Phase) -> bool| {
            self.masters
                .values()
                .filter(|master| is(&master.phase))
                .count() as i64
        };
        let (ready, retiring) = (
            count(|phase| matches!(phase, Phase::Ready(..))),
            count(|phase| matches!(phase, Phase::Retiring(..))),
        );
        let metrics = &self.cluster.metrics;
        metrics.ready.set(ready);
        metrics.retiring.set(retiring);
        metrics
            .starting
            .set(self.masters.len() as i64 - ready - retiring);
    }

    fn look_after(&mut self, id: u64, now: Instant, tick: bool) {
        let Some(master) = self.masters.get_mut(&id) else {
            return;
        };
        let age = now.saturating_duration_since(master.began);
        let late = |what: &str, limit: Duration| {
            let problem = format!("{what} within {limit:?}");
            (age >= limit).then_some((Down::Timeout, problem))
        };
        let suspect = master.suspect || tick || master.is_starting();
        let problem = match &mut master.phase {
            Phase::Resolving => late("its name was not resolved", self.dial_timeout),
            Phase::Dialling(dial) if age >= self.dial_timeout => {
                Some((Down::Timeout, dial.timed_out(self.dial_timeout).message))
            }
            Phase::Dialling(dial) => {
                let step = dial.advance(self.epoll.as_fd(), id * STRIDE, now);
                return self.on_step(id, step);
            }
            Phase::Login(running) => {
                let ended = running.ended();
                if ended.is_none() && self.cluster.control.connect(&running.process.name).is_ok() {
                    return self.on_ready(id);
                }
                ended.or_else(|| late("there was no login", self.dial_timeout + LOGIN))
            }
            Phase::Ready(running, ready) if ready.is_retiring() => {
                // A stream found it so, and the process may not be quite gone.
                let gone = || (Down::Lost, "ssh does not listen any more".into());
                Some(running.ended().unwrap_or_else(gone))
            }
            Phase::Ready(running, _) | Phase::Retiring(running, _) if suspect => running.ended(),
            Phase::Retiring(_, ready) if ready.streams() == 0 => return self.end(id),
            _ => None,
        };
        if let Some(problem) = problem {
            self.fail(id, problem);
        }
    }

    /// Retires masters with an old credential once there is one with the new, and idle ones.
    fn replace_and_trim(&mut self, now: Instant, tick: bool) {
        let load = self.cluster.load();
        let mut spare = load.ready.saturating_sub(self.cluster.wanted(load));
        let fresh = self.generation.unwrap_or(0);
        let is_fresh = |master: &Master| {
            matches!(master.phase, Phase::Ready(..)) && master.generation == fresh
        };
        let has_fresh = self.masters.values().any(is_fresh);
        for master in self.masters.values_mut() {
            let Phase::Ready(_, ready) = &master.phase else {
                continue;
            };
            if tick {
                let idle = master.idle.unwrap_or(now);
                master.idle = (!ready.was_used()).then_some(idle);
            }
            let long_idle = master.idle.is_some_and(|since| now - since >= IDLE);
            let old = has_fresh && master.generation != fresh;
            if !old && (spare == 0 || !long_idle) {
                continue;
            }
            spare = spare.saturating_sub(1);
            self.cluster.retire(ready);
            if let Phase::Ready(running, ready) =
                std::mem::replace(&mut master.phase, Phase::Resolving)
            {
                master.phase = Phase::Retiring(running, ready);
            }
        }
        let over = |master: &&Master| matches!(&master.phase, Phase::Retiring(_, ready) if ready.streams() == 0);
        let over: Vec<u64> = self
            .masters
            .iter()
            .filter(|(_, master)| over(master))
            .map(|(id, _)| *id)
            .collect();
        over.into_iter().for_each(|id| self.end(id));
    }

    fn start_wanted(&mut self, now: Instant) {
        if now < self.next_start || (self.credential.is_some() && self.generation.is_none()) {
            return;
        }
        let load = self.cluster.load();
        let generation = self.generation.unwrap_or(0);
        let starting = self
            .masters
            .values()
            .filter(|master| master.is_starting())
            .count();
        let is_current = |master: &&Master| {
            master.generation == generation && !matches!(master.phase, Phase::Retiring(..))
        };
        let mut wanted = self
            .cluster
            .wanted(load)
            .saturating_sub(load.ready + starting);
        if !self.masters.values().any(|master| is_current(&master)) {
            // The first, or one for all that have an old credential.
            wanted = wanted.max(1);
        }
        for _ in starting..MOST_STARTING.min(starting + wanted) {
            if self.masters.len() < MOST_MASTERS {
                self.start(generation);
            }
        }
    }

    fn start(&mut self, generation: u64) {
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

    fn on_answer(&mut self, id: u64, answer: &Answer) {
        match answer {
            Ok(addresses) => self.dial(id, addresses),
            Err(why) => self.fail(id, (Down::Name, format!("its name: {why}"))),
        }
    }

    fn dial(&mut self, id: u64, addresses: &[SocketAddr]) {
        let port = self.login.bastion.port;
        let Some(master) = self.masters.get_mut(&id) else {
            return;
        };
        let mut dial = Dial::new(addresses.iter().map(|address| {
            let mut address = *address;
            address.set_port(port);
            address
        }));
        let step = dial.advance(self.epoll.as_fd(), id * STRIDE, Instant::now());
        master.phase = Phase::Dialling(dial);
        self.on_step(id, step);
    }

    fn on_step(&mut self, id: u64, step: Step) {
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
            Step::Connected(tcp) => {
                let (epoll, data) = (self.epoll.as_fd(), id * STRIDE);
                let running = Running::start(
                    id,
                    tcp,
                    &self.login,
                    &self.cluster,
                    &self.relay,
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

    fn on_ready(&mut self, id: u64) {
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

    /// Ends a master that nobody needs.
    fn end(&mut self, id: u64) {
        if let Some(Master {
            phase: Phase::Login(running) | Phase::Ready(running, _) | Phase::Retiring(running, _),
            ..
        }) = self.masters.remove(&id)
        {
            running.process.end(Signal::TERM);
            self.ending
                .push((running.process, Instant::now() + PATIENCE));
        }
    }

    /// A master could not be had, or was lost.
    fn fail(&mut self, id: u64, (down, problem): Problem) {
        let Some(master) = self.masters.get(&id) else {
            return;
        };
        let (was_ready, lived) = (!master.is_starting(), master.began.elapsed());
        let retiring = matches!(master.phase, Phase::Retiring(..));
        if let Phase::Ready(_, ready) = &master.phase {
            self.cluster.retire(ready);
        }
        if matches!(master.phase, Phase::Resolving) {
            self.resolver.forget(&self.login.bastion.host, id);
        }
        self.end(id);
        let Cluster {
            name,
            bastion,
            metrics,
            ..
        } = &*self.cluster;
        metrics.connect_failed(down).inc();
        let what = match was_ready {
            true => format!("the connection to the bastion {bastion} was lost"),
            false => format!("no connection to the bastion {bastion}"),
        };
        let sentence = format!("cluster {name}: {what}: {problem}");
        tracing::warn!("{sentence}");
        if retiring {
            return;
        }
        self.again = true;
        if lived >= SHORT && was_ready {
            self.failures = 0;
            self.next_start = Instant::now();
        } else {
            self.next_start = Instant::now() + pause(self.failures);
            self.failures = self.failures.saturating_add(1);
        }
        match was_ready {
            // It has worked: who comes waits for the next one.
            true => self.cluster.lost(sentence),
            false => self.cluster.fail(down, &sentence),
        }
    }

    fn end_all(&mut self) {
        let ids: Vec<u64> = self.masters.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.ending.is_empty() {
            self.ending
                .retain_mut(|(process, _)| process.ended().is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        // Those who are left are killed.
        self.ending.clear();
    }
}

/// After so many failures; half to one and a half of it, so that many tbots that lost one bastion do not come
/// back together.
fn pause(failures: u32) -> Duration {
    let share = RandomState::new().hash_one(failures) as f64 / u64::MAX as f64;
    let doubled = FIRST_PAUSE * 2_u32.pow(failures.min(6));
    doubled.min(LAST_PAUSE).mul_f64(0.5 + share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        for failures in [0, 1, 5, 6, 40, u32::MAX] {
            let middle = (FIRST_PAUSE * 2_u32.pow(failures.min(6))).min(LAST_PAUSE);
            assert!((middle / 2..=middle * 3 / 2).contains(&pause(failures)));
        }
    }
}
