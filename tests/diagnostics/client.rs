//! A client that says exactly what a test wants, over a raw socket.

#![allow(
    dead_code,
    reason = "two test programs share it, and each uses its part"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tbot::diagnostics::{Diagnostics, Limits};

/// Longer than any deadline under test: it ends a test that hangs, it decides nothing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Limits with a change.
pub fn limits(mut base: Limits, change: impl FnOnce(&mut Limits)) -> Limits {
    change(&mut base);
    base
}

/// A request head for `path` on a connection that stays open.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// Asks for `path` on a connection of its own.
pub fn ask(service: &Diagnostics, path: &str) -> Answer {
    Client::of(service).send(get(path)).answer()
}

pub struct Client {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    pub fn of(service: &Diagnostics) -> Self {
        Self::from(TcpStream::connect(service.local_addr()).expect("connects"))
    }

    pub fn from(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a good time-out");
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the service reads");
        self
    }

    /// The next answer with its body.
    pub fn answer(&mut self) -> Answer {
        let (mut answer, body) = self.answer_in_bytes();
        answer.body = String::from_utf8(body).expect("text");
        answer
    }

    /// The next answer, and its body as it is on the wire.
    pub fn answer_in_bytes(&mut self) -> (Answer, Vec<u8>) {
        let answer = self.answer_to_head();
        let length = answer
            .header("Content-Length")
            .expect("a length")
            .parse()
            .expect("a number");
        while self.unread.len() < length {
            assert!(self.more() > 0, "the body ends early");
        }
        let body = self.unread.drain(..length).collect();
        (answer, body)
    }

    /// The next answer, which has no body.
    pub fn answer_to_head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.more() > 0,
                "no answer but {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("ASCII");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head,
            body: String::new(),
        }
    }

    /// The service has ended the connection, after nothing else.
    pub fn assert_closed(&mut self) {
        let more = self.more();
        assert!(
            more == 0 && self.unread.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&self.unread)
        );
    }

    /// Reads once; 0 at the end of the connection, however it ended.
    fn more(&mut self) -> usize {
        let mut part = [0; 16 * 1024];
        let length = match self.stream.read(&mut part) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
            {
                0
            }
            Err(error) => panic!("the service says nothing: {error}"),
        };
        self.unread.extend_from_slice(&part[..length]);
        length
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether it announces the end of the connection.
    pub fn closes(&self) -> bool {
        self.header("Connection") == Some("close")
    }
}
