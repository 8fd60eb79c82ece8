//! Requests to `v1.sock`.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::cuts;
use crate::multiplexer::request::{Incoming, LONGEST, Progress, Request};

/// However a request is cut, it is read as in one piece; what is behind its NUL is nobody's but the target's; and
/// one that is right is shown as one that means the same.
pub fn v1_request(data: &[u8]) {
    let whole = read(&[data], false);
    if let (Progress::Complete(request, rest), kept) = &whole {
        assert_eq!([&request[..], &[0], &rest[..], &kept[..]].concat(), data);
        assert!(request.len() < LONGEST && !request.contains(&0));
    }
    for at in cuts(data) {
        for exact in [false, true] {
            let (progress, kept) = read(&[&data[..at], &data[at..]], exact);
            match (&whole.0, &progress) {
                (Progress::Complete(request, rest), Progress::Complete(same, less)) => {
                    assert_eq!(request, same);
                    assert!(!exact || less.is_empty(), "{less:?} was taken");
                    let behind = |one: &[u8], other: &[u8]| [one, other].concat();
                    assert_eq!(behind(rest, &whole.1), behind(less, &kept));
                }
                (expected, progress) => assert_eq!(expected, progress, "cut at {at}, {exact}"),
            }
        }
    }
    let request = match &whole.0 {
        Progress::Complete(request, _) => request,
        _ => data,
    };
    if let Ok(request) = Request::parse(request) {
        is_sound(&request);
    }
}

/// What comes of the pieces, one after another and then the end; and what is left in the socket.
fn read(pieces: &[&[u8]], exact: bool) -> (Progress, Vec<u8>) {
    let (mut client, mut server) = UnixStream::pair().expect("descriptors");
    let mut incoming = Incoming::default();
    let mut read = || incoming.read(server.as_fd(), exact).expect("a socket");
    let mut progress = Progress::Incomplete;
    for piece in pieces {
        client.write_all(piece).expect("room");
        if progress == Progress::Incomplete {
            progress = read();
        }
    }
    drop(client);
    if progress == Progress::Incomplete {
        progress = read();
    }
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).expect("it has ended");
    (progress, rest)
}

fn is_sound(request: &Request) {
    let Request {
        host,
        port,
        cluster,
    } = request;
    assert!(!host.is_empty() && *port != 0);
    for part in [Some(host), cluster.as_ref()].into_iter().flatten() {
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '|';
        assert!(!part.is_empty() && !part.contains(is_odd), "{part:?}");
    }
    let shown = match cluster {
        Some(cluster) => format!("{request}|{cluster}"),
        None => request.to_string(),
    };
    assert_eq!(
        Request::parse(shown.as_bytes()).as_ref(),
        Ok(request),
        "{shown:?}"
    );
}
