//! Setting up for targets behind a bastion: from a complete request to a stream that a master
//! carries, and to that stream's end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::epoll;
use rustix::io::Errno;

use super::{Asked, Pending, STRIDE, Setup, Stage};
use crate::errors::plain;
use crate::metrics::Refusal;
use crate::multiplexer::counts::{Abandoned, InFlight};
use crate::multiplexer::record::BROKEN;
use crate::multiplexer::request::Request;
use crate::multiplexer::upstream::Failure;
use crate::multiplexer::upstream::openssh::lease::{Cluster, Lease, Taken};
use crate::multiplexer::upstream::openssh::mux::{self, Opening, Reply};

/// What a master has to do with, under the number of the connection it was.
pub struct Stream {
    kind: Kind,
    lease: Lease,
}

enum Kind {
    /// It carries a connection's bytes, until this control connection ends.
    Open(OwnedFd, Request, InFlight),
    /// It was asked, and the client has left or was sent away. It keeps a channel until its server answers,
    /// so the place stays taken.
    Abandoned {
        opening: Opening,
        _counted: Abandoned,
    },
}

impl Setup {
    /// The cluster that a connection is for, if that has a bastion.
    pub(super) fn cluster_of(&self, id: u64) -> Option<&Arc<Cluster>> {
        let place = self.pending.get(&id)?.asked.as_ref()?.place?;
        self.routes.clusters[place].cluster.as_ref()
    }

    /// There are places on masters of the cluster at `place`, or there is a reason why not.
    pub fn on_places(&mut self, place: usize, who: Vec<u64>, failure: Option<Failure>) {
        for id in who {
            match &failure {
                // It may have its place already, or have left.
                Some(failure) if self.is_waiting(id) => self.fail(id, failure.clone()),
                Some(_) => {}
                None if self.is_waiting(id) => self.seek(id),
                // The place is for the next one.
                None => {
                    let cluster = &self.routes.clusters[place].cluster;
                    cluster.iter().for_each(|cluster| cluster.offer());
                }
            }
        }
    }

    fn is_waiting(&self, id: u64) -> bool {
        matches!(
            self.pending.get(&id),
            Some(Pending {
                stage: Stage::Waiting,
                ..
            })
        )
    }

    /// Asks for a place on a master.
    pub(super) fn seek(&mut self, id: u64) {
        let Some(cluster) = self.cluster_of(id).cloned() else {
            return;
        };
        if self.shared.abandoned.load(Ordering::Relaxed) >= self.limits.max_connections {
            return self.fail(id, self.limits.full());
        }
        match cluster.take(id) {
            Taken::Lease(lease) => self.ask(id, lease),
            Taken::Wait => {}
            Taken::Failed(failure) => self.fail(id, failure),
        }
    }

