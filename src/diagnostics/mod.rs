//! The diagnostics service: health, readiness and metrics over HTTP, to embed in any program.
//!
//! ```
//! use tbot::{diagnostics::Diagnostics, readyz};
//!
//! let services = readyz::Registry::new();
//! let backup = services.register("backup");
//! let diagnostics = Diagnostics::builder().readyz(services).bind("127.0.0.1:0")?;
//! backup.healthy(); // http://…/readyz now answers 200; the service ends when dropped.
//! # use std::io::{Read, Write};
//! # let mut client = std::net::TcpStream::connect(diagnostics.local_addr())?;
//! # client.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
//! # let mut answer = String::new();
//! # client.read_to_string(&mut answer)?;
//! # assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
//! # Ok::<_, std::io::Error>(())
//! ```
//!
//! | Path | Answer |
//! |---|---|
//! | `/livez` | 200 while the program runs |
//! | `/readyz`, `/readyz/{service}` | 200 if healthy, else 503; JSON |
//! | `/wait`, `/wait/{service}` | the same, once the first report is in |
//! | `/metrics` | metrics in Prometheus' text format |
//! | `/debug/pprof/` | profiles and stacks, if turned on |
//! | `/` | these paths; for browsers a page of services, figures and paths |
//!
//! Blocking threads, no async runtime: one accepts, and each live connection has a worker to itself.
//! Everything a client can make grow is bounded and everything that can hang has a deadline, see
//! [`Limits`]; [`Routes::respond`] gives the same answers to a program that runs a `tiny_http` or
//! `rouille` server of its own.

mod connection;
#[cfg(feature = "gzip")]
mod encoding;
mod figures;
mod front;
mod listener;
mod page;
#[cfg(feature = "pprof")]
mod pprof;
#[cfg(not(feature = "pprof"))]
#[path = "no_pprof.rs"]
mod pprof;
mod process;
pub(crate) mod request;
mod response;
mod routes;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tiny_http::ResponseBox;

pub use connection::Client;
pub use process::ProcessCollector;
#[cfg(feature = "cli")]
pub(crate) use process::network_bytes;
pub use request::Request;
pub use routes::Routes;

use listener::Service;
use routes::Handler;

use crate::metrics::Exposition;

/// What clients may use up. The defaults suit a probe every second and a few scrapers.
///
/// ```
/// let mut limits = tbot::diagnostics::Limits::default();
/// limits.max_connections = 8;
/// ```
///
/// A value that no service could keep to counts as the nearest one that it can: a time of more than
/// a day as a day, and numbers as said below.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections served at once, 1 to 65,536; one more closes the one that is needed least: idle,
    /// else the longest at reading its head, else the longest stuck at its end or its answer. Only one
    /// that is idle is closed for it within 30 ms, and none before a whole request that is there is
    /// answered. Each takes a thread. Default 64.
    pub max_connections: usize,
    /// Long requests at once, such as `/wait`, 0 to 65,536; one more is answered with 503. They come
    /// on top of `max_connections`, and each takes a thread. Default 16.
    pub max_waiting: usize,
    /// Bytes of a request's head, 64 to 1,048,576. Each thread has room for one. Default 8192.
    pub head_bytes: usize,
    /// Time for a whole head, from its first byte or from the connection's start. Default 3 s.
    pub head: Duration,
    /// Time from an answer to the next request on the same connection. Default 10 s.
    pub idle: Duration,
    /// Time for a whole response to be taken by the client. Default 5 s.
    pub write: Duration,
    /// Time for a refused client to read why and close, before the connection is cut. Default 1 s.
    pub linger: Duration,
    /// Time for what is being answered when the service is shut down. Default 1 s.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 64,
            max_waiting: 16,
            head_bytes: 8 * 1024,
            head: Duration::from_secs(3),
            idle: Duration::from_secs(10),
            write: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            shutdown: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// With values that can be reckoned with.
    fn kept(self) -> Self {
        const MOST: usize = 65_536;
        let time = |time: Duration| time.min(Duration::from_secs(24 * 60 * 60));
        let some = |some: Duration| time(some).max(Duration::from_millis(1));
        Self {
            max_connections: self.max_connections.clamp(1, MOST),
            max_waiting: self.max_waiting.min(MOST),
            head_bytes: self.head_bytes.clamp(64, 1 << 20),
            head: some(self.head),
            idle: some(self.idle),
            write: some(self.write),
            linger: time(self.linger),
            shutdown: time(self.shutdown),
        }
    }
}

