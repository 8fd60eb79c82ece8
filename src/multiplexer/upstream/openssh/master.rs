//! One shared connection on its way: look-up, dial, handshake, streams, end.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::sockopt::set_tcp_user_timeout;

use super::complaints::Complaints;
use super::lease::{Cluster, Ready};
use super::pool::Message;
use super::process::{Login, Process};
use crate::errors::plain;
use crate::metrics::bastion::Down;
use crate::multiplexer::relay::{Link, Pair};
use crate::multiplexer::threads::Handle;
use crate::multiplexer::upstream::direct::Dial;

/// What is sent and not acknowledged for so long is lost: as with ssh's own keepalives.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// What was sent so often in a row, and not acknowledged, is held up: for 600 ms at least, more on a long way.
const HELD_UP: u8 = 2;

/// Why a master is none: what kind, and a sentence without its subject.
pub type Problem = (Down, String);

/// One of a pool.
pub struct Master {
    pub phase: Phase,
    pub began: Instant,
    /// Of the credential it logs in with.
    pub generation: u64,
    /// Since when it has had no stream.
    pub idle: Option<Instant>,
    /// Something was heard of its end.
    pub suspect: bool,
    /// Since when it was to have ended: its control socket or its link is gone.
    pub overdue: Option<Instant>,
}

pub enum Phase {
    /// Its bastion's name is being looked up.
    Resolving,
    /// The bastion is being dialled, at these addresses since then.
    Dialling(Dial, Vec<SocketAddr>, Instant),
    /// `ssh` logs in.
    Login(Running),
    /// It takes streams.
    Ready(Running, Arc<Ready>),
    /// It has streams, and takes no more.
    Retiring(Running, Arc<Ready>),
}

/// A process and what it says.
pub struct Running {
    pub process: Process,
    pub complaints: Arc<Mutex<Complaints>>,
    pub down: Arc<AtomicBool>,
    /// The relay's, to look at, until that has closed it.
    pub tcp: Option<OwnedFd>,
}

impl Master {
    pub fn new(generation: u64) -> Self {
        Self {
            phase: Phase::Resolving,
            began: Instant::now(),
            generation,
            idle: None,
            suspect: false,
            overdue: None,
        }
    }

    pub fn is_starting(&self) -> bool {
        !matches!(self.phase, Phase::Ready(..) | Phase::Retiring(..))
    }

    pub fn running(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Login(running) | Phase::Ready(running, _) | Phase::Retiring(running, _) => {
                Some(running)
            }
            _ => None,
        }
    }
}

impl Running {
    /// Starts an `ssh` over `tcp`, whose stderr `epoll` watches as `data`.
    pub fn start(
        id: u64,
        tcp: OwnedFd,
        login: &Login,
        cluster: &Cluster,
        threads: &Handle,
        epoll: BorrowedFd<'_>,
        data: u64,
    ) -> Result<Self, Problem> {
        let local = |what: String| (Down::Local, what);
        // Old kernels of containers may not have it; ssh's keepalives do the same.
        let _ = set_tcp_user_timeout(&tcp, UNACKNOWLEDGED.as_millis() as u32);
        let socket = format!("m{}-{id}", cluster.place);
        let started = Process::start(login, &cluster.control, socket);
        let (process, ends) = started.map_err(|error| {
            local(match error.kind() {
                std::io::ErrorKind::NotFound if cluster.control.path().exists() => {
                    "there is no ssh in PATH: install OpenSSH's client".into()
                }
                std::io::ErrorKind::NotFound => {
                    format!("{} is gone: restart tbot", cluster.control.path().display())
                }
                _ => format!("cannot run ssh: {}", plain(error)),
            })
        })?;
        let data = epoll::EventData::new_u64(data);
        epoll::add(epoll, ends.complaints.as_fd(), data, epoll::EventFlags::IN)
            .map_err(|error| local(format!("cannot watch ssh: {}", plain(error))))?;
        let (down, inbox) = (Arc::new(AtomicBool::new(false)), cluster.inbox.clone());
        let seen = fcntl_dupfd_cloexec(&tcp, 0).ok();
        threads.relay(Pair {
            client: ends.link,
            upstream: tcp,
            head: Vec::new(),
            link: Some(Link {
                sent: cluster.metrics.sent.clone(),
                received: cluster.metrics.received.clone(),
                down: down.clone(),
            }),
            ended: Box::new(move |_, _| inbox.send(Message::LinkEnded(id))),
        });
        Ok(Self {
            process,
            complaints: Arc::new(Mutex::new(ends.complaints)),
            down,
            tcp: seen,
        })
    }

    /// Whether the bastion acknowledges nothing of what it was sent.
    pub fn is_held_up(&self) -> bool {
        let tcp = self.tcp.as_ref();
        tcp.is_some_and(|tcp| crate::sys::sent_again(tcp.as_fd()) >= HELD_UP)
    }

    pub fn complaints(&self) -> MutexGuard<'_, Complaints> {
        self.complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it has ended, if it has.
    pub fn ended(&mut self) -> Option<Problem> {
        let status = self.process.ended()?;
        let mut complaints = self.complaints();
        complaints.read();
        if let Some(old) = complaints.too_old() {
            return Some((Down::Local, old));
        }
        let unsaid = || (Down::Lost, format!("ssh ended without a word ({status})"));
        Some(complaints.reason().unwrap_or_else(unsaid))
    }

    /// As streams see it.
    pub fn ready(&self) -> Arc<Ready> {
        Arc::new(Ready::new(
            self.process.name.clone(),
            self.process.id(),
            self.complaints.clone(),
            self.down.clone(),
        ))
    }
}
