//! How many masters there are, how they end, and when another is tried.
//!
//! One is kept warm, and the next is started before the last is full. One that fails or is lost is tried
//! again, with pauses that double and are spread. One that logged in with a credential that was renewed
//! since is replaced, and ends when its streams have.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::keeper::{Keeper, STRIDE, TICK};
use super::lease::Cluster;
use super::master::{Master, Phase, Problem};
use crate::metrics::bastion::Down;
use crate::multiplexer::upstream::direct::STAGGER;

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

/// The first pause after a failure, and the longest: a login that fails costs the bastion something.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// A pause that users are not told of.
const WORTH_WAITING: Duration = Duration::from_secs(3);

/// While the bastion cannot be reached, pauses do not grow beyond that of so many failures, which is a second:
/// nobody is to wait for long once it can.
const OUTAGE: u32 = 1;

/// After so long without an answer it is dialled afresh: the kernel's own attempts are 1, 2, 4 and 8 s apart. Each
/// of its addresses adds the time until the next is tried.
const REDIAL: Duration = Duration::from_secs(2);

/// For an `ssh` to end by itself.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// For one that nobody has told to, and whose last words are wanted.
const OVERDUE: Duration = Duration::from_secs(3);

impl Keeper {
    /// Looks after every master, and whether more are wanted.
    pub fn look(&mut self, now: Instant) {
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
            Phase::Resolving if age >= REDIAL / 2 && !self.addresses.is_empty() => {
                // The answer is still of use to the next.
                return self.dial(id, &self.addresses.clone());
            }
            Phase::Resolving => late("its name was not resolved", self.dial_timeout),
            Phase::Dialling(dial, ..) if age >= self.dial_timeout => {
                Some((Down::Timeout, dial.timed_out(self.dial_timeout).message))
            }
            Phase::Dialling(_, addresses, since)
                if now.saturating_duration_since(*since)
                    >= REDIAL + STAGGER * addresses.len() as u32 =>
            {
                let addresses = std::mem::take(addresses);
                return self.dial(id, &addresses);
            }
            Phase::Dialling(dial, ..) => {
                let step = dial.advance(self.epoll.as_fd(), id * STRIDE, now);
                return self.on_step(id, step);
            }
            Phase::Login(running) => {
                let ended = running.ended();
                if ended.is_none() && self.cluster.control.connect(&running.process.name).is_ok() {
                    return self.on_ready(id);
                }
                let held_up = || {
                    // A fresh one is there sooner.
                    let what = "it does not answer any more, in the middle of the login";
                    (tick && running.is_held_up()).then(|| (Down::Timeout, what.into()))
                };
                let late = late("there was no login", self.dial_timeout + LOGIN);
                let late = late.map(|(down, what)| {
                    let preface = running.complaints().preface().unwrap_or_default();
                    (down, what + &preface)
                });
                ended.or(late).or_else(held_up)
            }
            Phase::Ready(running, ready) if ready.is_retiring() => {
                // A stream found that it does not listen: mostly because it ends just now.
                let ended = running.ended();
                self.again |= master.overdue.is_none();
                let since = *master.overdue.get_or_insert(now);
                master.suspect = true;
                if ended.is_none() && now.saturating_duration_since(since) >= OVERDUE {
                    return self.set_aside(id);
                }
                ended
            }
            Phase::Ready(running, ready)
                if (tick || ready.is_held_up()) && running.is_held_up() != ready.is_held_up() =>
            {
                self.cluster.hold_up(ready, !ready.is_held_up());
                None
            }
            Phase::Ready(running, _) | Phase::Retiring(running, _) if suspect => {
                let ended = running.ended();
                if ended.is_none() && running.down.load(Ordering::Acquire) {
                    let since = *master.overdue.get_or_insert(now);
                    let hangs = || (Down::Lost, "it has closed it, and ssh hangs".into());
                    (now.saturating_duration_since(since) >= OVERDUE).then(hangs)
                } else {
                    ended
                }
            }
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
            matches!(&master.phase, Phase::Ready(_, ready) if !ready.is_held_up())
                && master.generation == fresh
        };
        let has_fresh = self.masters.values().any(is_fresh);
        for master in self.masters.values_mut() {
            let Phase::Ready(_, ready) = &master.phase else {
                continue;
            };
            if tick {
                if now.saturating_duration_since(master.began) >= SHORT {
                    self.failures = 0;
                }
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
        // One that was dropped had too many beside it, from here or elsewhere.
        let most = if self.failures == 0 { MOST_STARTING } else { 1 };
        for _ in starting..most.min(starting + wanted) {
            // One that fails at once is reason enough to pause.
            if self.masters.len() < MOST_MASTERS && now >= self.next_start {
                self.start(generation);
            }
        }
    }

    /// Lets a master that cannot be asked any more, but lives, carry its streams to their end.
    fn set_aside(&mut self, id: u64) {
        if let Some(mut master) = self.masters.remove(&id) {
            if let Phase::Ready(running, ready) = master.phase {
                let Cluster { name, bastion, .. } = &*self.cluster;
                tracing::warn!(
                    "cluster {name}: a connection to the bastion {bastion} takes no more streams, as its control \
                     socket was taken away; those it has go on"
                );
                master.phase = Phase::Retiring(running, ready);
            }
            (master.suspect, master.overdue) = (false, None);
            self.masters.insert(id, master);
        }
    }

    /// Ends a master that nobody needs.
    fn end(&mut self, id: u64) {
        if let Some(Master {
            phase:
                Phase::Login(mut running)
                | Phase::Ready(mut running, _)
                | Phase::Retiring(mut running, _),
            ..
        }) = self.masters.remove(&id)
        {
            // Streams that end from now on were cut.
            running.down.store(true, Ordering::Release);
            running.process.end(Signal::TERM);
            self.ending
                .push((running.process, Instant::now() + PATIENCE));
        }
    }

    /// A master could not be had, or was lost.
    pub fn fail(&mut self, id: u64, (down, problem): Problem) {
        let Some(master) = self.masters.get(&id) else {
            return;
        };
        let is_outage = matches!(master.phase, Phase::Resolving | Phase::Dialling(..))
            && matches!(
                down,
                Down::Name | Down::Refused | Down::Unreachable | Down::Timeout
            );
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
        // Of an outage every attempt has the same to say.
        match self.told == sentence {
            true => tracing::debug!("{sentence}"),
            false => tracing::warn!("{sentence}"),
        }
        self.told.clone_from(&sentence);
        if retiring {
            return;
        }
        self.again = true;
        let now = Instant::now();
        if lived >= SHORT && was_ready {
            self.failures = 0;
            // At once, but not all who lost it in the same moment.
            self.next_start = now + pause(0) / 4;
        } else {
            fall_back(&mut self.failures, &mut self.next_start, now, is_outage);
        }
        // It has worked: who comes waits for the next one, if that comes soon.
        match was_ready && self.next_start <= now + WORTH_WAITING {
            true => self.cluster.lost(sentence),
            false => self.cluster.fail(down, &sentence),
        }
    }

    pub fn end_all(&mut self) {
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

/// Counts a failure, unless there is a pause already: many that are lost at once are one. An outage, however
/// long, counts as one, too.
fn fall_back(failures: &mut u32, next_start: &mut Instant, now: Instant, is_outage: bool) {
    if now < *next_start {
        return;
    }
    (*next_start, *failures) = match is_outage {
        true => (now + pause(OUTAGE.min(*failures)), OUTAGE.max(*failures)),
        false => (now + pause(*failures), failures.saturating_add(1)),
    };
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

    #[test]
    fn many_connections_lost_at_once_are_one_failure() {
        let mut now = Instant::now();
        let (mut failures, mut next_start) = (0, now);
        for round in 0..3 {
            for _ in 0..50 {
                fall_back(&mut failures, &mut next_start, now, false);
            }
            assert_eq!(failures, round + 1);
            assert!(next_start <= now + FIRST_PAUSE * 2_u32.pow(round) * 3 / 2);
            now = next_start;
        }
    }
}
