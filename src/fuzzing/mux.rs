//! What a master says to who asks it for a stream.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::cuts;
use crate::multiplexer::upstream::openssh::mux::{Opening, Reply};

/// However the answer is cut, it means the same; what is no answer is told as such; little is kept of it.
pub fn mux_replies(data: &[u8]) {
    // A socket takes some 200 KiB, and a master says some hundred bytes.
    let data = &data[..data.len().min(16 << 10)];
    let whole = replies(&[data]);
    for at in cuts(data) {
        assert_eq!(replies(&[&data[..at], &data[at..]]), whole, "cut at {at}");
    }
    if let Reply::Opened | Reply::Refused = whole {
        // Greeted, and answered: 8 + 4 + 8 bytes at the least.
        assert!(data.len() >= 20, "{whole:?} by {} bytes", data.len());
    }
    if data.is_empty() {
        assert_eq!(whole, Reply::Unheard);
    }
}

/// The first reply to what is said in these pieces, and then no more.
fn replies(pieces: &[&[u8]]) -> Reply {
    let (ours, mut master) = UnixStream::pair().expect("descriptors");
    let (client, _target) = UnixStream::pair().expect("descriptors");
    let opening = Opening::begin(ours.into(), "db1", 22, std::os::fd::AsFd::as_fd(&client));
    let mut opening = opening.expect("room");
    for piece in pieces {
        master.write_all(piece).expect("room");
        match opening.read() {
            Reply::None => {}
            reply => return reply,
        }
    }
    drop(master);
    let reply = opening.read();
    assert_ne!(reply, Reply::None, "there comes no more");
    reply
}