/// What is to be served, and where.
#[derive(Debug, Default)]
#[must_use = "nothing is served before bind or listen"]
pub struct Builder {
    routes: Routes,
    limits: Limits,
    service_metrics: crate::metrics::DiagnosticsMetrics,
    #[cfg(feature = "cli")]
    watched: bool,
}

impl Builder {
    /// The services behind `/readyz` and `/wait`; without it there are none.
    pub fn readyz(mut self, registry: crate::readyz::Registry) -> Self {
        self.routes.readyz = registry;
        self
    }

    /// The metrics behind `/metrics`; without it there are none. A clone of a registry is the same one.
    pub fn metrics(mut self, registry: prometheus::Registry) -> Self {
        self.routes.metrics = Exposition::of(registry);
        self
    }

    /// The same for the registry of the process, [`prometheus::default_registry`], which
    /// [`prometheus::register`] and the macros `register_…!` fill.
    pub fn default_metrics(self) -> Self {
        self.metrics(prometheus::default_registry().clone())
    }

    /// What the page at `/` is about, such as the program's name, and under which headings its metrics
    /// stand there: pairs of a heading and of how the names of its metrics begin. A heading may be there
    /// more than once, with its metrics in that order; the others stand under a heading of their own, those of the process at the end. Captions are the metrics' help texts.
    ///
    /// ```
    /// # use tbot::diagnostics::Diagnostics;
    /// let builder = Diagnostics::builder().front_page("backup", [("Transfers", "backup_sent_")]);
    /// # let _ = builder;
    /// ```
    pub fn front_page<'a>(
        mut self,
        title: &str,
        sections: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let sections = sections.into_iter();
        self.routes.front = front::Front {
            title: title.into(),
            sections: sections
                .map(|(heading, prefix)| (heading.into(), prefix.into()))
                .collect(),
        };
        self
    }

    /// Has the service count its own clients: requests by code and path, connections, refusals. It does
    /// so where it has a listener of its own.
    ///
    /// ```
    /// use tbot::{diagnostics::Diagnostics, metrics::DiagnosticsMetrics};
    ///
    /// let registry = prometheus::Registry::new();
    /// let metrics = DiagnosticsMetrics::register(&registry)?;
    /// let builder = Diagnostics::builder().metrics(registry).service_metrics(metrics);
    /// # let _ = builder;
    /// # Ok::<_, prometheus::Error>(())
    /// ```
    pub fn service_metrics(mut self, metrics: crate::metrics::DiagnosticsMetrics) -> Self {
        self.service_metrics = metrics;
        self
    }

    /// Whether to serve profiles and stacks of this process below `/debug/pprof/`, for `go tool pprof`,
    /// `curl` and browsers. Off by default, for they show to any client what the process does, and cost
    /// CPU time.
    ///
    /// If `on`, this process handles SIGPROF from here on, for ever; where other code does so already,
    /// there are no profiles, and a request for one is told why. Timed system calls of any thread may end
    /// with `EINTR` during a profile, as with any signal.
    #[cfg(feature = "pprof")]
    pub fn profiling(mut self, on: bool) -> Self {
        self.routes.profiling = on.then(pprof::Profiling::start);
        self
    }

    /// Limits other than the default ones.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves one more path, by a function or a closure. The service's own paths cannot be replaced; of
    /// two routes for one path the first wins. A body is held in memory as a whole before it is sent. A
    /// panic is answered with 500. What may take longer than some milliseconds belongs in a
    /// [`long_route`](Self::long_route).
    ///
    /// ```
    /// use tbot::{diagnostics::{Diagnostics, Request}, tiny_http};
    ///
    /// fn version(_: &Request<'_>) -> tiny_http::ResponseBox {
    ///     tiny_http::Response::from_string("1.2.3").boxed()
    /// }
    ///
    /// let builder = Diagnostics::builder().route("/version", version);
    /// # let answer = builder.routes().respond("GET", "/version");
    /// # assert_eq!(answer.status_code().0, 200);
    /// ```
    pub fn route<F>(mut self, path: &str, handler: F) -> Self
    where
        F: Fn(&Request<'_>) -> ResponseBox + Send + Sync + 'static,
    {
        self.routes
            .extra
            .push((path.into(), Handler::Quick(Arc::new(handler))));
        self
    }

    /// Serves one more path whose answer takes seconds. It counts towards
    /// [`max_waiting`](Limits::max_waiting), closes its connection at the end, and ends early when
    /// [`Client::is_there`] says no.
    pub fn long_route<F>(mut self, path: &str, handler: F) -> Self
    where
        F: Fn(&Request<'_>, &Client<'_>) -> ResponseBox + Send + Sync + 'static,
    {
        self.routes
            .extra
            .push((path.into(), Handler::Long(Arc::new(handler))));
        self
    }

    /// Has [`Diagnostics::hang`] know how its accept thread is.
    #[cfg(feature = "cli")]
    pub(crate) fn watched(mut self, watched: bool) -> Self {
        self.watched = watched;
        self
    }

    /// The endpoints without a listener, for a server of yours: see [`Routes::respond`].
    #[must_use]
    pub fn routes(self) -> Routes {
        self.routes
    }

    /// Listens on `addr`, as `127.0.0.1:3001`, `[::1]:3001` or `localhost:3001`; port 0 takes any free
    /// one, which [`Diagnostics::local_addr`] tells. On return the port is open.
    ///
    /// # Errors
    ///
    /// Where the address is none, is taken or is not this machine's, and where no thread can be
    /// started: the system's kind, and a sentence that names the address.
    pub fn bind(mut self, addr: &str) -> io::Result<Diagnostics> {
        if let Some(profiling) = &mut self.routes.profiling {
            profiling.set_host(addr);
        }
        let error = |error: io::Error| cannot_listen(addr, &error);
        let listener = TcpListener::bind(addr).map_err(error)?;
        // The standard library asks for 128, which a burst fills at once; the probe that comes then
        // would try again only after a second. The kernel cuts this to `net.core.somaxconn`.
        rustix::net::listen(&listener, 4096).map_err(|e| error(e.into()))?;
        self.listen(listener)
    }

    /// Serves the connections of a listener that is open already, as one that was inherited. It is
    /// shut down with the service, in its other copies too.
    ///
    /// # Errors
    ///
    /// Where it has no address, and where no thread can be started.
    pub fn listen(self, listener: TcpListener) -> io::Result<Diagnostics> {
        let addr = listener.local_addr()?;
        let profiling = self.routes.profiling.is_some();
        let service = Service::start(
            listener,
            self.routes,
            self.limits.kept(),
            self.service_metrics,
            #[cfg(feature = "cli")]
            self.watched,
        )
        .map_err(|error| cannot_listen(&addr.to_string(), &error))?;
        // One for both versions of IP writes 127.0.0.1 as ::ffff:127.0.0.1.
        if !addr.ip().to_canonical().is_loopback() {
            let what = if profiling { " and profiles" } else { "" };
            tracing::warn!(
                "diagnostics{what} on {addr} can be read by other machines, without a password"
            );
        }
        Ok(Diagnostics { addr, service })
    }
}

