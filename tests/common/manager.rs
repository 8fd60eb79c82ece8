//! A service manager's end of the socket that services report to (sd_notify(3)).

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wait::PATIENCE;

pub struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    /// It listens at a path of the test's.
    pub fn listen(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).expect("the directory is ours");
        Self { path, socket }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next message within `limit`.
    pub fn next(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4097];
        self.socket.set_read_timeout(Some(limit)).expect("not zero");
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).expect("text")),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }

    /// The next message that begins with `part`, and those before it.
    pub fn until(&self, part: &str) -> (String, Vec<String>) {
        let (mut before, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while let Some(left) = deadline.checked_duration_since(Instant::now())
            && !left.is_zero()
            && let Some(message) = self.next(left)
        {
            if message.starts_with(part) {
                return (message, before);
            }
            before.push(message);
        }
        panic!("no {part} behind {before:?}");
    }

    /// Takes what is there, and says whether it had a sign of life among it.
    pub fn is_alive(&self) -> bool {
        let mut alive = false;
        while let Some(message) = self.next(Duration::from_millis(1)) {
            alive |= message == "WATCHDOG=1";
        }
        alive
    }
}
