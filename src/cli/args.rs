//! Arguments to a command and the flags given with it. Nothing is read or looked up here.

use std::ffi::OsString;

use lexopt::Arg;

use super::flags::{FLAGS, Flag, Kind, Scope};
use super::{proxy_command, unsupported};
use crate::config::{did_you_mean, foreign, quoted};

/// A command of the program.
#[derive(Debug)]
pub(super) struct Command {
    pub words: &'static [&'static str],
    pub about: &'static str,
    /// The flags it takes.
    pub scopes: &'static [Scope],
}

pub(super) const ROOT: Command = Command {
    words: &[],
    about: "An SSH multiplexer that shows its own health.",
    scopes: &[Scope::Any],
};

const START: Command = Command {
    words: &["start"],
    about: "Run the services of a configuration file.",
    scopes: &[Scope::Any, Scope::Start],
};

const START_SSH_MULTIPLEXER: Command = Command {
    words: &["start", "ssh-multiplexer"],
    about: "Run an SSH multiplexer from flags alone, or beside the services of a file.",
    scopes: &[Scope::Any, Scope::Start, Scope::SshMultiplexer],
};

const VERSION: Command = Command {
    words: &["version"],
    about: "Print the version and what it was built from.",
    scopes: &[Scope::Any],
};

const PROXY_COMMAND: Command = Command {
    words: &[proxy_command::NAME],
    about: "For ssh's ProxyCommand: hand ssh a connection through the multiplexer.",
    scopes: &[],
};

pub(super) const COMMANDS: [Command; 4] = [START, START_SSH_MULTIPLEXER, VERSION, PROXY_COMMAND];

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Invocation {
    pub action: Action,
    pub given: Vec<Given>,
}

#[derive(Debug)]
pub(super) enum Action {
    Help(&'static Command),
    Version,
    Start {
        /// Whether there is a service from flags.
        ssh_multiplexer: bool,
    },
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
    let command = if words.is_empty() {
        &ROOT
    } else {
        find(&words)?
    };
    if let Some(Given { flag, .. }) = given
        .iter()
        .find(|given| !command.scopes.contains(&given.flag.scope))
        && !help
    {
        let owner = COMMANDS
            .iter()
            .find(|command| command.scopes.contains(&flag.scope))
            .map(|command| command.words.join(" "))
            .unwrap_or_default();
        return Err(format!("{} is a flag of `tbot {owner}`", flag.long));
    }
    let action = match command.words {
        _ if help => Action::Help(command),
        ["version"] => Action::Version,
        _ if version => Action::Version,
        ["start", rest @ ..] => Action::Start {
            ssh_multiplexer: !rest.is_empty(),
        },
        [] => return Err(format!("no command is given ({SEE_HELP})")),
        // Flags stand before it: its own come with ssh, which puts it first.
        [name, ..] => return Err(format!("{name} must be the first argument")),
    };
    Ok(Invocation { action, given })
}

const SEE_HELP: &str = "tbot --help lists what there is";

/// The command of exactly these words.
fn find(words: &[String]) -> Result<&'static Command, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(command) = COMMANDS.iter().find(|command| command.words == words) {
        return Ok(command);
    }
    // The first word that fits no command's beginning is the wrong one.
    let good = (0..words.len())
        .take_while(|&n| COMMANDS.iter().any(|c| c.words.starts_with(&words[..=n])))
        .count();
    let word = words[good.min(words.len() - 1)];
    let next = COMMANDS
        .iter()
        .filter(|command| command.words.len() == good + 1)
        .filter(|command| command.words.starts_with(&words[..good]))
        .map(|command| command.words[good]);
    let known: Vec<&str> = next.collect();
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
