//! One connection: requests in, answers out, each step within its deadline.
//!
//! Deadlines are absolute. Before a read or write that may block, the socket's time-out is set to
//! what is left, and an interrupted one counts on from there: a client that drips bytes, or a
//! signal that comes often, cannot stretch them.

use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use tiny_http::{HTTPVersion, ResponseBox};

#[cfg(feature = "gzip")]
use super::encoding::encoded;
use super::listener::Service;
use super::request::{self, Head, Refused};
use super::response::{Fixed, Form, complete, print, text};
use super::routes::{Answer, refusal};
use crate::metrics::Unserved;
use crate::sys::silent_for;

/// More headers than this are refused.
const MAX_HEADERS: usize = 64;

/// How much of a refused request is read, so that its sender gets to see why.
const LINGER_BYTES: usize = 1024 * 1024;

/// An output buffer that grew beyond this is given back after the response.
const OUTPUT_KEPT: usize = 64 * 1024;

/// Each has so long to say something before it is let go for another: a probe that has connected may have to wait for a
/// processor before it can ask.
const GRACE_MS: u64 = 30;

/// What a worker reuses from one connection to the next.
pub(super) struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
    fixed: Fixed,
}

/// A connection as the accept thread sees it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    accepted: Instant,
    /// Of the service: times below count from here.
    origin: Instant,
    /// The phase in the lower 3 bits, and since when, in milliseconds.
    state: AtomicU64,
    evicted: AtomicBool,
    waiting: AtomicBool,
}

/// What a connection is doing, the most expendable first.
#[derive(Clone, Copy)]
enum Phase {
    /// Kept alive, and silent.
    Idle,
    /// A request has begun, or the first one is expected.
    Reading,
    /// Refused; what still comes is thrown away.
    Lingering,
    /// Its client does not take the answer as fast as it comes.
    Writing,
    /// Being answered: soon over, or bounded otherwise.
    Answering,
}

/// What a client is told of a route that failed.
pub(super) const NO_ANSWER: &str = "the answer could not be made; the log says why\n";

/// The client of a long request.
pub struct Client<'a> {
    at: At<'a>,
}

enum At<'a> {
    /// One who does not wait.
    Gone,
    Connection(&'a Connection, &'a Service),
    /// Of another server, which says whether to go on.
    Elsewhere(&'a (dyn Fn() -> bool + Sync)),
}

impl<'a> Client<'a> {
    /// One who does not wait.
    pub(super) fn gone() -> Self {
        Self { at: At::Gone }
    }

    /// One of a server that has connections of its own.
    pub(super) fn of(goes_on: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let at = At::Elsewhere(goes_on);
        Self { at }
    }

    /// False once the answer is of no use: the client has closed its end, or the service is being
    /// shut down. A long route asks several times a second; it costs one system call.
    pub fn is_there(&self) -> bool {
        let (connection, service) = match self.at {
            At::Gone => return false,
            At::Connection(connection, service) => (connection, service),
            At::Elsewhere(goes_on) => return goes_on(),
        };
        // Unlike a peek, this sees the end behind bytes that were sent before it.
        let mut ends = [PollFd::new(&connection.stream, PollFlags::RDHUP)];
        let ended = poll(&mut ends, Some(&Timespec::default()));
        // A signal that is pending, as during a profile, makes even this one EINTR, and says nothing.
        !service.is_stopping() && !matches!(ended, Ok(1..))
    }

    /// Whether it was there once and is no more: unlike one who does not wait, it gets no answer.
    #[cfg(feature = "pprof")]
    pub(super) fn has_left(&self) -> bool {
        !matches!(self.at, At::Gone) && !self.is_there()
    }
}

impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Buffers {
    pub fn new(head_bytes: usize) -> Self {
        Self {
            input: vec![0; head_bytes].into(),
            output: Vec::new(),
            fixed: Fixed::default(),
        }
    }

    /// What an idle worker has no use for, of which there may be many.
    pub fn give_back(&mut self) {
        self.output = Vec::new();
    }
}

