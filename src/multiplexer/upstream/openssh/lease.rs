//! What a cluster's pool shares with the threads that serve: masters that take streams, a [`Lease`] of a place
//! on one, and those who wait for a place.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::Bastion;
use super::complaints::Complaints;
use super::control::Control;
use super::pool::Message;
use crate::metrics::Refusal;
use crate::metrics::bastion::{ClusterMetrics, Down};
use crate::multiplexer::inbox::Inbox;
use crate::multiplexer::upstream::Failure;

/// The flags of an exiting process in /proc/PID/stat (PF_EXITING in the kernel's sched.h). It is set before
/// any descriptor of the process is closed.
const EXITING: u64 = 4;

/// Tells those who waited that there is a place, or why there is none.
pub type Tell = Box<dyn Fn(Vec<u64>, Option<Failure>) + Send + Sync>;

/// One cluster behind its bastion.
pub struct Cluster {
    pub name: String,
    /// Among those of the multiplexer, which share the directory of control sockets.
    pub place: usize,
    pub bastion: Bastion,
    pub control: Arc<Control>,
    pub metrics: ClusterMetrics,
    pub inbox: Arc<Inbox<Message>>,
    pub most_streams: usize,
    pub tell: Tell,
    pub state: Mutex<State>,
}

/// Who is ready, and who waits.
#[derive(Default)]
pub struct State {
    ready: Vec<Arc<Ready>>,
    waiting: BTreeSet<u64>,
    /// Why there is none, since the last attempt at one.
    down: Option<Failure>,
    /// How the last was lost, or the last attempt at one more failed, until one succeeds.
    lost: Option<String>,
}

/// A master that streams are on.
#[derive(Debug)]
pub struct Ready {
    /// Its control socket.
    pub name: String,
    /// Its process.
    pub pid: u32,
    pub complaints: Arc<Mutex<Complaints>>,
    /// The bastion has ended its link.
    pub down: Arc<AtomicBool>,
    streams: AtomicUsize,
    /// There was a stream since this was looked at.
    used: AtomicBool,
    /// It takes no more.
    retiring: AtomicBool,
    /// The bastion acknowledges nothing just now.
    held_up: AtomicBool,
    /// The bastion has let it connect somewhere, or try to.
    forwards: AtomicBool,
    prohibited: AtomicBool,
}

/// A place on a master, given back when dropped.
pub struct Lease {
    cluster: Arc<Cluster>,
    master: Arc<Ready>,
}

/// What came of asking for a place.
pub enum Taken {
    /// Here it is.
    Lease(Lease),
    /// Who asked will be told.
    Wait,
    /// There is none, and why.
    Failed(Failure),
}

/// How much is going on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub ready: usize,
    /// Streams on those that are ready, and those who wait for a place.
    pub streams: usize,
}

impl Cluster {
    /// A place on the least loaded master, in the name of `who`.
    pub fn take(self: &Arc<Self>, who: u64) -> Taken {
        let mut state = self.lock();
        state.waiting.remove(&who);
        let open = state
            .usable()
            .filter(|master| master.streams() < self.most_streams);
        if let Some(master) = open.min_by_key(|master| master.streams()) {
            let master = master.clone();
            master.streams.fetch_add(1, Ordering::Relaxed);
            master.used.store(true, Ordering::Relaxed);
            let load = state.load();
            drop(state);
            self.metrics.streams.inc();
            if self.wanted(load) > load.ready {
                self.inbox.send(Message::Look);
            }
            return Taken::Lease(Lease {
                cluster: self.clone(),
                master,
            });
        }
        if let (None, Some(down)) = (state.usable().next(), &state.down) {
            return Taken::Failed(down.clone());
        }
        state.waiting.insert(who);
        drop(state);
        self.inbox.send(Message::Look);
        Taken::Wait
    }

