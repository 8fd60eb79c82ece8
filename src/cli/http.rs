//! One HTTP request to a diagnostics service, within a time: what `tbot wait` asks by.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::config::{Error, HostPort, quoted, server_from_flag};
use crate::errors::plain;

/// A head that is longer is none of a diagnostics service.
const MAX_HEAD: usize = 16 << 10;

/// Of a body no more is read: it is looked into for the reason alone.
const MAX_BODY: usize = 64 << 10;

/// Where requests go.
pub(super) struct Server {
    at: HostPort,
    /// What stands before each path, without a slash at its end.
    base: String,
    /// The look-up that is under way.
    lookup: Option<Receiver<std::io::Result<Vec<SocketAddr>>>>,
}

/// What came back.
pub(super) struct Answer {
    pub status: u16,
    /// As far as it was read; empty for a 200, which says everything.
    pub body: Vec<u8>,
}

/// Why nothing came back.
pub(super) struct NoAnswer {
    pub why: String,
    /// Whether more time could have helped.
    pub late: bool,
}

impl Server {
    /// `HOST:PORT` or `http://HOST[:PORT][/PATH]`, as the flag or variable `origin` gives it.
    pub fn parse(origin: &'static str, text: &str) -> Result<Self, Error> {
        const EXAMPLE: &str = "127.0.0.1:3001";
        let wrong = |why: &str| Error::new(format!("{origin}: {why}"));
        let (authority, path) = match text.split_once("://") {
            None => (text, ""),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                rest.split_at(rest.find('/').unwrap_or(rest.len()))
            }
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(wrong(
                    "diagnostics are served by http, and https is not spoken here; write \
                     http://HOST:PORT or HOST:PORT",
                ));
            }
            Some((scheme, _)) => {
                let scheme = quoted(scheme);
                return Err(wrong(&format!(
                    "{scheme} is of an unknown scheme; write http://HOST:PORT or HOST:PORT"
                )));
            }
        };
        // Not shown: it may be a password.
        if authority.contains('@') {
            return Err(wrong(
                "has a user, which diagnostics do not ask for; write HOST:PORT",
            ));
        }
        if !path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\".contains(&byte))
        {
            let path = quoted(path);
            return Err(wrong(&format!("{path} is no path; write http://HOST:PORT")));
        }
        let is_url = authority.len() < text.len();
        let has_port = |host: &str| {
            host.rsplit_once(':')
                .is_some_and(|(_, end)| !end.contains(']'))
        };
        let at = match is_url && !has_port(authority) {
            true => server_from_flag(origin, &format!("{authority}:80"), EXAMPLE)?,
            false => server_from_flag(origin, authority, EXAMPLE)?,
        };
        Ok(Self {
            at,
            base: path.trim_end_matches('/').to_owned(),
            lookup: None,
        })
    }

    /// `127.0.0.1:3001`, `[::1]:3001`.
    pub fn name(&self) -> String {
        let HostPort { host, port } = &self.at;
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    /// Asks for `path`. All of it, look-up and answer too, is over at `deadline`.
    pub fn get(&mut self, path: &str, deadline: Instant) -> Result<Answer, NoAnswer> {
        let (name, path) = (self.name(), format!("{}{path}", self.base));
        let failed = |what: &str| {
            let name = name.clone();
            let what = what.to_owned();
            move |error: std::io::Error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => NoAnswer {
                    why: format!("{name} {what} in time"),
                    late: true,
                },
                _ => NoAnswer {
                    why: format!("{name} {what}: {}", plain(error)),
                    late: false,
                },
            }
        };
        let addresses = self.addresses(deadline)?;
        let mut stream = connect(&addresses, deadline).map_err(failed("took no connection"))?;
        // In version 1.0 no answer comes in chunks.
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {name}\r\nUser-Agent: tbot/{}\r\n\
             Accept: application/json\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        stream
            .set_write_timeout(Some(left(deadline)))
            .and_then(|()| stream.write_all(request.as_bytes()))
            .map_err(failed("took no request"))?;
        let nonsense = |what: &str| NoAnswer {
            why: format!("{name} {what}"),
            late: false,
        };
        let mut bytes = Vec::new();
        let (status, length) = loop {
            let more = read(&mut stream, &mut bytes, deadline);
            match head(&bytes) {
                Ok(Some((status, end, length))) => {
                    bytes.drain(..end);
                    break (status, length.unwrap_or(MAX_BODY).min(MAX_BODY));
                }
                Ok(None) if bytes.len() <= MAX_HEAD => {}
                _ => return Err(nonsense("answers something that is not HTTP")),
            }
            match more {
                Ok(0) if bytes.is_empty() => return Err(nonsense("closed without an answer")),
                Ok(0) => return Err(nonsense("broke off its answer")),
                Ok(_) => {}
                Err(error) => return Err(failed("did not answer")(error)),
            }
        };
        if status == 200 {
            bytes.clear();
            return Ok(Answer {
                status,
                body: bytes,
            });
        }
        // What there is of it has to do.
        while bytes.len() < length
            && read(&mut stream, &mut bytes, deadline).is_ok_and(|more| more > 0)
        {}
        bytes.truncate(length);
        Ok(Answer {
            status,
            body: bytes,
        })
    }

    /// The addresses of the host. A look-up has no deadline of its own, and so a thread; one that takes
    /// longer is waited for by the next request.
    fn addresses(&mut self, deadline: Instant) -> Result<Vec<SocketAddr>, NoAnswer> {
        let HostPort { host, port } = &self.at;
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, *port)]);
        }
        let lookup = self.lookup.take().unwrap_or_else(|| {
            let (sender, lookup) = channel();
            let (host, port) = (host.clone(), *port);
            let look = move || {
                let found = (&*host, port).to_socket_addrs();
                // Nobody may be waiting any more.
                let _ = sender.send(found.map(Iterator::collect));
            };
            // Without a thread the channel is closed, which says so.
            let _ = std::thread::Builder::new()
                .name("lookup".into())
                .spawn(look);
            lookup
        });
        let failed = |why: &str, late| {
            let why = format!("{host} cannot be looked up: {why}");
            NoAnswer { why, late }
        };
        match lookup.recv_timeout(left(deadline)) {
            Ok(Ok(found)) if found.is_empty() => Err(failed("it has no address", false)),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                let error = plain(error);
                let why = error.rsplit(": ").next().unwrap_or_default();
                Err(failed(why, false))
            }
            Err(RecvTimeoutError::Disconnected) => Err(failed("no thread can be started", false)),
            Err(RecvTimeoutError::Timeout) => {
                let late = failed("the name service does not answer", true);
                self.lookup = Some(lookup);
                Err(late)
            }
        }
    }
}

/// To the first address that takes it; one that is silent leaves the others their share of the time.
fn connect(addresses: &[SocketAddr], deadline: Instant) -> std::io::Result<TcpStream> {
    let mut last = Err(ErrorKind::TimedOut.into());
    for (n, address) in addresses.iter().enumerate() {
        let share = left(deadline) / u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
        last = TcpStream::connect_timeout(address, share.max(LEAST));
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Sockets refuse to wait for no time at all.
const LEAST: Duration = Duration::from_millis(1);

fn left(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(LEAST)
}

fn read(stream: &mut TcpStream, into: &mut Vec<u8>, deadline: Instant) -> std::io::Result<usize> {
    // Who sends a byte at a time wins none.
    if Instant::now() >= deadline {
        return Err(ErrorKind::TimedOut.into());
    }
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(left(deadline)))?;
    loop {
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(length) => {
                into.extend_from_slice(&buffer[..length]);
                return Ok(length);
            }
        }
    }
}

/// Status, end of the head and length of the body, once the head is whole.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, Option<usize>)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(bytes)? else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    Ok(response.code.map(|status| (status, end, length)))
}
