//! Every flag of the program, once: parsing, help, environment and settings read this table.

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// With its dashes, as messages have it.
    pub long: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    /// The environment variable that stands in for it.
    pub env: Option<&'static str>,
    /// What holds without it, for the help.
    pub default: &'static str,
    pub help: &'static str,
    pub scope: Scope,
    pub target: Target,
}

/// What a flag takes, with the name its value has in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, or `=true`, `=false`.
    Switch,
    Text(&'static str),
    /// A path of any bytes.
    Path(&'static str),
    /// A directory: a path or a URL.
    Directory(&'static str),
    Number(&'static str),
    /// Text, more than once.
    Texts(&'static str),
    /// A number, more than once.
    Numbers(&'static str),
}

/// The commands a flag belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All.
    Any,
    /// `tbot start` and what is under it.
    Start,
    /// `tbot start ssh-multiplexer`.
    SshMultiplexer,
}

/// What a flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The run's key of this name in a configuration.
    Run(&'static str),
    /// The service's key of this name.
    Service(&'static str),
    /// Something that is in no configuration.
    Command,
}

pub(super) const CONFIG: &str = "--config";
pub(super) const CONFIG_STRING: &str = "--config-string";
pub(super) const DEBUG: &str = "--debug";
pub(super) const DESTINATION: &str = "--destination";
pub(super) const PID_FILE: &str = "--pid-file";

/// The one variable that stands in for no flag.
pub(super) const LOG: &str = "TBOT_LOG";

pub(super) const FLAGS: [Flag; 21] = [
    Flag {
        long: CONFIG,
        short: Some('c'),
        kind: Kind::Path("PATH"),
        env: Some("TBOT_CONFIG_PATH"),
        default: "none",
        help: "Configuration file, version 2 YAML",
        scope: Scope::Any,
        target: Target::Command,
    },
    Flag {
        long: CONFIG_STRING,
        short: None,
        kind: Kind::Text("BASE64"),
        env: Some("TBOT_CONFIG"),
        default: "none",
        help: "Configuration itself, in base64, in place of a file",
        scope: Scope::Any,
        target: Target::Command,
    },
    Flag {
        long: DEBUG,
        short: Some('d'),
        kind: Kind::Switch,
        env: Some("TBOT_DEBUG"),
        default: "false",
        help: "Log details, show the causes of errors, and serve profiles at the diagnostics' address",
        scope: Scope::Any,
        target: Target::Run("debug"),
    },
    Flag {
        long: "--log-format",
        short: None,
        kind: Kind::Text("text|json"),
        env: Some("TBOT_LOG_FORMAT"),
        default: "text",
        help: "How log lines look; they go to stderr",
        scope: Scope::Any,
        target: Target::Run("log_format"),
    },
    Flag {
        long: "--diag-addr",
        short: None,
        kind: Kind::Text("HOST:PORT"),
        env: Some("TBOT_DIAG_ADDR"),
        default: "none, no listener",
        help: "Where the diagnostics service listens, such as 127.0.0.1:3001",
        scope: Scope::Start,
        target: Target::Run("diag_addr"),
    },
    Flag {
        long: "--certificate-ttl",
        short: None,
        kind: Kind::Text("DURATION"),
        env: None,
        default: "1h",
        help: "How long credentials will live, at most 24h; there are none in this version",
        scope: Scope::Start,
        target: Target::Run("credential_ttl"),
    },
    Flag {
        long: "--renewal-interval",
        short: None,
        kind: Kind::Text("DURATION"),
        env: None,
        default: "20m",
        help: "How often files and socket are checked, and files written anew where they changed; shorter than the former",
        scope: Scope::Start,
        target: Target::Run("renewal_interval"),
    },
    Flag {
        long: "--oneshot",
        short: None,
        kind: Kind::Switch,
        env: None,
        default: "false",
        help: "Write the files of each service identity and end; services that listen are not started",
        scope: Scope::Start,
        target: Target::Run("oneshot"),
    },
    Flag {
        long: PID_FILE,
        short: None,
        kind: Kind::Path("PATH"),
        env: None,
        default: "none",
        help: "File to write the process id to",
        scope: Scope::Start,
        target: Target::Command,
    },
    Flag {
        long: "--proxy-server",
        short: None,
        kind: Kind::Text("HOST:PORT"),
        env: Some("TELEPORT_PROXY"),
        default: "none, targets are dialled",
        help: "SSH server that all targets are reached by",
        scope: Scope::Start,
        target: Target::Run("proxy_server"),
    },
    Flag {
        long: "--shutdown-grace",
        short: None,
        kind: Kind::Text("DURATION"),
        env: None,
        default: "10s",
        help: "How long connections may go on after a signal to stop; 0s: not at all",
        scope: Scope::Start,
        target: Target::Run("shutdown_grace"),
    },
    Flag {
        long: "--storage",
        short: None,
        kind: Kind::Directory("memory:|PATH"),
        env: None,
        default: "memory:",
        help: "Accepted for Teleport's sake; nothing is stored",
        scope: Scope::Start,
        target: Target::Run("storage"),
    },
    Flag {
        long: DESTINATION,
        short: None,
        kind: Kind::Directory("PATH"),
        env: None,
        default: "none, required",
        help: "Directory for the sockets and ssh_config: a path or file:///path",
        scope: Scope::SshMultiplexer,
        target: Target::Service("destination"),
    },
    Flag {
        long: "--name",
        short: None,
        kind: Kind::Text("NAME"),
        env: None,
        default: "ssh-multiplexer-N",
        help: "Name of the service in health reports and logs",
        scope: Scope::SshMultiplexer,
        target: Target::Service("name"),
    },
    Flag {
        long: "--cluster-name",
        short: None,
        kind: Kind::Text("NAME"),
        env: None,
        default: "none, every host",
        help: "Name of the cluster: hosts are reached as HOST.NAME",
        scope: Scope::SshMultiplexer,
        target: Target::Service("cluster_name"),
    },
    Flag {
        long: "--proxy-command",
        short: None,
        kind: Kind::Texts("WORD"),
        env: None,
        default: "this program",
        help: "Word of the command that ssh connects with; once for each word",
        scope: Scope::SshMultiplexer,
        target: Target::Service("proxy_command"),
    },
    Flag {
        long: "--proxy-templates-path",
        short: None,
        kind: Kind::Path("PATH"),
        env: None,
        default: "none",
        help: "File of templates that rewrite targets, in YAML: proxy_templates and a list",
        scope: Scope::SshMultiplexer,
        target: Target::Service("proxy_templates_path"),
    },
    Flag {
        long: "--enable-resumption",
        short: None,
        kind: Kind::Switch,
        env: None,
        default: "false",
        help: "Accepted for Teleport's sake; has no effect without its proxy",
        scope: Scope::SshMultiplexer,
        target: Target::Service("enable_resumption"),
    },
    Flag {
        long: "--connect-timeout",
        short: None,
        kind: Kind::Text("DURATION"),
        env: None,
        default: "10s",
        help: "Time for resolving and connecting to a target",
        scope: Scope::SshMultiplexer,
        target: Target::Service("connect_timeout"),
    },
    Flag {
        long: "--max-connections",
        short: None,
        kind: Kind::Number("NUMBER"),
        env: None,
        default: "10000",
        help: "Connections at once, from 1 to 1000000",
        scope: Scope::SshMultiplexer,
        target: Target::Service("max_connections"),
    },
    Flag {
        long: "--allowed-uid",
        short: None,
        kind: Kind::Numbers("UID"),
        env: None,
        default: "none but the one that runs tbot",
        help: "User who may connect, by number; once for each user",
        scope: Scope::SshMultiplexer,
        target: Target::Service("allowed_uids"),
    },
];

impl Flag {
    /// The flag of this name without dashes.
    pub fn long(name: &str) -> Option<&'static Self> {
        FLAGS.iter().find(|flag| &flag.long[2..] == name)
    }

    pub fn short(letter: char) -> Option<&'static Self> {
        FLAGS.iter().find(|flag| flag.short == Some(letter))
    }

    /// Whether it may be given more than once.
    pub fn repeats(&self) -> bool {
        matches!(self.kind, Kind::Texts(_) | Kind::Numbers(_))
    }
}
