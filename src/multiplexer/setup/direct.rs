//! Setting up for targets that are dialled: from the answer of a look-up to a pair for the relay.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{Pending, STRIDE, Setup, Stage};
use crate::errors::plain;
use crate::metrics::Refusal;
use crate::multiplexer::record::BROKEN;
use crate::multiplexer::relay::{Ending, Pair};
use crate::multiplexer::upstream::Failure;
use crate::multiplexer::upstream::direct::{Dial, Step};
use crate::multiplexer::upstream::resolver::Answer;

impl Setup {
    /// Those who asked for a name have an answer.
    pub fn on_answers(&mut self, who: Vec<u64>, answer: &Answer) {
        who.into_iter().for_each(|id| match answer {
            Ok(addresses) => self.dial(id, addresses),
            Err(why) => self.fail(id, Failure::new(Refusal::Name, why.clone())),
        });
    }

    /// Tries `addresses`, with the port that was asked for.
    pub(super) fn dial(&mut self, id: u64, addresses: &[SocketAddr]) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let Some(asked) = &pending.asked else { return };
        let port = asked.request.port;
        let mut dial = Dial::new(addresses.iter().map(|address| {
            let mut address = *address;
            address.set_port(port);
            address
        }));
        let step = dial.advance(self.epoll.as_fd(), id * STRIDE, Instant::now());
        pending.stage = Stage::Dialling(dial);
        self.on_step(id, step);
    }

    pub(super) fn on_step(&mut self, id: u64, step: Step) {
        match step {
            Step::Waiting => {}
            Step::Failed(failure) => self.fail(id, failure),
            Step::Connected(upstream, address) => self.connected(id, upstream, address),
        }
    }

    fn connected(&mut self, id: u64, upstream: OwnedFd, address: SocketAddr) {
        let Some(Pending {
            client,
            asked: Some(asked),
            mut in_flight,
            ..
        }) = self.set_up(id)
        else {
            return;
        };
        tracing::debug!("connected to {} at {address}", asked.request);
        let ended = Box::new(move |ending, carried| {
            let carried = Some(carried);
            match ending {
                Ending::Done => in_flight.done(&address, carried),
                Ending::Cut => in_flight.cut(&address, carried),
                Ending::Broken(error) => {
                    let message = format_args!("connection to {address} broke: {}", plain(error));
                    in_flight.log(BROKEN, Some(&address), carried, message);
                }
            }
        });
        self.made.push(Pair {
            client,
            upstream,
            head: asked.head,
            link: None,
            ended,
        });
    }
}
