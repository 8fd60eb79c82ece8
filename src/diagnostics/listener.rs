//! The socket, the accept loop, and the pool of workers that serve the connections.
//!
//! One thread accepts. Each live connection has one worker, which reads and writes blocking: a
//! request on a kept connection costs one read and one write, and no lock. As many workers are
//! started as there were ever connections at once; the bound on connections bounds them too.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::Limits;
use super::connection::{Buffers, Connection};
use super::routes::Routes;
use crate::errors::plain;
use crate::metrics::{DiagnosticsMetrics, PathMetrics, Unserved};
#[cfg(feature = "cli")]
use crate::pulse::{self, Waiter};

/// Between two tries of what just failed: long enough not to burn a core, short for a probe.
const PAUSE: Duration = Duration::from_millis(10);

/// Of memory that is taken only as it is used: our routes take little of it, but finding the names in a
/// profile takes more than 256 KiB where debug information nests deeply, a compressor passes through it
/// with 350 KiB where the compiler does not optimise, and embedders bring their own.
const STACK: usize = 2 * 1024 * 1024;

/// What the threads share.
#[derive(Debug)]
pub(super) struct Service {
    pub routes: Routes,
    pub limits: Limits,
    pub metrics: DiagnosticsMetrics,
    /// As [`Routes::patterns`] has them.
    paths: Vec<PathMetrics>,
    /// The origin of the times kept in the connections.
    pub started: Instant,
    stopping: AtomicBool,
    pool: Mutex<Pool>,
    /// A connection is queued, or the service is stopping.
    work: Condvar,
    /// A connection has ended.
    freed: Condvar,
    /// Of the accept thread, where somebody asks how it is: a connection costs one more system call then.
    #[cfg(feature = "cli")]
    waiter: Option<Waiter>,
}

#[derive(Debug, Default)]
struct Pool {
    /// Every connection between accept and end.
    live: Vec<Arc<Connection>>,
    /// Those of them that no worker has taken yet.
    queue: VecDeque<Arc<Connection>>,
    /// How many of them are at a long request, which does not count against `max_connections`.
    waiting: usize,
    /// Workers without a connection.
    idle: usize,
    workers: Vec<JoinHandle<()>>,
    /// A descriptor that is kept for who comes when none is left, as a probe that finds nobody in would end the program.
    spare: Option<OwnedFd>,
    /// Someone listens to `freed`: waking up no one would cost a system call for each connection.
    watched: bool,
}

