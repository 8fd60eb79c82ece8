//! The threads that serve connections, one per core, and what others tell them.
//!
//! Each accepts, sets up and relays, waiting on one epoll(7) instance. A connection stays with the thread that
//! accepted it unless another one relays fewer, since to hand it over wakes another core: a relay that always did
//! opened three quarters of the connections a second (measured on 2 cores, 8 clients).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::counts::Shared;
use super::destination::Socket;
use super::inbox::Inbox;
use super::limits::Limits;
use super::relay::{Pair, Pairs};
use super::routes::Routes;
use super::setup::Setup;
use super::upstream::Failure;
use super::upstream::resolver::{Answer, Resolver};
use crate::metrics::IntCounter;
use crate::pulse::{self, Pulse};

/// epoll data of the two descriptors that are no connection's.
const WAKE: u64 = u64::MAX;
pub const LISTENER: u64 = u64::MAX - 1;

/// Set in the data of sockets that are relayed, and in no other's.
pub const RELAYED: u64 = 1 << 63;

/// How long a look-up that goes on may keep the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is told.
#[derive(Debug)]
pub enum Message {
    /// Relay these.
    Relay(Pair),
    /// What a look-up brought, for those who asked.
    Answer(Vec<u64>, Answer),
    /// There is a place on masters of the cluster at this place for those who waited, or why there is none.
    Places(usize, Vec<u64>, Option<Failure>),
    /// Accept nothing more.
    StopAccepting,
    /// Accept from this socket instead of the one before.
    Listen(Arc<Socket>),
    /// End all connections, also those that are being set up.
    Close,
    /// End the thread.
    Stop,
}

/// How others tell the threads.
#[derive(Clone, Debug)]
pub struct Handle {
    all: Arc<[Mailbox]>,
}

/// What one thread shares with those who tell it something.
#[derive(Debug)]
struct Mailbox {
    inbox: Inbox<Message>,
    /// How many it relays.
    pairs: AtomicUsize,
    pulse: Pulse,
}

impl Handle {
    /// That of so many threads, which are not there yet.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mailbox = |_| {
            Ok(Mailbox {
                inbox: Inbox::new()?,
                pairs: AtomicUsize::new(0),
                pulse: Pulse::default(),
            })
        };
        let all = (0..threads.max(1)).map(mailbox).collect::<io::Result<_>>();
        all.map(|all| Self { all })
    }

    /// Hands a pair to the thread with the fewest.
    pub fn relay(&self, pair: Pair) {
        self.give(self.least(), pair);
    }

    /// Tells each thread which connections of its own are meant.
    pub fn tell(&self, who: &[u64], message: impl Fn(Vec<u64>) -> Message) {
        for (number, mailbox) in self.all.iter().enumerate() {
            let is_its = |id: &u64| (*id % self.all.len() as u64) as usize == number;
            let its: Vec<u64> = who.iter().copied().filter(is_its).collect();
            if !its.is_empty() {
                mailbox.inbox.send(message(its));
            }
        }
    }

    /// Tells all of them.
    pub fn tell_all(&self, message: impl Fn() -> Message) {
        self.all.iter().for_each(|one| one.inbox.send(message()));
    }

    /// Which thread relays the fewest, of those that do not hang.
    fn least(&self) -> usize {
        let all = self.all.iter().enumerate();
        let least =
            all.min_by_key(|(_, one)| (one.pulse.stall(), one.pairs.load(Ordering::Relaxed)));
        least.expect("there is at least one thread").0
    }

    fn give(&self, number: usize, pair: Pair) {
        self.all[number].pairs.fetch_add(1, Ordering::Relaxed);
        self.all[number].inbox.send(Message::Relay(pair));
    }
}

/// What all threads serve by.
pub struct Plan {
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub listener: Arc<Socket>,
    pub routes: Arc<Routes>,
}

/// The running threads. Dropped, they close every connection and end.
pub struct Threads {
    handle: Handle,
    resolver: Resolver,
    all: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts those of `handle`.
    pub fn start(handle: Handle, plan: &Plan) -> io::Result<Self> {
        let answers = handle.clone();
        let resolver = Resolver::new(move |who, answer| {
            answers.tell(&who, |who| Message::Answer(who, answer.clone()));
        });
        // From here on an error drops it, which joins what was started.
        let mut threads = Self {
            handle,
            resolver,
            all: Vec::new(),
        };
        for number in 0..threads.handle.all.len() {
            let worker = Worker::new(number, &threads, plan)?;
            let thread = std::thread::Builder::new()
                .name(format!("mux-{number}"))
                .stack_size(256 * 1024);
            threads.all.push(thread.spawn(move || worker.run())?);
        }
        Ok(threads)
    }

