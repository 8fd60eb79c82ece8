//! `tbot completions`: what each shell needs to complete a command line of tbot, from the tables.
//!
//! Each script goes through the words before the cursor, leaves out flags and their values, and so knows
//! the command; then it offers that command's flags and next words.

mod bash;
mod fish;
mod zsh;

use super::args::{COMMANDS, Command, ROOT};
use super::flags::{FLAGS, Flag, Kind};
use super::help::{HELP, VERSION};

pub(super) const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// The script of one of [`SHELLS`].
pub(super) fn script(shell: &str) -> String {
    match shell {
        "bash" => bash::script(),
        "zsh" => zsh::script(),
        _ => fish::script(),
    }
}

/// Where the cursor may be: the words of a command, or of the beginning of some.
struct Place {
    words: Vec<&'static str>,
    /// Each with what it is.
    next: Vec<(&'static str, &'static str)>,
    flags: Vec<&'static Flag>,
    /// `-h` and, at the root, `-V`: in no table, as each is there in its own way.
    also: Vec<(&'static str, &'static str, &'static str)>,
    /// A file is the next word.
    file: bool,
}

fn places() -> Vec<Place> {
    let commands = [&ROOT].into_iter().chain(COMMANDS.iter().copied());
    let mut words: Vec<&[&str]> = Vec::new();
    for command in commands.clone() {
        // Such as `install` of `install systemd`, too.
        for end in [command.words.len().saturating_sub(1), command.words.len()] {
            let begin = &command.words[..end];
            if !words.contains(&begin) {
                words.push(begin);
            }
        }
    }
    words
        .into_iter()
        .map(|words| {
            let of = |command: &&Command| command.words == words;
            let command = commands.clone().find(of);
            let mut also = vec![HELP];
            if words.is_empty() {
                also.push(VERSION);
            }
            Place {
                words: words.to_vec(),
                next: next(words),
                flags: command.iter().flat_map(|command| command.flags()).collect(),
                also,
                file: command.is_some_and(|command| command.usage.starts_with("SOCKET")),
            }
        })
        .collect()
}

/// The words that may stand behind these.
fn next(words: &[&str]) -> Vec<(&'static str, &'static str)> {
    let mut next: Vec<(&str, &str)> = Vec::new();
    for command in COMMANDS {
        let under: &[&'static str] = match command.words.len().checked_sub(words.len()) {
            Some(0) if command.words == words => command.choices,
            Some(1..) if command.words.starts_with(words) => &command.words[words.len()..][..1],
            _ => &[],
        };
        for &word in under {
            if !next.iter().any(|(known, _)| *known == word) {
                next.push((word, command.about.trim_end_matches('.')));
            }
        }
    }
    next
}

/// What the value of a flag can be.
enum Value {
    Word,
    File,
    Directory,
    OneOf(&'static str),
}

impl Value {
    fn of(flag: &Flag) -> Option<Self> {
        Some(match flag.kind {
            Kind::Switch => return None,
            Kind::Path(_) => Self::File,
            Kind::Directory(_) => Self::Directory,
            Kind::Choice(words) => Self::OneOf(words),
            Kind::Text(_) | Kind::Number(_) | Kind::Texts(_) | Kind::Numbers(_) => Self::Word,
        })
    }
}

/// The flags whose value is like this, in all their forms, as the pattern of a `case`.
fn pattern(separator: &str, wanted: impl Fn(Value) -> bool) -> String {
    let mut forms = Vec::new();
    for flag in FLAGS
        .iter()
        .filter(|flag| Value::of(flag).is_some_and(&wanted))
    {
        let short = flag.short.map(|letter| format!("-{letter}"));
        for form in short.into_iter().chain([flag.long.to_owned()]) {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms.join(separator)
}
