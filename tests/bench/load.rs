//! Requests for an HTTP service, the same for everyone who is measured.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::event::{Timespec, epoll};

use crate::common::wait::PATIENCE;
use crate::frame::Of;

/// Two threads with half of the connections each, as many as this machine mostly has cores.
const THREADS: usize = 2;

/// What a turn brought.
pub struct Load {
    pub count: f64,
    /// Answers a second.
    pub rate: f64,
    /// Of the time from request to answer, in seconds.
    pub p99: f64,
}

/// Requests one after the other on each of so many connections.
pub fn kept(address: SocketAddr, request: &str, connections: usize, time: Duration) -> Load {
    at_once(|took| {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("descriptors");
        let mut all: Vec<Kept> = (0..connections / THREADS)
            .map(|_| Kept::open(address, request))
            .collect();
        for (place, one) in all.iter().enumerate() {
            let data = epoll::EventData::new_u64(place as u64);
            epoll::add(&poll, &one.stream, data, epoll::EventFlags::IN).expect("memory");
        }
        let mut events = [MaybeUninit::uninit(); 64];
        let began = Instant::now();
        let patience = Timespec {
            tv_sec: PATIENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        while began.elapsed() < time {
            let (ready, _) = epoll::wait(&poll, &mut events, Some(&patience)).expect("an answer");
            for event in &*ready {
                let one = &mut all[event.data.u64() as usize];
                if one.read() {
                    took.push(one.sent.elapsed().as_secs_f64());
                    one.send(request);
                }
            }
        }
    })
}

/// Requests on a connection each, so many at a time.
pub fn fresh(address: SocketAddr, request: &str, clients: usize, time: Duration) -> Load {
    let turn = |took: &mut Vec<f64>| {
        let began = Instant::now();
        let mut answer = Vec::new();
        while began.elapsed() < time {
            let began = Instant::now();
            let mut stream = connect(address);
            stream.write_all(request.as_bytes()).expect("it is read");
            answer.clear();
            stream
                .read_to_end(&mut answer)
                .expect("answered and closed");
            assert!(is_complete(&answer), "{}", answer.escape_ascii());
            took.push(began.elapsed().as_secs_f64());
        }
    };
    at_once(|took| {
        std::thread::scope(|scope| {
            let client = || {
                scope.spawn(|| {
                    let mut took = Vec::new();
                    turn(&mut took);
                    took
                })
            };
            let clients: Vec<_> = (0..clients / THREADS).map(|_| client()).collect();
            for client in clients {
                took.extend(client.join().expect("every client is answered"));
            }
        });
    })
}

/// What is asked for; `more` are header lines with their ends.
pub fn request(address: SocketAddr, path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n")
}

/// Whether a whole answer is there, which is one of success.
pub fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = memmem::find(answer, b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = answer.split_at(end + 4);
    assert!(
        head.starts_with(b"HTTP/1.1 200 "),
        "{}",
        head.escape_ascii()
    );
    let name = b"Content-Length: ";
    let Some(at) = memmem::find(head, name) else {
        return body.ends_with(b"0\r\n\r\n");
    };
    let digits = head[at + name.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    body.len() == digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}

fn at_once(turn: impl Fn(&mut Vec<f64>) + Sync) -> Load {
    let began = Instant::now();
    let mut took = std::thread::scope(|scope| {
        let one = || {
            scope.spawn(|| {
                let mut took = Vec::new();
                turn(&mut took);
                took
            })
        };
        let all: Vec<_> = (0..THREADS).map(|_| one()).collect();
        let all = all
            .into_iter()
            .flat_map(|one| one.join().expect("all are answered"));
        all.collect::<Vec<f64>>()
    });
    let count = took.len() as f64;
    Load {
        count,
        rate: count / began.elapsed().as_secs_f64(),
        p99: Of::Percentile99.take(&mut took),
    }
}

/// A connection with a request under way.
struct Kept {
    stream: TcpStream,
    answer: Vec<u8>,
    length: usize,
    sent: Instant,
}

impl Kept {
    fn open(address: SocketAddr, request: &str) -> Self {
        let stream = connect(address);
        stream.set_nonblocking(true).expect("a socket");
        let mut kept = Self {
            stream,
            answer: vec![0; 256 << 10],
            length: 0,
            sent: Instant::now(),
        };
        kept.send(request);
        kept
    }

    fn send(&mut self, request: &str) {
        (self.length, self.sent) = (0, Instant::now());
        let sent = self.stream.write(request.as_bytes()).expect("it is read");
        assert_eq!(sent, request.len(), "a request fits");
    }

    /// Reads what is there; true once that is all.
    fn read(&mut self) -> bool {
        match self.stream.read(&mut self.answer[self.length..]) {
            Ok(0) => panic!("the service closed"),
            Ok(length) => self.length += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("no answer: {error}"),
        }
        is_complete(&self.answer[..self.length])
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the service accepts");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream
}
