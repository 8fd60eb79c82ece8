//! What a multiplexer serves.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;
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
    /// there are several, or the multiplexer does not start. With none at all every host is dialled.
    pub clusters: Vec<Cluster>,
    /// How targets are rewritten: the first that matches counts.
    pub templates: Vec<Template>,
    /// The words of ssh's ProxyCommand before socket and target.
    pub proxy_command: Vec<String>,
    /// From accept to the complete request (10 s; at most a day).
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

    /// The same with times that can be reckoned with, if clients can be told of it.
    pub(super) fn checked(&self) -> Result<Self, Error> {
        const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
        let mut options = self.clone();
        options.request_timeout = self.request_timeout.min(LONGEST);
        for cluster in &mut options.clusters {
            cluster.connect_timeout = cluster.connect_timeout.min(LONGEST);
            if let Some(bastion) = &mut cluster.bastion {
                bastion.max_streams = bastion.max_streams.clamp(1, 1000);
            }
        }
        let mut names = BTreeSet::new();
        for cluster in &self.clusters {
            // Each becomes a line, or a part of one, in a file for ssh.
            let mut words: Vec<&str> = cluster.name.iter().map(String::as_str).collect();
            let lists = [&cluster.hosts, &cluster.host_ca, &cluster.known_hosts];
            words.extend(lists.into_iter().flatten().map(String::as_str));
            if let Some(bastion) = &cluster.bastion {
                words.push(&bastion.host);
                words.extend(bastion.user.as_deref());
                words.extend(bastion.ssh_options.iter().map(String::as_str));
            }
            if let Some(word) = words.iter().find(|word| word.contains(char::is_control)) {
                let problem = format!("a cluster's {word:?} has a control character");
                return Err(Error::Options(problem));
            }
            let name = cluster.known_as();
            if name.is_none() && self.clusters.len() > 1 {
                let problem = "one of several clusters has no name, and no bastion".into();
                return Err(Error::Options(problem));
            }
            if let Some(name) = name
                && !names.insert(name.clone())
            {
                let problem = format!("two clusters have the name {name:?}");
                return Err(Error::Options(problem));
            }
        }
        Ok(options)
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
    /// From the complete request to the connected target (10 s; at most a day).
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Option<&str>) -> Cluster {
        Cluster {
            name: name.map(str::to_owned),
            ..Cluster::default()
        }
    }

    fn problem(clusters: Vec<Cluster>) -> Option<String> {
        let mut options = Options::new("/x", Vec::new());
        options.clusters = clusters;
        Some(options.checked().err()?.to_string())
    }

    #[test]
    fn clusters_that_cannot_be_told_apart_are_refused() {
        assert_eq!(problem(vec![named(None)]), None);
        assert_eq!(problem(vec![named(Some("a")), named(Some("b"))]), None);
        let twice = problem(vec![named(Some("a")), named(Some("a"))]);
        assert_eq!(twice.as_deref(), Some("two clusters have the name \"a\""));
        let without = problem(vec![named(Some("a")), named(None)]);
        assert!(without.is_some_and(|problem| problem.contains("has no name")));
        let mut by_bastion = named(None);
        by_bastion.bastion = Some(Bastion::new("Bastion"));
        assert_eq!(
            problem(vec![named(Some("bastion")), by_bastion]).as_deref(),
            Some("two clusters have the name \"bastion\"")
        );
    }

    #[test]
    fn no_word_ends_its_line_in_a_file_for_ssh() {
        let mut cluster = named(None);
        cluster.known_hosts = vec!["a ssh-ed25519 AAAA\nProxyCommand evil".into()];
        assert!(problem(vec![cluster]).is_some());
        let mut cluster = named(None);
        let mut bastion = Bastion::new("b");
        bastion.ssh_options = vec!["User=x\0".into()];
        cluster.bastion = Some(bastion);
        assert!(problem(vec![cluster]).is_some());
    }

    #[test]
    fn times_and_numbers_are_ones_that_can_be_reckoned_with() {
        let mut options = Options::new("/x", Vec::new());
        options.request_timeout = Duration::MAX;
        let mut cluster = named(None);
        cluster.connect_timeout = Duration::MAX;
        let mut bastion = Bastion::new("b");
        bastion.max_streams = 0;
        cluster.bastion = Some(bastion);
        options.clusters = vec![cluster];
        let checked = options.checked().expect("they go together");
        let cluster = &checked.clusters[0];
        let times = [checked.request_timeout, cluster.connect_timeout];
        assert_eq!(times, [Duration::from_secs(24 * 60 * 60); 2]);
        assert_eq!(cluster.bastion.as_ref().map(|one| one.max_streams), Some(1));
    }
}
