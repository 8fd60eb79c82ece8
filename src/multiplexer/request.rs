//! The v1 request: `host:port`, an optional `|cluster`, and a NUL.
//!
//! A client sends it once, first thing on `v1.sock`. Its first byte may carry a descriptor
//! (SCM_RIGHTS), the client's stderr, for errors before bytes are relayed. There is no answer: what
//! follows the NUL, also in the same read, belongs to the target.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::client;

/// The longest request, NUL included. A host name has at most 253 characters (RFC 1035 2.3.4).
pub const LONGEST: usize = 4096;

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The part behind `|`, if there was one.
    pub cluster: Option<String>,
}

/// Why some bytes are no request: a fragment of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl Request {
    /// Parses what a client sent before the NUL.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("it is not UTF-8"))?;
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Malformed("it has a space or a control character"));
        }
        let (target, cluster) = match text.split_once('|') {
            None => (text, None),
            Some((_, cluster)) if cluster.contains('|') => {
                return Err(Malformed("it has more than one '|'"));
            }
            Some((target, "")) => (target, None),
            Some((target, cluster)) => (target, Some(cluster.to_owned())),
        };
        let (host, port) = target.rsplit_once(':').ok_or(Malformed("it has no port"))?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let has_colons = bracketed.is_none() && host.contains(':');
        let host = bracketed.unwrap_or(host);
        if has_colons || host.contains(['[', ']']) {
            return Err(Malformed(
                "an IPv6 address must be in brackets, and nothing else",
            ));
        }
        if host.is_empty() {
            return Err(Malformed("its host is empty"));
        }
        let port = number(port).ok_or(Malformed("its port is not a number from 1 to 65535"))?;
        Ok(Self {
            host: host.to_owned(),
            port,
            cluster,
        })
    }
}

impl fmt::Display for Request {
    /// As `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_port(&self.host, self.port))
    }
}

/// That of a port, of which there is none with the number 0.
pub(super) fn number(port: &str) -> Option<u16> {
    // `parse` alone would take "+22".
    let is_number = port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|port| is_number && *port != 0)
}

/// `host:port`, an IPv6 address in brackets.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A request on its way in.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    started: bool,
    /// The client's stderr, once its first byte is in.
    pub stderr: Option<OwnedFd>,
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The request is not complete; more will come.
    Incomplete,
    /// The bytes before the NUL, and those behind it.
    Complete(Vec<u8>, Vec<u8>),
    /// The client closed its side before the NUL.
    Eof,
    /// There is no NUL in [`LONGEST`] bytes.
    TooLong,
}

impl Incoming {
    /// Reads what is there, without blocking; of a descriptor that comes late or as a second one
    /// nothing is kept.
    ///
    /// `exact`: what follows the NUL stays in the socket, for whom the socket is handed to.
    pub fn read(&mut self, socket: BorrowedFd<'_>, exact: bool) -> Result<Progress, Errno> {
        let mut chunk = [0; LONGEST];
        loop {
            let mut wanted = LONGEST;
            if exact {
                match peek(socket, &mut chunk) {
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => return Ok(Progress::Incomplete),
                    Ok(seen @ 1..) => wanted = seen,
                    // An end or an error is to be met by the read itself.
                    Ok(0) | Err(_) => {}
                }
            }
            let stderr = &mut self.stderr;
            let late = self.started;
            let read = client::read(socket, &mut chunk[..wanted], |descriptor| {
                if late || stderr.is_some() {
                    client::close(descriptor);
                } else {
                    *stderr = Some(descriptor);
                }
            });
            let len = match read {
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(Progress::Incomplete),
                Err(error) => return Err(error),
            };
            self.started = true;
            let chunk = &chunk[..len];
            if chunk.is_empty() {
                return Ok(Progress::Eof);
            }
            let room = LONGEST - self.bytes.len();
            if let Some(nul) = chunk.iter().take(room).position(|byte| *byte == 0) {
                let mut request = std::mem::take(&mut self.bytes);
                request.extend_from_slice(&chunk[..nul]);
                return Ok(Progress::Complete(request, chunk[nul + 1..].to_vec()));
            }
            if chunk.len() >= room {
                return Ok(Progress::TooLong);
            }
            self.bytes.extend_from_slice(chunk);
        }
    }
}

