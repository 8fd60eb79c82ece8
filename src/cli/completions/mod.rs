//! `tbot completions`: what each shell needs to complete a command line of tbot, from the tables.
//!
//! Each script goes through the words before the cursor, leaves out flags and their values, and so knows
//! the command; then it offers that command's flags and next words.

mod bash;
mod fish;
mod zsh;

use super::args::{COMMANDS, ROOT};
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

/// Where the cursor may be: the words of a command, with one of its choices or without.
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
    let mut places = Vec::new();
    for command in commands {
        // Such as `install` and `install systemd`.
        let choices = command.choices.iter().map(Some);
        for choice in [None].into_iter().chain(choices) {
            let words: Vec<_> = command.words.iter().chain(choice).copied().collect();
            let mut also = vec![HELP];
            if words.is_empty() {
                also.push(VERSION);
            }
            places.push(Place {
                next: next(&words),
                words,
                flags: command.flags().collect(),
                also,
                file: command.usage.starts_with("SOCKET"),
            });
        }
    }
    places
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
