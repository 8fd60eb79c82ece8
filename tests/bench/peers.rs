//! Whom we are measured against without a bastion: a service in Go, and HAProxy. Each is set as a good operator would.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, getrlimit};
use tempfile::TempDir;

use crate::common::process::{Process, succeed};
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::try_connect;
use crate::common::wait::until;

/// Builds the service in Go, with Debian's packages only, and says where it is.
pub fn build_go() -> PathBuf {
    let directory = results();
    let program = directory.join("go-service");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program);
    go.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/bench/go/main.go"
    ));
    go.env("GO111MODULE", "off").env("GOFLAGS", "");
    go.env("GOPATH", "/usr/share/gocode");
    go.env("GOCACHE", directory.join("go-cache"));
    succeed(&mut go);
    program
}

/// The service in Go, with as many metrics as the text has.
pub fn start_go(program: &Path, directory: &TempDir, metrics: &str) -> (Process, SocketAddr) {
    let like = directory.path().join("metrics.txt");
    fs::write(&like, metrics).expect("the directory is ours");
    let address = free_address();
    let mut go = Command::new(program);
    go.args(["-address", &address.to_string(), "-like"]);
    let process = Process::spawn(go.arg(like));
    until("the service in Go listens", || {
        TcpStream::connect(address).ok()
    });
    (process, address)
}

/// What the targets of [`Proxy`]s are.
#[derive(Clone, Copy)]
pub enum Target {
    Echo,
    Flood,
    Drain,
}

/// A socket in the file system that leads to targets by TCP.
pub enum Proxy {
    Tbot(Tbot, [SocketAddr; 3]),
    /// HAProxy, and where its sockets are.
    Peer(Process, TempDir),
    /// What clients and targets can do at most.
    Nobody([SocketAddr; 3]),
}

/// HAProxy's: no log, whatever it has against copying, and no more threads than cores. Each target has a
/// socket of its own.
const HAPROXY: &str = "\
global
  nbthread THREADS
  maxconn MAXCONN
defaults
  mode tcp
  option splice-auto
  timeout connect 10s
  timeout client 1d
  timeout server 1d
";

impl Proxy {
    /// Those, and nobody between clients and targets.
    pub fn all(targets: [SocketAddr; 3]) -> [Self; 3] {
        let [ours, other] = Self::both(targets);
        [ours, other, Self::Nobody(targets)]
    }

    /// Ours, and who is measured against it.
    pub fn both(targets: [SocketAddr; 3]) -> [Self; 2] {
        [Self::tbot(targets), Self::haproxy(targets)]
    }

    pub fn tbot(targets: [SocketAddr; 3]) -> Self {
        let start = Start::multiplexer().args(["--max-connections", "20000"]);
        Self::Tbot(crate::chosen(start).start(), targets)
    }

    fn haproxy(targets: [SocketAddr; 3]) -> Self {
        let directory = TempDir::new().expect("a directory for temporary files");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // It wants two descriptors for each, and half of one for pipes, and does not start without them.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = (limit / 5 * 2 - 200).min(20_000);
        let mut text = HAPROXY.replace("THREADS", &cores.to_string());
        text = text.replace("MAXCONN", &most.to_string());
        for (number, target) in targets.iter().enumerate() {
            let socket = directory.path().join(number.to_string());
            text += &format!(
                "listen target{number}\n  bind unix@{}\n  server target {target}\n",
                socket.display()
            );
        }
        let path = directory.path().join("haproxy.cfg");
        fs::write(&path, text).expect("the directory is ours");
        let mut haproxy = haproxy();
        let process = Process::spawn(haproxy.args(["-db", "-f"]).arg(path));
        until("HAProxy listens", || {
            try_connect(&directory.path().join("2")).ok()
        });
        Self::Peer(process, directory)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Tbot(..) => crate::frame::OURS,
            Self::Peer(..) => "HAProxy",
            Self::Nobody(_) => "no relay",
        }
    }

    /// Its process, if it has one.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            Self::Tbot(tbot, _) => Some(tbot.pid()),
            Self::Peer(process, _) => Some(process.pid()),
            Self::Nobody(_) => None,
        }
    }

    /// A connection on its way to the target.
    pub fn open(&self, target: Target) -> UnixStream {
        let number = target as usize;
        match self {
            Self::Tbot(tbot, targets) => crate::common::v1::dial(tbot, targets[number]),
            Self::Peer(_, directory) => {
                let socket = directory.path().join(number.to_string());
                try_connect(&socket).expect("HAProxy accepts")
            }
            Self::Nobody(targets) => {
                let stream = TcpStream::connect(targets[number]).expect("it listens");
                stream.set_nodelay(true).expect("a socket");
                // Read and written like the others.
                OwnedFd::from(stream).into()
            }
        }
    }
}

/// Where Debian has it, and a user's PATH does not.
pub fn haproxy() -> Command {
    let mut command = Command::new("haproxy");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Where nobody listens now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// The directory for what a run leaves behind.
pub fn results() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&directory).expect("it is below cargo's own directory");
    directory
}
