//! The SSH multiplexer: clients' connections by a local socket, to targets.
//!
//! A program of threads runs one like this; it is `tests/examples/multiplexer.rs` without what shows its health:
//!
//! ```
//! use tbot::metrics::MultiplexerMetrics;
//! use tbot::multiplexer::{Multiplexer, Options, PROXY_COMMAND};
//! # use std::{io::{Read, Write}, time::Duration};
//! # let home = tempfile::tempdir()?;
//! # let destination = home.path().join("mux");
//!
//! let metrics = MultiplexerMetrics::register(tbot::prometheus::default_registry())?;
//! // How ssh connects: by a program that speaks the protocol of `v1.sock`.
//! let command = vec!["/usr/local/bin/tbot".into(), PROXY_COMMAND.into()];
//! let multiplexer = Multiplexer::start(&Options::new(destination, command), &metrics)?;
//! multiplexer.maintain()?; // `ssh -F DESTINATION/ssh_config HOST` now reaches any host.
//! # let target = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let mut client = std::os::unix::net::UnixStream::connect(multiplexer.socket_path())?;
//! # client.write_all(format!("{}\0", target.local_addr()?).as_bytes())?;
//! # target.accept()?.0.write_all(b"SSH-2.0-x\r\n")?;
//! # let mut banner = [0; 11];
//! # client.read_exact(&mut banner)?;
//! # assert_eq!(&banner, b"SSH-2.0-x\r\n");
//! # assert_eq!(multiplexer.in_flight(), 1);
//! # drop(client);
//! multiplexer.shutdown(Duration::from_secs(10));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! One connection's way: it is accepted on `v1.sock` and counted (`setup`), its `request` is read, the
//! cluster and the target in it are chosen (`routes`, `templates`), that is looked up and dialled
//! (`upstream`), and the two sockets go to the `relay`. The files that tell an ssh client of it are
//! `artifacts` in a `destination`.
//!
//! Each connection is one event of `tracing` at its end, with the target `tbot::connection`: at the level info if it
//! ended as it should, else warn. None is left out here, however many come: that is for who subscribes.

pub(crate) mod artifacts;
mod client;
mod clusters;
mod counts;
pub(crate) mod destination;
mod error;
mod flow;
mod inbox;
mod leaver;
mod limits;
mod options;
mod record;
mod relay;
pub(crate) mod request;
pub(crate) mod routes;
mod setup;
mod splice;
mod tell;
mod templates;
mod threads;
pub(crate) mod upstream;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::error::Error;
use self::error::system;
pub use self::limits::affordable_connections;
pub use self::options::{Cluster, Options};
pub use self::templates::Template;
pub use self::upstream::openssh::Bastion;

use self::artifacts::{Artifacts, Hosts};
use self::counts::Shared;
use self::destination::{Destination, Socket};
use self::limits::{Limits, Room};
use self::threads::{Handle, Message, Plan, Threads};
use self::upstream::openssh::pool::Pool;
use crate::errors::plain;
#[cfg(feature = "identity")]
use crate::identity::agent::Agent;
use crate::metrics::MultiplexerMetrics;

/// The command by which `tbot` is ssh's ProxyCommand.
pub const PROXY_COMMAND: &str = "ssh-multiplexer-proxy-command";

/// Why there is nothing to maintain.
const ENDED: &str = "it was told to stop, and serves nobody any more";

/// A running multiplexer. Dropped, it closes its connections, takes its sockets away and joins its threads.
#[derive(Debug)]
pub struct Multiplexer {
    shared: Arc<Shared>,
    destination: Destination,
    sockets: Mutex<Sockets>,
    artifacts: Artifacts,
    max_connections: usize,
    room: Room,
    // Before the threads, which carry their links.
    pools: Vec<Pool>,
    threads: Threads,
}

/// Where clients connect. What looks at them takes a clone, and no lock while it looks.
#[derive(Clone, Debug)]
struct Sockets {
    v1: Arc<Socket>,
    #[cfg(feature = "identity")]
    agent: Option<Arc<Agent<Socket>>>,
    /// There are to be no others.
    last: bool,
}

impl Sockets {
    fn all(&self) -> impl Iterator<Item = &Socket> {
        let v1 = std::iter::once(&*self.v1);
        #[cfg(feature = "identity")]
        let v1 = v1.chain(self.agent.as_ref().map(|agent| agent.socket()));
        v1
    }
}