impl Connection {
    pub fn new(stream: TcpStream, origin: Instant) -> Self {
        let connection = Self {
            stream,
            accepted: Instant::now(),
            origin,
            state: AtomicU64::new(0),
            evicted: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        };
        connection.enter(Phase::Reading, connection.accepted);
        connection
    }

    /// Where it comes among those to close for another one; `None` if that is out of question.
    pub fn expendable(&self) -> Option<(u64, u64)> {
        let (phase, since) = self.state();
        (phase != Phase::Answering as u64).then_some((phase, since))
    }

    /// Whether its worker is about to give up. One that had just begun to answer when it was
    /// evicted ends with that, and does not count until then.
    pub fn is_leaving(&self) -> bool {
        self.evicted.load(Ordering::Relaxed) && self.expendable().is_some()
    }

    /// Whether it has had its time for what it is at: one that waited to be accepted had it there. A kept one that is
    /// silent has had its answer.
    pub fn is_settled(&self) -> bool {
        let (phase, since) = self.state();
        let now = self.origin.elapsed().as_millis() as u64;
        phase == Phase::Idle as u64
            || now.saturating_sub(since) >= GRACE_MS
            || silent_for(self.stream.as_fd()) >= GRACE_MS
    }

    /// Makes its worker give up, unless a whole request is there: that is answered. The worker closes the socket. To be
    /// called again while it [is leaving](Self::is_leaving), as what it is at may have changed in between.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        let (phase, _) = self.state();
        let is_stuck = phase == Phase::Lingering as u64 || phase == Phase::Writing as u64;
        // One that was read from a moment ago may be at its answer by now.
        self.shut(match is_stuck {
            true => Shutdown::Both,
            false => Shutdown::Read,
        });
    }

    /// Whether it may be kept for another request.
    fn may_stay(&self, service: &Service) -> bool {
        !service.is_stopping() && !self.evicted.load(Ordering::Relaxed)
    }

    pub fn shut(&self, how: Shutdown) {
        // Fails for a connection that the peer has ended, which is as good.
        let _ = self.stream.shutdown(how);
    }

    /// Ends it, and keeps its descriptor.
    pub fn into_spare(self) -> OwnedFd {
        self.shut(Shutdown::Both);
        self.stream.into()
    }

    pub fn set_waiting(&self) {
        self.waiting.store(true, Ordering::Relaxed);
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    fn state(&self) -> (u64, u64) {
        let state = self.state.load(Ordering::Relaxed);
        (state & 7, state >> 3)
    }

    fn enter(&self, phase: Phase, since: Instant) {
        let since = since.saturating_duration_since(self.origin).as_millis() as u64;
        self.state
            .store(since << 3 | phase as u64, Ordering::Relaxed);
    }

    /// Serves requests until the connection is to be closed, by dropping it.
    #[inline(never)] // a frame with a name in profiles
    pub fn serve(&self, service: &Service, buffers: &mut Buffers) {
        let limits = &service.limits;
        let Buffers {
            input,
            output,
            fixed,
        } = buffers;
        // What is read and not answered: `input[start..end]`.
        let (mut start, mut end) = (0, 0);
        // Of the head that has begun. The first one begins with the connection.
        let mut deadline = Some(self.accepted + limits.head);
        let mut idle_since = self.accepted;
        let mut idle_armed = false;
        loop {
            let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
            match request::parse(&input[start..end], &mut headers) {
                Ok(Some(head)) => {
                    self.enter(Phase::Answering, idle_since);
                    let keep_alive = self.answer(service, &head, output, fixed);
                    start += head.length;
                    if let Err(error) = self.send(output, limits.write) {
                        if error.kind() == ErrorKind::TimedOut {
                            service.metrics.refused(Unserved::Unread).inc();
                        }
                        return;
                    }
                    output.shrink_to(OUTPUT_KEPT);
                    if !keep_alive {
                        // To close with requests unread would reset the connection, and the
                        // client might lose the answer.
                        if start < end {
                            self.linger(limits.linger, input);
                        }
                        return;
                    }
                    deadline = None;
                    idle_since = Instant::now();
                    self.enter(Phase::Idle, idle_since);
                    continue;
                }
                Ok(None) => {}
                Err(refused) => return self.refuse(service, &refused, input, start, output),
            }
            input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            if end == input.len() {
                let refused = Refused {
                    status: 431,
                    reason: "the request head is too large".into(),
                };
                return self.refuse(service, &refused, input, start, output);
            }
            let read = if end == 0 && deadline.is_none() {
                // A time-out that is armed stays for the next request, which then costs a read
                // and a write and nothing else.
                let armed = idle_armed || self.stream.set_read_timeout(Some(limits.idle)).is_ok();
                idle_armed = armed;
                self.read(&mut input[end..], idle_since + limits.idle, armed)
            } else {
                let deadline = *deadline.get_or_insert_with(|| {
                    let now = Instant::now();
                    self.enter(Phase::Reading, now);
                    now + limits.head
                });
                idle_armed = false;
                self.read(&mut input[end..], deadline, false)
            };
            match read {
                Ok(0) => return,
                Ok(length) => end += length,
                Err(error) if error.kind() == ErrorKind::TimedOut && end > 0 => {
                    let refused = Refused {
                        status: 408,
                        reason: "the request took too long".into(),
                    };
                    return self.refuse(service, &refused, input, start, output);
                }
                Err(_) => return,
            }
        }
    }

    /// Prints the answer to a request into `output`; returns whether the connection stays open.
    fn answer(
        &self,
        service: &Service,
        head: &Head<'_>,
        output: &mut Vec<u8>,
        fixed: &mut Fixed,
    ) -> bool {
        let mut form = Form {
            version: head.version.clone(),
            head_only: head.request.is_head(),
            keep_alive: head.keep_alive && self.may_stay(service),
        };
        output.clear();
        let begin = Instant::now();
        let metrics = service.path(head.request.path());
        let mut status = 500;
        let printed = catch_unwind(AssertUnwindSafe(|| {
            let response = match service.routes.answer(&head.request) {
                Answer::Fixed(body) => {
                    fixed.print(body, &form, output)?;
                    status = 200;
                    return Ok(());
                }
                Answer::Ready(response) => response,
                Answer::Long(run) => self.run_long(service, run, &mut form),
            };
            // Asked again, as the answer may have taken its time.
            form.keep_alive &= self.may_stay(service);
            #[cfg(feature = "gzip")]
            let response = encoded(response, &head.request)?;
            let code = response.status_code().0;
            print(response, &form, output)?;
            status = code;
            Ok::<_, io::Error>(())
        }));
        // Before it is sent: whoever has the answer finds it counted.
        metrics.answered(status);
        let took = begin.elapsed();
        metrics.duration.observe(took.as_secs_f64());
        let (path, ms) = (head.request.path(), took.as_micros() as f64 / 1000.0);
        tracing::trace!(path, status, ms, "diagnostics: answered a request");
        let problem = match printed {
            Ok(Ok(())) => return form.keep_alive,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("it panicked: {}", message(&*panic)),
        };
        tracing::error!(
            "diagnostics: no answer for {:?}: {problem}",
            head.request.path()
        );
        form.keep_alive = false;
        self.print_or_nothing(text(500, NO_ANSWER), &form, output);
        false
    }

    fn run_long(
        &self,
        service: &Service,
        run: Box<dyn FnOnce(&Client<'_>) -> ResponseBox + '_>,
        form: &mut Form,
    ) -> ResponseBox {
        if !service.begin_long(self) {
            let most = service.limits.max_waiting;
            return complete(text(
                503,
                format!("{most} long requests are being answered already, try again later\n"),
            ));
        }
        // Its place among the connections is given away.
        form.keep_alive = false;
        run(&Client {
            at: At::Connection(self, service),
        })
    }

    /// Says why a request is not answered, and ends the connection such that the client can read it.
    fn refuse(
        &self,
        service: &Service,
        refused: &Refused,
        input: &mut [u8],
        start: usize,
        output: &mut Vec<u8>,
    ) {
        let form = Form {
            version: HTTPVersion(1, 1),
            head_only: input[start..].starts_with(b"HEAD "),
            keep_alive: false,
        };
        service.no_path().answered(refused.status);
        service.metrics.refused(reason(refused.status)).inc();
        self.print_or_nothing(refusal(refused), &form, output);
        if self.send(output, service.limits.write).is_ok() {
            self.linger(service.limits.linger, input);
        }
    }

    /// Prints a response of our own, in which nothing can be wrong.
    fn print_or_nothing(&self, response: ResponseBox, form: &Form, output: &mut Vec<u8>) {
        output.clear();
        if print(complete(response), form, output).is_err() {
            output.clear();
        }
    }

    /// Reads what comes before `deadline`. `armed` says that the socket's time-out is right already.
    fn read(&self, into: &mut [u8], deadline: Instant, mut armed: bool) -> io::Result<usize> {
        loop {
            if !armed {
                self.stream.set_read_timeout(Some(left(deadline)?))?;
            }
            armed = false;
            match (&self.stream).read(into) {
                Err(error) if is_transient(&error) => {}
                done => return done,
            }
        }
    }

    /// Sends all of `bytes` within `limit`.
    fn send(&self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        // A response nearly always fits in the socket's buffer, without any time-out to set.
        let mut sent = match send(
            &self.stream,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(sent) => sent,
            Err(error) if is_transient(&error.into()) => 0,
            Err(error) => return Err(error.into()),
        };
        if sent == bytes.len() {
            return Ok(());
        }
        let now = Instant::now();
        self.enter(Phase::Writing, now);
        let sending = || {
            while sent < bytes.len() {
                self.stream.set_write_timeout(Some(left(now + limit)?))?;
                match send(&self.stream, &bytes[sent..], SendFlags::NOSIGNAL) {
                    Ok(more) => sent += more,
                    Err(error) if is_transient(&error.into()) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        };
        let done = { sending }();
        if done.is_err() {
            // Without this the kernel would go on offering the rest, from its own memory.
            let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
        done
    }

    /// Ends our side and reads on for a while: to close with bytes unread would reset the
    /// connection, and the client might lose the answer (RFC 9112, 9.6).
    fn linger(&self, limit: Duration, scratch: &mut [u8]) {
        let now = Instant::now();
        self.enter(Phase::Lingering, now);
        self.shut(Shutdown::Write);
        let mut read = 0;
        while read < LINGER_BYTES {
            match self.read(scratch, now + limit, false) {
                Ok(0) | Err(_) => return,
                Ok(length) => read += length,
            }
        }
    }
}

/// The time left, an error if there is none: the socket would take 0 for "for ever".
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

/// A time-out or a signal: whether there is time left decides.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// What a refusal with this status is counted as.
fn reason(status: u16) -> Unserved {
    match status {
        405 => Unserved::Method,
        408 => Unserved::Slow,
        413 => Unserved::Body,
        431 => Unserved::Large,
        505 => Unserved::Version,
        _ => Unserved::Malformed,
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn one_that_is_answered_by_the_time_it_is_evicted_gets_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut client = TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("it has connected");
        let connection = Connection::new(stream, Instant::now());
        connection.enter(Phase::Answering, Instant::now());
        connection.evict();
        (&connection.stream)
            .write_all(b"!")
            .expect("it can be written");
        client.read_exact(&mut [0]).expect("it is there");
        // One that does not take it is let go.
        connection.enter(Phase::Writing, Instant::now());
        connection.evict();
        assert!((&connection.stream).write_all(b"!").is_err());
    }
}
