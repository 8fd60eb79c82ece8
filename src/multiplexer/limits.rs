//! What connections are held to, and how many of them this process can afford.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::upstream::Failure;
use crate::errors::plain;
use crate::metrics::Refusal;

/// What every connection is held to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to the complete request.
    pub request_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Users who may connect.
    pub allowed_uids: Vec<u32>,
}

impl Limits {
    /// What one connection too many is told.
    pub fn full(&self) -> Failure {
        let message = format!(
            "tbot is at its limit of connections ({}); try again later",
            self.max_connections
        );
        Failure::new(Refusal::Limit, message)
    }
}

/// Descriptors of a connection: the client's, its target's, and that of the client's stderr while it is
/// being set up.
const EACH: u64 = 3;

/// Of a cluster with a bastion: its thread's two, and the four of a shared connection.
const EACH_BASTION: u64 = 6;

/// Of a thread that serves connections, of which each multiplexer has one per core.
const EACH_THREAD: u64 = 2;

/// How many connections each of `multiplexers` in this process, with so many `bastions` among them, can serve by
/// its limit of file descriptors, of which the soft one is raised to the hard one first.
pub fn affordable_connections(multiplexers: usize, bastions: usize) -> usize {
    /// Diagnostics, files, pipes, and further attempts at targets with several addresses.
    const RESERVE: u64 = 188;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            "cannot raise the limit of file descriptors: {}",
            plain(error)
        );
    }
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let bastions = EACH_BASTION.saturating_mul(bastions as u64);
    let threads = EACH_THREAD.saturating_mul((multiplexers.saturating_mul(cores())) as u64);
    let reserve = bastions.saturating_add(threads).saturating_add(RESERVE);
    let reserve = reserve.min(descriptors / 2);
    let all = usize::try_from((descriptors - reserve) / EACH).unwrap_or(usize::MAX);
    (all / multiplexers.max(1)).max(1)
}

/// How many threads may run at once.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many of `wanted` streams one `ssh` can carry: it has the hard limit of descriptors, and needs three for
/// each (it refused the 340th of a limit of 1024, and lived on).
pub fn affordable_streams(wanted: usize) -> usize {
    const RESERVE: u64 = 32;
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let streams = limit.saturating_sub(RESERVE) / EACH;
    let streams = usize::try_from(streams).unwrap_or(usize::MAX).max(1);
    if streams < wanted {
        tracing::warn!(
            "a connection to the bastion carries at most {streams} streams instead of {wanted}, by the limit of \
             {limit} file descriptors (raise it by LimitNOFILE= or ulimit -Hn)"
        );
    }
    streams.min(wanted)
}

/// Whether this process has what one more connection takes. It is tried, not reckoned: other processes may have used
/// up the system's descriptors, and all programs of a user, or of a container, share a limit of threads. So it costs
/// some system calls and a thread, and is done at most once in [`Self::PAUSE`], however often it is asked.
#[derive(Debug, Default)]
pub struct Room {
    /// When it was last tried, and what came of it.
    tried: Mutex<Option<(Instant, Option<String>)>>,
}

impl Room {
    const PAUSE: Duration = Duration::from_millis(500);

    /// Why there is none, as of at most that long ago.
    pub fn problem(&self) -> Option<String> {
        let lock = || self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, problem)) = &*lock()
            && at.elapsed() < Self::PAUSE
        {
            return problem.clone();
        }
        // Without the lock: two who find it old at once both try.
        let problem = no_descriptors().or_else(no_threads);
        *lock() = Some((Instant::now(), problem.clone()));
        problem
    }
}

/// Why a connection would find no descriptors for itself and its target.
fn no_descriptors() -> Option<String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let open = || {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    };
    let all: Result<Vec<_>, _> = (0..EACH).map(|_| open()).collect();
    let error = all.err()?;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Some(format!(
        "no file descriptors are left, of {limit}: {} (raise it by LimitNOFILE= or ulimit -Hn)",
        plain(error)
    ))
}

/// Why a look-up, or a client of the agent, would find no thread.
fn no_threads() -> Option<String> {
    let thread = std::thread::Builder::new().stack_size(64 * 1024);
    match thread.spawn(|| ()) {
        Ok(thread) => {
            // It has nothing to do, and is not to be counted.
            let _ = thread.join();
            None
        }
        Err(error) => Some(format!(
            "no thread can be started: {} (raise TasksMax= or LimitNPROC=)",
            plain(error)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_there_is_room_is_tried_again_only_after_a_pause() {
        let room = |at| Room {
            tried: Mutex::new(Some((at, Some("none".to_owned())))),
        };
        let now = Instant::now();
        assert_eq!(room(now).problem().as_deref(), Some("none"));
        assert_eq!(room(now - Room::PAUSE).problem(), None);
        assert_eq!(Room::default().problem(), None);
    }

    #[test]
    fn one_connection_can_be_afforded_by_however_many() {
        assert_eq!(affordable_connections(usize::MAX, usize::MAX), 1);
        assert!(affordable_connections(0, 0) >= 1);
    }
}