/// A running diagnostics service; dropping it is [`shutdown`](Self::shutdown).
///
/// A program that stops drops it last: until then `/readyz` says that, and what is left to end.
#[derive(Debug)]
#[must_use = "the service ends when this is dropped"]
pub struct Diagnostics {
    addr: SocketAddr,
    service: listener::Running,
}

impl Diagnostics {
    /// What to serve is said first, where to listen last.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The address that is listened on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Why its accept thread does no work any more, if that is [watched](Builder::watched). It is woken for it.
    #[cfg(feature = "cli")]
    pub(crate) fn hang(&self) -> Option<String> {
        self.service.hang()
    }

    /// Stops accepting, lets what is being answered end within [`Limits::shutdown`], cuts the
    /// rest, and returns when every thread of the service has ended. A route that has not returned
    /// by then is waited for.
    pub fn shutdown(self) {
        drop(self.service);
    }
}

/// An error to listen as a sentence for an operator.
fn cannot_listen(addr: &str, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        ErrorKind::AddrInUse => "address in use (is another tbot running?)".into(),
        ErrorKind::AddrNotAvailable => "no interface of this machine has this address".into(),
        ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 need privileges)".into()
        }
        ErrorKind::InvalidInput => format!("{error} (expected HOST:PORT, as in 127.0.0.1:3001)"),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {why}"))
}