    /// Tells the next who waits, if there is a place.
    pub fn offer(&self) {
        let mut state = self.lock();
        let has_room = |master: &Arc<Ready>| master.streams() < self.most_streams;
        let is_room = state.usable().any(has_room);
        let next = match is_room {
            true => state.waiting.pop_first(),
            false => None,
        };
        drop(state);
        if let Some(who) = next {
            (self.tell)(vec![who], None);
        }
    }

    /// `who` waits no longer.
    pub fn forget(&self, who: u64) {
        self.lock().waiting.remove(&who);
    }

    /// How many masters there should be for that load: the next before the last is full, and one in any case.
    pub fn wanted(&self, load: Load) -> usize {
        wanted(load.streams, self.most_streams)
    }

    pub fn load(&self) -> Load {
        self.lock().load()
    }

    /// One more is ready.
    pub fn add(&self, master: Arc<Ready>) {
        let mut state = self.lock();
        state.ready.push(master);
        self.serve(state);
    }

    /// The bastion acknowledges nothing of what this one sends, or does again.
    pub fn hold_up(&self, master: &Ready, is_held_up: bool) {
        let state = self.lock();
        master.held_up.store(is_held_up, Ordering::Relaxed);
        if !is_held_up {
            self.serve(state);
        }
    }

    fn serve(&self, mut state: MutexGuard<'_, State>) {
        (state.down, state.lost) = (None, None);
        let mut served = Vec::new();
        while served.len() < self.most_streams
            && let Some(who) = state.waiting.pop_first()
        {
            served.push(who);
        }
        drop(state);
        (self.tell)(served, None);
    }

    /// No more streams on this one.
    pub fn retire(&self, master: &Arc<Ready>) {
        master.retiring.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.ready.retain(|ready| !Arc::ptr_eq(ready, master));
    }

    /// An attempt failed, and there will be no other at once: if none is ready, those who wait are told, and
    /// those who come.
    pub fn fail(&self, reason: Down, sentence: &str) {
        let failure = Failure::new(reason.refusal(), sentence);
        let mut state = self.lock();
        if state.usable().next().is_some() {
            state.lost = Some(failure.message);
            return;
        }
        state.down = Some(failure.clone());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        (self.tell)(waiting.into_iter().collect(), Some(failure));
    }

    /// A master was lost, and there will be another attempt soon.
    pub fn lost(&self, sentence: String) {
        let mut state = self.lock();
        (state.down, state.lost) = (None, Some(sentence));
    }

    /// Why a stream could not be opened now: a sentence.
    pub fn problem(&self) -> Option<String> {
        let state = self.lock();
        let Self { name, bastion, .. } = self;
        if state.usable().next().is_none() {
            let down = state.down.as_ref().map(|down| down.message.clone());
            let now = || match state.ready.is_empty() {
                true => format!("cluster {name}: connecting to the bastion {bastion}"),
                false => format!("cluster {name}: the bastion {bastion} does not answer just now"),
            };
            return down.or_else(|| state.lost.clone()).or_else(|| Some(now()));
        }
        let forbids = |master: &Arc<Ready>| {
            master.prohibited.load(Ordering::Relaxed) && !master.forwards.load(Ordering::Relaxed)
        };
        state.usable().all(forbids).then(|| {
            format!(
                "cluster {name}: the bastion {bastion} forwards nothing for us (AllowTcpForwarding and PermitOpen \
                 there, or a certificate without permit-port-forwarding)"
            )
        })
    }