impl Multiplexer {
    /// Takes the destination, listens there and starts the threads: one per core that accepts, sets up and relays
    /// connections.
    ///
    /// The files for clients are written by [`Self::maintain`].
    ///
    /// # Errors
    ///
    /// Where the destination cannot be used or is in use, the options contradict one another, or the system
    /// refuses a socket or a thread: then nothing runs.
    pub fn start(options: &Options, metrics: &MultiplexerMetrics) -> Result<Self, Error> {
        let path = &options.destination;
        let unfit = |problem: &str| Error::Destination {
            path: path.clone(),
            problem: problem.into(),
        };
        let Some(text) = path.to_str() else {
            return Err(unfit("its name is not UTF-8"));
        };
        if !path.is_absolute() {
            return Err(unfit("it is not an absolute path"));
        }
        if options
            .proxy_command
            .iter()
            .map(String::as_str)
            .chain([text])
            .any(|word| word.contains(char::is_control))
        {
            return Err(unfit(
                "neither it nor the proxy command may have control characters, as ssh_config cannot hold them",
            ));
        }
        #[cfg(feature = "identity")]
        if options.identity.is_some() {
            // OpenSSH cuts a longer one off, without a word.
            let length = path.join("agent.sock").as_os_str().len();
            if length > 107 {
                return Err(unfit(&format!(
                    "ssh reaches no agent by a path of more than 107 bytes, and this one's has {length}: name a shorter one"
                )));
            }
        }
        let options = &options.checked()?;
        let destination = Destination::open(path, !options.allowed_uids.is_empty())?;
        let socket = destination.listen("v1.sock").map(Arc::new);
        let socket = socket.map_err(system(&format!(
            "listen on {}",
            path.join("v1.sock").display()
        )))?;
        let shared = Arc::new(Shared::new(metrics.clone()));
        let threads = Handle::new(limits::cores()).map_err(system("prepare the threads"))?;
        let mut allowed_uids = options.allowed_uids.clone();
        allowed_uids.push(rustix::process::geteuid().as_raw());
        let limits = Limits {
            request_timeout: options.request_timeout,
            max_connections: options.max_connections,
            allowed_uids,
        };
        #[cfg(feature = "identity")]
        let agent = match &options.identity {
            None => None,
            Some(identity) => {
                let listening = system(&format!("listen on {}", path.join("agent.sock").display()));
                let socket = Arc::new(destination.listen("agent.sock").map_err(listening)?);
                let uids = limits.allowed_uids.clone();
                let agent = Agent::start(socket, identity.clone(), uids);
                Some(Arc::new(agent.map_err(system("start the agent"))?))
            }
        };
        #[cfg(feature = "identity")]
        let has_agent = agent.is_some();
        #[cfg(not(feature = "identity"))]
        let has_agent = false;
        let clusters = options.all_clusters();
        let hosts: Vec<Hosts> = clusters.iter().map(Hosts::of).collect();
        let artifacts = Artifacts {
            destination: path.clone(),
            hosts,
            proxy_command: options.proxy_command.clone(),
            agent: has_agent,
        };
        let (routes, pools) = clusters::start(
            options,
            &clusters,
            &artifacts,
            metrics,
            (&destination, &threads),
        )?;
        let plan = Plan {
            shared: shared.clone(),
            limits,
            listener: socket.clone(),
            routes: Arc::new(routes),
        };
        let threads = Threads::start(threads, &plan).map_err(system("start the threads"))?;
        Ok(Self {
            shared,
            destination,
            sockets: Mutex::new(Sockets {
                v1: socket,
                #[cfg(feature = "identity")]
                agent,
                last: false,
            }),
            artifacts,
            max_connections: options.max_connections,
            room: Room::default(),
            pools,
            threads,
        })
    }

    /// Writes `ssh_config` and `known_hosts` where they are not as they should be, and listens anew where a
    /// socket was taken away. From the first time on clients are served. Somebody removes such files sooner or
    /// later, so it is called now and again, as by a [`Task`](crate::task::Task).
    ///
    /// # Errors
    ///
    /// What clients miss: a sentence for an operator. Connections that are there go on. After
    /// [`Self::shutdown`] nobody is served any more, which is an error, too.
    pub fn maintain(&self) -> Result<(), String> {
        if self.sockets().last {
            return Err(ENDED.into());
        }
        // One that fails keeps nothing from the other.
        let written = self.write_artifacts();
        self.restore_sockets()?;
        written
    }

    /// Ends in order: accepts nothing more, lets connections end for `patience`, and closes the rest. True if none
    /// was left. It may be called on any thread, and ends a call that waits on another one if that has more patience.
    pub fn shutdown(&self, patience: Duration) -> bool {
        self.stop_accepting();
        let all_ended = self.wait_until_idle(patience);
        self.close_all();
        all_ended
    }

    /// Whether clients do not find all of its sockets.
    pub(crate) fn has_lost_sockets(&self) -> bool {
        let sockets = self.sockets();
        sockets
            .all()
            .any(|socket| !self.destination.leads_to(socket))
    }

    /// Whether its directory is still where clients look for it.
    pub(crate) fn is_in_place(&self) -> bool {
        self.destination.is_in_place()
    }