/// How many bytes of what is there belong to the request. Descriptors that came along stay where they are.
fn peek(socket: BorrowedFd<'_>, chunk: &mut [u8]) -> Result<usize, Errno> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, seen) = recv(socket, &mut *chunk, flags)?;
    let nul = chunk[..seen].iter().position(|byte| *byte == 0);
    Ok(nul.map_or(seen, |nul| nul + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn request(host: &str, port: u16, cluster: Option<&str>) -> Request {
        Request {
            host: host.into(),
            port,
            cluster: cluster.map(Into::into),
        }
    }

    #[test]
    fn the_grammar() {
        for (text, parsed) in [
            ("db1:22", request("db1", 22, None)),
            ("db1.prod:22|prod", request("db1.prod", 22, Some("prod"))),
            ("db1:22|", request("db1", 22, None)),
            ("[::1]:2222|prod", request("::1", 2222, Some("prod"))),
            ("[fe80::1%eth0]:22", request("fe80::1%eth0", 22, None)),
            ("[db1]:22", request("db1", 22, None)),
            ("127.0.0.1:65535", request("127.0.0.1", 65535, None)),
        ] {
            assert_eq!(Request::parse(text.as_bytes()), Ok(parsed), "{text}");
        }
    }

    #[test]
    fn what_is_no_request_says_why() {
        for (bytes, why) in [
            (&b""[..], "no port"),
            (b"db1", "no port"),
            (b":22", "host is empty"),
            (b"[]:22", "host is empty"),
            (b"db1:", "not a number"),
            (b"db1:0", "not a number"),
            (b"db1:+22", "not a number"),
            (b"db1:65536", "not a number"),
            (b"db1:ssh", "not a number"),
            (b"a:1|b|c", "more than one"),
            (b"::1:22", "brackets"),
            (b"[::1:22", "brackets"),
            (b"[a]b]:22", "brackets"),
            (b"[[::1]]:22", "brackets"),
            (b"db 1:22", "a space"),
            (b"db\x1b1:22", "control"),
            (b"db\xff:22", "UTF-8"),
        ] {
            let error = Request::parse(bytes).expect_err("malformed").to_string();
            assert!(error.contains(why), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn shown_as_it_is_dialled() {
        assert_eq!(request("::1", 22, None).to_string(), "[::1]:22");
        assert_eq!(request("db1", 22, Some("prod")).to_string(), "db1:22");
    }

    #[test]
    fn comes_in_many_pieces_and_keeps_what_follows() {
        let (mut client, server) = UnixStream::pair().expect("a pair");
        let mut incoming = Incoming::default();
        for byte in b"db1:22" {
            assert_eq!(
                incoming.read(server.as_fd(), false),
                Ok(Progress::Incomplete)
            );
            client.write_all(&[*byte]).expect("room for a byte");
        }
        client.write_all(b"\0SSH-2.0-x").expect("room");
        let complete = Progress::Complete(b"db1:22".to_vec(), b"SSH-2.0-x".to_vec());
        assert_eq!(incoming.read(server.as_fd(), false), Ok(complete));
    }

    #[test]
    fn what_follows_stays_in_the_socket_where_it_is_to_be_exact() {
        use std::io::Read;
        let (mut client, mut server) = UnixStream::pair().expect("a pair");
        let mut incoming = Incoming::default();
        client.write_all(b"db1").expect("room");
        assert_eq!(
            incoming.read(server.as_fd(), true),
            Ok(Progress::Incomplete)
        );
        client.write_all(b":22\0SSH-2.0-x").expect("room");
        let complete = Progress::Complete(b"db1:22".to_vec(), Vec::new());
        assert_eq!(incoming.read(server.as_fd(), true), Ok(complete));
        let mut rest = [0; 20];
        assert_eq!(server.read(&mut rest).expect("it is there"), 9);
        assert_eq!(&rest[..9], b"SSH-2.0-x");
        drop(client);
        let eof = Incoming::default().read(server.as_fd(), true);
        assert_eq!(eof, Ok(Progress::Eof));
    }

    #[test]
    fn is_bounded() {
        for (len, expected) in [(LONGEST - 1, true), (LONGEST, false)] {
            let (mut client, server) = UnixStream::pair().expect("a pair");
            client
                .write_all(&[&vec![b'a'; len][..], b"\0"].concat())
                .expect("room");
            let complete = matches!(
                Incoming::default().read(server.as_fd(), false),
                Ok(Progress::Complete(..))
            );
            assert_eq!(complete, expected, "{len} bytes before the NUL");
        }
    }
}
