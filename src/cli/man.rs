//! `tbot man`: the manual page, as man(7) has it, from the tables of flags and commands.

use std::fmt::Write;

use super::args::{COMMANDS, ROOT};
use super::flags::{ABOUT_LOG, FLAGS, Flag, LOG, Scope};
use super::help::{HELP, VERSION, about, form, usage};

/// What is in no table: a paragraph for each term.
const FILES: &[(&str, &str)] = &[
    (
        "DESTINATION/ssh_config",
        "For ssh -F: sends hosts through the multiplexer.",
    ),
    (
        "DESTINATION/known_hosts",
        "What ssh knows hosts by, where the configuration says it.",
    ),
    (
        "DESTINATION/v1.sock",
        "The multiplexer. Only its owner and the users of --allowed-uid may connect.",
    ),
    (
        "DESTINATION/agent.sock",
        "The agent with the key and certificate, where there are any.",
    ),
];

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "Take no more connections, let open ones end for the time of --shutdown-grace, then close \
         them. A second one ends them at once.",
    ),
    ("SIGHUP, SIGUSR1", "Renew keys, certificates and files now."),
];

const EXIT: &[(&str, &str)] = &[
    (
        "0",
        "It was done; for tbot start, it was stopped by a signal.",
    ),
    (
        "1",
        "It failed, and a line on stderr that begins with ERROR says why.",
    ),
];

const EXAMPLES: &[(&str, &str)] = &[
    (
        "A multiplexer, and a host through it:",
        "tbot start ssh-multiplexer --destination ~/mux --diag-addr 127.0.0.1:3001\nssh -F ~/mux/ssh_config root@db1",
    ),
    (
        "A configuration to begin with, and the check of it:",
        "tbot configure -o tbot.yaml\ntbot configure --check -c tbot.yaml",
    ),
    (
        "The health of a container:",
        "tbot wait --diag-addr 127.0.0.1:3001 --timeout 2s",
    ),
];

/// The whole page.
pub(super) fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH TBOT 1 \"\" \"tbot\\-rs {version}\"\n.ad l\n.SH NAME\ntbot \\- {}\n.SH SYNOPSIS\n",
        escaped(&ROOT.about.trim_end_matches('.').replacen("An", "an", 1))
    );
    for command in COMMANDS {
        let _ = writeln!(page, ".B {}\n.br", escaped(&usage(command)));
    }
    page += ".SH DESCRIPTION\nTools that open many SSH connections reach every target through one local \
             socket of tbot, and operators see by HTTP whether that works. A flag wins over its environment \
             variable, and that over the configuration file. Durations are written like 1h30m, 90s or \
             100ms. An address of IPv6 is in brackets.\n.SH COMMANDS\n";
    for command in COMMANDS {
        term(&mut page, &usage(command), &escaped(command.about));
    }
    page += ".SH OPTIONS\n";
    for (title, flags) in groups() {
        let _ = writeln!(page, ".SS {}", escaped(&title));
        for flag in flags {
            term(&mut page, form(flag).trim_start(), &escaped(&about(flag)));
        }
        if title == ALL {
            for (short, long, about) in [HELP, VERSION] {
                term(
                    &mut page,
                    &format!("{short}, {long}"),
                    &format!("{}.", escaped(about)),
                );
            }
        }
    }
    page += ".SH ENVIRONMENT\nAn empty variable is as good as none.\n";
    let mut seen = Vec::new();
    for flag in FLAGS {
        if let Some(env) = flag.env.filter(|env| !seen.contains(env)) {
            seen.push(env);
            term(
                &mut page,
                env,
                &format!("Stands in for {}.", escaped(flag.long)),
            );
        }
    }
    term(&mut page, LOG, &format!("It {}.", escaped(ABOUT_LOG)));
    for (title, entries) in [
        ("FILES", FILES),
        ("SIGNALS", SIGNALS),
        ("EXIT STATUS", EXIT),
    ] {
        let _ = writeln!(page, ".SH {title}");
        for (name, about) in entries {
            term(&mut page, name, &escaped(about));
        }
    }
    page += ".SH EXAMPLES\n";
    for (about, lines) in EXAMPLES {
        let _ = writeln!(
            page,
            "{about}\n.PP\n.RS\n.nf\n{}\n.fi\n.RE\n.PP",
            escaped(lines)
        );
    }
    page + ".SH SEE ALSO\n.BR ssh (1),\n.BR ssh_config (5)\n"
}

/// Flags with whose they are; first those of all commands.
fn groups() -> Vec<(String, Vec<&'static Flag>)> {
    let mut groups = vec![(ALL.to_owned(), Vec::new())];
    for flag in FLAGS {
        let title = owners(flag.scope);
        match groups.iter_mut().find(|(known, _)| *known == title) {
            Some((_, flags)) => flags.push(flag),
            None => groups.push((title, vec![flag])),
        }
    }
    groups
}

const ALL: &str = "All commands";

/// `tbot start, tbot configure`, without the commands under them.
fn owners(scope: Scope) -> String {
    if scope == Scope::Any {
        return ALL.to_owned();
    }
    let owners = COMMANDS.iter().filter(|command| command.has(scope));
    let words: Vec<&[&str]> = owners.map(|command| command.words).collect();
    let is_under = |a: &&[&str], b: &&[&str]| a.len() > b.len() && a.starts_with(b);
    let first = words
        .iter()
        .filter(|a| !words.iter().any(|b| is_under(a, b)));
    let names: Vec<String> = first
        .map(|words| format!("tbot {}", words.join(" ")))
        .collect();
    names.join(", ")
}

/// A term and the paragraph of it.
fn term(page: &mut String, term: &str, paragraph: &str) {
    let _ = writeln!(page, ".TP\n.B {}\n{paragraph}", escaped(term));
}

/// Text that roff takes as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_request = line.starts_with(['.', '\'']);
        lines.push(format!("{}{line}", if is_request { "\\&" } else { "" }));
    }
    lines.join("\n").replace('~', "\\(ti").replace('^', "\\(ha")
}
