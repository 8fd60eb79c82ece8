//! TCP targets in threads of the test.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

use super::wait::PATIENCE;

/// A target that does the same with every connection, each on a thread of its own.
pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    accept: Option<JoinHandle<()>>,
}

impl Server {
    /// On 127.0.0.1.
    pub fn start(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), handle)
    }

    /// On a free port of `ip`.
    pub fn start_on(ip: IpAddr, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        // Longer than any test's crowd: where the queue of a listener overflows, the kernel lets
        // clients believe that they are connected (SYN cookies), and a target that speaks first is
        // waited for in vain.
        let listener = listen_on(ip, 4096);
        let address = listener.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let handle = Arc::new(handle);
        let accept = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                // So that a test that fails ends all the same.
                stream.set_read_timeout(Some(PATIENCE)).ok();
                stream.set_write_timeout(Some(PATIENCE)).ok();
                let handle = handle.clone();
                std::thread::spawn(move || handle(stream));
            }
        });
        Self {
            address,
            stop,
            accept: Some(accept),
        }
    }

    /// Sends back what comes, to the end.
    pub fn echo() -> Self {
        Self::start(echo)
    }

    /// Greets with `!`, then echoes.
    pub fn greeting() -> Self {
        Self::start(|mut stream| {
            stream.write_all(b"!").ok();
            echo(stream);
        })
    }

    /// Reads to the end, then sends how many bytes came.
    pub fn counting() -> Self {
        Self::start(|mut stream| {
            let count = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or(0);
            stream.write_all(count.to_string().as_bytes()).ok();
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept thread.
        TcpStream::connect(self.address).ok();
        if let Some(accept) = self.accept.take() {
            accept.join().ok();
        }
    }
}

/// Sends back what comes on `stream`, to the end.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    stream.shutdown(Shutdown::Write).ok();
}

/// A listener on a free port of `ip` with a queue of its own length; the standard library's is 128.
pub fn listen_on(ip: IpAddr, queue: i32) -> TcpListener {
    bound(ip)
        .and_then(|socket| {
            rustix::net::listen(&socket, queue)?;
            Ok(socket.into())
        })
        .unwrap_or_else(|error| panic!("cannot listen on {ip}: {error}"))
}

fn bound(ip: IpAddr) -> rustix::io::Result<OwnedFd> {
    let address = SocketAddr::from((ip, 0));
    let family = if ip.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// A port of 127.0.0.1 on which nothing listens. Held bound while the guard lives, so that no other
/// test gets it.
pub struct ClosedPort {
    pub address: SocketAddr,
    _bound: OwnedFd,
}

impl ClosedPort {
    pub fn new() -> Self {
        let bound = bound(Ipv4Addr::LOCALHOST.into()).expect("a free port");
        let address = getsockname(&bound)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok())
            .expect("it is bound");
        Self {
            address,
            _bound: bound,
        }
    }
}
