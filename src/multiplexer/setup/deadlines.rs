//! The clock of setting up: what is due, and who has taken too long.

use std::os::fd::AsFd;
use std::time::Instant;

use super::{REST, STRIDE, Setup, Stage, TICK};
use crate::metrics::Refusal;
use crate::multiplexer::counts::Place;
use crate::multiplexer::upstream::Failure;

impl Setup {
    /// Does what is due.
    pub fn keep_time(&mut self) {
        let knocking = std::mem::take(&mut self.knocking);
        knocking.into_iter().for_each(|id| self.knock(id));
        let now = Instant::now();
        if now >= self.next_tick {
            self.tick(now);
            self.next_tick = now + TICK;
        }
    }

    /// Looks at every deadline.
    fn tick(&mut self, now: Instant) {
        if self.resting_until.is_some_and(|until| now >= until) {
            self.resting_until = match self.watch_listener() {
                Ok(()) => None,
                Err(_) => Some(now + REST),
            };
        }
        let mut late = Vec::new();
        let mut steps = Vec::new();
        for (id, pending) in &mut self.pending {
            if now >= pending.deadline {
                late.push(*id);
            } else if let Stage::Dialling(dial) = &mut pending.stage {
                steps.push((*id, dial.advance(self.epoll.as_fd(), id * STRIDE, now)));
            }
        }
        steps
            .into_iter()
            .for_each(|(id, step)| self.on_step(id, step));
        late.into_iter().for_each(|id| self.on_deadline(id));
    }

    fn on_deadline(&mut self, id: u64) {
        let Some(pending) = self.pending.get(&id) else {
            return;
        };
        let place = pending.asked.as_ref().and_then(|asked| asked.place);
        let timeout = self.routes.clusters[place.unwrap_or(0)].connect_timeout;
        let failure = match &pending.stage {
            Stage::Reading(_) if pending.in_flight.place == Place::TurnedAway => self.limits.full(),
            Stage::Reading(_) => {
                let message = format!(
                    "no complete request within {:?}",
                    self.limits.request_timeout
                );
                Failure::new(Refusal::Slow, message)
            }
            Stage::Resolving => {
                let message = format!("its name could not be resolved within {timeout:?}");
                Failure::new(Refusal::Timeout, message)
            }
            Stage::Dialling(dial) => dial.timed_out(timeout),
            Stage::Waiting | Stage::Knocking(_) => {
                let cluster = self.cluster_of(id);
                let why = cluster.map_or_else(String::new, |cluster| cluster.problem_of_waiting());
                let message = format!("{why} (waited for {timeout:?})");
                Failure::new(Refusal::BastionDown, message)
            }
            Stage::Opening(..) => {
                let message = format!("no answer by way of the bastion within {timeout:?}");
                Failure::new(Refusal::Timeout, message)
            }
        };
        self.fail(id, failure);
    }
}
