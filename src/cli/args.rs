//! Arguments to a command and the flags given with it. Nothing is read or looked up here.

use std::ffi::OsString;

use lexopt::Arg;

use super::completions::SHELLS;
use super::flags::{FLAGS, Flag, Kind, Scope};
use super::{proxy_command, unsupported};
use crate::config::{did_you_mean, foreign, quoted};

/// A command of the program.
#[derive(Debug)]
pub(super) struct Command {
    pub words: &'static [&'static str],
    /// Of these words one stands behind the former.
    pub choices: &'static [&'static str],
    /// What else stands behind them, in a line of the help.
    pub usage: &'static str,
    pub about: &'static str,
    /// The flags it takes.
    pub scopes: &'static [Scope],
    pub action: Action,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// To say that a command is missing.
    None,
    Start,
    Wait,
    Configure,
    Install,
    Completions,
    Man,
    Version,
    ProxyCommand,
}

/// What is meant where no command is named.
pub(super) static ROOT: Command = Command {
    words: &[],
    choices: &[],
    usage: "COMMAND [FLAGS]",
    about: "An SSH multiplexer that shows its own health.",
    scopes: &[Scope::Any, Scope::Config],
    action: Action::None,
};

static VERSION: Command = Command {
    words: &["version"],
    choices: &[],
    usage: "",
    about: "Print the version and what it was built from.",
    scopes: &[Scope::Any],
    action: Action::Version,
};

/// In the order of the help.
pub(super) static COMMANDS: &[&Command] = &[
    &Command {
        words: &["start"],
        choices: &[],
        usage: "-c PATH [FLAGS]",
        about: "Run the services of a configuration file.",
        scopes: &[Scope::Any, Scope::Config, Scope::Start],
        action: Action::Start,
    },
    &Command {
        words: &["start", "ssh-multiplexer"],
        choices: &[],
        usage: "--destination PATH [FLAGS]",
        about: "Run an SSH multiplexer from flags alone, or beside the services of a file.",
        scopes: &[
            Scope::Any,
            Scope::Config,
            Scope::Start,
            Scope::SshMultiplexer,
        ],
        action: Action::Start,
    },
    &Command {
        words: &["wait"],
        choices: &[],
        usage: "--diag-addr HOST:PORT [FLAGS]",
        about: "Wait until the services of a running tbot are healthy.",
        scopes: &[Scope::Any, Scope::Wait],
        action: Action::Wait,
    },
    &Command {
        words: &["configure"],
        choices: &[],
        usage: "[--check -c PATH] [FLAGS]",
        about: "Print an example of a configuration, or check one.",
        scopes: &[Scope::Any, Scope::Config, Scope::Configure, Scope::Start],
        action: Action::Configure,
    },
    &Command {
        words: &["configure", "ssh-multiplexer"],
        choices: &[],
        usage: "--destination PATH [FLAGS]",
        about: "Print the configuration that these flags of tbot start ssh-multiplexer stand for.",
        scopes: &[
            Scope::Any,
            Scope::Config,
            Scope::Configure,
            Scope::Start,
            Scope::SshMultiplexer,
        ],
        action: Action::Configure,
    },
    &Command {
        words: &["install"],
        choices: &["systemd"],
        usage: "[-c PATH] [--write] [FLAGS]",
        about: "Print or write a systemd unit that runs a configuration file or, without one, a multiplexer.",
        scopes: &[Scope::Any, Scope::Config, Scope::Install, Scope::Start],
        action: Action::Install,
    },
    &Command {
        words: &["completions"],
        choices: SHELLS,
        usage: "",
        about: "Print the script by which a shell completes command lines of tbot.",
        scopes: &[Scope::Any],
        action: Action::Completions,
    },
    &Command {
        words: &["man"],
        choices: &[],
        usage: "",
        about: "Print the manual page, for man -l.",
        scopes: &[Scope::Any],
        action: Action::Man,
    },
    &VERSION,
    &Command {
        words: &[proxy_command::NAME],
        choices: &[],
        usage: "SOCKET HOST:PORT[|CLUSTER]",
        about: "For ssh's ProxyCommand: hand ssh a connection through the multiplexer.",
        scopes: &[],
        action: Action::ProxyCommand,
    },
];

impl Command {
    /// Its flags, in the order of the table.
    pub fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(|flag| self.has(flag.scope))
    }

    /// Whether flags of this scope are among its own.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Invocation {
    pub command: &'static Command,
    /// Which of its choices; there is one where it has any.
    pub choice: Option<&'static str>,
    /// Whether its help is asked for, and nothing else.
    pub help: bool,
    pub given: Vec<Given>,
}

/// A flag with its value.
#[derive(Debug)]
pub(super) struct Given {
    pub flag: &'static Flag,
    /// The flag, or the environment variable that stood in for it.
    pub origin: &'static str,
    pub value: OsString,
}

