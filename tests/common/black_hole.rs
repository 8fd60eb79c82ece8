//! A target that never answers, without leaving this machine.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

/// A listener whose queue is full: the kernel drops every further SYN.
pub struct BlackHole {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub fn open() -> Self {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        // The standard library does not let one choose the length of the queue.
        listen(&listener, 0).expect("it is bound");
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().expect("it is bound");
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
            queue.push(stream);
            assert!(queue.len() < 100, "the queue of {address} never fills up");
        }
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}