    /// Listens anew where a socket was taken away. The error is a sentence.
    fn restore_sockets(&self) -> Result<(), String> {
        let mut sockets = self.sockets();
        let path = self.destination.path().display();
        if !self.has_lost_sockets() {
            return Ok(());
        }
        if !self.is_in_place() {
            return Err(format!(
                "{path} is not the directory any more that this tbot serves from: restart tbot"
            ));
        }
        let listen = |lost: &Socket| {
            let name = lost.name();
            let socket = self.destination.listen(name);
            let socket = socket.map_err(|error| {
                format!("cannot listen on {path}/{name} again: {}", plain(error))
            })?;
            tracing::warn!("{path}/{name} was taken away: listening there again");
            Ok::<_, String>(Arc::new(socket))
        };
        if !self.destination.leads_to(&sockets.v1) {
            sockets.v1 = listen(&sockets.v1)?;
            self.keep(sockets.clone())?;
            let v1 = &sockets.v1;
            self.tell_all(|| Message::Listen(v1.clone()));
        }
        #[cfg(feature = "identity")]
        if let Some(agent) = &mut sockets.agent
            && !self.destination.leads_to(agent.socket())
        {
            let again = agent.again(listen(agent.socket())?);
            let again =
                again.map_err(|error| format!("cannot start the agent again: {}", plain(error)));
            *agent = Arc::new(again?);
            self.keep(sockets)?;
        }
        Ok(())
    }

    /// Has these from now on, unless there are to be no others.
    fn keep(&self, mut sockets: Sockets) -> Result<(), String> {
        let mut kept = self.kept();
        let last = kept.last;
        if !last {
            std::mem::swap(&mut *kept, &mut sockets);
        }
        // Those that are not kept go without the lock: an agent ends with its last client's answer.
        drop(kept);
        if last { Err(ENDED.into()) } else { Ok(()) }
    }

    fn kept(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sockets(&self) -> Sockets {
        self.kept().clone()
    }

    /// Writes `ssh_config`, `known_hosts` and what masters need beside them where they are not as they should
    /// be, and makes sure that nobody else can. The error is a sentence.
    fn write_artifacts(&self) -> Result<(), String> {
        let path = self.destination.path().display();
        for (name, content) in self.artifacts.files() {
            let written = self.destination.write(&name, content.as_bytes());
            match written
                .map_err(|error| format!("cannot write {path}/{name}: {}", plain(error)))?
            {
                true => tracing::info!("wrote {path}/{name}"),
                false => tracing::debug!("{path}/{name} is as it should be"),
            }
        }
        if self.destination.is_open_to_others() {
            return Err(format!("{path} can be written by others: chmod go-w it"));
        }
        // Masters read known_hosts.
        self.pools.iter().for_each(Pool::begin);
        Ok(())
    }

    /// Why a client that connected now would not be served, as far as that can be told at once: a sentence
    /// for an operator. It costs some system calls, and waits for nobody, as it should in
    /// [`checked_by`](crate::readyz::Reporter::checked_by). Whether there are descriptors and a thread for one is
    /// tried at most twice a second.
    pub fn problem(&self) -> Option<String> {
        if let Some(hang) = self.hang() {
            return Some(hang);
        }
        let sockets = self.sockets();
        if let Some(lost) = sockets.all().find(|one| !self.destination.leads_to(one)) {
            let path = self.destination.path().join(lost.name());
            return Some(format!(
                "{} is not this tbot's socket any more: a new one follows within seconds, or a reason why not",
                path.display()
            ));
        }
        #[cfg(feature = "identity")]
        if let Some(problem) = sockets.agent.and_then(|agent| agent.problem()) {
            return Some(problem);
        }
        let most = self.max_connections;
        if self.in_flight() >= most {
            return Some(match most {
                1 => "the one connection is in use (max_connections)".to_owned(),
                _ => format!("all {most} connections are in use (max_connections)"),
            });
        }
        // Each says which cluster it is of.
        let bastions: Vec<String> = self.pools.iter().filter_map(Pool::problem).collect();
        (!bastions.is_empty())
            .then(|| bastions.join("; "))
            .or_else(|| self.room.problem())
    }

    /// Why one of the threads that serve clients does no work any more. Each is woken for it, at most ten times a
    /// second: ask again, and the answer is at most 5 s old.
    pub fn hang(&self) -> Option<String> {
        let pools = || self.pools.iter().find_map(Pool::hang);
        let hang = self.threads.problem().or_else(pools);
        #[cfg(feature = "identity")]
        let hang = hang.or_else(|| self.sockets().agent?.hang());
        hang
    }

    /// Where clients connect.
    pub fn socket_path(&self) -> PathBuf {
        self.destination.path().join("v1.sock")
    }

    /// Connections between accept and end.
    pub fn in_flight(&self) -> usize {
        self.shared.live()
    }

    /// Accepts nothing more and takes the socket away; connections there are go on.
    pub(crate) fn stop_accepting(&self) {
        self.kept().last = true;
        self.sockets().all().for_each(Socket::unlink);
        self.tell_all(|| Message::StopAccepting);
    }

    /// Blocks until no connection is left, at most `patience`, after [`Self::stop_accepting`]; true if
    /// none is.
    pub(crate) fn wait_until_idle(&self, patience: Duration) -> bool {
        self.shared.wait_until_idle(patience)
    }

    /// Closes every connection, and ends [`Self::wait_until_idle`].
    pub(crate) fn close_all(&self) {
        self.shared.close();
        self.tell_all(|| Message::Close);
        self.pools.iter().for_each(Pool::stop);
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        self.threads.handle().tell_all(message);
    }
}

impl Drop for Multiplexer {
    fn drop(&mut self) {
        self.stop_accepting();
        self.close_all();
    }
}
