//! Streams of few shared, authenticated connections to a bastion, each held by an `ssh` process (a
//! master) that we start, feed and supervise.
//!
//! The engine is OpenSSH's own client: it is on every host where `ssh` runs, and brings the whole of its
//! policy (known hosts, authorities, FIDO, PKCS#11, FIPS builds). Looked at and left:
//!
//! | Instead | Why not |
//! |---|---|
//! | libssh2 | One open outstanding per session: a silent target blocks all; no host authorities |
//! | libssh | LGPL in a static program; skips lines of host authorities in known_hosts |
//! | russh | Needs an async runtime |
//! | our own | A cryptographic protocol in our hands, for nothing a user would feel |
//! | `MUX_C_PROXY` of OpenSSH | The master dies after 16,386 refused opens, and with any client that leaves after one |
//!
//! We dial the bastion and hold the TCP; `ssh` speaks over one end of a socket pair (`ProxyCommand=-`),
//! and the relay carries the encrypted bytes. Clear bytes never come by here: a client's socket
//! is handed to the master.
//!
//! [`pool`] is the thread that keeps the masters of one cluster; [`lease`] is what it shares with the set-up
//! thread: who is ready, and who waits. A [`process`] writes its [`complaints`], listens in [`control`]
//! and is asked for streams by [`mux`].

mod complaints;
mod control;
mod keeper;
pub mod lease;
mod master;
pub mod mux;
pub mod pool;
mod process;
mod upkeep;

use std::path::PathBuf;

use crate::multiplexer::request::host_port;

pub use control::{Control, NAME as DIRECTORY};
pub use process::Login;

/// A bastion, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bastion {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who logs in; `None`: as ssh decides.
    pub user: Option<String>,
    /// A private key in place of the identity's; absolute.
    pub identity_file: Option<PathBuf>,
    /// Further configuration for ssh; absolute. `None`: no file is read.
    pub ssh_config_path: Option<PathBuf>,
    /// Further options, as `Name=value`. Those that make the connections work are ours and stand before them.
    pub ssh_options: Vec<String>,
    /// Streams on one connection, 1 to 1000.
    pub max_streams: usize,
}

impl Bastion {
    /// The one at `host` and port 22, to log in there as ssh decides, for at most 100 streams a connection.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: 22,
            user: None,
            identity_file: None,
            ssh_config_path: None,
            ssh_options: Vec::new(),
            max_streams: 100,
        }
    }
}

impl std::fmt::Display for Bastion {
    /// As `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&host_port(&self.host, self.port))
    }
}
