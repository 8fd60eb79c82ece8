//! Names to addresses, by the system's resolver (getaddrinfo(3)), which blocks.
//!
//! So it runs on threads of its own: started when needed, at most [`MOST_THREADS`], ended after a
//! while without work. Requests for a name that is being looked up wait for that look-up, so a name
//! server that does not answer for one name holds one thread, however many connections ask. A name
//! that nobody waits for any more is not looked up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::errors::plain;

/// Look-ups at once. The C library gives up on a silent name server after 10 s or so by default.
const MOST_THREADS: usize = 32;

/// How long a thread waits for the next look-up.
const LINGER: Duration = Duration::from_secs(5);

/// What a look-up brought: addresses with port 0 (an IPv6 one keeps its zone), or the resolver's
/// own words.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// How those who asked are told.
type Tell = Box<dyn Fn(Vec<u64>, Answer) + Send + Sync>;

/// The look-up threads. Clones share them.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    answer: Tell,
}

#[derive(Default)]
struct State {
    /// In the order they were asked for.
    queue: BTreeMap<u64, String>,
    last_place: u64,
    /// Names that are queued or being looked up.
    asked: HashMap<String, Asked>,
    threads: usize,
    idle: usize,
    started: u64,
    stopping: bool,
}

struct Asked {
    /// In the queue.
    place: u64,
    /// Those who wait for the answer.
    waiting: BTreeSet<u64>,
}

impl Resolver {
    /// A resolver that calls `answer` with everyone who asked, on a thread of its own.
    pub fn new(answer: impl Fn(Vec<u64>, Answer) + Send + Sync + 'static) -> Self {
        let answer = Box::new(answer);
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
                answer,
            }),
        }
    }

    /// Asks for the addresses of `host` in the name of `who`.
    pub fn ask(&self, host: &str, who: u64) {
        let mut state = self.shared.lock();
        if let Some(asked) = state.asked.get_mut(host) {
            asked.waiting.insert(who);
            return;
        }
        state.last_place += 1;
        let place = state.last_place;
        let waiting = BTreeSet::from([who]);
        let asked = Asked { place, waiting };
        state.asked.insert(host.to_owned(), asked);
        state.queue.insert(place, host.to_owned());
        if state.idle >= state.queue.len() || state.threads >= MOST_THREADS {
            return self.shared.changed.notify_one();
        }
        state.threads += 1;
        state.started += 1;
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("mux-resolve-{}", state.started))
            // Enough for the buffers that getaddrinfo and its plug-ins put on the stack.
            .stack_size(512 * 1024)
            .spawn(move || shared.run());
        if let Err(error) = spawned {
            state.threads -= 1;
            if state.threads == 0 {
                let waiting = state.answered(host);
                state.queue.clear();
                drop(state);
                (self.shared.answer)(
                    waiting,
                    Err(format!(
                        "cannot start a thread to look it up: {}",
                        plain(error)
                    )),
                );
            }
        }
    }

    /// Takes back what was asked in the name of `who`.
    pub fn forget(&self, host: &str, who: u64) {
        let mut state = self.shared.lock();
        let Some(asked) = state.asked.get_mut(host) else {
            return;
        };
        asked.waiting.remove(&who);
        let place = asked.place;
        // One that is being looked up stays, for those who ask before the answer.
        if asked.waiting.is_empty() && state.queue.remove(&place).is_some() {
            state.asked.remove(host);
        }
    }

    /// Ends the threads; true if all ended within `patience`. One that is in a look-up ends with it.
    pub fn stop(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        state.stopping = true;
        self.shared.changed.notify_all();
        let ended = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |state| state.threads > 0);
        ended.unwrap_or_else(PoisonError::into_inner).0.threads == 0
    }
}

impl State {
    /// Those who waited for `host`.
    fn answered(&mut self, host: &str) -> Vec<u64> {
        let asked = self.asked.remove(host);
        asked.map_or_else(Vec::new, |asked| asked.waiting.into_iter().collect())
    }
}

impl Shared {
    #[inline(never)] // a frame with a name in profiles
    fn run(&self) {
        let mut state = self.lock();
        while !state.stopping {
            if let Some((_, host)) = state.queue.pop_first() {
                drop(state);
                let answer = look_up(&host);
                let waiting = self.lock().answered(&host);
                (self.answer)(waiting, answer);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self
                .changed
                .wait_timeout(state, LINGER)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look_up(host: &str) -> Answer {
    match (host, 0).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => {
            let text = error.to_string();
            Err(text
                .strip_prefix("failed to lookup address information: ")
                .unwrap_or(&text)
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_not_kept() {
        let resolver = Resolver::new(|_, _| {});
        // As if all were in look-ups that hang.
        resolver.shared.lock().threads = MOST_THREADS;
        resolver.ask("one.test", 1);
        for who in 2..1000 {
            resolver.ask("shared.test", who);
            resolver.ask(&format!("{who}.test"), who + 1000);
        }
        for who in 2..999 {
            resolver.forget("shared.test", who);
            resolver.forget(&format!("{who}.test"), who + 1000);
        }
        let mut state = resolver.shared.lock();
        assert_eq!(state.asked.len(), 3);
        assert!(
            state
                .queue
                .values()
                .eq(["one.test", "shared.test", "999.test"])
        );
        // One that is being looked up answers those who come later.
        state.queue.pop_first();
        drop(state);
        resolver.forget("one.test", 1);
        resolver.ask("one.test", 5);
        let mut state = resolver.shared.lock();
        assert_eq!(state.answered("one.test"), [5]);
        assert_eq!(state.answered("shared.test"), [999]);
        assert_eq!(state.queue.len(), 2);
    }
}