/// Reads the arguments, without the program's name.
pub(super) fn parse(args: Vec<OsString>) -> Result<Invocation, String> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut words = Vec::new();
    let mut given: Vec<Given> = Vec::new();
    let (mut help, mut version) = (false, false);
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let long = matches!(arg, Arg::Long(_));
        let flag = match arg {
            Arg::Long("help") | Arg::Short('h') => {
                help = true;
                continue;
            }
            Arg::Long("version") | Arg::Short('V') => {
                version = true;
                continue;
            }
            Arg::Value(word) => {
                words.push(word.into_string().map_err(|word| {
                    format!("{} is not UTF-8 text", quoted(&word.to_string_lossy()))
                })?);
                continue;
            }
            Arg::Long(name) => Flag::long(name).ok_or_else(|| unknown_flag(name))?,
            Arg::Short(letter) => Flag::short(letter)
                .ok_or_else(|| format!("unknown flag -{} ({SEE_HELP})", letter.escape_debug()))?,
        };
        if !flag.repeats() && given.iter().any(|before| before.flag.long == flag.long) {
            return Err(format!("{} is given twice", flag.long));
        }
        let value = match flag.kind {
            // `-dc file` is two flags: only the long form takes a value.
            Kind::Switch if long => parser.optional_value().unwrap_or_else(|| "true".into()),
            Kind::Switch => "true".into(),
            _ => parser
                .value()
                .map_err(|_| format!("{} needs a value", flag.long))?,
        };
        given.push(Given {
            flag,
            origin: flag.long,
            value,
        });
    }
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        help = true;
    }
    let (mut command, choice) = match words.is_empty() {
        true => (&ROOT, None),
        false => find(&words)?,
    };
    if !help {
        for given in &mut given {
            given.flag = of_command(given.flag, command)?;
        }
        if version {
            command = &VERSION;
        } else if choice.is_none() && !command.choices.is_empty() {
            return Err(incomplete(&words, command.choices));
        }
    }
    Ok(Invocation {
        command,
        choice,
        help,
        given,
    })
}

/// The flag of the same name that `command` takes.
fn of_command(flag: &Flag, command: &Command) -> Result<&'static Flag, String> {
    let named = |own: &&Flag| own.long == flag.long;
    command.flags().find(named).ok_or_else(|| {
        let owner = COMMANDS
            .iter()
            .find(|command| command.flags().any(|own| own.long == flag.long))
            .map(|command| command.words.join(" "))
            .unwrap_or_default();
        format!("{} is a flag of `tbot {owner}`", flag.long)
    })
}

pub(super) const SEE_HELP: &str = "tbot --help lists what there is";

/// The command of exactly these words, and which of its choices they end in.
fn find(words: &[String]) -> Result<(&'static Command, Option<&'static str>), String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Every way to write one.
    let mut ways = Vec::new();
    for command in COMMANDS {
        ways.push((command.words.to_vec(), *command, None));
        for choice in command.choices {
            ways.push((
                [command.words, &[*choice]].concat(),
                *command,
                Some(*choice),
            ));
        }
    }
    if let Some((_, command, choice)) = ways.iter().find(|(way, _, _)| *way == words) {
        return Ok((command, *choice));
    }
    // The first word that fits no command's beginning is the wrong one.
    let good = (0..words.len())
        .take_while(|&n| ways.iter().any(|(way, _, _)| way.starts_with(&words[..=n])))
        .count();
    let next = ways
        .iter()
        .filter(|(way, _, _)| way.len() == good + 1 && way.starts_with(&words[..good]))
        .map(|(way, _, _)| way[good]);
    let known: Vec<&str> = next.collect();
    let Some(&word) = words.get(good) else {
        return Err(incomplete(&words, &known));
    };
    if good == 0
        && let Some(why) = unsupported::command(word)
    {
        return Err(format!("the command {word} {why}"));
    }
    if good > 0
        && let Some(why) = foreign::service(word)
    {
        return Err(why);
    }
    if known.is_empty() {
        return Err(format!("unexpected argument {}", quoted(word)));
    }
    Err(format!(
        "unknown command {}{} (allowed: {})",
        quoted(word),
        did_you_mean(word, known.iter().copied()).unwrap_or_default(),
        known.join(", ")
    ))
}

fn incomplete<W: AsRef<str>>(words: &[W], known: &[&str]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    format!(
        "tbot {} needs one word more (allowed: {})",
        words.join(" "),
        known.join(", ")
    )
}

fn unknown_flag(name: &str) -> String {
    if let Some(why) = unsupported::flag(name) {
        return format!("--{name} {why}");
    }
    let known = FLAGS
        .iter()
        .map(|flag| &flag.long[2..])
        .chain(["help", "version"]);
    // The hint's quotes hold a name; with dashes it can be copied.
    let hint = did_you_mean(name, known).map(|hint| hint.replacen('"', "\"--", 1));
    format!(
        "unknown flag --{}{} ({SEE_HELP})",
        name.escape_debug(),
        hint.unwrap_or_default()
    )
}