    /// Those who tell them something.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Why a connection might not be served.
    pub fn problem(&self) -> Option<String> {
        let mut all = self.all.iter().zip(&*self.handle.all).enumerate();
        all.find_map(|(number, (thread, mailbox))| {
            let name = format!("mux-{number}");
            pulse::problem(&name, thread, &mailbox.pulse, || mailbox.inbox.wake())
        })
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.handle.tell_all(|| Message::Stop);
        for thread in self.all.drain(..) {
            // A panic was reported by the hook already.
            let _ = thread.join();
        }
        if !self.resolver.stop(PATIENCE) {
            tracing::debug!("a name look-up goes on behind the stop");
        }
    }
}

/// One thread.
struct Worker {
    number: usize,
    handle: Handle,
    epoll: Arc<OwnedFd>,
    setup: Setup,
    pairs: Pairs,
    sent: IntCounter,
    received: IntCounter,
    /// Whatever still comes is closed, too.
    closed: bool,
    stopping: bool,
}

impl Worker {
    fn new(number: usize, threads: &Threads, plan: &Plan) -> io::Result<Self> {
        let handle = threads.handle.clone();
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        epoll::add(
            &epoll,
            &handle.all[number].inbox,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let metrics = &plan.shared.metrics;
        Ok(Self {
            number,
            setup: Setup::new(
                plan,
                (number, handle.all.len()),
                epoll.clone(),
                threads.resolver.clone(),
            )?,
            pairs: Pairs::new(epoll.clone()),
            sent: metrics.sent.clone(),
            received: metrics.received.clone(),
            handle,
            epoll,
            closed: false,
            stopping: false,
        })
    }

    #[inline(never)] // a frame with a name in profiles
    fn run(mut self) {
        let handle = self.handle.clone();
        let mailbox = &handle.all[self.number];
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 256];
        while !self.stopping {
            let timeout = self.timeout();
            if timeout != Some(Duration::ZERO) {
                mailbox.pulse.rest();
            }
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let woken = epoll::wait(&self.epoll, &mut events, timeout.as_ref());
            mailbox.pulse.beat();
            match woken {
                Ok((events, _)) => {
                    let events: &[epoll::Event] = events;
                    for event in events {
                        match event.data.u64() {
                            WAKE => self.take_inbox(&mailbox.inbox),
                            LISTENER => self.setup.on_listener(),
                            data if data & RELAYED != 0 => self.pairs.note(data, event.flags),
                            data => self.setup.on_event(data),
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
            self.setup.keep_time();
            for pair in self.setup.made() {
                self.place(pair, mailbox);
            }
            if self.closed {
                self.setup.close();
                self.pairs.close_all();
            }
            let (sent, received, ended) = self.pairs.pump();
            // Counted once a round: the counters are shared by all threads.
            self.sent.inc_by(sent);
            self.received.inc_by(received);
            mailbox.pairs.fetch_sub(ended, Ordering::Relaxed);
        }
    }

    /// How long there is nothing to do unless something happens.
    fn timeout(&self) -> Option<Duration> {
        let all = [self.setup.timeout(), self.pairs.timeout()];
        all.into_iter().flatten().min()
    }

    /// Relays a pair here, unless another thread has fewer.
    fn place(&mut self, pair: Pair, mailbox: &Mailbox) {
        let pairs = |number: usize| self.handle.all[number].pairs.load(Ordering::Relaxed);
        let number = self.handle.least();
        if pairs(number) < pairs(self.number) {
            return self.handle.give(number, pair);
        }
        mailbox.pairs.fetch_add(1, Ordering::Relaxed);
        self.pairs.add(pair);
    }

    fn take_inbox(&mut self, inbox: &Inbox<Message>) {
        for message in inbox.take() {
            match message {
                Message::Relay(pair) => self.pairs.add(pair),
                Message::Answer(who, answer) => self.setup.on_answers(who, &answer),
                Message::Places(place, who, failure) => self.setup.on_places(place, who, failure),
                Message::StopAccepting => self.setup.stop_accepting(),
                Message::Listen(listener) => self.setup.listen(listener),
                Message::Close => self.closed = true,
                Message::Stop => (self.closed, self.stopping) = (true, true),
            }
        }
    }
}
