//! `--help` of each command, from the tables of flags and commands.

use std::fmt::Write;

use super::args::{COMMANDS, Command};
use super::flags::{ABOUT_LOG, Flag, LOG, Scope};

/// The whole help of `command`.
pub(super) fn text(command: &Command) -> String {
    let mut text = format!("{}\n\nUsage: {}\n", command.about, usage(command));
    let under: Vec<&Command> = COMMANDS
        .iter()
        .copied()
        .filter(|other| other.words.len() > command.words.len())
        .filter(|other| other.words.starts_with(command.words))
        .collect();
    if !under.is_empty() {
        text += "\nCommands:\n";
        for command in under {
            add(&mut text, &command.words.join(" "), command.about);
        }
    }
    for (title, scope) in SECTIONS {
        let mut flags = command
            .flags()
            .filter(|flag| section(flag) == *scope)
            .peekable();
        if flags.peek().is_some() || scope.is_none() {
            let _ = write!(text, "\n{title}:\n");
        }
        for flag in flags {
            add(&mut text, &form(flag), &about(flag));
        }
    }
    let root = command.words.is_empty();
    for (short, long, about) in [Some(HELP), Some(VERSION).filter(|_| root)]
        .into_iter()
        .flatten()
    {
        add(&mut text, &format!("{short}, {long}"), &format!("{about}."));
    }
    if command.has(Scope::Start) {
        text +=
            "\nA flag wins over its environment variable, and that over the configuration file.\n";
        let _ = writeln!(text, "The variable {LOG} {ABOUT_LOG}.");
    }
    if command.flags().any(|flag| flag.value() == Some("DURATION")) {
        text += "\nDurations are written like 1h30m, 90s or 100ms.\n";
    }
    text
}

/// The flags that are in no table, as they set nothing: short, long and what they do.
pub(super) const HELP: (&str, &str, &str) = ("-h", "--help", "Print the help of a command");
pub(super) const VERSION: (&str, &str, &str) = ("-V", "--version", "The same as tbot version");

/// The groups that flags are shown in, and whose they are; the others' come last.
const SECTIONS: &[(&str, Option<Scope>)] = &[
    ("Flags of the SSH multiplexer", Some(Scope::SshMultiplexer)),
    ("Flags of a run", Some(Scope::Start)),
    ("Flags", None),
];

/// The group of a flag.
fn section(flag: &Flag) -> Option<Scope> {
    Some(flag.scope).filter(|scope| SECTIONS.iter().any(|(_, of)| *of == Some(*scope)))
}

/// `tbot start -c PATH [FLAGS]`.
pub(super) fn usage(command: &Command) -> String {
    let mut usage = vec!["tbot"];
    usage.extend(command.words);
    let choices = command.choices.join("|");
    usage.extend([&*choices, command.usage]);
    usage.retain(|word| !word.is_empty());
    usage.join(" ")
}

/// `-c, --config PATH`.
pub(super) fn form(flag: &Flag) -> String {
    let short = match flag.short {
        Some(letter) => format!("-{letter}, "),
        None => "    ".into(),
    };
    let value = flag.value().map(|name| format!(" {name}"));
    let value = value.unwrap_or_default();
    format!("{short}{}{value}", flag.long)
}

pub(super) fn about(flag: &Flag) -> String {
    let env = flag.env.map(|env| format!(" [env: {env}]"));
    format!(
        "{}. [default: {}]{}",
        flag.help,
        flag.default,
        env.unwrap_or_default()
    )
}

/// Two lines: long flags and their text do not fit one of 80 columns.
fn add(text: &mut String, term: &str, about: &str) {
    let _ = write!(text, "  {term}\n          {about}\n");
}