/// The running service; dropping it stops it.
#[derive(Debug)]
pub(super) struct Running {
    service: Arc<Service>,
    /// Shared with the accept thread; `None` once stopped.
    listener: Option<Arc<TcpListener>>,
    accepting: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the accept thread and a first worker.
    pub fn start(
        listener: TcpListener,
        routes: Routes,
        limits: Limits,
        metrics: DiagnosticsMetrics,
        #[cfg(feature = "cli")] watched: bool,
    ) -> io::Result<Running> {
        listener.set_nonblocking(false)?;
        let listener = Arc::new(listener);
        let service = Arc::new(Self {
            paths: routes.patterns().map(|path| metrics.path(path)).collect(),
            routes,
            limits,
            metrics,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            pool: Mutex::default(),
            work: Condvar::new(),
            freed: Condvar::new(),
            #[cfg(feature = "cli")]
            waiter: watched.then(Waiter::new).transpose()?,
        });
        // From here on an error drops `running`, which joins what was started.
        let mut running = Running {
            service: service.clone(),
            listener: Some(listener.clone()),
            accepting: None,
        };
        service.lock().spare = eventfd(0, EventfdFlags::CLOEXEC).ok();
        // With one worker for certain, failing to start others makes the service slower, not dead.
        service.add_worker(&mut service.lock())?;
        let accepting = thread::Builder::new()
            .name("diag-accept".into())
            .stack_size(STACK);
        running.accepting = Some(accepting.spawn(move || service.accept(&listener))?);
        Ok(running)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The metrics of a request's path.
    pub fn path(&self, path: &str) -> &PathMetrics {
        &self.paths[self.routes.place(path)]
    }

    /// The metrics of requests whose path is not known.
    pub fn no_path(&self) -> &PathMetrics {
        &self.paths[self.paths.len() - 1]
    }

    /// Takes a place among the long requests. The connection keeps its worker, and gives its place
    /// among the others back.
    pub fn begin_long(&self, connection: &Connection) -> bool {
        let mut pool = self.lock();
        if pool.waiting >= self.limits.max_waiting {
            self.metrics.refused(Unserved::Busy).inc();
            return false;
        }
        pool.waiting += 1;
        connection.set_waiting();
        self.tell_freed(&pool);
        true
    }

    #[inline(never)] // a frame with a name in profiles
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut complaints = Complaints::default();
        while !self.is_stopping() {
            #[cfg(feature = "cli")]
            self.waiter.iter().for_each(|waiter| waiter.wait(listener));
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, &mut complaints),
                // The peer was faster than we: nothing is wrong.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) if self.is_stopping() => {}
                Err(error) if is_exhausted(&error) && self.spend_spare() => {}
                Err(error) => {
                    self.metrics.refused(Unserved::Local).inc();
                    complaints.log("cannot accept a connection", &error);
                    if is_exhausted(&error) && is_awaited(listener) {
                        let pool = self.lock();
                        self.evict(&pool);
                        drop(self.await_freed(pool, PAUSE));
                    } else {
                        thread::sleep(PAUSE);
                    }
                }
            }
        }
    }

    /// Gives the spare descriptor back to the system; false if there is none.
    fn spend_spare(&self) -> bool {
        self.lock().spare.take().is_some()
    }

    /// Makes room for a connection and hands it to a worker.
    fn admit(self: &Arc<Self>, stream: TcpStream, complaints: &mut Complaints) {
        // Fails where the peer has reset the connection already.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let mut pool = self.lock();
        while pool.live.len() - pool.waiting >= self.limits.max_connections.max(1) {
            if self.is_stopping() {
                return;
            }
            self.evict(&pool);
            pool = self.await_freed(pool, PAUSE);
            // Others hang, not this thread.
            #[cfg(feature = "cli")]
            self.waiter.iter().for_each(|waiter| waiter.pulse.beat());
        }
        if pool.queue.len() >= pool.idle
            && let Err(error) = self.add_worker(&mut pool)
        {
            // Its turn comes when another connection ends, so one has to.
            self.metrics.refused(Unserved::Local).inc();
            complaints.log("cannot start a thread", &error);
            self.evict(&pool);
        }
        let connection = Arc::new(Connection::new(stream, self.started));
        pool.live.push(connection.clone());
        pool.queue.push_back(connection);
        self.metrics.accepted.inc();
        self.metrics.open.inc();
        let wake = pool.idle > 0;
        drop(pool);
        if wake {
            self.work.notify_one();
        }
    }

    fn add_worker(self: &Arc<Self>, pool: &mut Pool) -> io::Result<()> {
        let number = pool.workers.len();
        // A worker that has just lost its connection is not idle yet; the bound holds even then.
        if number >= self.limits.max_connections.max(1) + self.limits.max_waiting {
            return Ok(());
        }
        let service = self.clone();
        let worker = thread::Builder::new()
            .name(format!("diag-worker-{number}"))
            .stack_size(STACK);
        pool.workers.push(worker.spawn(move || service.work())?);
        Ok(())
    }

    /// A worker's life.
    #[inline(never)] // a frame with a name in profiles
    fn work(&self) {
        let mut buffers = Buffers::new(self.limits.head_bytes);
        while let Some(connection) = self.next() {
            // Routes are caught closer by; this is for mistakes of our own, which must not cost a
            // worker and a place for ever. The panic hook has told of it.
            let _ = catch_unwind(AssertUnwindSafe(|| connection.serve(self, &mut buffers)));
            buffers.give_back();
            self.metrics.open.dec();
            let mut pool = self.lock();
            pool.live.retain(|live| !Arc::ptr_eq(live, &connection));
            pool.waiting -= usize::from(connection.is_waiting());
            if pool.spare.is_none() {
                // Never closed, so that no other thread comes by it.
                pool.spare = Arc::into_inner(connection).map(Connection::into_spare);
            }
            self.tell_freed(&pool);
        }
    }

    /// The next connection to serve, `None` when the service stops.
    fn next(&self) -> Option<Arc<Connection>> {
        let mut pool = self.lock();
        loop {
            if let Some(connection) = pool.queue.pop_front() {
                return Some(connection);
            }
            if self.is_stopping() {
                return None;
            }
            pool.idle += 1;
            pool = self.work.wait(pool).unwrap_or_else(PoisonError::into_inner);
            pool.idle -= 1;
        }
    }

    /// Ends the connection that is needed least, unless one is on its way out already, or those of its kind have not
    /// had their time yet: then nobody else goes for them, and they soon will have.
    fn evict(&self, pool: &Pool) {
        if let Some(leaving) = pool.live.iter().find(|live| live.is_leaving()) {
            return leaving.evict();
        }
        let ranked = pool.live.iter();
        let ranked = ranked.filter_map(|live| Some((live.expendable()?, live)));
        if let Some((_, victim)) = ranked.min_by_key(|(rank, _)| *rank)
            && victim.is_settled()
        {
            victim.evict();
            self.metrics.refused(Unserved::Evicted).inc();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        // Nothing panics while it is held.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_freed<'a>(
        &self,
        mut pool: MutexGuard<'a, Pool>,
        timeout: Duration,
    ) -> MutexGuard<'a, Pool> {
        pool.watched = true;
        let mut pool = self
            .freed
            .wait_timeout(pool, timeout)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        pool.watched = false;
        pool
    }

    fn tell_freed(&self, pool: &Pool) {
        if pool.watched {
            self.freed.notify_all();
        }
    }
}

