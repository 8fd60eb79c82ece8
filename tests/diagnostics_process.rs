//! What the diagnostics service does to its process: threads and descriptors. These tests count
//! and exhaust what belongs to the whole process, so they have it to themselves, one at a time.

#![allow(missing_docs, reason = "these are tests")]

#[path = "diagnostics/client.rs"]
mod client;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tbot::diagnostics::{Diagnostics, Limits};
use tbot::readyz::Registry;
use tracing::{Event, Metadata, Subscriber, span};

use client::{Client, PATIENCE, ask, get, limits};

/// One test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of the service.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("diag-"))
        .count()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// Looks again until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::yield_now();
    }
}

#[test]
fn two_thousand_idle_connections_leave_livez_alive_and_threads_few() {
    let _alone = alone();
    let before = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: before.maximum,
            ..before
        },
    )
    .expect("up to the hard limit");
    let limits = limits(Limits::default(), |one| one.head = Duration::from_secs(300));
    let service = Diagnostics::builder()
        .limits(limits)
        .bind("127.0.0.1:0")
        .expect("a free port");
    let before = descriptors();
    let idle: Vec<TcpStream> = (0..2000)
        .map(|_| TcpStream::connect(service.local_addr()).expect("connects"))
        .collect();
    assert_eq!(ask(&service, "/livez").status, 200);
    assert!(threads() <= 1 + 64 + 16, "{} threads", threads());
    // Ours and the service's; one may be on its way in, one on its way out.
    let most = before + idle.len() + 64 + 2;
    assert!(
        descriptors() <= most,
        "{} descriptors, at most {most} expected",
        descriptors()
    );
}

#[test]
fn the_end_leaves_no_thread_and_no_descriptor() {
    let _alone = alone();
    let before = descriptors();
    let services = Registry::new();
    let _mux = services.register("mux");
    let limits = limits(Limits::default(), |one| {
        one.shutdown = Duration::from_millis(10)
    });
    let service = Diagnostics::builder()
        .readyz(services)
        .limits(limits)
        .route("/big", |_| {
            tiny_http::Response::from_data(vec![b'x'; 32 * 1024 * 1024]).boxed()
        })
        .bind("127.0.0.1:0")
        .expect("a free port");
    let mut clients: Vec<Client> = (0..5).map(|_| Client::of(&service)).collect();
    clients[0].send(get("/wait"));
    clients[1].send(get("/big"));
    clients[2].send("GET /livez HT");
    assert_eq!(clients[3].send(get("/livez")).answer().status, 200);
    assert!(threads() >= 2);
    service.shutdown();
    // The kernel takes a joined thread off the list a moment later.
    until("threads end", || threads() == 0);
    drop(clients);
    assert_eq!(descriptors(), before);
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let _alone = alone();
    tracing::subscriber::set_global_default(Complaints).expect("the only one");
    for left in 0..3 {
        // A new one each time, so that no descriptor of the last comes free in between.
        let service = Diagnostics::builder()
            .bind("127.0.0.1:0")
            .expect("a free port");
        let SocketAddr::V4(addr) = service.local_addr() else {
            panic!("bound to IPv4")
        };
        let mut kept = Client::of(&service);
        assert_eq!(kept.send(get("/livez")).answer().status, 200);
        // A socket in advance: to connect it takes no descriptor here.
        let spare = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let mut hoard = Hoard::everything();
        hoard.files.truncate(hoard.files.len() - left);
        let complaints = COMPLAINTS.load(Ordering::SeqCst);
        // As many as descriptors are left, and one more that finds none.
        let stuck: Vec<OwnedFd> = hoard.sockets.drain(..=left).collect();
        for socket in &stuck {
            connect(socket, &addr).expect("the backlog has room");
        }
        until("the service complains", || {
            COMPLAINTS.load(Ordering::SeqCst) > complaints
        });
        assert_eq!(
            kept.send(get("/livez")).answer().status,
            200,
            "who is connected is served"
        );
        drop(hoard);
        connect(&spare, &addr).expect("connects");
        let mut client = Client::from(TcpStream::from(spare));
        assert_eq!(
            client.send(get("/livez")).answer().status,
            200,
            "{left} left"
        );
        drop(stuck);
    }
}

/// Every descriptor the process may have.
struct Hoard {
    files: Vec<File>,
    sockets: Vec<OwnedFd>,
    limit: Rlimit,
}

impl Hoard {
    fn everything() -> Self {
        let sockets = (0..4)
            .map(|_| socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket"))
            .collect();
        let limit = getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(256),
            ..limit
        };
        setrlimit(Resource::Nofile, few).expect("down is always allowed");
        let files = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        Self {
            files,
            sockets,
            limit,
        }
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.limit).expect("back to what it was");
    }
}

/// Counts what is logged about accepting.
struct Complaints;

static COMPLAINTS: AtomicUsize = AtomicUsize::new(0);

impl Subscriber for Complaints {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Accept(bool);
        impl tracing::field::Visit for Accept {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 |= format!("{value:?}").contains("cannot accept a connection");
            }
        }
        let mut accept = Accept(false);
        event.record(&mut accept);
        COMPLAINTS.fetch_add(accept.0.into(), Ordering::SeqCst);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
