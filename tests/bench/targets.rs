//! Targets for bytes: one that answers, one that sends, one that takes; and what their clients do.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use rustix::event::epoll;
use slab::Slab;

use crate::common::server::listen_on;

/// What [`flood`] writes at a time.
const PIECE: usize = 64 << 10;

/// Greets with a byte and sends back what comes, any number of connections on one thread, for as long as this
/// process lives.
pub fn start_echo() -> SocketAddr {
    let listener = listen_on(Ipv4Addr::LOCALHOST.into(), 4096);
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || echo(&listener));
    address
}

fn echo(listener: &TcpListener) {
    const LISTENER: u64 = u64::MAX;
    listener.set_nonblocking(true).expect("a socket");
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("descriptors");
    let watch = |socket: &dyn std::os::fd::AsFd, data| {
        let data = epoll::EventData::new_u64(data);
        epoll::add(&poll, socket.as_fd(), data, epoll::EventFlags::IN).expect("memory");
    };
    watch(listener, LISTENER);
    let mut streams = Slab::<TcpStream>::new();
    let mut buffer = vec![0; PIECE];
    let mut events = [MaybeUninit::uninit(); 256];
    loop {
        let (ready, _) = epoll::wait(&poll, &mut events, None).expect("no signals");
        for event in &*ready {
            let data = event.data.u64();
            if data == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true).ok();
                    stream.set_nonblocking(true).expect("a socket");
                    stream.write_all(b"!").ok();
                    let place = streams.insert(stream);
                    watch(&streams[place], place as u64);
                }
                continue;
            }
            let place = data as usize;
            let stream = &mut streams[place];
            let goes_on = match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !goes_on {
                streams.remove(place);
            }
        }
    }
}

/// Sends as many bytes as it is told to by eight.
pub fn flood(mut stream: TcpStream) {
    let piece = vec![b'x'; PIECE];
    let Some(mut left) = length(&mut stream) else {
        return;
    };
    while left > 0 {
        let some = left.min(PIECE);
        if stream.write_all(&piece[..some]).is_err() {
            return;
        }
        left -= some;
    }
    await_end(stream);
}

/// Takes as many bytes as it is told to by the first eight, and then says so by one.
pub fn drain(mut stream: TcpStream) {
    let mut piece = vec![0; PIECE];
    let Some(mut left) = length(&mut stream) else {
        return;
    };
    while left > 0 {
        match stream.read(&mut piece) {
            Ok(some @ 1..) => left = left.saturating_sub(some),
            _ => return,
        }
    }
    stream.write_all(b"!").ok();
    await_end(stream);
}

/// Takes so many bytes of [`flood`].
pub fn receive(mut stream: UnixStream, amount: usize) {
    let sent = stream.write_all(&(amount as u64).to_le_bytes());
    sent.expect("it is read");
    let (mut piece, mut left) = (vec![0; PIECE], amount);
    while left > 0 {
        let some = stream.read(&mut piece).expect("it goes on");
        assert!(some > 0, "it ended with {left} bytes to come");
        left -= some;
    }
}

/// Gives so many bytes to [`drain`].
pub fn send(mut stream: UnixStream, amount: usize) {
    let sent = stream.write_all(&(amount as u64).to_le_bytes());
    sent.expect("it is read");
    let (piece, mut left) = (vec![b'x'; PIECE], amount);
    while left > 0 {
        let some = left.min(PIECE);
        stream.write_all(&piece[..some]).expect("it goes on");
        left -= some;
    }
    stream.read_exact(&mut [0]).expect("all came");
}

/// Until whoever asked has it all.
fn await_end(mut stream: TcpStream) {
    std::io::copy(&mut stream, &mut std::io::sink()).ok();
}

fn length(stream: &mut TcpStream) -> Option<usize> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes) as usize)
}
