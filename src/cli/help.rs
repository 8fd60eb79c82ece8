//! `--help` of each command, from the tables of flags and commands.

use std::fmt::Write;

use super::args::{COMMANDS, Command};
use super::flags::{FLAGS, Flag, Kind, LOG, Scope};
use super::proxy_command;

/// The whole help of `command`.
pub(super) fn text(command: &Command) -> String {
    let mut text = format!("{}\n\nUsage: {}\n", command.about, usage(command));
    let under: Vec<&Command> = COMMANDS
        .iter()
        .filter(|other| other.words.len() > command.words.len())
        .filter(|other| other.words.starts_with(command.words))
        .collect();
    if !under.is_empty() {
        text += "\nCommands:\n";
        for command in under {
            add(&mut text, &command.words.join(" "), command.about);
        }
    }
    for (scope, title) in [
        (Scope::SshMultiplexer, "Flags of the SSH multiplexer:"),
        (Scope::Start, "Flags of a run:"),
        (Scope::Any, "Flags:"),
    ] {
        if command.scopes.contains(&scope) {
            let _ = write!(text, "\n{title}\n");
            for flag in FLAGS.iter().filter(|flag| flag.scope == scope) {
                add(&mut text, &form(flag), &about(flag));
            }
        }
    }
    if command.scopes.is_empty() {
        text += "\nFlags:\n";
    }
    add(&mut text, "-h, --help", "Print the help of a command.");
    if command.words.is_empty() {
        add(&mut text, "-V, --version", "The same as tbot version.");
    }
    if command.scopes.contains(&Scope::Start) {
        text += "\nA flag wins over its environment variable, and that over the configuration \
                 file.\nDurations are written like 1h30m, 90s or 100ms.\n";
        let _ = write!(
            text,
            "The variable {LOG} says what is logged: error, warn, info, debug or trace, also of a\npart \
             alone, as in info,tbot::connection=warn.\n"
        );
    }
    text
}

fn usage(command: &Command) -> String {
    match command.words {
        [] => "tbot COMMAND [FLAGS]".into(),
        [proxy_command::NAME] => format!("tbot {} SOCKET HOST:PORT[|CLUSTER]", proxy_command::NAME),
        ["start"] => "tbot start -c PATH [FLAGS]".into(),
        ["start", ..] => "tbot start ssh-multiplexer --destination PATH [FLAGS]".into(),
        words => format!("tbot {}", words.join(" ")),
    }
}

/// `-c, --config PATH`.
fn form(flag: &Flag) -> String {
    let short = match flag.short {
        Some(letter) => format!("-{letter}, "),
        None => "    ".into(),
    };
    let value = match flag.kind {
        Kind::Switch => String::new(),
        Kind::Text(name)
        | Kind::Path(name)
        | Kind::Directory(name)
        | Kind::Number(name)
        | Kind::Texts(name)
        | Kind::Numbers(name) => format!(" {name}"),
    };
    format!("{short}{}{value}", flag.long)
}

fn about(flag: &Flag) -> String {
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