    /// Why somebody has waited in vain: a sentence.
    pub fn problem_of_waiting(&self) -> String {
        let full = || {
            let Self { name, bastion, .. } = self;
            format!(
                "cluster {name}: the connections to the bastion {bastion} are full, and there is no other yet"
            )
        };
        let problem = self.problem().or_else(|| self.lock().lost.clone());
        problem.unwrap_or_else(full)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Those that a stream may be asked of.
    fn usable(&self) -> impl Iterator<Item = &Arc<Ready>> {
        self.ready.iter().filter(|master| !master.is_held_up())
    }

    fn load(&self) -> Load {
        let on_masters: usize = self.usable().map(|master| master.streams()).sum();
        Load {
            ready: self.usable().count(),
            streams: on_masters + self.waiting.len(),
        }
    }
}

impl Ready {
    pub fn new(
        name: String,
        pid: u32,
        complaints: Arc<Mutex<Complaints>>,
        down: Arc<AtomicBool>,
    ) -> Self {
        Self {
            name,
            pid,
            complaints,
            down,
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            held_up: AtomicBool::new(false),
            forwards: AtomicBool::new(false),
            prohibited: AtomicBool::new(false),
        }
    }

    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether it takes no more.
    pub fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Relaxed)
    }

    /// Whether the bastion acknowledges nothing of it just now.
    pub fn is_held_up(&self) -> bool {
        self.held_up.load(Ordering::Relaxed)
    }

    /// Whether there was a stream since the last time this was asked, or is.
    pub fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed) || self.streams() > 0
    }

    /// Whether it is ending, as its bastion did or by itself. Seen before its control connections close, so
    /// that one that has closed can be told from a stream's own end.
    fn is_ending(&self) -> bool {
        if self.down.load(Ordering::Acquire) {
            return true;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            // No such process, or no /proc to ask.
            return std::path::Path::new("/proc/self").exists();
        };
        // Behind the name, in parentheses: state, six numbers, flags (proc_pid_stat(5)).
        let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let flags = words
            .split_whitespace()
            .nth(6)
            .and_then(|word| word.parse().ok());
        flags.is_none_or(|flags: u64| flags & EXITING != 0)
    }
}

impl Lease {
    /// A connection to ask for a stream by.
    pub fn connect(&self) -> Result<OwnedFd, Errno> {
        self.cluster.control.connect(&self.master.name)
    }

    /// Nothing listens there any more: nobody else is to find that out.
    pub fn bury(self) {
        self.cluster.retire(&self.master);
    }

    /// The stream was opened, within so long.
    pub fn opened(&self, took: Duration) {
        self.master.forwards.store(true, Ordering::Relaxed);
        self.cluster.metrics.opens.inc();
        self.cluster.metrics.open_time.observe(took.as_secs_f64());
    }

    /// Why the stream to `host` and `port` was refused.
    pub fn refusal(&self, host: &str, port: u16) -> Failure {
        let complaints = self.master.complaints.lock();
        let mut complaints = complaints.unwrap_or_else(PoisonError::into_inner);
        let failure = complaints.refusal(host, port);
        let seen = match failure.reason {
            Refusal::Prohibited => &self.master.prohibited,
            _ => &self.master.forwards,
        };
        seen.store(true, Ordering::Relaxed);
        failure
    }

    /// Whether a stream that has ended was cut off.
    pub fn is_broken(&self) -> bool {
        self.master.is_ending()
    }

    /// What happened then.
    pub fn lost(&self) -> Failure {
        let Cluster { name, bastion, .. } = &*self.cluster;
        let message = format!("cluster {name}: the connection to the bastion {bastion} was lost");
        Failure::new(Refusal::BastionDown, message)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.cluster.metrics.streams.dec();
        let left = self.master.streams.fetch_sub(1, Ordering::Relaxed) - 1;
        if !self.master.is_retiring() {
            self.cluster.offer();
        } else if left == 0 {
            self.cluster.inbox.send(Message::Look);
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn wanted(streams: usize, most: usize) -> usize {
    (streams * 5).div_ceil(most * 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_wanted_before_the_last_is_full() {
        for (streams, most, expected) in [
            (0, 100, 1),
            (80, 100, 1),
            (81, 100, 2),
            (160, 100, 2),
            (161, 100, 3),
            (10_000, 100, 125),
            (1, 1, 2),
            (0, 1, 1),
        ] {
            assert_eq!(wanted(streams, most), expected, "{streams} of {most}");
        }
    }
}
