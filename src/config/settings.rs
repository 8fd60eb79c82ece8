//! What a run of `tbot start` does: typed and valid, wherever it came from.

use std::path::PathBuf;
use std::time::Duration;

use super::LogLevels;
use crate::multiplexer::Template;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Debug logs, causes of errors and profiles (`debug`).
    pub debug: bool,
    /// How log lines look (`log_format`).
    pub log_format: LogFormat,
    /// Which of them are written (`TBOT_LOG`).
    pub log_levels: LogLevels,
    /// Where diagnostics are served, `host:port`; `None`: nowhere (`diag_addr`).
    pub diag_addr: Option<String>,
    /// How long a credential lives (`credential_ttl`).
    pub credential_ttl: Duration,
    /// How often everything is renewed; shorter than `credential_ttl` (`renewal_interval`).
    pub renewal_interval: Duration,
    /// Write once and end (`oneshot`).
    pub oneshot: bool,
    /// How long connections may go on after a signal to stop (`shutdown_grace`, ours).
    pub shutdown_grace: Duration,
    /// Where to write the process id (`--pid-file`).
    pub pid_file: Option<PathBuf>,
    /// Where the identity's credentials come from; `None`: there is no identity (`onboarding`, ours).
    pub onboarding: Option<crate::identity::Source>,
    /// In the file's order, then the command line's.
    pub services: Vec<Service>,
    /// Credentials written into files, as in the file's order.
    pub outputs: Vec<IdentityOutput>,
}

/// `type: identity`: key, certificate and what ssh needs beside them, for clients without an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityOutput {
    /// Unique among all services.
    pub name: String,
    /// Directory of its files; absolute (`destination`).
    pub destination: PathBuf,
    /// Hosts that `ssh_config` is for; `None`: all (`cluster_name`, ours).
    pub cluster_name: Option<String>,
    /// Public keys whose certificates of hosts are trusted (`host_ca`, ours).
    pub host_ca: Vec<String>,
    /// Hosts with their keys, as in ssh's known_hosts (`known_hosts`, ours).
    pub known_hosts: Vec<String>,
    /// How long the certificate lives, where it is not the run's.
    pub credential_ttl: Duration,
    /// How often it is renewed, where it is not the run's.
    pub renewal_interval: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// One service of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique; characters `a-z 0-9 _ - +`.
    pub name: String,
    /// What it does.
    pub kind: ServiceKind,
}

/// The services there are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServiceKind {
    /// `type: ssh-multiplexer`.
    SshMultiplexer(SshMultiplexer),
}

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Hosts that are reached in one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Unique in its service; `None`: the only one, of every host (`name`; `cluster_name` of a service).
    pub name: Option<String>,
    /// How targets are reached; `None`: dialled from here.
    pub bastion: Option<Bastion>,
    /// Patterns of `ssh_config` for its hosts; none: those whose names end in its name (`hosts`).
    pub hosts: Vec<String>,
    /// Public keys whose certificates of hosts are trusted (`host_ca`).
    pub host_ca: Vec<String>,
    /// Hosts with their keys, as in ssh's known_hosts (`known_hosts`).
    pub known_hosts: Vec<String>,
    /// Time for resolving and connecting to a target (`connect_timeout`).
    pub connect_timeout: Duration,
}

/// The way to a cluster by shared connections to its bastion.
#[derive(Clone, Debug, PartialEq)]
pub struct Bastion {
    /// Its SSH server (`proxy_server` of the run or of the cluster).
    pub server: HostPort,
    /// Who logs in there; `None`: as ssh decides (`user`, ours).
    pub user: Option<String>,
    /// A private key in place of the identity; absolute (`identity_file`, ours).
    pub identity_file: Option<PathBuf>,
    /// Further configuration for ssh; absolute (`ssh_config_path`, ours).
    pub ssh_config_path: Option<PathBuf>,
    /// Options of ssh for these connections, as `Name=value` (`ssh_options`, ours).
    pub ssh_options: Vec<String>,
    /// Streams on one connection (`max_streams_per_connection`, ours).
    pub max_streams_per_connection: usize,
}

/// An SSH multiplexer.
#[derive(Clone, Debug, PartialEq)]
pub struct SshMultiplexer {
    /// Directory of its sockets and files; absolute (`destination`).
    pub destination: PathBuf,
    /// What it reaches, of which the first is for requests that name none; there is one at least
    /// (`clusters`, ours, or its short form).
    pub clusters: Vec<Cluster>,
    /// How targets are rewritten, the first that matches (`proxy_templates`, `proxy_templates_path`).
    pub templates: Vec<Template>,
    /// The words of ssh's ProxyCommand before socket and target; empty: this program's own.
    pub proxy_command: Vec<String>,
    /// Connections at once (`max_connections`, ours).
    pub max_connections: usize,
    /// Users who may connect beside the one who runs tbot, by number (`allowed_uids`, ours).
    pub allowed_uids: Vec<u32>,
    /// How long its credential lives, where it is not the run's.
    pub credential_ttl: Duration,
    /// How often it is renewed, where it is not the run's.
    pub renewal_interval: Duration,
}
