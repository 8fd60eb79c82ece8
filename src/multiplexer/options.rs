//! What a multiplexer serves.

use std::path::PathBuf;
use std::time::Duration;

use super::templates::Template;
use super::upstream::openssh::Bastion;
use super::upstream::openssh::pool::Generation;

/// What a multiplexer serves, and its limits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Directory of its socket and files; absolute. Made with mode 0700 where it is missing.
    pub destination: PathBuf,
    /// What it reaches; the first is for requests that name none. Names differ, and none may be missing where
    /// there are several. With none at all every host is dialled.
    pub clusters: Vec<Cluster>,
    /// How targets are rewritten: the first that matches counts.
    pub templates: Vec<Template>,
    /// The words of ssh's ProxyCommand before socket and target.
    pub proxy_command: Vec<String>,
    /// From accept to the complete request (10 s).
    pub request_timeout: Duration,
    /// Connections at once (10,000); no more than [`affordable_connections`](super::affordable_connections), or
    /// some may wait for a descriptor instead of being refused.
    pub max_connections: usize,
    /// Users who may connect, by number, beside the one this process runs as (nobody). With any of
    /// them, others may reach the socket (mode 0666, directory 0711) and are sent away by their number.
    pub allowed_uids: Vec<u32>,
    /// Served by an agent at `agent.sock`; `None`: there is no agent.
    #[cfg(feature = "identity")]
    pub identity: Option<crate::identity::Identity>,
}

impl Options {
    /// A multiplexer at `destination` with the defaults, and this program's own ProxyCommand.
    pub fn new(destination: impl Into<PathBuf>, proxy_command: Vec<String>) -> Self {
        Self {
            destination: destination.into(),
            clusters: Vec::new(),
            templates: Vec::new(),
            proxy_command,
            request_timeout: Duration::from_secs(10),
            max_connections: 10_000,
            allowed_uids: Vec::new(),
            #[cfg(feature = "identity")]
            identity: None,
        }
    }

    /// The clusters, of which there is one at least.
    pub(super) fn all_clusters(&self) -> Vec<Cluster> {
        match self.clusters[..] {
            [] => vec![Cluster::default()],
            _ => self.clusters.clone(),
        }
    }

    /// Which credential the masters at `bastion` log in with, where it is the identity's.
    #[cfg_attr(
        not(feature = "identity"),
        allow(unused_variables, reason = "there is none")
    )]
    pub(super) fn generation(&self, bastion: &Bastion) -> Option<Generation> {
        #[cfg(feature = "identity")]
        if let Some(identity) = &self.identity
            && bastion.identity_file.is_none()
        {
            let (identity, mut last, mut number) = (identity.clone(), Vec::new(), 0);
            return Some(Box::new(move || {
                // What is the same after a renewal, such as a key from a file, is no other one.
                let listed = identity.current()?.listed();
                number += u64::from(listed != last);
                last = listed;
                Some(number)
            }));
        }
        None
    }
}

/// Hosts that are reached in one way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cluster {
    /// Requests may name it, and it is cut off the end of host names. `None`: its bastion's host, or none, and then
    /// no request may name one.
    pub name: Option<String>,
    /// Reach targets by shared connections to it; `None`: they are dialled.
    pub bastion: Option<Bastion>,
    /// Patterns of `ssh_config` for its hosts; none: `*.NAME`, or `*` without a name.
    pub hosts: Vec<String>,
    /// From the complete request to the connected target (10 s).
    pub connect_timeout: Duration,
    /// Public keys whose certificates of hosts clients trust, and lines of hosts with their keys; without
    /// any, ssh goes by its own files.
    pub host_ca: Vec<String>,
    /// See `host_ca`.
    pub known_hosts: Vec<String>,
}

impl Cluster {
    /// Its name, or its bastion's.
    pub(super) fn known_as(&self) -> Option<String> {
        let bastion = || Some(self.bastion.as_ref()?.host.to_ascii_lowercase());
        self.name.clone().or_else(bastion)
    }
}

impl Default for Cluster {
    /// Every host, dialled.
    fn default() -> Self {
        Self {
            name: None,
            bastion: None,
            hosts: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            host_ca: Vec::new(),
            known_hosts: Vec::new(),
        }
    }
}
