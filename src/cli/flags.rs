//! Every flag of the program, once: parsing, help, completions, man page, environment and settings read
//! this table.

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
    /// One of the words between the bars.
    Choice(&'static str),
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

/// The commands a flag belongs to: those whose [`super::args::Command::scopes`] have this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that print what the program is.
    Plain,
    /// Those that read a configuration.
    Config,
    /// Those that run services, or say what would run.
    Start,
    /// The same with a service `ssh-multiplexer` from flags.
    SshMultiplexer,
    /// `tbot wait`.
    Wait,
    /// `tbot install systemd`.
    Install,
    /// `tbot configure` and what is under it.
    Configure,
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

pub(super) const CHECK: &str = "--check";
pub(super) const CONFIG: &str = "--config";
pub(super) const CONFIG_STRING: &str = "--config-string";
pub(super) const DEBUG: &str = "--debug";
pub(super) const DESTINATION: &str = "--destination";
pub(super) const DIAG_ADDR: &str = "--diag-addr";
pub(super) const FORCE: &str = "--force";
pub(super) const GROUP: &str = "--group";
pub(super) const NAME: &str = "--name";
pub(super) const OUTPUT: &str = "--output";
pub(super) const PID_FILE: &str = "--pid-file";
pub(super) const SERVICE: &str = "--service";
pub(super) const SYSTEMD_DIRECTORY: &str = "--systemd-directory";
pub(super) const TIMEOUT: &str = "--timeout";
pub(super) const USER: &str = "--user";
pub(super) const WRITE: &str = "--write";

/// The one variable that stands in for no flag.
pub(super) const LOG: &str = "TBOT_LOG";
pub(super) const ABOUT_LOG: &str = "says what is logged: error, warn, info, debug or trace, also of a part alone, as in \
     info,tbot::connection=warn";

/// A name may stand here more than once, for other commands; it then takes a value in all of them or in none.
pub(super) static FLAGS: &[Flag] = &[
    Flag {
        long: DIAG_ADDR,
        short: None,
        kind: Kind::Text("HOST:PORT|URL"),
        env: Some("TBOT_DIAG_ADDR"),
        default: "none, required",
        help: "Address of the diagnostics to ask, such as 127.0.0.1:3001 or http://127.0.0.1:3001",
        scope: Scope::Wait,
        target: Target::Command,
    },
    Flag {
        long: SERVICE,
        short: None,
        kind: Kind::Text("NAME"),
        env: None,
        default: "every service",
        help: "Service to wait for, by its name in health reports",
        scope: Scope::Wait,
        target: Target::Command,
    },
    Flag {
        long: TIMEOUT,
        short: None,
        kind: Kind::Text("DURATION"),
        env: None,
        default: "none, for ever",
        help: "How long to wait; then the exit status is 1, and the error says what was seen last",
        scope: Scope::Wait,
        target: Target::Command,
    },
    Flag {
        long: CHECK,
        short: None,
        kind: Kind::Switch,
        env: None,
        default: "false",
        help: "Say what tbot start would run with these flags, or what is wrong with them",
        scope: Scope::Configure,
        target: Target::Command,
    },
    Flag {
        long: OUTPUT,
        short: Some('o'),
        kind: Kind::Path("PATH"),
        env: None,
        default: "-, to stdout",
        help: "File to write instead; one that is there is replaced",
        scope: Scope::Configure,
        target: Target::Command,
    },
    Flag {
        long: NAME,
        short: None,
        kind: Kind::Text("UNIT"),
        env: None,
        default: "tbot",
        help: "Name of the unit, without .service",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: USER,
        short: None,
        kind: Kind::Text("USER"),
        env: None,
        default: "tbot",
        help: "User who runs it, who need not exist yet",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: GROUP,
        short: None,
        kind: Kind::Text("GROUP"),
        env: None,
        default: "that of the user",
        help: "Group that it runs as",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: DESTINATION,
        short: None,
        kind: Kind::Directory("DIR"),
        env: None,
        default: "/run/UNIT without --config, else none",
        help: "Directory of the multiplexer; with a configuration, of one beside those of it: a path or file:///path",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: SYSTEMD_DIRECTORY,
        short: None,
        kind: Kind::Path("PATH"),
        env: None,
        default: "/etc/systemd/system",
        help: "Where units are",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: WRITE,
        short: None,
        kind: Kind::Switch,
        env: None,
        default: "false",
        help: "Write the unit there, instead of to stdout",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: FORCE,
        short: None,
        kind: Kind::Switch,
        env: None,
        default: "false",
        help: "Replace another unit of this name",
        scope: Scope::Install,
        target: Target::Command,
    },
    Flag {
        long: CONFIG,
        short: Some('c'),
        kind: Kind::Path("PATH"),
        env: Some("TBOT_CONFIG_PATH"),
        default: "none",
        help: "Configuration file, version 2 YAML",
        scope: Scope::Config,
        target: Target::Command,
    },
    Flag {
        long: CONFIG_STRING,
        short: None,
        kind: Kind::Text("BASE64"),
        env: Some("TBOT_CONFIG"),
        default: "none",
        help: "Configuration itself, in base64, in place of a file",
        scope: Scope::Config,
        target: Target::Command,
    },
    Flag {
        long: DEBUG,
        short: Some('d'),
        kind: Kind::Switch,
        env: Some("TBOT_DEBUG"),
        default: "false",
        help: "Log details, show the causes of errors, and serve profiles at the diagnostics' address",
        scope: Scope::Config,
        target: Target::Run("debug"),
    },
    Flag {
        long: DEBUG,
        short: Some('d'),
        kind: Kind::Switch,
        env: Some("TBOT_DEBUG"),
        default: "false",
        help: "Print each reason to wait, as without --timeout, and the causes of errors",
        scope: Scope::Wait,
        target: Target::Command,
    },
    Flag {
        long: DEBUG,
        short: Some('d'),
        kind: Kind::Switch,
        env: Some("TBOT_DEBUG"),
        default: "false",
        help: "Show the causes of errors",
        scope: Scope::Plain,
        target: Target::Command,
    },
    Flag {
        long: "--log-format",
        short: None,
        kind: Kind::Choice("text|json"),
        env: Some("TBOT_LOG_FORMAT"),
        default: "text",
        help: "How log lines look; they go to stderr",
        scope: Scope::Config,
        target: Target::Run("log_format"),
    },
    Flag {
        long: DIAG_ADDR,
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
        help: "How long certificates live, at most 24h",
        scope: Scope::Start,
        target: Target::Run("credential_ttl"),
    },
    Flag {
        long: "--renewal-interval",
        short: None,
        kind: Kind::Text("DURATION"),
        env: None,
        default: "20m",
        help: "How often certificates are renewed, and files and socket checked; shorter than --certificate-ttl",
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
        long: NAME,
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

    /// The name of its value, if it takes one.
    pub fn value(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Switch => None,
            Kind::Text(name)
            | Kind::Choice(name)
            | Kind::Path(name)
            | Kind::Directory(name)
            | Kind::Number(name)
            | Kind::Texts(name)
            | Kind::Numbers(name) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::COMMANDS;
    use super::*;

    #[test]
    fn a_name_is_one_flag_to_a_command_and_of_one_form_to_all() {
        for command in COMMANDS {
            let mut names: Vec<&str> = command.flags().map(|flag| flag.long).collect();
            let mut letters: Vec<char> = command.flags().filter_map(|flag| flag.short).collect();
            let all = (names.len(), letters.len());
            names.sort_unstable();
            names.dedup();
            letters.sort_unstable();
            letters.dedup();
            assert_eq!((names.len(), letters.len()), all, "{:?}", command.words);
        }
        for flag in FLAGS {
            let first = Flag::long(&flag.long[2..]).expect("it is in the table");
            assert_eq!(first.value().is_some(), flag.value().is_some());
            assert_eq!((first.repeats(), first.short), (flag.repeats(), flag.short));
        }
    }
}