#[cfg(feature = "cli")]
impl Running {
    /// Why no connection is accepted any more, as far as that is watched.
    pub fn hang(&self) -> Option<String> {
        let (thread, waiter) = (self.accepting.as_ref()?, self.service.waiter.as_ref()?);
        pulse::problem("diag-accept", thread, &waiter.pulse, || waiter.wake())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let service = &self.service;
        {
            // Under the lock, so that no worker is between looking and falling asleep.
            let _pool = service.lock();
            service.stopping.store(true, Ordering::Relaxed);
        }
        if let Some(listener) = self.listener.take() {
            // Wakes the accept thread up. Fails only for a socket that does not listen, and then
            // nobody waits on it.
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let mut pool = service.lock();
        // Ends whoever waits for a request, but not before it has answered one that is there.
        pool.live.iter().for_each(|live| live.shut(Shutdown::Read));
        service.work.notify_all();
        let deadline = Instant::now() + service.limits.shutdown;
        while !pool.live.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            pool = service.await_freed(pool, left);
        }
        pool.live.iter().for_each(|live| live.shut(Shutdown::Both));
        let workers = std::mem::take(&mut pool.workers);
        drop(pool);
        for worker in workers {
            let _ = worker.join();
        }
    }
}

/// Whether this process, or the whole system, has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Whether someone waits to be accepted: without a descriptor, accept(2) fails also where nobody does.
fn is_awaited(listener: &TcpListener) -> bool {
    let mut one = [PollFd::new(listener, PollFlags::IN)];
    matches!(poll(&mut one, Some(&Timespec::default())), Ok(1..))
}

/// Logs errors that may come by the thousand, at most once a second.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn log(&mut self, what: &str, error: &io::Error) {
        let now = Instant::now();
        if self
            .last
            .is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1))
        {
            self.last = Some(now);
            tracing::warn!("diagnostics: {what}: {}", plain(error));
        }
    }
}
