//! A target that never answers, without leaving this machine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::server::listen_on;

/// A listener whose queue is full: the kernel drops every further SYN.
pub struct BlackHole {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub fn open() -> Self {
        let listener = listen_on(Ipv4Addr::LOCALHOST.into(), 0);
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