    /// Tries again where a master's queue was full.
    pub(super) fn knock(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id)
            && let Stage::Knocking(_) = pending.stage
            && let Stage::Knocking(lease) = std::mem::replace(&mut pending.stage, Stage::Waiting)
        {
            self.ask(id, lease);
        }
    }

    fn ask(&mut self, id: u64, lease: Lease) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let Some(Asked { request, .. }) = &pending.asked else {
            return;
        };
        let control = match lease.connect() {
            Ok(control) => control,
            Err(Errno::AGAIN) => {
                pending.stage = Stage::Knocking(lease);
                return self.knocking.push(id);
            }
            Err(Errno::CONNREFUSED | Errno::NOENT) => {
                // It ends just now.
                lease.bury();
                return self.seek(id);
            }
            Err(error) => return self.fail(id, local(error)),
        };
        let data = epoll::EventData::new_u64(id * STRIDE + 1);
        let opening = Opening::begin(control, &request.host, request.port, pending.client.as_fd());
        let opening = opening.and_then(|opening| {
            epoll::add(&self.epoll, &opening, data, epoll::EventFlags::IN)?;
            Ok(opening)
        });
        match opening {
            Ok(opening) => pending.stage = Stage::Opening(opening, lease, Instant::now()),
            Err(Errno::PIPE | Errno::CONNRESET) => {
                lease.bury();
                self.seek(id);
            }
            Err(error) => self.fail(id, local(error)),
        }
    }

    /// A master has an answer.
    pub(super) fn on_opening(&mut self, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let (Stage::Opening(opening, lease, _), Some(asked)) = (&mut pending.stage, &pending.asked)
        else {
            return;
        };
        let failure = match opening.read() {
            Reply::None => return,
            Reply::Opened => return self.opened(id),
            Reply::Refused => lease.refusal(&asked.request.host, asked.request.port),
            Reply::Lost => lease.lost(),
            Reply::Unheard => {
                let stage = std::mem::replace(&mut pending.stage, Stage::Waiting);
                if let Stage::Opening(_, lease, _) = stage {
                    lease.bury();
                }
                return self.seek(id);
            }
            Reply::Wrong(what) => {
                let message = format!("ssh's control connection cannot be used: {what}");
                Failure::new(Refusal::Local, message)
            }
        };
        // The answer is in: nothing of it is left with the master.
        pending.stage = Stage::Waiting;
        self.fail(id, failure);
    }

    fn opened(&mut self, id: u64) {
        let Some(Pending {
            asked: Some(asked),
            stage: Stage::Opening(opening, lease, begun),
            in_flight,
            ..
        }) = self.set_up(id)
        else {
            return;
        };
        lease.opened(begun.elapsed());
        tracing::debug!("connected to {} by way of the bastion", asked.request);
        let kind = Kind::Open(opening.into_control(), asked.request, in_flight);
        self.streams.insert(id, Stream { kind, lease });
    }

    /// Something came of a stream by its control connection, which is mostly its end.
    pub(super) fn on_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let goes_on = match &mut stream.kind {
            Kind::Open(control, ..) => mux::goes_on(control.as_fd()),
            Kind::Abandoned { opening, .. } => opening.read() == Reply::None,
        };
        if goes_on {
            return;
        }
        let Some(Stream { kind, lease }) = self.streams.remove(&id) else {
            return;
        };
        match kind {
            Kind::Abandoned { .. } => {}
            Kind::Open(_, target, mut in_flight) if lease.is_broken() => {
                let why = lease.lost().message;
                let message = format_args!("connection to {target} broke: {why}");
                in_flight.log(BROKEN, Some(&target), None, message);
            }
            Kind::Open(_, target, in_flight) => in_flight.done(&target, None),
        }
    }

    /// Ends what masters carry, as tbot does.
    pub(super) fn cut_streams(&mut self) {
        for (_, stream) in self.streams.drain() {
            if let Kind::Open(_, target, mut in_flight) = stream.kind {
                in_flight.cut(&target, None);
            }
        }
    }

    /// What a failed connection leaves behind with a master is kept until that has an answer.
    pub(super) fn leave(&mut self, id: u64, pending: &mut Pending, failure: &Failure) {
        let place = pending.asked.as_ref().and_then(|asked| asked.place);
        let Some(cluster) = place.and_then(|place| self.routes.clusters[place].cluster.as_ref())
        else {
            return;
        };
        cluster.metrics.open_failed(failure.reason);
        cluster.forget(id);
        if std::mem::take(&mut pending.watched) {
            let _ = epoll::delete(&self.epoll, &pending.client);
        }
        if let Stage::Opening(opening, lease, _) =
            std::mem::replace(&mut pending.stage, Stage::Waiting)
        {
            let kind = Kind::Abandoned {
                opening,
                _counted: Abandoned::of(&self.shared),
            };
            self.streams.insert(id, Stream { kind, lease });
        }
    }
}

fn local(error: Errno) -> Failure {
    let message = format!("cannot ask ssh for a stream: {}", plain(error));
    Failure::new(Refusal::Local, message)
}
